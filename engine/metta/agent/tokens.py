"""Token encoding: observation processors, and lookup tables from (location, feature, value) tokens to the network's
cells and channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from metta.agent import devices
from metta.agent.sparse_tokens import Observations, PackedTokens, SparseTokens
from metta.config.agent import OBSERVATION_PROCESSORS, AgentModelConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.env.token_features import ITEM_PREFIX, NO_TOKEN
from metta.config.plan.network_size import ITEM_LEVELS
from metta.geometry import STEPS

LAST_ACTION, LAST_ARGUMENT, LAST_REWARD = "last_action", "last_action_arg", "last_reward"
_PREVIOUS_STEP: Final = (LAST_ACTION, LAST_ARGUMENT, LAST_REWARD)
"""Features without channels, which `DirectInputs` reads."""

_ZONES = _OTHER_CELL, _OWN_CELL, _OUTSIDE = range(3)
"""Where a token is. The magnitude of tokens outside the window is 0."""

ObservationProcessor = Callable[[Tensor, EnvSpec], Tensor]
"""A function, registered by name, that changes tokens before the backbone reads them.

It maps `[agents, tokens, 3] uint8` to `[agents, any number of tokens, 3] uint8`: it may drop, add, change or reorder
tokens. Register one with the decorator, or as an entry point, then name it in `agent.obs_process_func`:

    @OBSERVATION_PROCESSORS.register("without_walls")
    def without_walls(observations: Tensor, spec: EnvSpec) -> Tensor:
        wall = spec.object_type_names.index("wall")
        ...

With `agent.egocentric` its input is in the agent's frame. The previous action, the previous reward and the global
features are read from the unprocessed tokens.
"""

_CATEGORICAL: Final = ("type_id", "agent:group", "agent:orientation")


@OBSERVATION_PROCESSORS.register("flatten_obs_dict")
def unchanged(observations: Tensor, spec: EnvSpec) -> Tensor:
    """Return the observations unchanged: they are flat lists of tokens already."""
    return observations


class TokenCodes(nn.Module):
    """Lookup tables from the three bytes of a token (location, feature, value) to cell, channel and magnitude.

    A categorical feature (type, group, orientation) has one channel per value. An inventory feature has one channel per
    count below ITEM_LEVELS and one for all other counts, with magnitude 1 + count / scale. Any other feature has one
    channel, with magnitude value / scale. All magnitudes are multiplied by `obs_scale`. Tokens of types that are
    not in `observation_types` have magnitude 0, and so do the previous action, argument and reward, which the policy
    reads with `DirectInputs`.
    """

    channels: Tensor
    """`[zones * 256 * 256] int32`: channel by zone, feature and value"""
    magnitudes: Tensor
    """`[zones * 256 * 256] float32`: magnitude by zone, feature and value"""
    first_rows: Tensor
    """`[256] int32`: weight row of channel 0 of the cell at a location, by location byte"""
    zones: Tensor
    """`[256] int32`: index of the zone's first entry in `channels` and `magnitudes`, by location byte"""
    ahead: Tensor
    """`[257] uint8`: location byte of the cell ahead, by 1 + orientation; see `_locations_ahead`"""

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__()
        self.num_tokens = spec.num_observation_tokens
        self.num_cells = spec.observation_height * spec.observation_width
        channels = torch.zeros(len(_ZONES), 256, 256, dtype=torch.int32)
        magnitudes = torch.zeros(len(_ZONES), 256, 256)
        next_channel = 0
        for feature, name in enumerate(spec.feature_names):
            if name in _PREVIOUS_STEP:
                continue
            channel, magnitude = _feature_table(spec, name, spec.feature_scales[feature])
            for zone in (_OTHER_CELL, _OWN_CELL):
                if _observation_type(name, zone) in config.observation_types:
                    channels[zone, feature] = (channel + next_channel) * (magnitude > 0)
                    magnitudes[zone, feature] = magnitude * config.obs_scale
            next_channel += len(_feature_channels(spec, name))
        self.num_channels = next_channel
        first_rows = torch.zeros(256, dtype=torch.int32)
        zones = torch.full((256,), _OUTSIDE << 16, dtype=torch.int32)
        for row in range(spec.observation_height):
            for col in range(spec.observation_width):
                first_rows[row << 4 | col] = (row * spec.observation_width + col) * self.num_channels
                zones[row << 4 | col] = _OTHER_CELL << 16
        zones[spec.center] = _OWN_CELL << 16
        self.center = spec.center
        self.orientation = spec.feature_names.index("agent:orientation")
        self.register_buffer("ahead", _locations_ahead(spec), persistent=False)
        self.register_buffer("channels", channels.reshape(-1), persistent=False)
        self.register_buffer("magnitudes", magnitudes.reshape(-1), persistent=False)
        self.register_buffer("first_rows", first_rows, persistent=False)
        self.register_buffer("zones", zones, persistent=False)

    @property
    def num_rows(self) -> int:
        """Number of weight rows of a first layer with one row for each channel of each cell."""
        return self.num_cells * self.num_channels

    def sparse(self, observations: Observations) -> SparseTokens:
        """The tokens of nonzero magnitude in observations, packed or `[agents, tokens, 3] uint8`."""
        return self._sparse(PackedTokens.pack(observations), by_cell=True)

    def sparse_ahead(self, observations: Observations) -> SparseTokens:
        """The tokens of nonzero magnitude in the cell ahead of each agent; their `rows` are channels."""
        packed = PackedTokens.pack(observations)
        (orientation,) = packed.values_at(self.center, [self.orientation])
        is_ahead = packed.tokens[:, 0] == packed.per_token(self.ahead.index_select(0, 1 + orientation))
        return self._sparse(packed.filter(is_ahead), by_cell=False)

    def _sparse(self, packed: PackedTokens, by_cell: bool) -> SparseTokens:
        """The tokens of nonzero magnitude. `rows` are weight rows if `by_cell`, else channels."""
        location, channel, magnitude = self.look_up(packed.tokens)
        rows = self.first_rows.index_select(0, location) + channel if by_cell else channel
        return SparseTokens(rows, magnitude, packed.offsets[:-1].int()).filter(magnitude != 0)

    def padded(self, observations: Observations) -> tuple[Tensor, Tensor, Tensor]:
        """Cells, channels and magnitudes, each `[agents, length of the longest list]`; padding has magnitude 0.

        On a GPU they are as long as the longest possible list.
        """
        packed = PackedTokens.pack(observations)
        longest = self.num_tokens
        if devices.is_host(packed.device):
            longest = max(1, int(packed.offsets.diff().max()))
        entries = self.look_up(packed.padded(longest).reshape(-1, 3))
        location, channel, magnitude = (entry.view(len(packed), longest) for entry in entries)
        return self.first_rows[location] // self.num_channels, channel, magnitude

    def look_up(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Location, channel and magnitude of tokens `[tokens, 3] uint8`, each `[tokens]`."""
        location, feature, value = (tokens[:, byte].int() for byte in range(3))
        key = self.zones.index_select(0, location).add_(feature, alpha=256).add_(value)
        return location, self.channels.index_select(0, key), self.magnitudes.index_select(0, key)


def channel_names(spec: EnvSpec) -> list[tuple[object, ...]]:
    """The name of each channel, independent of ids: `("type_id", "altar")`, `("inv:heart", 2)`."""
    return [
        (name, *channel)
        for name in spec.feature_names
        if name not in _PREVIOUS_STEP
        for channel in _feature_channels(spec, name)
    ]


def own_cell_values(observations: Observations, features: Sequence[int], center: int) -> Tensor:
    """`[features, agents] int32`: values of features at each agent's own cell, 0 if no token of `observations` has one.

    `observations` are packed or `[agents, tokens, 3] uint8`; `center` is the location byte of the own cell.
    """
    if not isinstance(observations, Tensor):
        return observations.values_at(center, features).clamp_(min=0)
    values = observations[:, :, 2] * (observations[:, :, 0] == center)
    return torch.stack([(values * (observations[:, :, 1] == feature)).amax(1).int() for feature in features])


def _feature_channels(spec: EnvSpec, name: str) -> list[tuple[object, ...]]:
    """What distinguishes the channels of a feature: type names, values, item levels, or nothing if there is one."""
    if name == "type_id":
        return [(type_name,) for type_name in spec.object_type_names if type_name]
    if name in _CATEGORICAL:
        return [(value,) for value in _category_values(spec, name)]
    if name.startswith(ITEM_PREFIX):
        return [(level,) for level in range(ITEM_LEVELS)]
    return [()]


def _category_values(spec: EnvSpec, name: str) -> list[int]:
    """The values of a categorical feature, in the order of their channels."""
    if name == "type_id":
        return [type_id for type_id, type_name in enumerate(spec.object_type_names) if type_name]
    return spec.group_ids if name == "agent:group" else [0, 1, 2, 3]


def _locations_ahead(spec: EnvSpec) -> Tensor:
    """`[257] uint8`: location byte of the cell ahead, by 1 + orientation; NO_TOKEN - 1 if it is outside the window.

    No token has that location (row 15, col 14): windows have at most 15 x 15 cells.
    """
    ahead = torch.full((257,), NO_TOKEN - 1, dtype=torch.uint8)
    row, col = spec.observation_height // 2, spec.observation_width // 2
    for orientation, (row_step, col_step) in enumerate(STEPS):
        if (row > 0 and row_step) or (col > 0 and col_step):
            ahead[1 + orientation] = (row + row_step) << 4 | (col + col_step)
    return ahead


def _feature_table(spec: EnvSpec, name: str, scale: float) -> tuple[Tensor, Tensor]:
    """Channel (counted from the feature's first) and magnitude of each value of a feature, both `[256]`."""
    values = torch.arange(256)
    if name in _CATEGORICAL:
        known = _category_values(spec, name)
        channel = torch.zeros(256, dtype=torch.int32)
        channel[torch.tensor(known)] = torch.arange(len(known), dtype=torch.int32)
        return channel, torch.isin(values, torch.tensor(known)).float()
    if name.startswith(ITEM_PREFIX):
        level = (values - 1).clamp(0, ITEM_LEVELS - 1).int()
        magnitude = torch.where(values >= ITEM_LEVELS, 1 + values / scale, 1.0)
        return level, magnitude * (values > 0)
    return torch.zeros(256, dtype=torch.int32), values / scale


def _observation_type(name: str, zone: int) -> str:
    """The type, as in `agent.observation_types`, of a feature's tokens in a zone."""
    if name == "episode_completion_pct":
        return "global_vars"
    return "inventory" if zone == _OWN_CELL and name.startswith(ITEM_PREFIX) else "grid_obs"
