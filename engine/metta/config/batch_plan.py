"""The arithmetic of a batch: how many worlds, rounds and minibatches follow from `[experience]` and the agents."""

from __future__ import annotations

from dataclasses import dataclass

from metta.config.training import ExperienceConfig
from metta.errors import Problem


@dataclass(frozen=True)
class BatchPlan:
    """How one epoch's experience is laid out. Every agent of every world plays the same number of steps."""

    num_worlds: int
    num_agents: int
    """agents in a world"""
    horizon: int
    """steps of a segment"""
    segments_per_agent: int
    """segments each agent plays per epoch, one after the other"""
    num_minibatches: int
    num_groups: int
    """parts the worlds are split into, stepping in turn (async_factor)"""
    num_opponents: int = 0
    """agents in a world that frozen policies play, and whose steps are no experience"""

    @property
    def num_learners(self) -> int:
        """Agents in a world whose steps are experience."""
        return self.num_agents - self.num_opponents

    @property
    def agents(self) -> int:
        """Agents of all worlds whose steps are experience."""
        return self.num_worlds * self.num_learners

    @property
    def segments(self) -> int:
        """Training segments of one epoch."""
        return self.agents * self.segments_per_agent

    @property
    def batch_size(self) -> int:
        """Agent steps really collected per epoch: at most what was asked for, in whole worlds and segments."""
        return self.segments * self.horizon


def batch_problems(config: ExperienceConfig, num_learners: int) -> list[Problem]:
    """What makes a batch impossible, with the arithmetic, where so many agents of a world learn.

    Paths are relative to `[experience]`.
    """
    batch, minibatch, horizon = config.batch_size, config.minibatch_size, config.bptt_horizon
    problems = []
    if minibatch > batch:
        problems.append(Problem(("minibatch_size",), f"must be at most batch_size = {batch}; got {minibatch}"))
    elif batch % minibatch:
        problems.append(_not_a_multiple("batch_size", batch, "minibatch_size", minibatch))
    for name, size in (("batch_size", batch), ("minibatch_size", minibatch)):
        if size % horizon:
            problems.append(_not_a_multiple(name, size, "bptt_horizon", horizon))
    if batch < num_learners * horizon:
        least = f"{num_learners} agents x bptt_horizon {horizon} = {num_learners * horizon}"
        problems.append(
            Problem(("batch_size",), f"must hold a segment for each agent of one world: {least}; got {batch}")
        )
    return problems


def _not_a_multiple(name: str, size: int, of: str, unit: int) -> Problem:
    nearest = max(1, round(size / unit)) * unit
    return Problem((name,), f"must be a multiple of {of} = {unit}, such as {nearest}; got {size}")


def plan_batch(config: ExperienceConfig, num_agents: int, num_opponents: int = 0) -> BatchPlan:
    """The layout of an epoch's experience for worlds of `num_agents` agents, of which `num_opponents` do not learn.

    At most as many worlds as bring a forward pass of each of the async_factor groups to its target size, and no more
    than the batch has segments for; then as few rounds as fill the batch.
    """
    segments = config.batch_size // config.bptt_horizon
    learners = num_agents - num_opponents
    target = max(1, round(config.forward_pass_minibatch_target_size * config.async_factor / learners))
    segments_per_agent = max(1, -(-(segments // learners) // target))
    num_worlds = max(1, segments // (segments_per_agent * learners))
    return BatchPlan(
        num_worlds=num_worlds,
        num_agents=num_agents,
        horizon=config.bptt_horizon,
        segments_per_agent=segments_per_agent,
        num_minibatches=min(config.batch_size // config.minibatch_size, num_worlds * learners * segments_per_agent),
        num_groups=min(config.async_factor, num_worlds),
        num_opponents=num_opponents,
    )
