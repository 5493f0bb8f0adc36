"""Hand-made observations, and the dense encoding of the window that the network does without."""

from __future__ import annotations

import torch

from metta.agent.tokens import TokenCodes
from metta.config.env.env_spec import EnvSpec


def observation(spec: EnvSpec, *tokens: tuple[int, int, int]) -> torch.Tensor:
    """`[1, tokens, 3] uint8`: an observation of these (location, feature, value)."""
    filled = torch.full((1, spec.num_observation_tokens, 3), 255, dtype=torch.uint8)
    for index, token in enumerate(tokens):
        filled[0, index] = torch.tensor(token)
    return filled


def feature(spec: EnvSpec, name: str) -> int:
    """The id of a feature."""
    return spec.feature_names.index(name)


def dense_encoding(codes: TokenCodes, observations: torch.Tensor) -> torch.Tensor:
    """`[agents, channels, cells]`: the window with all its channels, filled one token after the other."""
    dense = torch.zeros(len(observations), codes.num_channels, codes.num_cells)
    cells, channels, magnitudes = codes.padded(observations)
    for agent in range(len(observations)):
        for cell, channel, magnitude in zip(cells[agent], channels[agent], magnitudes[agent], strict=True):
            dense[agent, channel, cell] += magnitude
    return dense
