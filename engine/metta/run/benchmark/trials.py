"""Trials of a benchmark: settings that could change the speed, and how a comparison decides whether one does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from metta.agent.compile_layers import has_compiler
from metta.config.batch_plan import BatchPlan, plan_batch
from metta.config.loading.load import dump_config, load_tasks, parse_config
from metta.config.plan.worker_count import supports_workers, worker_count
from metta.config.policies import joint_plan
from metta.config.run import RunConfig, policy_settings
from metta.errors import ConfigError
from metta.evaluation.confidence_intervals import student_t_quantile
from metta.run.benchmark.speed_sampler import Split

SMALLEST_GAIN: Final = 1.03
"""Trials that could at best multiply the speed by this are left out."""
COMPILE_SECONDS: Final = 120.0
"""Length of a benchmark from which compilation, which takes half a minute, is tried."""
NOISE_FLOOR: Final = 0.005
"""Smallest standard deviation of the logarithm of a ratio that is assumed."""
LARGE_PASS: Final = 1024
"""Agents of a process up to which twice as many worlds are tried, since forward passes are small."""
CAUTION: Final = 1.4
"""Factor on the 95 % interval, since a table has many rows of which one would differ by chance: about 99 %."""


@dataclass(frozen=True)
class Trial:
    """Settings that could make training faster."""

    settings: tuple[str, ...]
    """TOML lines such as `experience.async_factor = 1`; empty for a number of threads"""
    threads: int = 0
    """threads of torch, or 0 for as many as otherwise"""
    caveat: str = ""
    """what the settings change in learning; empty if nothing"""
    most: float = math.inf
    """the largest ratio that is possible, from the share of the time that the settings can save"""
    needs_seconds: float = 0.0
    """length of a benchmark from which the trial is made"""
    only_collects: bool = False
    """whether updates of the policy cost the same"""

    remark: str = ""
    """short text for `name`, instead of all settings but the first"""

    @property
    def name(self) -> str:
        """The settings on one line."""
        settings = (*self.settings[:1], self.remark) if self.remark else self.settings
        threads = (f"OMP_NUM_THREADS={self.threads}",) if self.threads else ()
        return ", ".join((*threads, *settings))

    def config(self, config: RunConfig) -> RunConfig:
        """`config` with the settings. Raises ConfigError if they are not valid there."""
        return parse_config(dump_config(config), "the trial", self.settings) if self.settings else config


def batch_plan(config: RunConfig) -> BatchPlan:
    """The batch plan of a config, whose worlds may be those of its scenes."""
    world = load_tasks(config).env_configs[0]
    return joint_plan(config.experience, policy_settings(config, world), world)


def make_trials(config: RunConfig, split: Split, threads: int, cores: int, device: str) -> list[Trial]:
    """The trials that could help, those that do not change what is learned first."""
    plan = batch_plan(config)
    most = split.most_without_simulator(device != "cpu" or cores > threads)
    found = [*_thread_trials(threads, cores, device), *_worker_trials(config, plan, most, cores, device)]
    found += [*_batch_trials(config, plan), *_precision_trials(config), *_learning_trials(config, plan, split)]
    return [trial for trial in found if _is_valid(config, trial)]


def _is_valid(config: RunConfig, trial: Trial) -> bool:
    try:
        batch_plan(trial.config(config))
    except ConfigError:
        return False
    return True


def _worker_trials(config: RunConfig, plan: BatchPlan, most: float, cores: int, device: str) -> Iterator[Trial]:
    """Worker processes, which take the worlds' steps from this process."""
    now = worker_count(config.experience, plan, device).count
    most_used = plan.num_worlds // plan.num_world_batches
    counts = (0,) if now else (1, min(most_used, cores // 2), min(most_used, cores - 1))
    if cores > 1 and supports_workers():
        for count in dict.fromkeys(counts):
            yield Trial((f"experience.workers = {count}",), most=math.inf if now else most, only_collects=True)


def _thread_trials(threads: int, cores: int, device: str) -> Iterator[Trial]:
    """Numbers of torch's threads; with the policy on a GPU they hardly matter."""
    if device == "cpu":
        for count in dict.fromkeys((1, cores // 2, cores)):
            if 0 < count != threads:
                yield Trial((), threads=count)


def _batch_trials(config: RunConfig, plan: BatchPlan) -> Iterator[Trial]:
    """The same worlds in another number of world batches."""
    worlds = config.experience.async_factor * config.experience.forward_pass_minibatch_target_size
    for count in (1, 2, 4):
        sizes = {"async_factor": count, "forward_pass_minibatch_target_size": worlds // count}
        batches = _plan_with(config, plan, sizes).num_world_batches
        if batches == count != plan.num_world_batches and worlds % count == 0:
            keys = tuple(f"experience.{key} = {value}" for key, value in sizes.items())
            yield Trial(keys, only_collects=True, remark="the same worlds")


def _plan_with(config: RunConfig, plan: BatchPlan, sizes: dict[str, int]) -> BatchPlan:
    """The plan with other `sizes` in `[experience]`."""
    experience = config.experience.model_copy(update=sizes)
    return plan_batch(experience, plan.num_agents, plan.num_opponents, plan.fewest_learners)


def _precision_trials(config: RunConfig) -> Iterator[Trial]:
    """Half precision and compilation."""
    other = str(not config.agent.dtypes_fp16).lower()
    yield Trial((f"agent.dtypes_fp16 = {other}",), caveat="rounds to bfloat16" if other == "true" else "")
    if not config.compile.enabled and has_compiler():
        yield Trial(("compile.enabled = true",), needs_seconds=COMPILE_SECONDS)


def _learning_trials(config: RunConfig, plan: BatchPlan, split: Split) -> Iterator[Trial]:
    """Sizes, which change what is learned: of world batches, of minibatches, and of the network."""
    experience = config.experience
    for factor in (2.0, 0.5):
        target = round(experience.forward_pass_minibatch_target_size * factor)
        key = f"experience.forward_pass_minibatch_target_size = {target}"
        sizes = {"forward_pass_minibatch_target_size": target}
        worlds = _plan_with(config, plan, sizes).num_worlds
        if worlds != plan.num_worlds:
            yield Trial((key,), caveat=f"{worlds} worlds instead of {plan.num_worlds}", only_collects=True)
    if experience.bptt_horizon > 1 and plan.agents <= LARGE_PASS:
        yield _shorter_segments(config, plan)
    most = split.total / split.collect
    steps = experience.batch_size // experience.minibatch_size * experience.update_epochs
    yield Trial(
        (f"experience.minibatch_size = {2 * experience.minibatch_size}",),
        caveat=f"{steps // 2} gradient steps per epoch instead of {steps}",
        most=most,
    )
    if config.agent.hidden_dim >= 256:
        yield Trial((f"agent.hidden_dim = {config.agent.hidden_dim // 2}",), caveat="a smaller network")


def _shorter_segments(config: RunConfig, plan: BatchPlan) -> Trial:
    """Twice as many worlds, each with segments of half the length, in one world batch."""
    horizon = config.experience.bptt_horizon // 2
    sizes = {
        "bptt_horizon": horizon,
        "async_factor": 1,
        "forward_pass_minibatch_target_size": 2 * plan.num_worlds * plan.num_learners,
    }
    worlds = _plan_with(config, plan, sizes).num_worlds
    return Trial(
        tuple(f"experience.{key} = {value}" for key, value in sizes.items()),
        caveat=f"{worlds} worlds instead of {plan.num_worlds}, segments of {horizon} steps",
        remark="more worlds",
    )


@dataclass(frozen=True)
class TrialResult:
    """What a trial brought."""

    trial: Trial
    log_ratios: tuple[float, ...] = ()
    """natural logarithm of the speedup in each pair of samples: seconds of the unchanged file / seconds of the trial"""
    half_width: float = math.nan
    """half the width of the interval of the mean of `log_ratios`"""
    reason: str = ""
    """why the trial was not made; empty if it was"""

    @property
    def ratio(self) -> float:
        """How many times as fast training is with the settings; NaN if the trial was not made."""
        return math.exp(float(np.mean(self.log_ratios))) if self.log_ratios else math.nan

    @property
    def noise(self) -> float:
        """The ratio is uncertain by this much, up and down."""
        return self.ratio * (math.exp(self.half_width) - 1)

    @property
    def differs(self) -> bool:
        """Whether the ratio differs from 1 by more than the noise."""
        return bool(self.log_ratios) and abs(float(np.mean(self.log_ratios))) > self.half_width


def with_noise(results: Sequence[TrialResult]) -> list[TrialResult]:
    """The results with the noise of this machine: the standard deviation within the pairs of all trials together."""
    samples = [np.array(result.log_ratios) for result in results if result.log_ratios]
    freedom = sum(len(sample) - 1 for sample in samples)
    squares = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples)
    deviation = max(NOISE_FLOOR, math.sqrt(squares / freedom)) if freedom else math.inf
    quantile = CAUTION * student_t_quantile(max(1, freedom))
    return [
        TrialResult(result.trial, result.log_ratios, quantile * deviation / math.sqrt(len(result.log_ratios)))
        if result.log_ratios
        else result
        for result in results
    ]
