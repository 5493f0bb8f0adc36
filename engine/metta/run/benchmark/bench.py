"""Benchmark of a config on this machine: what bounds the speed of training, and what other settings would bring."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from metta.config.loading.load import load_tasks
from metta.config.plan.worker_count import available_cores
from metta.config.run import RunConfig
from metta.run.benchmark.speed_sampler import DeviceUse, SpeedSampler, Split
from metta.run.benchmark.trials import (
    SMALLEST_GAIN,
    Trial,
    TrialResult,
    batch_plan,
    make_trials,
    with_noise,
)
from metta.run.device import find_device, gpu_memory
from metta.run.memory_check import check_memory, wrap_memory_errors

FIRST_SHARE = 0.15
"""Fraction of the time in which the config is measured alone."""
MIN_PAIRS = 2
"""Smallest number of pairs of samples with which a trial is decided."""
MIN_CPU_TIME = 0.85
"""CPU time per second below which other programs take the time of a process that does not wait."""
MAX_PAIRS = 30
"""Number of pairs of samples after which a trial ends before its time."""

BenchProgress = Callable[[str, float], None]
"""Receives what is being measured and the fraction of the time that has passed, 0 to 1."""


@dataclass(frozen=True)
class BenchResult:
    """How fast a config trains on this machine."""

    device: str
    threads: int
    """threads of torch"""
    cores: int
    """cores that the process may use"""
    num_weights: int
    """weights of the policy"""
    split: Split
    """seconds per agent step; medians over samples"""
    cpu_time: float
    """seconds of CPU time of this process per second, all threads together"""
    gpu: DeviceUse | None
    """how much a GPU computes and copies; None on the CPU"""
    trials: tuple[TrialResult, ...]
    together: TrialResult | None = None
    """the trial of all settings in `recommended`, where there are several"""

    @property
    def steps_per_second(self) -> float:
        """Agent steps per second, without checkpoints, evaluations and replays."""
        return 1 / self.split.total

    @property
    def bound(self) -> str:
        """What bounds the speed, in words."""
        split = self.split
        simulator = (split.simulate + split.wait) / split.total
        learn, infer = split.learn / split.total, split.infer / split.total
        has_idle_core = self.gpu is not None or self.cores > self.threads
        faster = f"at most {split.most_without_simulator(has_idle_core):.2f} times"
        if simulator > max(learn, infer):
            text = (
                f"The simulator bounds the speed: {'the policy waits for it' if split.wait else 'the worlds step'} "
                f"{simulator:.0%} of the time. With a simulator that costs nothing, training would be {faster} as fast."
            )
        else:
            most = "learning (gradient steps)" if learn > infer else "inference (choosing actions)"
            text = (
                f"The network bounds the speed: its {self.num_weights:,} weights take {learn + infer:.0%} of the time, "
                f"most of it for {most}. With a simulator that costs nothing, training would be {faster} as fast."
            )
        if self.gpu is None and self.cpu_time < MIN_CPU_TIME - split.wait / split.total:
            text += f" Other programs use the same cores: this process got {self.cpu_time:.0%} of the time of one core."
        if self.gpu is not None:
            text += f" The GPU computes {self.gpu.busy:.0%} of the time and is idle otherwise."
        return text

    @property
    def recommended(self) -> tuple[TrialResult, ...]:
        """Trials that make training faster and do not change what is learned: the fastest of each key.

        Only the fastest of all if it is as fast as all of them `together`.
        """
        faster = self._faster(lambda trial: not trial.caveat)
        alone = self.together is not None and not self.together.ratio > faster[0].ratio + faster[0].noise
        return faster[:1] if alone else faster

    @property
    def different(self) -> tuple[TrialResult, ...]:
        """Trials that make training faster and change what is learned: the fastest of each key."""
        return self._faster(lambda trial: bool(trial.caveat))

    @property
    def noise(self) -> float:
        """The smallest change of the speed that the trials could show, as a fraction; NaN without trials."""
        return min((result.noise for result in self.trials if result.log_ratios), default=math.nan)

    @property
    def most_with_processes(self) -> float:
        """How many times as fast one process per core can be at most, if one thread was measured; else NaN."""
        alone = [result.ratio for result in self.trials if result.trial.threads == 1 and result.log_ratios]
        return self.cores * alone[0] if alone else math.nan

    def _faster(self, is_wanted: Callable[[Trial], bool]) -> tuple[TrialResult, ...]:
        faster = [result for result in self.trials if is_wanted(result.trial) and result.differs and result.ratio > 1]
        best: dict[str, TrialResult] = {}
        for result in sorted(faster, key=lambda result: -result.ratio):
            best.setdefault(result.trial.name.partition("=")[0], result)
        return tuple(best.values())


def bench(config: RunConfig, seconds: float = 30.0, on_progress: BenchProgress | None = None) -> BenchResult:
    """Measure how fast a config trains on this machine, what bounds that, and what other settings would bring.

    Takes about `seconds`, and longer where a few samples take longer. Each trial is compared with the config in pairs
    of samples that alternate, so that a change of the machine's speed affects both. Writes no files. The policy keeps
    its initial weights; worlds in which a trained policy acts may be slower or faster.

    Raises UsageError or TrainingError if the worlds and the policy do not fit into memory.
    """
    clock = _Clock(seconds, on_progress or (lambda text, share: None))
    worlds, device = load_tasks(config).env_configs, find_device(config.run.device)
    check_memory(config, worlds, device.type, gpu_bytes=gpu_memory(device))
    threads, cores = torch.get_num_threads(), available_cores()
    clock.report("making worlds and policy")
    with wrap_memory_errors(config, worlds), closing(SpeedSampler(config, batch_plan(config), threads)) as base:
        splits: list[Split] = []
        began, cpu_began = time.perf_counter(), time.process_time()
        while len(splits) < MIN_PAIRS or clock.share < FIRST_SHARE:
            clock.report("the unchanged file")
            splits.append(base.sample())
        split = _median(splits)
        cpu_time = (time.process_time() - cpu_began) / (time.perf_counter() - began)
        gpu = base.device_use(split) if device.type == "cuda" else None
        trials = make_trials(config, split, threads, cores, device.type)
        results = with_noise(list(_compare_all(config, trials, base, split, clock)))
        result = BenchResult(str(device), threads, cores, base.num_weights, split, cpu_time, gpu, tuple(results))
        if len(result.recommended) > 1:
            both = _combined([each.trial for each in result.recommended])
            *_, together = with_noise([*results, _compare(config, both, base, split, clock, clock.seconds / 10)])
            result = replace(result, together=together)
    return result


class _Clock:
    """The time that a benchmark may take, from now on."""

    def __init__(self, seconds: float, on_progress: BenchProgress):
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._on_progress = on_progress

    @property
    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def share(self) -> float:
        """Fraction of the time that has passed, at most 1."""
        return 1 - self.left / self.seconds

    def report(self, text: str) -> None:
        """Report what is being measured."""
        self._on_progress(text, self.share)


def _compare_all(
    config: RunConfig, trials: Sequence[Trial], base: SpeedSampler, split: Split, clock: _Clock
) -> Iterator[TrialResult]:
    """The results of the trials, each of which gets an equal share of the time that is left."""
    made = [trial for trial in trials if trial.most >= SMALLEST_GAIN and trial.needs_seconds <= clock.seconds]
    for trial in trials:
        if trial.most < SMALLEST_GAIN:
            yield TrialResult(trial, reason=f"can bring at most {trial.most:.2f}")
        elif trial.needs_seconds > clock.seconds:
            yield TrialResult(trial, reason=f"compiling takes long; --seconds {trial.needs_seconds:.0f} measures it")
        elif not clock.left and trial is not made[0]:
            yield TrialResult(trial, reason="no time left")
        else:
            yield _compare(config, trial, base, split, clock, clock.left / (len(made) - made.index(trial)))


def _compare(
    config: RunConfig, trial: Trial, base: SpeedSampler, split: Split, clock: _Clock, seconds: float
) -> TrialResult:
    """Compare a trial with the config for about `seconds`, in pairs of samples with alternating order."""
    end = time.monotonic() + seconds
    clock.report(trial.name)
    changed = trial.config(config)
    plan = batch_plan(changed)
    steps = max(2, round(base.steps * base.plan.agents / plan.agents))
    ratios: list[float] = []
    threads = trial.threads or base.threads
    with closing(SpeedSampler(changed, plan, threads, steps, trial.only_collects)) as other:
        while len(ratios) < MIN_PAIRS or (len(ratios) < MAX_PAIRS and time.monotonic() < end):
            clock.report(trial.name)
            order = (base, other) if len(ratios) % 2 == 0 else (other, base)
            costs = {sampler: _cost(sampler, trial, split) for sampler in order}
            ratios.append(math.log(costs[base] / costs[other]))
    return TrialResult(trial, tuple(ratios))


def _cost(sampler: SpeedSampler, trial: Trial, split: Split) -> float:
    """Seconds per agent step in a new sample; updates are not repeated where they cost what they cost in `split`."""
    return sampler.collect().collect + (split.learn if trial.only_collects else sampler.learn())


def _combined(trials: Sequence[Trial]) -> Trial:
    settings = tuple(setting for trial in trials for setting in trial.settings)
    return Trial(settings, max(trial.threads for trial in trials))


def _median(splits: Sequence[Split]) -> Split:
    return Split(**{field.name: float(np.median([getattr(s, field.name) for s in splits])) for field in fields(Split)})
