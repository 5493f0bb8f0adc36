"""Episode player: run a policy or a team in one world, step by step, for recordings, `metta watch` and `metta play`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from metta.agent.policy import Policy
from metta.agent.team import Players, Team, as_team, group_names
from metta.config.env.env_config import EnvConfig
from metta.random_streams import RandomStream
from metta.world.env import MettaGridEnv


class EpisodePlayer:
    """Plays episodes of a policy, or of a team, in one world, one step per call of `step`.

    The same policy, config and seed give the same episodes, on the maps of `MettaGridEnv(env_config, seed=seed)`. With
    `deterministic`, agents take the most likely action instead of a sampled one. The player creates its own env and
    random generator, so that global random states are unchanged. Policies act in evaluation mode; each step restores
    their previous mode.
    """

    def __init__(self, policy: Policy | Team, env_config: EnvConfig, seed: int = 0, deterministic: bool = False):
        """Start the first episode. Raises UsageError if the policy was made for other observations or actions."""
        self.env = MettaGridEnv(env_config, seed=seed, auto_reset=False)
        self._generator = torch.Generator().manual_seed(RandomStream.EPISODE_PLAYER.seed(seed))
        self.deterministic = deterministic
        self.episode = -1
        self.start_episode(policy)

    def start_episode(self, policy: Policy | Team | None = None) -> None:
        """Start the next episode, on a new map. `policy`, if given, replaces the current policy."""
        if policy is not None:
            self._team = as_team(policy)
            self._team.check_fits(self.env.spec)
        self._observations, _ = self.env.reset()
        self._players = Players(self._team.assignments(self.env))
        names, players = list(self._team.policies), self._team.players(group_names(self.env)).ravel()
        self.policy_names = tuple(names[index] for index in players)
        """name of the policy that plays each agent in this episode, empty for that of no team, `[agents]`"""
        self.episode += 1
        self.actions = np.zeros((self.env.agents, 2), np.int32)
        """(action id, argument) of each agent in the last step, `[agents, 2]`"""
        self.rewards = np.zeros(self.env.agents, np.float32)
        """reward of each agent in the last step, `[agents]`"""
        self.total_rewards = np.zeros(self.env.agents, np.float32)
        """sum of the rewards of each agent in this episode, `[agents]`"""
        self.is_over = False

    def step(self, overrides: Mapping[int, tuple[int, int]] | None = None) -> None:
        """Play one step of all agents.

        `overrides` maps an agent index to the (action id, argument) that replaces the policy's action.
        """
        masks = self.env.action_masks() if self._players.uses_action_masks else None
        self.actions = self._players.act(self._observations, masks, None, self._generator, self.deterministic)
        for agent_index, action in (overrides or {}).items():
            self.actions[agent_index] = action
        self._observations, self.rewards, terminated, truncated, _ = self.env.step(self.actions)
        self.total_rewards = self.total_rewards + self.rewards
        self.is_over = bool((terminated | truncated).any())
