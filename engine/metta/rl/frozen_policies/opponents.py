"""Opponents: the agents of a world batch that frozen policies of a pool control, with their memories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metta.agent.devices import HostCopy, to_device
from metta.agent.memory.state import Memory
from metta.agent.sparse_tokens import PackedTokens
from metta.rl.frozen_policies.self_play import FrozenPolicy, OpponentPool


class Opponents:
    """Agents of a world batch, `count` in each of `num_worlds` worlds, that frozen policies of a pool control.

    All opponents of a world have the same policy, which is sampled again for each episode. An episode ends with the
    policy with which it began, also if the pool evicts that policy meanwhile.
    """

    def __init__(self, pool: OpponentPool, num_worlds: int, count: int, generator: torch.Generator):
        self.pool = pool
        self.count = count
        """number of opponents in each world"""
        self.generator = generator
        self.policy_numbers = np.zeros(num_worlds, np.int64)
        """`[worlds]`: number of the frozen policy that controls the world's opponents"""
        self.observations = PackedTokens(torch.zeros(0, 3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
        """of the opponents, before the next step"""
        self.action_masks: Tensor | None = None
        """`[opponents, actions] bool`, for the next step; None if no policy of the worlds uses masks"""
        self.episode_starts = torch.ones(num_worlds * count, dtype=torch.bool)
        """`[opponents] bool`: the next step is the first of an episode, and memory is cleared before it"""
        self.memories: dict[int, Memory] = {}
        """number of a policy that plays -> memories of all opponents; those that another policy controls are unused"""

    def sample_policy(self, world: int) -> None:
        """Sample the policy of a world's opponents."""
        self.policy_numbers[world] = self.pool.sample(self.generator).number

    def forget_unused(self) -> None:
        """Discard the memories of policies that no longer play."""
        in_use = set(self.policy_numbers.tolist())
        self.memories = {number: memory for number, memory in self.memories.items() if number in in_use}

    def act(self) -> np.ndarray:
        """Sample the actions of all opponents, `[opponents, 2]`."""
        actions = np.empty((len(self.episode_starts), 2), np.int64)
        policy_numbers = np.repeat(self.policy_numbers, self.count)
        for frozen in self.pool.policies:
            controlled = torch.from_numpy(np.flatnonzero(policy_numbers == frozen.number))
            if len(controlled):
                if frozen.number not in self.memories:
                    self.memories[frozen.number] = self._initial_memory(frozen)
                agent, memory = frozen.agent, self.memories[frozen.number]
                on_device = to_device(controlled, agent.device)
                masks = self.action_masks if agent.uses_action_masks else None
                output = agent.act(
                    self.observations.select(controlled).to(agent.device),
                    memory.select(on_device),
                    to_device(self.episode_starts[controlled], agent.device),
                    self.generator,
                    action_masks=None if masks is None else to_device(masks[controlled], agent.device),
                )
                memory.assign(on_device, output.memory)
                actions[controlled.numpy()] = HostCopy(output.actions).wait().numpy()
        return actions

    def state(self, num_tokens: int) -> dict[str, Any]:
        """The state of the opponents, as tensors, without those of the pool and the generator.

        `num_tokens` is the largest number of tokens of an observation. Policies are saved as indices into
        `pool.policies`, and their memories in this order.
        """
        policies = self.pool.policies
        index_of = {policy.number: index for index, policy in enumerate(policies)}
        memories = [self.memories.get(policy.number) or self._initial_memory(policy) for policy in policies]
        return {
            "places": torch.tensor([index_of[number] for number in self.policy_numbers.tolist()]),
            "observations": self.observations.padded(num_tokens),
            "episode_starts": self.episode_starts,
            "memories": [memory.state() for memory in memories],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state()` returned, with the same policies in the pool."""
        policies = self.pool.policies
        self.policy_numbers = np.array([policies[index].number for index in state["places"].tolist()])
        self.observations, self.episode_starts = PackedTokens.pack(state["observations"]), state["episode_starts"]
        self.memories = {
            policy.number: self._initial_memory(policy).restored(memory)
            for memory, policy in zip(state["memories"], policies, strict=False)
        }

    def _initial_memory(self, policy: FrozenPolicy) -> Memory:
        return policy.agent.initial_memory(len(self.episode_starts))
