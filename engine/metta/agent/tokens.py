"""From token bytes to numbers a network can use: which channel a token lights up, in which cell, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from metta.config.agent import AgentModelConfig
from metta.config.spec import EnvSpec

UNUSED: Final = 255
"""Location byte of a token that is not there."""

ITEM_LEVELS: Final = 4
"""Channels of an inventory feature: exactly 1, 2, 3 units, and more. Recipes ask for such counts."""

_PREVIOUS: Final = ("last_action", "last_action_arg", "last_reward")
_CATEGORIES: Final = ("type_id", "agent:group", "agent:orientation")


@dataclass(frozen=True)
class TokenBag:
    """The tokens of a batch in one flat list: agent i owns entries `offsets[i]` up to `offsets[i + 1]`."""

    rows: Tensor
    """`[entries] int32`: cell * channels + channel"""
    magnitudes: Tensor
    """`[entries] float32`: how strongly the channel is lit"""
    offsets: Tensor
    """`[agents] int32`: where each agent's entries begin"""


class TokenCodes(nn.Module):
    """The meaning of tokens, as tables indexed by their bytes.

    A category (type, group, orientation) has a channel for each of its values. An inventory feature has a channel for
    each of a few counts. Any other feature has one channel, lit as strongly as its value over the feature's scale.
    Everything is multiplied by `obs_scale`. Tokens of families outside `observation_types` light nothing; the previous
    action and reward are no part of this: the policy reads them by themselves.
    """

    codes: Tensor
    magnitudes: Tensor
    cells: Tensor

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__()
        self.center = spec.center
        self.num_cells = spec.observation_height * spec.observation_width
        channels = torch.zeros(2, 256, 256, dtype=torch.int32)
        magnitudes = torch.zeros(2, 256, 256)
        next_channel = 0
        for feature, name in enumerate(spec.feature_names):
            if name in _PREVIOUS:
                continue
            channel_of, strength = _feature_table(spec, name, spec.feature_scales[feature])
            for own_cell in (0, 1):
                if _family(name, own_cell == 1) in config.observation_types:
                    channels[own_cell, feature] = (channel_of + next_channel) * (strength > 0)
                    magnitudes[own_cell, feature] = strength * config.obs_scale
            next_channel += int(channel_of.max()) + 1
        self.num_channels = next_channel
        cells = torch.full((256,), -1, dtype=torch.int32)
        for row in range(spec.observation_height):
            for col in range(spec.observation_width):
                cells[row << 4 | col] = row * spec.observation_width + col
        self.register_buffer("codes", channels.reshape(-1), persistent=False)
        self.register_buffer("magnitudes", magnitudes.reshape(-1), persistent=False)
        self.register_buffer("cells", cells, persistent=False)

    @property
    def num_rows(self) -> int:
        """Rows of a table with one row for each channel in each cell."""
        return self.num_cells * self.num_channels

    def bag(self, observations: Tensor) -> TokenBag:
        """The used tokens of `[agents, tokens, 3] uint8` as one flat list."""
        used = observations[:, :, 0] != UNUSED
        counts = used.sum(1, dtype=torch.int32)
        tokens = observations[used]
        cell, channel, magnitude = self._look_up(tokens)
        offsets = torch.cumsum(counts, 0, dtype=torch.int32) - counts
        return TokenBag(cell * self.num_channels + channel, magnitude, offsets)

    def padded(self, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cells, channels and magnitudes, each `[agents, most tokens used]`; unused tokens have magnitude 0."""
        used = (observations[:, :, 0] != UNUSED).any(0)
        longest = int(used.nonzero().max()) + 1 if bool(used.any()) else 1
        return self._look_up(observations[:, :longest])

    def box(self, observations: Tensor) -> Tensor:
        """`[agents, channels, rows * cols] float32`: the window with all its channels, mostly zeros."""
        agents = len(observations)
        bag = self.bag(observations)
        ends = torch.cat([bag.offsets[1:], bag.offsets.new_full((1,), len(bag.rows))])
        owner = torch.repeat_interleave(torch.arange(agents, device=bag.rows.device), ends - bag.offsets)
        box = torch.zeros(agents * self.num_rows, device=observations.device)
        box.index_add_(0, owner * self.num_rows + bag.rows, bag.magnitudes)
        return box.view(agents, self.num_cells, self.num_channels).transpose(1, 2)

    def _look_up(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        location, feature, value = tokens.int().unbind(-1)
        key = feature * 256 + value + (location == self.center) * 65536
        cell = self.cells[location]
        magnitude = self.magnitudes[key] * (cell >= 0)
        return cell.clamp(min=0), self.codes[key], magnitude


def _feature_table(spec: EnvSpec, name: str, scale: float) -> tuple[Tensor, Tensor]:
    """For each value of a feature: its channel, counted from 0, and how strongly that is lit."""
    values = torch.arange(256)
    if name in _CATEGORIES:
        known = {
            "type_id": [type_id for type_id, type_name in enumerate(spec.object_type_names) if type_name],
            "agent:group": spec.group_ids,
            "agent:orientation": [0, 1, 2, 3],
        }[name]
        channel = torch.zeros(256, dtype=torch.int32)
        channel[torch.tensor(known)] = torch.arange(len(known), dtype=torch.int32)
        return channel, torch.isin(values, torch.tensor(known)).float()
    if name.startswith("inv:"):
        level = (values - 1).clamp(0, ITEM_LEVELS - 1).int()
        strength = torch.where(values >= ITEM_LEVELS, 1 + values / scale, 1.0)
        return level, strength * (values > 0)
    return torch.zeros(256, dtype=torch.int32), values / scale


def _family(name: str, own_cell: bool) -> str:
    if name == "episode_completion_pct":
        return "global_vars"
    return "inventory" if own_cell and name.startswith("inv:") else "grid_obs"


class PreviousStep(nn.Module):
    """Reads the previous action and reward, and features of the agent's own cell, straight from the tokens."""

    pairs: Tensor

    def __init__(self, spec: EnvSpec, global_features: list[str], obs_scale: float):
        super().__init__()
        ids = {name: feature for feature, name in enumerate(spec.feature_names)}
        self.action, self.argument, self.reward = (ids[name] for name in _PREVIOUS)
        self.reward_scale = obs_scale / spec.feature_scales[self.reward]
        self.globals = [(ids[name], obs_scale / spec.feature_scales[ids[name]]) for name in global_features]
        self.center = spec.center
        self.num_pairs = len(spec.action_pairs) + 1
        pairs = torch.full((256, 256), len(spec.action_pairs), dtype=torch.int32)
        for index, (action, argument) in enumerate(spec.action_pairs):
            pairs[action, argument] = index
        self.register_buffer("pairs", pairs.reshape(-1), persistent=False)

    def previous_pair(self, observations: Tensor) -> Tensor:
        """`[agents] int32`: index of the previous (action, argument); the last index for one that cannot be sampled."""
        key = self._own(observations, self.action) * 256 + self._own(observations, self.argument)
        return self.pairs[key]

    def previous_reward(self, observations: Tensor) -> Tensor:
        """`[agents, 1] float32`: the previous reward as the token shows it (never negative)."""
        return self._own(observations, self.reward).float().unsqueeze(-1) * self.reward_scale

    def global_values(self, observations: Tensor) -> Tensor:
        """`[agents, global features] float32`: their values at the agent's own cell, 0 where there is no token."""
        return torch.stack([self._own(observations, feature) * scale for feature, scale in self.globals], -1)

    def _own(self, observations: Tensor, feature: int) -> Tensor:
        """`[agents] int32`: the value of a feature at the agent's own cell."""
        here = (observations[:, :, 1] == feature) & (observations[:, :, 0] == self.center)
        return (observations[:, :, 2] * here).amax(1).int()
