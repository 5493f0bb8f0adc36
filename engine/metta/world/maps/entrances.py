"""Entrances of a map part: remove walls to connect given cells at the edge of the part to its floor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metta.geometry import flood_fill, neighbor_offsets
from metta.world.maps.connectivity import Floor, framed
from metta.world.maps.generators import Cell

Cells = NDArray[np.int16]
"""`[rows, cols] int16`: values of cells, see `build.py`."""


def open_entrances(cells: Cells, entrances: Sequence[Cell], wall: int, goal: Floor | None = None) -> bool:
    """Remove the walls on a shortest path from each entrance to a cell of `goal`, by default any empty or agent cell.

    Modifies `cells`. Paths do not pass through other objects, nor end at cells opened for other entrances, so that
    adjacent entrances get parallel paths. Returns whether every entrance was connected.
    """
    if not entrances:
        return True
    goal = cells <= 0 if goal is None else goal
    entrances = [(row, col) for row, col in entrances if not goal[row, col]]
    if not entrances:
        return True
    is_goal, can_dig = framed(goal).tobytes(), framed(goal | (cells == wall)).tobytes()
    stride = cells.shape[1] + 2
    all_open = True
    for row, col in entrances:
        start = (row + 1) * stride + col + 1
        can_start = can_dig[start] or cells[row, col] <= 0
        path = _shortest_path(bytearray(can_dig), is_goal, start, stride) if can_start else []
        all_open &= bool(path)
        for cell in path[:-1]:
            row, col = cell // stride - 1, cell % stride - 1
            cells[row, col] = min(0, int(cells[row, col]))
    return all_open


def _shortest_path(is_open: bytearray, is_goal: bytes, start: int, stride: int) -> list[int]:
    """The cells from `start` to the nearest goal, both included; empty if there is no path.

    `is_open` and `is_goal` are flattened grids with a frame. `is_open` is modified, see `flood_fill`.
    """
    layers: list[list[int]] = []
    for layer in flood_fill(is_open, start, stride):
        goals = [cell for cell in layer if is_goal[cell]]
        if goals:
            path = goals[:1]
            for before in reversed(layers):
                neighbors = {path[-1] + offset for offset in neighbor_offsets(stride)}
                path.append(next(cell for cell in before if cell in neighbors))
            return path[::-1]
        layers.append(layer)
    return []
