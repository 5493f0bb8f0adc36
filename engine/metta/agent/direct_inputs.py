"""Inputs that bypass the backbone: the previous action, the previous reward, and the agent's global features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metta.agent.sparse_tokens import Observations
from metta.agent.tokens import LAST_ACTION, LAST_ARGUMENT, LAST_REWARD, own_cell_values
from metta.config.env.env_spec import EnvSpec


class DirectInputs(nn.Module):
    """Reads the previous action, the previous reward and `global_features` from the tokens at the agent's own cell.

    `observations` are packed or `[agents, tokens, 3] uint8`.
    """

    action_index: Tensor
    """`[256 * 256] int32`: index into `spec.flat_actions`, by `256 * action id + argument`"""

    def __init__(self, spec: EnvSpec, global_features: list[str], obs_scale: float):
        super().__init__()
        ids = {name: feature for feature, name in enumerate(spec.feature_names)}
        self.action, self.argument, self.reward = (ids[name] for name in (LAST_ACTION, LAST_ARGUMENT, LAST_REWARD))
        self.reward_scale = obs_scale / spec.feature_scales[self.reward]
        self.features = [(ids[name], obs_scale / spec.feature_scales[ids[name]]) for name in global_features]
        self.center = spec.center
        self.num_actions = len(spec.flat_actions) + 1
        action_index = torch.full((256, 256), len(spec.flat_actions), dtype=torch.int32)
        for index, (action, argument) in enumerate(spec.flat_actions):
            action_index[action, argument] = index
        self.register_buffer("action_index", action_index.reshape(-1), persistent=False)

    def previous_action(self, observations: Observations) -> Tensor:
        """`[agents] int32`: the previous action as an index into `spec.flat_actions`.

        The last index, `len(spec.flat_actions)`, stands for every (action, argument) that cannot be sampled.
        """
        action, argument = own_cell_values(observations, [self.action, self.argument], self.center)
        return self.action_index.index_select(0, action * 256 + argument)

    def previous_reward(self, observations: Observations) -> Tensor:
        """`[agents, 1] float32`: the previous reward as in its token, clipped to 0 to 2.55, times `obs_scale`."""
        reward = own_cell_values(observations, [self.reward], self.center)[0]
        return reward.float().unsqueeze(-1) * self.reward_scale

    def global_features(self, observations: Observations) -> Tensor:
        """`[agents, global features] float32`: scaled values at the agent's own cell; 0 if there is no such token."""
        features, scales = zip(*self.features, strict=True)
        values = own_cell_values(observations, features, self.center)
        return torch.stack([value * scale for value, scale in zip(values, scales, strict=True)], -1)
