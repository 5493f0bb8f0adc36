"""The window as the dense box that the network never builds."""

from __future__ import annotations

import torch

from metta.agent.tokens import TokenCodes


def box_of(table: TokenCodes, frame: torch.Tensor) -> torch.Tensor:
    """`[agents, channels, cells]`: the window with all its channels, one token after the other."""
    box = torch.zeros(len(frame), table.num_channels, table.num_cells)
    first_row, channel, magnitude = table.padded(frame)
    for agent in range(len(frame)):
        for cell, column, strength in zip(first_row[agent], channel[agent], magnitude[agent], strict=True):
            box[agent, column, cell] += strength
    return box
