"""Training against frozen policies: `[self_play]`."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from metta.config.env.env_config import EnvConfig
from metta.config.env.map_drawings import group_counts
from metta.config.validation.frozen_model import FilePath, FrozenModel
from metta.errors import Problem, RulesError


class SelfPlayConfig(FrozenModel):
    """Frozen policies play some agents of each world, whose steps are not learned from; off without them."""

    groups: list[str] = Field(
        default_factory=list, description="groups of agents, by name, that frozen policies play; see also share"
    )
    share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="instead of groups: share of each world's agents, drawn anew for each episode",
    )
    policies: list[FilePath] = Field(
        default_factory=list, max_length=1000, description="policy checkpoints in the pool of frozen policies"
    )
    snapshot_interval: int = Field(
        default=0,
        ge=0,
        le=10**9,
        description="epochs after which the policy in training joins the pool as it is, from the first on; 0: never",
    )
    pool_size: int = Field(default=8, ge=1, le=1000, description="such snapshots kept; the oldest gives way")
    newest_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of episodes in which the newest snapshot plays; in the others any of the pool, all alike",
    )

    @property
    def is_on(self) -> bool:
        """Whether any agent is played by a frozen policy."""
        return bool(self.groups or self.share)

    @model_validator(mode="after")
    def _who_plays_whom(self) -> Self:
        problems = []
        if self.groups and self.share:
            problems.append(Problem(("share",), f"must be 0 where groups say who is played; got {self.share}"))
        if self.is_on and not self.policies and not self.snapshot_interval:
            problems.append(
                Problem(
                    ("snapshot_interval",),
                    "must be at least 1 without policies: there would be nobody to play against; got 0",
                )
            )
        if problems:
            raise RulesError(problems)
        return self


def num_opponents(config: SelfPlayConfig, env: EnvConfig) -> int:
    """Agents of each world that frozen policies play."""
    agents = env.game.num_agents
    if config.share:
        return min(agents - 1, max(1, round(config.share * agents)))
    counts = agents_of_groups(env)
    return sum(counts.get(group, 0) for group in set(config.groups))


def agents_of_groups(env: EnvConfig) -> dict[str, int]:
    """How many agents of a world are of each group, by its name."""
    names = list(env.game.groups)
    return dict(zip(names, group_counts(env.map_builder, names, 0, len(names)), strict=True))


def self_play_problems(config: SelfPlayConfig, env: EnvConfig) -> list[Problem]:
    """What of `[self_play]` cannot be had in this world; paths are relative to that table."""
    known = list(env.game.groups)
    problems = [
        Problem(("groups", index), f'unknown group "{group}"; known: {", ".join(known)}')
        for index, group in enumerate(config.groups)
        if group not in known
    ]
    if problems or not config.is_on:
        return problems
    opponents, agents = num_opponents(config, env), env.game.num_agents
    if opponents >= agents:
        field = "share" if config.share else "groups"
        problems.append(Problem((field,), f"must leave agents that learn: {opponents} of {agents} would be opponents"))
    elif not opponents:
        problems.append(Problem(("groups",), "must have agents in this world; they have none"))
    return problems
