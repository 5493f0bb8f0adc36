"""Self-play: the pool of frozen policies, and the opponents that they control in the training worlds.

In each world some agents are learners, controlled by the policy in training. The others are opponents, controlled by
one frozen policy of the pool. When an episode starts, the opponents (at random or by group) and their policy are chosen
again, and the recurrent memories of all agents are cleared.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metta.agent.policy import MettaAgent, check_policy_fits
from metta.agent.recurrent_memory import Memory
from metta.config.env.env_spec import EnvSpec
from metta.config.self_play import SelfPlayConfig, num_opponents
from metta.errors import CheckpointError, UsageError
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import EpisodeSummary

OPPONENTS = "opponents"
"""Name of the directory of frozen policies, inside the checkpoint directory."""


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
        if not re.fullmatch(r"(given|epoch)_[0-9]+", name):
            raise CheckpointError(
                f'its opponents contain the invalid name "{name}"; names have the form given_000 or epoch_000100'
            )


class OpponentPool:
    """The frozen policies: those from files, and the newest `pool_size` snapshots of the policy in training."""

    def __init__(self, config: SelfPlayConfig, policies: Sequence[FrozenPolicy]):
        self.config = config
        self.policies = list(policies)
        """a policy keeps its index; a new snapshot takes the index of the one that it replaces"""

    def add_snapshot(self, epoch: int, agent: MettaAgent) -> None:
        """Add a copy of the policy. In a full pool, it replaces the oldest snapshot, also in running episodes."""
        frozen = copy.deepcopy(agent).requires_grad_(False)
        frozen.initial_weights = {}
        policy = FrozenPolicy(f"epoch_{epoch:06d}", frozen)
        snapshots = self._snapshots()
        if len(snapshots) < self.config.pool_size:
            self.policies.append(policy)
        else:
            self.policies[snapshots[0]] = policy

    def sample(self, generator: torch.Generator) -> int:
        """Sample the policy of an episode's opponents, by index: the newest snapshot with probability `newest_share`.

        Otherwise, or without a snapshot, the policy is uniform over the pool.
        """
        newest, uniform = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        snapshots = self._snapshots()
        if snapshots and newest < self.config.newest_share:
            return snapshots[-1]
        return int(uniform * len(self.policies))

    def check_fits(self, spec: EnvSpec) -> None:
        """Raise UsageError if a policy was trained for another observation or action space."""
        for policy in self.policies:
            check_policy_fits(policy.agent, spec)

    def _snapshots(self) -> list[int]:
        """Indices of the snapshots, oldest first."""
        epochs = [(policy.epoch, index) for index, policy in enumerate(self.policies) if policy.epoch is not None]
        return [index for _, index in sorted(epochs)]


class Opponents:
    """The opponents in the worlds of one world batch: their sides, observations and recurrent memories."""

    def __init__(self, env: MettaGridEnv, pool: OpponentPool, generator: torch.Generator):
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
        self.policy_index = np.zeros(env.num_worlds, np.int64)
        """`[worlds]`: pool index of the policy that controls the world's opponents"""
        self.observations = torch.zeros(0)
        """`[opponents, tokens, 3] uint8`"""
        self.episode_starts = torch.ones(env.num_worlds * self.count, dtype=torch.bool)
        """`[opponents] bool`: the next step is the first of an episode, and memory is cleared before it"""
        self.memories: list[Memory] = []
        """for each policy of the pool, memories of all opponents; those that another policy controls are unused"""

    @property
    def learner_rows(self) -> np.ndarray:
        """`[learners] int64`: rows of the learners among the batch's agents, world by world."""
        return self._rows(self.agent_order[:, : self.env.num_agents - self.count])

    @property
    def opponent_rows(self) -> np.ndarray:
        """`[opponents] int64`: rows of the opponents among the batch's agents, world by world."""
        return self._rows(self.agent_order[:, self.env.num_agents - self.count :])

    def observe(self, observations: np.ndarray, done: np.ndarray, ended_worlds: Iterable[int]) -> np.ndarray:
        """Store the opponents' part of `observations [agents, tokens, 3] uint8` and return the learners' part.

        `done [agents] bool` marks the agents whose episode ended. Sides and policies of `ended_worlds` are sampled
        again before the observations are split.
        """
        self.episode_starts = torch.from_numpy(done[self.opponent_rows])
        for world in ended_worlds:
            self._sample_sides(world)
        self.observations = torch.from_numpy(observations[self.opponent_rows])
        learners: np.ndarray = observations[self.learner_rows]
        return learners

    def all_actions(self, learner_actions: np.ndarray) -> np.ndarray:
        """Actions of all agents, `[agents, 2]`: the given `[learners, 2]`, and those sampled for the opponents."""
        actions = np.empty((self.env.agents, 2), learner_actions.dtype)
        actions[self.learner_rows] = learner_actions
        opponent_actions = np.empty((len(self.episode_starts), 2), learner_actions.dtype)
        policy_index = np.repeat(self.policy_index, self.count)
        for index, policy in enumerate(self.pool.policies):
            if index == len(self.memories):
                self.memories.append(policy.agent.initial_memory(len(self.episode_starts)))
            controlled = torch.from_numpy(np.flatnonzero(policy_index == index))
            if len(controlled):
                device, memory = policy.agent.device, self.memories[index]
                on_device = controlled.to(device)
                output = policy.agent.act(
                    self.observations[controlled].to(device),
                    memory.select(on_device),
                    self.episode_starts[controlled].to(device),
                    self.generator,
                )
                memory.hidden[:, on_device] = output.memory.hidden
                memory.cell[:, on_device] = output.memory.cell
                opponent_actions[controlled.numpy()] = output.actions.cpu().numpy()
        actions[self.opponent_rows] = opponent_actions
        return actions

    def split_rewards(self, episode: EpisodeSummary) -> tuple[np.ndarray, np.ndarray]:
        """The rewards `[learners]` and `[opponents]` of an ended episode. Call before `observe` samples sides again."""
        rewards = episode.rewards[self.agent_order[episode.world]]
        return rewards[: len(rewards) - self.count], rewards[len(rewards) - self.count :]

    def state(self) -> dict[str, Any]:
        """The state of the opponents, as tensors, without those of the pool and the generator."""
        return {
            "seats": torch.from_numpy(self.agent_order.copy()),
            "places": torch.from_numpy(self.policy_index.copy()),
            "observations": self.observations,
            "episode_starts": self.episode_starts,
            "memories": [{"hidden": memory.hidden, "cell": memory.cell} for memory in self.memories],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state()` returned."""
        self.agent_order, self.policy_index = state["seats"].numpy().copy(), state["places"].numpy().copy()
        self.observations, self.episode_starts = state["observations"], state["episode_starts"]
        self.memories = [
            Memory(memory["hidden"], memory["cell"]).to(policy.agent.device)
            for memory, policy in zip(state["memories"], self.pool.policies, strict=False)
        ]

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
        self.policy_index[world] = self.pool.sample(self.generator)

    def _rows(self, agents: np.ndarray) -> np.ndarray:
        """Convert agent indices in each world, `[worlds, n]`, to row indices of the world batch, `[worlds * n]`."""
        rows: np.ndarray = (agents + np.arange(len(agents))[:, None] * self.env.num_agents).ravel()
        return rows
