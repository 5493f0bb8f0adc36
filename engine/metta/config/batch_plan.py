"""Batch plan: the numbers of worlds, segments and minibatches of an epoch, derived from `[experience]`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from metta.config.training import DistributedConfig, ExperienceConfig
from metta.errors import ConfigError, Problem

SMALL_PASS = 256
"""Agents of a forward pass below which larger passes gain more than world batches that step in turn."""


@dataclass(frozen=True)
class BatchPlan:
    """Layout of one epoch's experience. Every agent of every world takes the same number of steps."""

    num_worlds: int
    num_agents: int
    """agents per world"""
    horizon: int
    """steps per segment"""
    segments_per_agent: int
    """consecutive segments of each agent per epoch"""
    num_minibatches: int
    num_world_batches: int
    """world batches, which step in turn (async_factor)"""
    num_opponents: int = 0
    """agents per world whose steps are not experience: those that frozen or other policies control"""
    fewest_learners: int = 1
    """learners per world of the policy that has the fewest, if several train together"""
    segments_together: int = 1
    """segments that are in the same minibatch: those of all learners of a world, for a critic that reads them all"""

    @property
    def num_learners(self) -> int:
        """Agents per world whose steps are experience."""
        return self.num_agents - self.num_opponents

    @property
    def agents(self) -> int:
        """Agents of all worlds together whose steps are experience."""
        return self.num_worlds * self.num_learners

    @property
    def segments(self) -> int:
        """Training segments per epoch."""
        return self.agents * self.segments_per_agent

    @property
    def batch_size(self) -> int:
        """Agent steps collected per epoch: the configured batch_size rounded down to whole worlds and segments."""
        return self.segments * self.horizon

    def of_policy(self, num_learners: int, keeps_worlds: bool = False) -> BatchPlan:
        """The experience of a policy that learns from `num_learners` of each world's learning agents.

        It has about the same fraction of the minibatches, at least one. With `keeps_worlds`, they keep the learners of
        a world together.
        """
        minibatches = max(1, round(self.num_minibatches * num_learners / self.num_learners))
        together = num_learners if keeps_worlds else 1
        return replace(
            self,
            num_minibatches=min(minibatches, self.num_worlds * num_learners * self.segments_per_agent // together),
            num_opponents=self.num_agents - num_learners,
            segments_together=together,
        )


def batch_problems(config: ExperienceConfig, num_learners: int, together: int = 1) -> list[Problem]:
    """Problems with the sizes in `[experience]`: not multiples of each other, or too small for `num_learners` agents.

    A minibatch must have room for `together` segments. Paths are relative to `[experience]`. All messages suggest the
    same sizes, which are valid together.
    """
    batch, minibatch, horizon = config.batch_size, config.minibatch_size, config.bptt_horizon
    least = num_learners * horizon
    valid = _valid_sizes(batch, minibatch, horizon, least, together * horizon)
    problems = []
    if minibatch > batch:
        problems.append(("minibatch_size", f"must be at most batch_size = {batch}"))
    elif batch % minibatch:
        problems.append(("batch_size", f"must be a multiple of minibatch_size = {minibatch}"))
    for name, size in (("batch_size", batch), ("minibatch_size", minibatch)):
        if size % horizon:
            problems.append((name, f"must be a multiple of bptt_horizon = {horizon}"))
    if batch < least:
        agents = f"{num_learners} agents x bptt_horizon {horizon} = {least}"
        problems.append(("batch_size", f"must be at least one segment for each agent of one world: {agents}"))
    if minibatch < together * horizon:
        agents = f"{together} agents x bptt_horizon {horizon} = {together * horizon}"
        rule = f"must be at least one segment for each agent of a world, whom the critic reads together: {agents}"
        problems.append(("minibatch_size", rule))
    sizes = {"batch_size": batch, "minibatch_size": minibatch}
    return [Problem((name,), f"{rule}; got {sizes[name]}{_suggestion(sizes, valid)}") for name, rule in problems]


def _valid_sizes(batch: int, minibatch: int, unit: int, least: int, least_minibatch: int = 1) -> dict[str, int]:
    """The valid sizes next to the given ones: a batch of at least `least` steps, in minibatches of whole `unit` steps.

    A minibatch has at least `least_minibatch` steps. One that is larger than the batch becomes as large as the batch.
    """
    if minibatch > batch:
        batch = minibatch = max(-(-least // unit), round(batch / unit), 1) * unit
    else:
        minibatch = max(-(-least_minibatch // unit), round(minibatch / unit), 1) * unit
        batch = max(-(-least // minibatch), round(batch / minibatch), 1) * minibatch
    return {"batch_size": batch, "minibatch_size": minibatch}


def _suggestion(sizes: dict[str, int], valid: dict[str, int]) -> str:
    """The end of a message with the sizes to change."""
    changes = " and ".join(f"{name} = {valid[name]}" for name in sizes if valid[name] != sizes[name])
    return f"; set {changes}"


def plan_batch(
    config: ExperienceConfig, num_agents: int, num_opponents: int = 0, fewest_learners: int | None = None
) -> BatchPlan:
    """The layout of an epoch's experience in worlds of `num_agents` agents, of which `num_opponents` do not learn.

    The number of worlds is the one for which a forward pass of each of the async_factor world batches has about
    forward_pass_minibatch_target_size agents, or fewer if the batch has fewer segments than that many agents. The
    number of segments per agent is the smallest that fills the batch.

    With several policies, of which the one with the fewest learners per world has `fewest_learners`, there are fewer
    world batches where its forward passes would otherwise have fewer than SMALL_PASS agents.
    """
    segments = config.batch_size // config.bptt_horizon
    learners = num_agents - num_opponents
    target = max(1, round(config.forward_pass_minibatch_target_size * config.async_factor / learners))
    segments_per_agent = max(1, -(-(segments // learners) // target))
    num_worlds = max(1, segments // (segments_per_agent * learners))
    if fewest_learners is None:
        fewest_learners = learners
    least = min(SMALL_PASS, config.forward_pass_minibatch_target_size, num_worlds * learners / config.async_factor)
    most_batches = max(1, round(num_worlds * fewest_learners / least))
    return BatchPlan(
        num_worlds=num_worlds,
        num_agents=num_agents,
        horizon=config.bptt_horizon,
        segments_per_agent=segments_per_agent,
        num_minibatches=min(config.batch_size // config.minibatch_size, num_worlds * learners * segments_per_agent),
        num_world_batches=min(config.async_factor, num_worlds, most_batches),
        num_opponents=num_opponents,
        fewest_learners=fewest_learners,
    )


def experience_of_process(
    experience: ExperienceConfig, distributed: DistributedConfig, num_processes: int
) -> ExperienceConfig:
    """The `[experience]` of each process: with `batch = "global"`, its sizes are divided among the processes.

    Raises ConfigError if the sizes cannot be divided among the processes.
    """
    if num_processes == 1 or distributed.batch == "per_process":
        return experience
    sizes = {"batch_size": experience.batch_size, "minibatch_size": experience.minibatch_size}
    unit = num_processes * experience.bptt_horizon
    valid = _valid_sizes(experience.batch_size, experience.minibatch_size, unit, least=unit)
    rule = f"must be a multiple of {num_processes} processes x bptt_horizon {experience.bptt_horizon} = {unit}"
    problems = [
        Problem(("experience", name), f"{rule}; got {size}{_suggestion(sizes, valid)}")
        for name, size in sizes.items()
        if size % unit
    ]
    if problems:
        raise ConfigError('distributed.batch = "global"', problems)
    return experience.model_copy(update={name: size // num_processes for name, size in sizes.items()})
