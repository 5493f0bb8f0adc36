"""Teams: policies that play together, and which of them plays each agent of a world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metta.agent.policy import Policy, check_policy_fits
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.errors import UsageError


class AgentGroups(Protocol):
    """What environments tell about the groups of their agents: `MettaGridEnv` does so in this and other processes."""

    @property
    def configs(self) -> Sequence[EnvConfig]:
        """The config of each task."""

    @property
    def tasks(self) -> NDArray[np.int64]:
        """Task of each world. `[worlds]`"""

    @property
    def groups(self) -> NDArray[np.int64]:
        """Group of each agent, as an index into `config.game.groups`. `[worlds * agents]`"""


@dataclass(frozen=True)
class Team:
    """Policies that together play all agents of a world, each of them its own.

    A policy without a team is the team of one policy, named `""`, that plays all agents: see `as_team`.
    """

    policies: Mapping[str, Policy]
    """the policies by name"""
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """name of a policy -> names of the groups of agents that it plays; a policy without an entry plays all agents"""
    members: Mapping[str, int] = field(default_factory=dict)
    """name of a policy -> index of its only agent among those of its groups, in ascending order; a policy without an
    entry plays all agents of its groups"""

    def __post_init__(self) -> None:
        """Raise UsageError for a team without policies, and for groups or members of unknown policies."""
        if not self.policies:
            raise UsageError("a team needs at least one policy")
        if unknown := (self.groups.keys() | self.members.keys()) - self.policies.keys():
            raise UsageError(
                f"groups and members belong to policies of the team ({listed(self.policies)}); "
                f"got {listed(sorted(unknown))}"
            )

    def check_fits(self, spec: EnvSpec) -> None:
        """Raise UsageError if a policy was made for other observations or actions than those of `spec`."""
        for policy in self.policies.values():
            check_policy_fits(policy, spec)

    def players(self, names: NDArray[np.str_]) -> NDArray[np.int64]:
        """The policy of each agent, as an index into `policies`. `[worlds, agents]`

        `names` are those of the agents' groups, as `group_names` returns them. Raises UsageError if an agent has no
        policy, or more than one.
        """
        played = np.stack([self._is_played(name, names) for name in self.policies])
        counts = played.sum(axis=0)
        if (counts != 1).any():
            group = names[counts != 1][0]
            by = listed([name for name in self.policies if self._is_played(name, names)[names == group].any()])
            problem = f"several policies play the same agent: {by}" if counts.max() > 1 else "an agent has no policy"
            raise UsageError(f'{problem}, in the group "{group}"; each agent of a team needs exactly one policy')
        return np.asarray(played.argmax(axis=0))

    def _is_played(self, policy: str, names: NDArray[np.str_]) -> NDArray[np.bool_]:
        return is_played(names, self.groups.get(policy, ()), self.members.get(policy))


def as_team(policy: Policy | Team) -> Team:
    """The team itself, or the team of one policy that plays all agents."""
    return policy if isinstance(policy, Team) else Team({"": policy})


def group_names(worlds: AgentGroups) -> NDArray[np.str_]:
    """Name of the group of each agent in the current episodes. `[worlds, agents]`"""
    indices = worlds.groups.reshape(len(worlds.tasks), -1)
    by_task = [np.array(list(config.game.groups)) for config in worlds.configs]
    return np.stack([by_task[task][row] for task, row in zip(worlds.tasks, indices, strict=True)])


def is_played(names: NDArray[np.str_], groups: Sequence[str], member: int | None = None) -> NDArray[np.bool_]:
    """Whether a policy plays each agent. `[worlds, agents]`

    `names [worlds, agents]` are those of the agents' groups. The policy plays all agents of `groups`, or without
    `groups` all agents; with `member`, only the agent of that index among them, in ascending order.
    """
    played = np.isin(names, list(groups)) if groups else np.ones(names.shape, np.bool_)
    return played if member is None else played & (played.cumsum(axis=1) == member + 1)


def listed(names: Sequence[str] | Mapping[str, object]) -> str:
    """Names of policies in messages, such as `hunters, grazers`."""
    return ", ".join(names)
