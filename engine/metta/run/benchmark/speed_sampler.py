"""Speed of training with a config: samples of what an agent step costs, each from a part of an epoch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # torch does not list it

from metta.config.batch_plan import BatchPlan
from metta.config.run import RunConfig
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.experience import Experience
from metta.rl.rollout import rollout_policies
from metta.run.training_run import TrainingRun
from metta.spans import Span, record_spans

SAMPLE_SECONDS = 0.4
"""Length of a sample's rollout, roughly; its updates take half of it, or what one of them takes."""
MAX_STEPS = 128
"""Maximum number of steps of a sample's rollout."""
FIRST_STEPS = 3
"""Steps of the first rollout, which shows how long a step takes."""


@dataclass(frozen=True)
class Split:
    """Seconds per agent step, by what training does."""

    infer: float
    """the policy computes actions"""
    learn: float
    """the policy is updated"""
    simulate: float
    """the worlds step while nothing else happens (`experience.async_factor = 1` without workers)"""
    wait: float
    """the policy waits for the simulator, which runs in a thread or in worker processes"""
    other: float
    """experience is stored, opponents and statistics are computed"""
    beside: float = 0.0
    """the worlds step while the policy computes, summed over threads and processes; no part of `total`"""

    @property
    def collect(self) -> float:
        """Seconds per agent step in which experience is collected."""
        return self.infer + self.simulate + self.wait + self.other

    @property
    def total(self) -> float:
        """Seconds per agent step."""
        return self.collect + self.learn

    def most_without_simulator(self, has_idle_core: bool) -> float:
        """How many times as fast training can be at most if the simulator costs nothing.

        Without an idle core, worlds that step beside the policy take time from it.
        """
        simulator = self.wait + self.simulate + (0.0 if has_idle_core else self.beside)
        return self.total / max(self.learn, self.total - simulator)


@dataclass(frozen=True)
class DeviceUse:
    """What a GPU does during training."""

    busy: float
    """fraction of the time in which it computes or copies"""
    transfer: float
    """seconds of copies from and to the CPU's memory per agent step, while the policy or the CPU may compute"""


class SpeedSampler:
    """A training run that is sampled rather than trained: its worlds, its policy and its optimizer.

    Rollouts have all worlds of the config, but fewer steps than an epoch; updates have minibatches of the config's size
    and segments of its length, but fewer of them. The policy keeps its initial weights, and episodes are staggered, so
    that some end in every sample. A context manager, which closes the worlds.
    """

    def __init__(
        self, config: RunConfig, plan: BatchPlan, threads: int, steps: int | None = None, only_collects: bool = False
    ):
        """`plan` is the batch plan of `config`; `steps` the length of rollouts, by default chosen from a first one.

        With `only_collects`, the sampler cannot `learn`, and needs less time to be made.
        """
        self.plan = plan
        self.threads = threads
        with self._threads():
            self._run = TrainingRun(_for_updates(config, plan), Curriculum.from_config(config))
            self.steps = steps or FIRST_STEPS
            """steps of a rollout"""
            self._experiences = self._make_experiences(config)
            seconds = self.collect().collect * plan.agents  # the first sample is slower, above all with [compile]
            if not only_collects:
                self._run.collect()
                self.learn()
            if steps is None and (enough := min(MAX_STEPS, round(SAMPLE_SECONDS / seconds))) > FIRST_STEPS:
                self._close_experiences()
                self.steps = enough
                self._experiences = self._make_experiences(config)

    def _make_experiences(self, config: RunConfig) -> dict[str, Experience]:
        """The experience of rollouts of each policy: all worlds of the config, and segments of `steps` steps."""
        size = self.plan.agents * self.steps
        sizes = {"batch_size": size, "minibatch_size": size, "bptt_horizon": self.steps, "stagger_episodes": True}
        return self._run.make_experiences(config.experience.model_copy(update=sizes))

    @property
    def device(self) -> torch.device:
        """The device of the policy."""
        return self._run.device

    @property
    def num_weights(self) -> int:
        """Number of weights of the policies in training."""
        return sum(learner.num_parameters for learner in self._run.learners.values())

    def collect(self) -> Split:
        """A sample of collecting, without learning: all steps of a rollout but the first."""
        moments: list[float] = []
        with self._threads(), record_spans() as spans:
            rollout_policies(
                self._experiences, self._run.agents, on_progress=lambda *counts: moments.append(time.perf_counter())
            )
        return _split(spans, moments[0], moments[-1], (len(moments) - 1) * self.plan.agents, self.plan)

    def learn(self) -> float:
        """A sample of learning: seconds per agent step of an epoch."""
        begin = time.perf_counter()
        with self._threads(), record_spans() as spans:
            while not spans or time.perf_counter() - begin < SAMPLE_SECONDS / 2:
                self._run.update()
        seconds = [span.end - span.begin for span in spans if span.name == "learn"]
        return sum(seconds) / len(seconds) / self._run.plan.batch_size

    def sample(self) -> Split:
        """A sample of both."""
        return replace(self.collect(), learn=self.learn())

    def device_use(self, split: Split) -> DeviceUse:
        """How much the GPU computes and copies in training with the costs `split`, from profiles of both phases."""
        with torch.profiler.profile() as collecting:
            cost = self.collect().collect
        agent_steps = self.plan.agents * self.steps
        collected = _device_use(collecting.events() or (), cost * agent_steps, agent_steps)
        begin = time.perf_counter()
        with torch.profiler.profile() as learning:
            self._run.update()
        seconds, agent_steps = time.perf_counter() - begin, self._run.plan.batch_size
        learned = _device_use(learning.events() or (), seconds, agent_steps)
        busy = (split.collect * collected.busy + split.learn * learned.busy) / split.total
        return DeviceUse(busy, collected.transfer + learned.transfer)

    def close(self) -> None:
        """Close the worlds."""
        self._close_experiences()
        self._run.close()

    def _close_experiences(self) -> None:
        for experience in self._experiences.values():
            experience.close()

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """Context in which torch computes in this sampler's number of threads."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _for_updates(config: RunConfig, plan: BatchPlan) -> RunConfig:
    """The config with the smallest batch of whole minibatches, and without what ends or changes updates over time."""
    least = plan.num_learners * plan.horizon
    minibatch = config.experience.minibatch_size
    sizes = {"batch_size": -(-least // minibatch) * minibatch, "stagger_episodes": True}
    rate, no_target = {"learning_rate": 1e-12}, {"target_kl": None}
    policies = {
        name: policy.model_copy(
            update={"optimizer": policy.optimizer.replaced(rate), "ppo": policy.ppo.replaced(no_target)}
        )
        for name, policy in config.policies.items()
    }
    # repeated updates on one batch with the config's learning rate could diverge
    changed = config.with_values(experience=sizes, optimizer=rate, ppo=no_target)
    return changed.model_copy(update={"policies": policies})


def _split(spans: Sequence[Span], begin: float, end: float, agent_steps: int, plan: BatchPlan) -> Split:
    """The costs of collecting `agent_steps` agent steps between two moments."""
    here = threading.current_thread().name
    seconds = dict.fromkeys(("infer", "wait", "simulate", "beside"), 0.0)
    for span in spans:
        name = "beside" if span.name == "simulate" and span.thread != here else span.name
        if name in seconds:
            seconds[name] += max(0.0, min(end, span.end) - max(begin, span.begin))
    costs = {name: value / agent_steps for name, value in seconds.items()}
    other = (end - begin) / agent_steps - costs["infer"] - costs["wait"] - costs["simulate"]
    # the values of the observations after the last step cost about as much as a step of the policy
    costs["infer"] *= 1 + 1 / (plan.segments_per_agent * plan.horizon)
    return Split(learn=0.0, other=max(0.0, other), **costs)


def _device_use(events: Iterable[Any], seconds: float, agent_steps: int) -> DeviceUse:
    """The use of a GPU in a profile of `seconds`, from the events of `torch.profiler`."""
    on_device = [event for event in events if event.device_type == DeviceType.CUDA]
    kernels = [event for event in on_device if not event.is_user_annotation]
    copies = [event for event in kernels if event.name.startswith(("Memcpy HtoD", "Memcpy DtoH"))]
    busy, copied = (sum(event.time_range.elapsed_us() for event in part) / 1e6 for part in (kernels, copies))
    return DeviceUse(min(1.0, busy / seconds), copied / agent_steps)
