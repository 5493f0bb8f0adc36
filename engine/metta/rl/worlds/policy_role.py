"""Roles: which agents of a world each policy plays, and how many of them learn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metta.agent.devices import make_generator
from metta.agent.policy import MettaAgent, Policy, check_policy_fits, reads_groups
from metta.agent.team import Team, is_played, listed
from metta.config.env.env_config import EnvConfig
from metta.config.policies import num_agents_of
from metta.config.self_play import SelfPlayConfig, agents_of_groups, num_opponents
from metta.errors import UsageError, did_you_mean
from metta.random_streams import RandomStream
from metta.rl.frozen_policies.self_play import GIVEN, FrozenPolicy, OpponentPool
from metta.world.env import MettaGridEnv


@dataclass
class PolicyRole:
    """The agents of each world that one policy plays: all, those of some groups, or one of these."""

    name: str
    generator: torch.Generator
    """for the choice of opponents and of the frozen policies that play them, and for their actions"""
    groups: Sequence[str] = ()
    """names of groups of agents; without any, the policy plays all agents"""
    member: int | None = None
    """index of the only agent that the policy plays among those of its groups, in ascending order; None: all of them"""
    pool: OpponentPool | None = None
    """frozen policies that play some of the agents instead (self-play), or all of them; None without any"""
    learns: bool = True
    """False for a policy that does not learn: frozen policies of the pool play all its agents"""
    uses_action_masks: bool = False
    """whether the policy in training, or its teacher, uses action masks"""
    keeps_worlds: bool = False
    """whether minibatches keep the learners of a world together, because the critic reads them all"""

    @property
    def needs_action_masks(self) -> bool:
        """Whether the policy in training, its teacher or a frozen policy uses action masks."""
        return self.uses_action_masks or (self.pool is not None and self.pool.uses_action_masks)

    def num_opponents(self, env: EnvConfig) -> int:
        """Number of the policy's agents per world that frozen policies control."""
        if self.pool is None:
            return 0
        agents = num_agents_of(self, env)
        return num_opponents(self.pool.config, env, agents) if self.learns else agents

    def agents(
        self, env: EnvConfig, groups: NDArray[np.int64], num_agents: int, num_opponents: int
    ) -> NDArray[np.int64]:
        """Indices of the agents of a world that the policy plays, ascending: first its learners, then its opponents.

        `groups [agents]` are those of the world's agents, as indices into `env.game.groups`. Opponents are
        chosen again. Raises UsageError if the world has other numbers of agents than the given ones of its config.
        """
        names = np.array(list(env.game.groups))[groups]
        agents = np.flatnonzero(is_played(names[None], self.groups, self.member)[0])
        if len(agents) != num_agents:
            raise UsageError(f"{self.label}: a map has {len(agents)} agents of its groups; the config has {num_agents}")
        if self.pool is None or not self.learns:
            return agents
        if self.pool.config.share:
            is_opponent = torch.randperm(len(agents), generator=self.generator).numpy() < num_opponents
        else:
            is_opponent = np.isin(names[agents], self.pool.config.groups)
        if is_opponent.sum() != num_opponents:
            raise UsageError(
                f"self_play.groups: a map has {is_opponent.sum()} agents of these groups; "
                f"the config has {num_opponents}"
            )
        return agents[np.argsort(is_opponent, kind="stable")]

    @property
    def label(self) -> str:
        """The policy in messages."""
        return f"policy {self.name}" if self.name else "the policy"


def make_roles(
    env: MettaGridEnv,
    team: Team,
    learners: Collection[str],
    opponents: Mapping[str, OpponentPool],
    teachers: Mapping[str, Sequence[Policy]],
    seed: int,
    rank: int,
) -> list[PolicyRole]:
    """The roles of the policies of a team, of which the `learners` are in training.

    `opponents` and `teachers` are by the name of a learner. Raises UsageError if a policy does not fit the environment,
    if an agent has no policy or several, and for unknown names of groups and policies.
    """
    for what, names in (("opponents", opponents), ("teachers", teachers)):
        if unknown := [name for name in names if name not in learners]:
            raise UsageError(f"{what} belong to policies in training ({listed(list(learners))}); got {listed(unknown)}")
    team.check_fits(env.spec)
    for config in env.configs:
        _check_groups(team, config)
    roles = []
    for index, (name, policy) in enumerate(team.policies.items()):
        generator = make_generator(RandomStream.OPPONENTS.seed(seed, *stream_keys(rank, index)), torch.device("cpu"))
        pool, used = opponents.get(name), (policy, *teachers.get(name, ()))
        for teacher in used[1:]:
            check_policy_fits(teacher, env.spec)
        if pool is not None:
            pool.check_fits(env.spec)
            if not pool.config.is_on:
                raise UsageError("the pool of opponents plays no agents: set share or groups of its SelfPlayConfig")
        elif name not in learners:
            assert isinstance(policy, MettaAgent)
            pool = OpponentPool(SelfPlayConfig(), [FrozenPolicy(f"{GIVEN}000", policy)])
        masked = any(each.uses_action_masks for each in used)
        groups, member = team.groups.get(name, ()), team.members.get(name)
        keeps_worlds = name in learners and reads_groups(policy)
        roles.append(PolicyRole(name, generator, groups, member, pool, name in learners, masked, keeps_worlds))
    return roles


def _check_groups(team: Team, config: EnvConfig) -> None:
    """Raise UsageError for an unknown group, and unless each agent of a world has one policy."""
    known = list(config.game.groups)
    for group in [group for groups in team.groups.values() for group in groups]:
        if group not in known:
            raise UsageError(f'unknown group "{group}"{did_you_mean(group, known)}')
    counts = agents_of_groups(config)
    team.players(np.repeat(list(counts), list(counts.values()))[None])


def stream_keys(rank: int, policy: int) -> tuple[int, ...]:
    """Keys of the random streams of the policy of this index, in the process of this rank.

    The first policy has the keys of a run with one policy, and rank 0 those of a run in one process.
    """
    return (rank, policy) if policy else (rank - 1,) if rank else ()
