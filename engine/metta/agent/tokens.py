"""From token bytes to numbers a network can use: which channel a token lights up, in which cell, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from metta.config.agent import AgentModelConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.plan.network_size import ITEM_LEVELS

UNUSED: Final = 255
"""Location byte of a token that is not there."""

_ZONES = _ELSEWHERE, _OWN_CELL, _OUTSIDE = range(3)
"""Where a token can be, seen from the agent; what is outside the window lights nothing."""

_PREVIOUS: Final = ("last_action", "last_action_arg", "last_reward")
_GLOBAL_TOKENS: Final = 4
"""An observation begins with them, the previous action, argument and reward among them."""

_STEPS: Final = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""(rows, cols) of a step up, down, left, right: by orientation."""

_CATEGORIES: Final = ("type_id", "agent:group", "agent:orientation")


@dataclass(frozen=True)
class SparseTokens:
    """The tokens of a batch in one flat list: agent i owns entries `offsets[i]` up to `offsets[i + 1]`."""

    rows: Tensor
    """`[entries] int32`: cell * channels + channel"""
    magnitudes: Tensor
    """`[entries] float32`: how strongly the channel is lit"""
    offsets: Tensor
    """`[agents] int32`: where each agent's entries begin"""

    def owners(self) -> Tensor:
        """`[entries] int64`: whose token each entry is."""
        ends = torch.cat([self.offsets[1:], self.offsets.new_full((1,), len(self.rows))])
        agents = torch.arange(len(self.offsets), device=self.offsets.device)
        return agents.repeat_interleave(ends - self.offsets, output_size=len(self.rows))


class TokenCodes(nn.Module):
    """The meaning of tokens, as tables indexed by their bytes.

    A category (type, group, orientation) has a channel for each of its values. An inventory feature has a channel for
    each of a few counts. Any other feature has one channel, lit as strongly as its value over the feature's scale.
    Everything is multiplied by `obs_scale`. Tokens of families outside `observation_types` light nothing; the previous
    action and reward are no part of this: the policy reads them by themselves.
    """

    channels: Tensor
    magnitudes: Tensor
    first_rows: Tensor
    zones: Tensor
    ahead: Tensor

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__()
        self.num_cells = spec.observation_height * spec.observation_width
        channels = torch.zeros(len(_ZONES), 256, 256, dtype=torch.int32)
        magnitudes = torch.zeros(len(_ZONES), 256, 256)
        next_channel = 0
        for feature, name in enumerate(spec.feature_names):
            if name in _PREVIOUS:
                continue
            channel_of, strength = _feature_table(spec, name, spec.feature_scales[feature])
            for zone in (_ELSEWHERE, _OWN_CELL):
                if _family(name, zone) in config.observation_types:
                    channels[zone, feature] = (channel_of + next_channel) * (strength > 0)
                    magnitudes[zone, feature] = strength * config.obs_scale
            next_channel += len(_channels(spec, name))
        self.num_channels = next_channel
        first_rows = torch.zeros(256, dtype=torch.int32)
        zones = torch.full((256,), _OUTSIDE << 16, dtype=torch.int32)
        for row in range(spec.observation_height):
            for col in range(spec.observation_width):
                first_rows[row << 4 | col] = (row * spec.observation_width + col) * self.num_channels
                zones[row << 4 | col] = _ELSEWHERE << 16
        zones[spec.center] = _OWN_CELL << 16
        self.center = spec.center
        self.orientation = spec.feature_names.index("agent:orientation")
        self.register_buffer("ahead", _cells_ahead(spec), persistent=False)
        self.register_buffer("channels", channels.reshape(-1), persistent=False)
        self.register_buffer("magnitudes", magnitudes.reshape(-1), persistent=False)
        self.register_buffer("first_rows", first_rows, persistent=False)
        self.register_buffer("zones", zones, persistent=False)

    @property
    def num_rows(self) -> int:
        """Rows of a table with one row for each channel in each cell."""
        return self.num_cells * self.num_channels

    def bag(self, observations: Tensor) -> SparseTokens:
        """The tokens of `[agents, tokens, 3] uint8` that light anything, as one flat list."""
        return self._bag(observations, observations[:, :, 0] != UNUSED, by_cell=True)

    def bag_ahead(self, observations: Tensor) -> SparseTokens:
        """The tokens in the cell straight ahead of each agent that light anything; rows are channels alone."""
        location = observations[:, :, 0]
        own = true_positions((observations[:, :, 1] == self.orientation) & (location == self.center))
        orientation = observations.reshape(-1, 3)[:, 2].index_select(0, own).int()
        # 0 where there is no such token, 1 + the orientation else
        facing = torch.zeros(len(location), dtype=torch.int32, device=own.device)
        facing.scatter_reduce_(0, own // location.shape[1], 1 + orientation, "amax")
        return self._bag(observations, location == self.ahead.index_select(0, facing).unsqueeze(1), by_cell=False)

    def _bag(self, observations: Tensor, chosen: Tensor, by_cell: bool) -> SparseTokens:
        """Those tokens among the `chosen [agents, tokens] bool` that light anything."""
        agents, capacity = chosen.shape
        place = true_positions(chosen)
        first_row, channel, magnitude = self.look_up(observations.reshape(-1, 3).index_select(0, place))
        lit = true_positions(magnitude != 0)  # of truth values NumPy finds them six times as fast as of numbers
        firsts = torch.arange(agents, device=place.device) * capacity
        return SparseTokens(
            (first_row + channel if by_cell else channel).index_select(0, lit),
            magnitude.index_select(0, lit),
            first_positions(place.index_select(0, lit), firsts),
        )

    def padded(self, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cells, channels and magnitudes, each `[agents, most tokens used]`; unused tokens have magnitude 0."""
        used = (observations[:, :, 0] != UNUSED).any(0)
        longest = int(used.nonzero().max()) + 1 if bool(used.any()) else 1
        first_row, channel, magnitude = self.look_up(observations[:, :longest].reshape(-1, 3))
        shape = (len(observations), longest)
        return (first_row // self.num_channels).view(shape), channel.view(shape), magnitude.view(shape)

    def look_up(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first row of its cell, the channel and the magnitude of each of `[tokens, 3] uint8`."""
        location, feature, value = (tokens[:, byte].int() for byte in range(3))
        key = self.zones.index_select(0, location).add_(feature, alpha=256).add_(value)
        first_row = self.first_rows.index_select(0, location)
        return first_row, self.channels.index_select(0, key), self.magnitudes.index_select(0, key)


def channel_names(spec: EnvSpec) -> list[tuple[object, ...]]:
    """What each channel shows, by names that hold in any world: `("type_id", "altar")`, `("inv:heart", 2)`."""
    return [
        (name, *channel) for name in spec.feature_names if name not in _PREVIOUS for channel in _channels(spec, name)
    ]


def _channels(spec: EnvSpec, name: str) -> list[tuple[object, ...]]:
    """What the channels of a feature show, one after the other."""
    if name == "type_id":
        return [(type_name,) for type_name in spec.object_type_names if type_name]
    if name in _CATEGORIES:
        return [(value,) for value in _known_values(spec, name)]
    if name.startswith("inv:"):
        return [(level,) for level in range(ITEM_LEVELS)]
    return [()]


def _known_values(spec: EnvSpec, name: str) -> list[int]:
    """The values of a category that have channels, in order."""
    if name == "type_id":
        return [type_id for type_id, type_name in enumerate(spec.object_type_names) if type_name]
    return spec.group_ids if name == "agent:group" else [0, 1, 2, 3]


def _cells_ahead(spec: EnvSpec) -> Tensor:
    """`[257] uint8`: the location straight ahead by 1 + orientation, as far as it is in the window, else UNUSED - 1.

    That location, row 15 and col 14, is in no window (15 x 15 at most), and no token is there.
    """
    ahead = torch.full((257,), UNUSED - 1, dtype=torch.uint8)
    row, col = spec.observation_height // 2, spec.observation_width // 2
    for orientation, (down, right) in enumerate(_STEPS):
        if (row > 0 and down) or (col > 0 and right):
            ahead[1 + orientation] = (row + down) << 4 | (col + right)
    return ahead


def true_positions(mask: Tensor) -> Tensor:
    """Where `mask` is not 0, as indices of its flattened form; on a CPU NumPy finds them several times as fast."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().squeeze(1)


def first_positions(ascending: Tensor, values: Tensor) -> Tensor:
    """`int32`: of each of the `values`, which ascend too, the first position in `ascending` of one at least as large.

    On a CPU NumPy, which looks on from where it found the value before, is twice as fast.
    """
    if ascending.device.type == "cpu":
        return torch.from_numpy(np.searchsorted(ascending.numpy(), values.numpy()).astype(np.int32))
    return torch.searchsorted(ascending, values, out_int32=True)


def _feature_table(spec: EnvSpec, name: str, scale: float) -> tuple[Tensor, Tensor]:
    """For each value of a feature: its channel, counted from 0, and how strongly that is lit."""
    values = torch.arange(256)
    if name in _CATEGORIES:
        known = _known_values(spec, name)
        channel = torch.zeros(256, dtype=torch.int32)
        channel[torch.tensor(known)] = torch.arange(len(known), dtype=torch.int32)
        return channel, torch.isin(values, torch.tensor(known)).float()
    if name.startswith("inv:"):
        level = (values - 1).clamp(0, ITEM_LEVELS - 1).int()
        strength = torch.where(values >= ITEM_LEVELS, 1 + values / scale, 1.0)
        return level, strength * (values > 0)
    return torch.zeros(256, dtype=torch.int32), values / scale


def _family(name: str, zone: int) -> str:
    if name == "episode_completion_pct":
        return "global_vars"
    return "inventory" if zone == _OWN_CELL and name.startswith("inv:") else "grid_obs"


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
        self.num_pairs = len(spec.flat_actions) + 1
        pairs = torch.full((256, 256), len(spec.flat_actions), dtype=torch.int32)
        for index, (action, argument) in enumerate(spec.flat_actions):
            pairs[action, argument] = index
        self.register_buffer("pairs", pairs.reshape(-1), persistent=False)

    def previous_pair(self, observations: Tensor) -> Tensor:
        """`[agents] int32`: index of the previous (action, argument); the last index for one that cannot be sampled."""
        first = observations[:, :_GLOBAL_TOKENS]
        return self.pairs.index_select(0, self._own(first, self.action) * 256 + self._own(first, self.argument))

    def previous_reward(self, observations: Tensor) -> Tensor:
        """`[agents, 1] float32`: the previous reward as the token shows it (never negative)."""
        first = observations[:, :_GLOBAL_TOKENS]
        return self._own(first, self.reward).float().unsqueeze(-1) * self.reward_scale

    def global_values(self, observations: Tensor) -> Tensor:
        """`[agents, global features] float32`: their values at the agent's own cell, 0 where there is no token."""
        return torch.stack([self._own(observations, feature) * scale for feature, scale in self.globals], -1)

    def _own(self, observations: Tensor, feature: int) -> Tensor:
        """`[agents] int32`: the value of a feature at the agent's own cell."""
        here = (observations[:, :, 1] == feature) & (observations[:, :, 0] == self.center)
        return (observations[:, :, 2] * here).amax(1).int()
