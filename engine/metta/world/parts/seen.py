"""The feature `nearest_seen`: an agent's memory of where things are."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from metta.config.parts.registries import FEATURES
from metta.config.parts.settings import EntityName, ItemName
from metta.world.parts.view import WorldsView

WORD: Final = 32
"""Columns of a map in one number of a memory. Such numbers are exact as float64, whose exponent tells the first bit."""


@FEATURES.register("nearest_seen", at="offset", scale=1.0)
def nearest_seen(worlds: WorldsView, to: EntityName, holding: ItemName = "") -> NDArray[np.int16]:
    """Where the closest entity `to` is, of those that the agent has seen in this episode. `[agents, 3] int16`

    The offset (rows, columns) from the agent, and 1; all 0 if it knows of none. With `holding`, only those count that
    held units of the item when the agent last saw them. Distances are city-block distances; of equally close ones, the
    upper left one counts. The agent itself does not count.
    """
    is_there = worlds.find(to)
    if holding:
        is_there = is_there & (worlds.stock(holding) > 0)
    rows, cols = worlds.shape
    words = -(-cols // WORD)
    known = worlds.memory("known", "agent", (rows, words), np.int64)  # a bit for each cell
    agents = np.arange(worlds.agents)
    row, col = worlds.positions.T
    half_height = worlds.window[0] // 2
    seen_rows = (row[:, None] + np.arange(-half_height, half_height + 1)).clip(0, rows - 1)
    in_window = _window_words(cols, worlds.window[1] // 2)[col][:, None]
    present = _words(is_there)[worlds.world[:, None], seen_rows]
    before = known[agents[:, None], seen_rows]
    known[agents[:, None], seen_rows] = before ^ ((before ^ present) & in_window)
    known[agents, row, col // WORD] &= ~(1 << col % WORD)

    agent, there_row, word = known.nonzero()
    bits, own_bit = known[agent, there_row, word], col[agent] - word * WORD
    left = bits & ((1 << (own_bit + 1).clip(0, WORD)) - 1)
    right = bits ^ left
    to_left = own_bit - _highest_bit(left)
    to_right = _highest_bit(right & -right) - own_bit
    is_left = (left > 0) & ((right == 0) | (to_left <= to_right))
    there_col = col[agent] + np.where(is_left, -to_left, to_right)
    distance = np.abs(there_row - row[agent]) + np.where(is_left, to_left, to_right)
    result = np.zeros((worlds.agents, 3), np.int16)
    if agent.size:
        firsts = np.flatnonzero(np.diff(agent, prepend=-1))
        closest = np.minimum.reduceat((distance * rows + there_row) * cols + there_col, firsts) % (rows * cols)
        knowing = agent[firsts]
        result[knowing] = np.stack(
            [closest // cols - row[knowing], closest % cols - col[knowing], np.ones_like(knowing)], axis=1
        )
    return result


def _words(cells: NDArray[np.bool_]) -> NDArray[np.int64]:
    """`[worlds, rows, cols] bool` to `[worlds, rows, words] int64`: numbers of WORD bits, one bit per column."""
    worlds, rows, cols = cells.shape
    bits = np.zeros((worlds, rows, -(-cols // WORD) * WORD), np.bool_)
    bits[..., :cols] = cells
    packed = np.packbits(bits, axis=-1, bitorder="little")
    return packed.view("<u4").astype(np.int64)


@cache
def _window_words(cols: int, half_width: int) -> NDArray[np.int64]:
    """The columns that are seen from each column, as numbers of WORD bits. `[cols, words] int64`"""
    col = np.arange(cols)
    words: NDArray[np.int64] = _words((abs(col[:, None] - col) <= half_width)[None])[0]
    return words


def _highest_bit(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """The index of the highest bit of numbers of at most WORD bits; -1 for 0."""
    return np.frexp(bits.astype(np.float64))[1].astype(np.int64) - 1
