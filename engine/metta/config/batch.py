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
    rounds: int
    """segments each agent plays per epoch, one after the other"""
    num_minibatches: int
    num_groups: int
    """parts the worlds are split into, stepping in turn (async_factor)"""

    @property
    def agents(self) -> int:
        """Agents of all worlds."""
        return self.num_worlds * self.num_agents

    @property
    def segments(self) -> int:
        """Training segments of one epoch."""
        return self.agents * self.rounds

    @property
    def batch_size(self) -> int:
        """Agent steps really collected per epoch: at most what was asked for, in whole worlds and segments."""
        return self.segments * self.horizon


def batch_problems(config: ExperienceConfig, num_agents: int) -> list[Problem]:
    """What makes a batch impossible, with the arithmetic; paths are relative to `[experience]`."""
    problems = []
    if config.minibatch_size > config.batch_size:
        problems.append(
            Problem(("minibatch_size",), f"{config.minibatch_size} is more than batch_size = {config.batch_size}")
        )
    elif config.batch_size % config.minibatch_size:
        problems.append(
            Problem(
                ("minibatch_size",),
                f"batch_size = {config.batch_size} is not a multiple of {config.minibatch_size}",
            )
        )
    for name in ("batch_size", "minibatch_size"):
        size = getattr(config, name)
        if size % config.bptt_horizon:
            problems.append(Problem((name,), f"{size} is not a multiple of bptt_horizon = {config.bptt_horizon}"))
    least = num_agents * config.bptt_horizon
    if config.batch_size < least:
        problems.append(
            Problem(
                ("batch_size",),
                f"must be at least one segment for each agent of one world: {num_agents} agents x "
                f"bptt_horizon {config.bptt_horizon} = {least}; got {config.batch_size}",
            )
        )
    return problems


def plan_batch(config: ExperienceConfig, num_agents: int) -> BatchPlan:
    """The layout of an epoch's experience for worlds of `num_agents` agents.

    At most as many worlds as bring a forward pass of each of the async_factor groups to its target size, and no more
    than the batch has segments for; then as few rounds as fill the batch.
    """
    segments = config.batch_size // config.bptt_horizon
    target = max(1, round(config.forward_pass_minibatch_target_size * config.async_factor / num_agents))
    rounds = max(1, -(-(segments // num_agents) // target))
    num_worlds = max(1, segments // (rounds * num_agents))
    return BatchPlan(
        num_worlds=num_worlds,
        num_agents=num_agents,
        horizon=config.bptt_horizon,
        rounds=rounds,
        num_minibatches=config.batch_size // config.minibatch_size,
        num_groups=min(config.async_factor, num_worlds),
    )
