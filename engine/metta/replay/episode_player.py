"""One world and the policy that plays in it, a step at a time: for recording, and for looking on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from metta.agent.policy import Policy, check_policy_fits
from metta.config.env.env_config import EnvConfig
from metta.random_streams import RandomStream
from metta.world.env import MettaGridEnv


class EpisodePlayer:
    """A world that is played step by step.

    The same policy, config and seed give the same episodes. Nothing outside is changed: world and random numbers are
    the stage's own, and a policy in training mode is so again after each step.
    """

    def __init__(self, policy: Policy, env_config: EnvConfig, seed: int = 0):
        """Raises UsageError if the policy cannot play in that world."""
        self.env = MettaGridEnv(env_config, seed=seed, auto_reset=False)
        self._generator = torch.Generator().manual_seed(RandomStream.EPISODE_PLAYER.seed(seed))
        self.episode = -1
        self.begin(policy)

    def begin(self, policy: Policy | None = None) -> None:
        """The next episode, with another policy if one is given."""
        if policy is not None:
            check_policy_fits(policy, self.env.spec)
            self.policy = policy
        self._observations, _ = self.env.reset()
        self._memory = self.policy.initial_memory(self.env.agents)
        self.episode += 1
        self.actions = np.zeros((self.env.agents, 2), np.int32)
        """`[agents, 2]`, (action id, argument) of the last step"""
        self.rewards = np.zeros(self.env.agents, np.float32)
        """`[agents]`, of the last step"""
        self.total_rewards = np.zeros(self.env.agents, np.float32)
        """`[agents]`, of the episode so far"""
        self.is_over = False

    def step(self, steered: Mapping[int, tuple[int, int]] | None = None) -> None:
        """One step of every agent; those in `steered` do what is said there: (action id, argument)."""
        device = self._memory.hidden.device
        with _evaluating(self.policy):
            observations = torch.from_numpy(self._observations).to(device)
            decision = self.policy.act(observations, self._memory, generator=self._generator)
        self._memory = decision.memory
        self.actions = decision.actions.cpu().numpy().astype(np.int32)
        for agent_index, action in (steered or {}).items():
            self.actions[agent_index] = action
        self._observations, self.rewards, terminated, truncated, _ = self.env.step(self.actions)
        self.total_rewards = self.total_rewards + self.rewards
        self.is_over = bool((terminated | truncated).any())


@contextmanager
def _evaluating(policy: Policy) -> Iterator[None]:
    """A module in evaluation mode for a while; a policy that is no module has no modes."""
    modes = [(part, part.training) for part in policy.modules()] if isinstance(policy, torch.nn.Module) else []
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, training in modes:
            part.training = training
