"""Grid geometry: direction vectors and turns by orientation, neighbor offsets, flood fill (breadth-first search)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

UP, DOWN, LEFT, RIGHT = range(4)
"""Orientations: the values of `agent:orientation` tokens and of the argument of `rotate`."""

ORIENTATION_NAMES: Final = ("up", "down", "left", "right")
"""Words, indexed by orientation."""

STEPS: Final = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""(row, col) offset of one step, indexed by orientation."""

ROW_STEPS: Final = tuple(row for row, _ in STEPS)
COL_STEPS: Final = tuple(col for _, col in STEPS)

CLOCKWISE: Final = (RIGHT, LEFT, UP, DOWN)
"""The orientation after a clockwise quarter turn, indexed by the orientation before it."""

COUNTERCLOCKWISE: Final = (LEFT, RIGHT, DOWN, UP)
"""The orientation after a counterclockwise quarter turn, indexed by the orientation before it: the agent's left."""


def neighbor_offsets(stride: int) -> tuple[int, int, int, int]:
    """Index offsets of the four neighbors of a cell in a flattened grid of `stride` columns, by orientation."""
    return (-stride, stride, -1, 1)


def framed_cell(cell: int, cols: int) -> int:
    """Index of a cell of a flattened map after a frame one cell wide is added around the map.

    `cell` is its row-major index before, in a map of `cols` columns.
    """
    row, col = divmod(cell, cols)
    return (row + 1) * (cols + 2) + col + 1


def flood_fill(is_open: bytearray, start: int, stride: int) -> Iterator[list[int]]:
    """Yield the cells reachable from `start` in breadth-first order: one list per distance, beginning with `[start]`.

    `is_open` is a flattened grid of `stride` columns, 1 where a cell can be entered, with a frame of zeros around the
    map. It is modified: reached cells are set to 0. Cells in a list are in order of discovery: the neighbors of the
    first cell of the previous list, in the order of `STEPS`, then those of the second cell, and so on.
    """
    is_open[start] = 0
    layer = [start]
    while layer:
        yield layer
        reached = []
        for cell in layer:
            for neighbor in (cell - stride, cell + stride, cell - 1, cell + 1):
                if is_open[neighbor]:
                    is_open[neighbor] = 0
                    reached.append(neighbor)
        layer = reached
