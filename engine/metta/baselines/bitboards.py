"""Bitboards: a 64 x 64 grid of booleans as 64 words of 64 bits, so that one operation works on a whole row.

Rows and columns wrap around (the grid is a torus). Bit c of word r is the cell (r, c).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from metta import geometry

SIDE: Final = 64
"""Rows and columns of a bitboard."""

ROW_STEPS: Final = np.array(geometry.ROW_STEPS)
COL_STEPS: Final = np.array(geometry.COL_STEPS)

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

_ONE: Final = np.uint64(1)


def shift_columns(words: Words, columns: Integers | int) -> Words:
    """Move every bit that many columns to the right (to higher bits), wrapping around."""
    left = np.asarray(columns).astype(np.uint64) & np.uint64(SIDE - 1)
    right = (np.uint64(SIDE) - left) & np.uint64(SIDE - 1)
    return np.asarray((words << left) | (words >> right), np.uint64)


def window_to_words(window: Mask, first_col: Integers) -> Words:
    """Pack `[agents, ..., rows, cols]` into words `[agents, ..., rows]`, from column `first_col [agents]` on."""
    bits = _ONE << np.arange(window.shape[-1], dtype=np.uint64)
    words = (window * bits).sum(axis=-1, dtype=np.uint64)
    return shift_columns(words, first_col.reshape(-1, *[1] * (words.ndim - 1)))


def words_to_window(boards: Words, rows: Integers, first_col: Integers, width: int) -> Mask:
    """Unpack a window `[agents, rows, width]` of `boards [agents, 64]`.

    Its rows are `rows [agents, rows]`, its columns the `width` columns from `first_col [agents]` on.
    """
    words = shift_columns(boards[np.arange(len(boards))[:, None], rows], -first_col[:, None])
    return np.asarray((words[:, :, None] >> np.arange(width, dtype=np.uint64)) & _ONE, bool)


def cell_at(boards: Words, row: Integers, col: Integers) -> Mask:
    """`[agents]`: the cell at `row [agents]`, `col [agents]` of each of `boards [agents, 64]`."""
    word = boards[np.arange(len(boards)), row & (SIDE - 1)]
    return np.asarray((word >> (col & (SIDE - 1)).astype(np.uint64)) & _ONE, bool)


def single_cells(row: Integers, col: Integers) -> Words:
    """`[agents, 64]`: boards in which only the cell at `row [agents]`, `col [agents]` is set."""
    boards = np.zeros((len(row), SIDE), np.uint64)
    boards[np.arange(len(row)), row & (SIDE - 1)] = _ONE << (col & (SIDE - 1)).astype(np.uint64)
    return boards
