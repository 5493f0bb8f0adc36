"""Self-play: the table `[self_play]`, and the number of agents per world that frozen policies control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from metta.config.env.env_config import EnvConfig
from metta.config.env.map_sizes import group_counts
from metta.config.validation.file_paths import FilePath
from metta.config.validation.frozen_model import FrozenModel
from metta.errors import Problem, RulesError, did_you_mean


class SelfPlayConfig(FrozenModel):
    """Frozen policies as opponents: they control some agents of each world, whose steps are not used for training.

    Off without `groups` and `share`.
    """

    groups: list[str] = Field(
        default_factory=list, description="names of the groups of agents that frozen policies control; or set share"
    )
    share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="instead of groups: fraction of each world's agents, drawn at random for each episode",
    )
    policies: list[FilePath] = Field(
        default_factory=list,
        max_length=1000,
        description="policy checkpoints, or runs (their newest policies), in the pool of opponents; :NAME at the end "
        "picks one of several policies, else it is the one of the same name",
    )
    snapshot_interval: int = Field(
        default=0,
        ge=0,
        le=10**9,
        description="epochs between snapshots of the policy, which join the pool, from the initial policy on; 0: none",
    )
    pool_size: int = Field(
        default=8,
        ge=1,
        le=1000,
        description="snapshots in the pool; the oldest is evicted, and kept until its running episodes end",
    )
    newest_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="fraction of episodes against the newest snapshot; the others are against any policy of the pool, "
        "with equal probability",
    )

    @property
    def is_on(self) -> bool:
        """Whether frozen policies control any agents."""
        return bool(self.groups or self.share)

    @model_validator(mode="after")
    def _has_opponents(self) -> Self:
        problems = []
        if self.groups and self.share:
            problems.append(Problem(("share",), f"must be 0 where groups are given; got {self.share}"))
        if self.is_on and not self.policies and not self.snapshot_interval:
            problems.append(
                Problem(
                    ("snapshot_interval",),
                    "must be at least 1 without policies, or the pool of opponents is empty; got 0",
                )
            )
        if problems:
            raise RulesError(problems)
        return self


def num_opponents(config: SelfPlayConfig, env: EnvConfig, num_agents: int | None = None) -> int:
    """Number of agents per world that frozen policies control, of `num_agents`, by default all agents of a world."""
    agents = env.game.num_agents if num_agents is None else num_agents
    if config.share:
        return min(agents - 1, max(1, round(config.share * agents)))
    counts = agents_of_groups(env)
    return sum(counts.get(group, 0) for group in set(config.groups))


def agents_of_groups(env: EnvConfig) -> dict[str, int]:
    """Number of agents per world in each group, by the group's name."""
    names = list(env.game.groups)
    return dict(zip(names, group_counts(env.map_builder, names, 0, len(names)), strict=True))


def self_play_problems(config: SelfPlayConfig, env: EnvConfig, groups: Sequence[str], num_agents: int) -> list[Problem]:
    """The problems with `[self_play]` of a policy that plays `num_agents` agents of `groups` in the world `env`.

    Paths are relative to that table.
    """
    problems = [
        Problem(("groups", index), _not_played(group, env, groups))
        for index, group in enumerate(config.groups)
        if group not in groups
    ]
    if problems or not config.is_on:
        return problems
    field = "share" if config.share else "groups"
    opponents = num_opponents(config, env, num_agents)
    if num_agents == 1 or opponents >= num_agents:
        would = f"{opponents} of {num_agents} would be opponents" if num_agents > 1 else "there is only one"
        problems.append(Problem((field,), f"must leave at least one learning agent; {would}"))
    elif not opponents:
        problems.append(Problem(("groups",), "have no agents in this world; name groups that do"))
    return problems


def _not_played(group: str, env: EnvConfig, groups: Sequence[str]) -> str:
    known = list(env.game.groups)
    if group not in known:
        return f'unknown group "{group}"{did_you_mean(group, known)}'
    return f'must be groups that the policy plays: {", ".join(groups)}; got "{group}"'
