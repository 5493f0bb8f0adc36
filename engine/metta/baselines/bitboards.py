"""Bitboards: grids of booleans, one word per row, so that one operation works on a whole row.

A board has as many rows as its words have bits: 32 words of 32 bits or 64 words of 64 bits. Rows and columns wrap
around (the grid is a torus). Bit c of word r is the cell (r, c).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from metta import geometry

ROW_STEPS: Final = np.array(geometry.ROW_STEPS)
COL_STEPS: Final = np.array(geometry.COL_STEPS)

Words = NDArray[np.unsignedinteger[Any]]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


def word_size(dtype: DTypeLike) -> int:
    """Bits of a word: the rows and columns of its boards."""
    return 8 * np.dtype(dtype).itemsize


def shift_columns(words: Words, columns: Integers) -> Words:
    """Move every bit that many columns to the right (to higher bits), wrapping around."""
    size = word_size(words.dtype)
    left = (columns & (size - 1)).astype(words.dtype)
    right = (-columns & (size - 1)).astype(words.dtype)
    return np.asarray((words << left) | (words >> right))


def column_bit(col: Integers, dtype: DTypeLike) -> Words:
    """The word in which only the bit of column `col` is set, for each of `col [...]`."""
    word = np.dtype(dtype).type
    return np.asarray(word(1) << (col & (word_size(dtype) - 1)).astype(dtype))


def count_bits(words: Words) -> NDArray[np.uint8]:
    """The number of set bits of words below 2^16."""
    return _COUNTS[words]


_COUNTS: Final = np.array([value.bit_count() for value in range(1 << 16)], np.uint8)
