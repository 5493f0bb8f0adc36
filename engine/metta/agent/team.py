"""Teams: policies that play together, which of them plays each agent of a world, and their actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
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
            raise UsageError(self._wrong_players(names, counts))
        return np.asarray(played.argmax(axis=0))

    def assignments(self, worlds: AgentGroups) -> list[tuple[Policy, NDArray[np.bool_]]]:
        """Each policy, with the agents that it plays in the current episodes. `[worlds * agents] bool`"""
        players = self.players(group_names(worlds)).ravel()
        return [(policy, players == index) for index, policy in enumerate(self.policies.values())]

    def _wrong_players(self, names: NDArray[np.str_], counts: NDArray[np.int64]) -> str:
        """Message for agents without a policy or with several; `counts [worlds, agents]` are their policies."""
        group = names[counts != 1][0]
        if counts.max() > 1:
            by = listed([name for name in self.policies if self._is_played(name, names)[names == group].any()])
            return f'several policies play an agent of the group "{group}": {by}; each agent needs exactly one'
        played = "; ".join(
            f"{name} plays {'an agent of ' if name in self.members else ''}{listed(groups)}"
            for name, groups in self.groups.items()
        )
        return (
            f'no policy plays an agent of the group "{group}" ({played}): the team plays only worlds with its groups, '
            "one of its policies alone plays any"
        )

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


class Players:
    """Policies that act for agents of an environment, with their memories, from the start of its episodes on."""

    def __init__(self, assignments: Sequence[tuple[Policy, NDArray[np.bool_]]]):
        """`assignments`: policies, and a mask of the agents that each of them plays, `[agents] bool`.

        Each agent must be played by exactly one policy. Policies without agents are left out.
        """
        self._policies = [
            (policy, slice(None) if is_its.all() else is_its.nonzero()[0])
            for policy, is_its in assignments
            if is_its.any()
        ]
        self.num_agents = len(assignments[0][1])
        self._memories = [policy.initial_memory(int(is_its.sum())) for policy, is_its in assignments if is_its.any()]

    @property
    def uses_action_masks(self) -> bool:
        """Whether a policy needs the action masks of the environment."""
        return any(policy.uses_action_masks for policy, _ in self._policies)

    @property
    def device(self) -> torch.device:
        """The device on which the policies compute; with several devices, one that is not the CPU."""
        devices = [memory.device for memory in self._memories]
        return next((device for device in devices if device.type != "cpu"), devices[0])

    def act(
        self,
        observations: NDArray[np.uint8],
        action_masks: NDArray[np.bool_] | None,
        episode_starts: torch.Tensor | None,
        generator: torch.Generator,
        deterministic: bool = False,
    ) -> NDArray[np.int32]:
        """The next actions of all agents, `[agents, 2]`, as `Policy.act` chooses them in evaluation mode.

        `observations [agents, tokens, 3]`; `action_masks [agents, actions]`, needed if `uses_action_masks`;
        `episode_starts [agents] bool`.
        """
        actions = np.zeros((self.num_agents, 2), np.int32)
        for index, (policy, agents) in enumerate(self._policies):
            memory = self._memories[index]
            masks = action_masks[agents] if action_masks is not None and policy.uses_action_masks else None
            with _evaluation_mode(policy):
                output = policy.act(
                    torch.from_numpy(observations[agents]).to(memory.device),
                    memory,
                    None if episode_starts is None else episode_starts[agents].to(memory.device),
                    generator,
                    deterministic,
                    None if masks is None else torch.from_numpy(masks).to(memory.device),
                )
            self._memories[index] = output.memory
            actions[agents] = output.actions.cpu().numpy()
        return actions


@contextmanager
def _evaluation_mode(policy: Policy) -> Iterator[None]:
    """Put a policy that is a torch module into evaluation mode; restore the mode of each submodule on exit."""
    modes = [(module, module.training) for module in policy.modules()] if isinstance(policy, torch.nn.Module) else []
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


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
