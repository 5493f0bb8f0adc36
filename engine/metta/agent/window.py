"""Conversion of observations to another window, so that a policy plays worlds whose window is larger or smaller."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from metta.agent import devices
from metta.agent.sparse_tokens import Observations, PackedTokens
from metta.config.env.env_spec import EnvSpec
from metta.config.env.token_features import NO_TOKEN

WINDOW_FIELDS: Final = ("observation_height", "observation_width", "num_observation_tokens")
"""Fields of `EnvSpec`, and of `GameConfig`, that give the window and the token limit."""


class WindowConversion(nn.Module):
    """Converts observations with the window and token limit of `source` to those of `target`.

    The result is the observation that an agent at the same cell has in a world with the window of `target`: tokens of
    cells outside that window are dropped, locations are counted from its corner, and the order of tokens, by the
    distance of their cells from the agent, is the same. Cells that only the window of `target` contains are empty, and
    tokens that the limit of `source` dropped are missing.
    """

    locations: Tensor
    """`[256] uint8`: location byte in the window of `target`, by location byte in that of `source`; NO_TOKEN outside"""

    def __init__(self, source: EnvSpec, target: EnvSpec):
        super().__init__()
        self.num_source_tokens, self.num_tokens = source.num_observation_tokens, target.num_observation_tokens
        height, width = target.observation_height, target.observation_width
        locations = torch.full((256,), NO_TOKEN, dtype=torch.uint8)
        for source_row in range(source.observation_height):
            for source_col in range(source.observation_width):
                row = source_row - source.observation_height // 2 + height // 2
                col = source_col - source.observation_width // 2 + width // 2
                if 0 <= row < height and 0 <= col < width:
                    locations[source_row << 4 | source_col] = row << 4 | col
        self.register_buffer("locations", locations, persistent=False)

    def forward(self, observations: Observations) -> Observations:
        """Convert observations, packed or `[agents, tokens, 3] uint8`; the result has the token limit of `target`."""
        if isinstance(observations, Tensor):
            return self._padded(observations)
        if not devices.is_host(observations.device):
            return PackedTokens.pack(self._padded(observations.padded(self.num_source_tokens)))
        tokens = observations.tokens.clone()
        tokens[:, 0] = self.locations.index_select(0, observations.tokens[:, 0].int())
        inside = PackedTokens(tokens, observations.offsets).filter(tokens[:, 0] != NO_TOKEN)
        position = torch.arange(len(inside.tokens), device=tokens.device) - inside.per_token(inside.offsets[:-1])
        return inside.filter(position < self.num_tokens)

    def _padded(self, observations: Tensor) -> Tensor:
        """Convert padded observations, without shapes that depend on the data."""
        agents, capacity, _ = observations.shape
        location = self.locations.index_select(0, observations[:, :, 0].reshape(-1).int()).view(agents, capacity)
        is_kept = location != NO_TOKEN
        # the tokens that are kept move up to close the gaps; all others are written to one more slot, which is cut off
        slot = torch.where(is_kept, is_kept.cumsum(1) - 1, self.num_tokens).clamp(max=self.num_tokens)
        tokens = torch.cat([location.unsqueeze(-1), observations[:, :, 1:]], -1)
        converted = torch.full(
            (agents, self.num_tokens + 1, 3), NO_TOKEN, dtype=torch.uint8, device=observations.device
        )
        return converted.scatter(1, slot.unsqueeze(-1).expand(-1, -1, 3), tokens)[:, : self.num_tokens]


def network_spec(environment: EnvSpec, trained: EnvSpec) -> EnvSpec:
    """The spec of `environment`, with the window and token limit of the environment in which a policy was trained."""
    return environment.model_copy(update={field: getattr(trained, field) for field in WINDOW_FIELDS})
