"""Self-play: the pool of frozen policies, and the opponents that they control in the training worlds.

In each world some agents are learners, controlled by the policy in training. The others are opponents, controlled by
one frozen policy of the pool. When an episode starts, the opponents (at random or by group) and their policy are chosen
again, and the recurrent memories of all agents are cleared. An episode ends with the policy with which it began, also
if the pool evicts that policy meanwhile.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metta.agent.devices import HostCopy, to_device
from metta.agent.memory.state import Memory
from metta.agent.policy import MettaAgent, check_policy_fits
from metta.agent.sparse_tokens import PackedTokens
from metta.config.env.env_spec import EnvSpec
from metta.config.self_play import SelfPlayConfig, num_opponents
from metta.errors import CheckpointError, UsageError
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import EpisodeSummary
from metta.world.processes.process_worlds import ProcessWorlds

OPPONENTS = "opponents"
"""Name of the directory of frozen policies, inside the checkpoint directory."""

GIVEN = "given_"
"""Start of the names of policies from files; a number follows."""


@dataclass
class FrozenPolicy:
    """A policy of the pool, whose weights never change."""

    name: str
    """`given_000` for the first file of `self_play.policies`, `epoch_000010` for the snapshot after epoch 10"""
    agent: MettaAgent

    @property
    def epoch(self) -> int | None:
        """The epoch after which the policy in training was copied; None for a policy from a file."""
        return snapshot_epoch(self.name)

    @property
    def number(self) -> int:
        """A number that no other policy of the run has: the epoch of a snapshot, below 0 for a policy from a file."""
        return -1 - int(self.name.removeprefix(GIVEN)) if self.epoch is None else self.epoch


def snapshot_epoch(name: str) -> int | None:
    """The epoch in a snapshot's name, such as 10 for `epoch_000010`; None for any other name."""
    match = re.fullmatch(r"epoch_([0-9]+)", name)
    return int(match[1]) if match else None


def opponent_file(name: str) -> str:
    """Path of the file of a frozen policy, relative to the checkpoint directory."""
    return f"{OPPONENTS}/{name}.pt"


def check_opponent_names(names: Sequence[str]) -> None:
    """Raise CheckpointError for an invalid name, which as part of a path could lead to another directory."""
    for name in names:
        if not re.fullmatch(rf"({GIVEN}|epoch_)[0-9]{{1,15}}", name):
            raise CheckpointError(
                f'its opponents contain the invalid name "{name}"; names have the form given_000 or epoch_000100'
            )


class OpponentPool:
    """The frozen policies: those from files, and the newest `pool_size` snapshots of the policy in training."""

    def __init__(self, config: SelfPlayConfig, policies: Sequence[FrozenPolicy]):
        self.config = config
        self.policies = list(policies)
        """the policies of the pool, and evicted snapshots against which episodes still run; snapshots by epoch"""

    def add_snapshot(self, epoch: int, agent: MettaAgent) -> None:
        """Add a copy of the policy. In a full pool, it evicts the oldest snapshot."""
        frozen = copy.deepcopy(agent).to(agent.device).requires_grad_(False)  # `to` joins the weights of LSTMs again
        frozen.initial_weights = {}
        self.policies.append(FrozenPolicy(f"epoch_{epoch:06d}", frozen))

    @property
    def evicted(self) -> list[FrozenPolicy]:
        """The snapshots that no new episode is played against: all but the newest `pool_size`, oldest first."""
        return self._snapshots()[: -self.config.pool_size]

    def remove_evicted(self, in_use: Collection[int]) -> None:
        """Remove the evicted snapshots, except those with the numbers `in_use`."""
        removed = {policy.number for policy in self.evicted} - set(in_use)
        self.policies = [policy for policy in self.policies if policy.number not in removed]

    def sample(self, generator: torch.Generator) -> FrozenPolicy:
        """Sample the policy of an episode's opponents: the newest snapshot with probability `newest_share`.

        Otherwise, or without a snapshot, the policy is uniform over the pool.
        """
        newest, uniform = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        snapshots = self._snapshots()
        if snapshots and newest < self.config.newest_share:
            return snapshots[-1]
        evicted = {policy.number for policy in self.evicted}
        current = [policy for policy in self.policies if policy.number not in evicted]
        return current[int(uniform * len(current))]

    def check_fits(self, spec: EnvSpec) -> None:
        """Raise UsageError if a policy was trained for another observation or action space."""
        for policy in self.policies:
            check_policy_fits(policy.agent, spec)

    def _snapshots(self) -> list[FrozenPolicy]:
        """The snapshots, oldest first."""
        return sorted(
            (policy for policy in self.policies if policy.epoch is not None), key=lambda policy: policy.number
        )


class Opponents:
    """The opponents in the worlds of one world batch: their sides, observations and recurrent memories."""

    def __init__(self, env: MettaGridEnv | ProcessWorlds, pool: OpponentPool, generator: torch.Generator):
        self.env = env
        self.pool = pool
        self.generator = generator
        counts = {num_opponents(pool.config, config) for config in env.configs}
        if len(counts) > 1:
            raise UsageError(
                "self_play: all scenes must have the same number of opponents; "
                f"they have {', '.join(map(str, sorted(counts)))}"
            )
        self.count = counts.pop()
        """number of opponents in each world"""
        self.agent_order = np.zeros((env.num_worlds, env.num_agents), np.int64)
        """`[worlds, agents]`: agent indices in each world: first its learners, then its opponents, both ascending"""
        self.policy_numbers = np.zeros(env.num_worlds, np.int64)
        """`[worlds]`: number of the frozen policy that controls the world's opponents"""
        self.observations = PackedTokens(torch.zeros(0, 3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
        """of the opponents"""
        self.action_masks: torch.Tensor | None = None
        """`[opponents, actions] bool`; None if no policy of the batch uses masks"""
        self.episode_starts = torch.ones(env.num_worlds * self.count, dtype=torch.bool)
        """`[opponents] bool`: the next step is the first of an episode, and memory is cleared before it"""
        self.memories: dict[int, Memory] = {}
        """number of a policy that plays -> memories of all opponents; those that another policy controls are unused"""

    @property
    def uses_action_masks(self) -> bool:
        """Whether a policy of the pool uses action masks."""
        return any(policy.agent.uses_action_masks for policy in self.pool.policies)

    @property
    def learner_rows(self) -> np.ndarray:
        """`[learners] int64`: rows of the learners among the batch's agents, world by world."""
        return self._rows(self.agent_order[:, : self.env.num_agents - self.count])

    @property
    def opponent_rows(self) -> np.ndarray:
        """`[opponents] int64`: rows of the opponents among the batch's agents, world by world."""
        return self._rows(self.agent_order[:, self.env.num_agents - self.count :])

    def observe(self, observations: PackedTokens, done: np.ndarray, ended_worlds: Iterable[int]) -> PackedTokens:
        """Store the opponents' part of the observations of all agents, and return the learners' part.

        `done [agents] bool` marks the agents whose episode ended. Sides and policies of `ended_worlds` are sampled
        again before the observations are split.
        """
        self.episode_starts = torch.from_numpy(done[self.opponent_rows])
        for world in ended_worlds:
            self._sample_sides(world)
        in_use = set(self.policy_numbers.tolist())
        self.memories = {number: memory for number, memory in self.memories.items() if number in in_use}
        self.observations = observations.select(torch.from_numpy(self.opponent_rows))
        return observations.select(torch.from_numpy(self.learner_rows))

    def observe_action_masks(self, action_masks: np.ndarray | None) -> np.ndarray | None:
        """Store the opponents' part of `action_masks [agents, actions] bool` and return the learners' part.

        Call after `observe`, which chooses the sides.
        """
        self.action_masks = None
        if action_masks is None:
            return None
        self.action_masks = torch.from_numpy(action_masks[self.opponent_rows])
        learners: np.ndarray = action_masks[self.learner_rows]
        return learners

    def all_actions(self, learner_actions: np.ndarray) -> np.ndarray:
        """Actions of all agents, `[agents, 2]`: the given `[learners, 2]`, and those sampled for the opponents."""
        actions = np.empty((self.env.agents, 2), learner_actions.dtype)
        actions[self.learner_rows] = learner_actions
        opponent_actions = np.empty((len(self.episode_starts), 2), learner_actions.dtype)
        policy_numbers = np.repeat(self.policy_numbers, self.count)
        for policy in self.pool.policies:
            controlled = torch.from_numpy(np.flatnonzero(policy_numbers == policy.number))
            if len(controlled):
                if policy.number not in self.memories:
                    self.memories[policy.number] = self._initial_memory(policy)
                device, memory = policy.agent.device, self.memories[policy.number]
                on_device = to_device(controlled, device)
                masks = self.action_masks if policy.agent.uses_action_masks else None
                output = policy.agent.act(
                    self.observations.select(controlled).to(device),
                    memory.select(on_device),
                    to_device(self.episode_starts[controlled], device),
                    self.generator,
                    action_masks=None if masks is None else to_device(masks[controlled], device),
                )
                memory.assign(on_device, output.memory)
                opponent_actions[controlled.numpy()] = HostCopy(output.actions).wait().numpy()
        actions[self.opponent_rows] = opponent_actions
        return actions

    def split_rewards(self, episode: EpisodeSummary) -> tuple[np.ndarray, np.ndarray]:
        """The rewards `[learners]` and `[opponents]` of an ended episode. Call before `observe` samples sides again."""
        rewards = episode.rewards[self.agent_order[episode.world]]
        return rewards[: len(rewards) - self.count], rewards[len(rewards) - self.count :]

    def state(self) -> dict[str, Any]:
        """The state of the opponents, as tensors, without those of the pool and the generator.

        Policies are saved as indices into `pool.policies`, and their memories in this order.
        """
        policies = self.pool.policies
        index_of = {policy.number: index for index, policy in enumerate(policies)}
        memories = [self.memories.get(policy.number) or self._initial_memory(policy) for policy in policies]
        return {
            "seats": torch.from_numpy(self.agent_order.copy()),
            "places": torch.tensor([index_of[number] for number in self.policy_numbers.tolist()]),
            "observations": self.observations.padded(self.env.spec.num_observation_tokens),
            "episode_starts": self.episode_starts,
            "memories": [memory.state() for memory in memories],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state()` returned, with the same policies in the pool."""
        policies = self.pool.policies
        self.agent_order = state["seats"].numpy().copy()
        self.policy_numbers = np.array([policies[index].number for index in state["places"].tolist()])
        self.observations, self.episode_starts = PackedTokens.pack(state["observations"]), state["episode_starts"]
        self.memories = {
            policy.number: self._initial_memory(policy).restored(memory)
            for memory, policy in zip(state["memories"], policies, strict=False)
        }

    def _initial_memory(self, policy: FrozenPolicy) -> Memory:
        return policy.agent.initial_memory(len(self.episode_starts))

    def _sample_sides(self, world: int) -> None:
        """Choose the opponents of a world, at random or by `self_play.groups`, and sample their policy."""
        config, num_agents = self.pool.config, self.env.num_agents
        if config.share:
            is_opponent = torch.randperm(num_agents, generator=self.generator).numpy() < self.count
        else:
            first = world * num_agents
            names = list(self.env.configs[self.env.tasks[world]].game.groups)
            opponent_groups = [names.index(group) for group in config.groups]
            is_opponent = np.isin(self.env.groups[first : first + num_agents], opponent_groups)
        if is_opponent.sum() != self.count:
            raise UsageError(
                f"self_play.groups: a map has {is_opponent.sum()} agents of these groups; the config has {self.count}"
            )
        self.agent_order[world] = np.argsort(is_opponent, kind="stable")
        self.policy_numbers[world] = self.pool.sample(self.generator).number

    def _rows(self, agents: np.ndarray) -> np.ndarray:
        """Convert agent indices in each world, `[worlds, n]`, to row indices of the world batch, `[worlds * n]`."""
        rows: np.ndarray = (agents + np.arange(len(agents))[:, None] * self.env.num_agents).ravel()
        return rows
