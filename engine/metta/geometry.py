"""Directions on the grid by orientation, and flood fill (breadth-first search) over its cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

UP, DOWN, LEFT, RIGHT = range(4)
"""Orientations: the values of `agent:orientation` tokens and of the argument of `rotate`."""

STEPS: Final = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""(rows, cols) of one step in each direction, by orientation."""

ROW_STEPS: Final = tuple(row for row, _ in STEPS)
COL_STEPS: Final = tuple(col for _, col in STEPS)

CLOCKWISE: Final = (RIGHT, LEFT, UP, DOWN)
"""The orientation after a quarter turn clockwise, by orientation."""

COUNTERCLOCKWISE: Final = (LEFT, RIGHT, DOWN, UP)
"""The orientation after a quarter turn counterclockwise, by orientation; also the direction of an agent's left side."""


def neighbor_offsets(stride: int) -> tuple[int, int, int, int]:
    """Offsets of the four neighbors of a cell in a flat grid with `stride` cells per row, by orientation."""
    return (-stride, stride, -1, 1)


def framed_cell(cell: int, cols: int) -> int:
    """The number of a cell, in reading order, once a map of `cols` columns has a frame one cell wide."""
    row, col = divmod(cell, cols)
    return (row + 1) * (cols + 2) + col + 1


def flood_fill(is_open: bytearray, start: int, stride: int) -> Iterator[list[int]]:
    """Yield the cells that can be reached from `start`, one list for each number of steps: `[start]` first.

    `is_open` is a flat grid of rows of `stride` cells, 1 where a cell can be entered, with a frame of zeros around the
    map. Cells that were reached are set to 0 in it. Within a list, cells are in order of discovery: the neighbors of
    the first cell of the previous list, in the order of `STEPS`, then those of the second cell, and so on.
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
