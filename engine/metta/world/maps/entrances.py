"""Ways into a part of a map: what the map around it opens on its edge leads to where one can walk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metta.world.maps.connectivity import Floor
from metta.world.maps.generators import Cell

Cells = NDArray[np.int16]


def open_gates(cells: Cells, gates: Sequence[Cell], wall: int, goal: Floor | None = None) -> bool:
    """Dig from each gate through walls to the nearest cell of `goal`, or to any open cell; whether that could be.

    `goal` is the floor as it was: gates side by side are dug side by side.
    """
    if not gates:
        return True
    goal = cells <= 0 if goal is None else goal
    targets, rows, cols = goal.ravel(), *cells.shape
    flat = cells.ravel()
    is_rock = flat == wall
    found_all = True
    for row, col in gates:
        start = row * cols + col
        before: dict[int, int] = {start: start}
        edge = [start] if targets[start] or flat[start] <= 0 or is_rock[start] else []
        found = None
        for cell in edge:  # grows while it is walked through
            if targets[cell]:
                found = cell
                break
            for other in _beside(cell, rows, cols):
                if other not in before and (targets[other] or is_rock[other]):
                    before[other] = cell
                    edge.append(other)
        found_all &= found is not None
        while found is not None and found != start:
            found = before[found]
            cells[found // cols, found % cols] = min(0, int(cells[found // cols, found % cols]))
    return found_all


def _beside(cell: int, rows: int, cols: int) -> list[int]:
    row, col = divmod(cell, cols)
    found = [cell - cols] if row else []
    if row < rows - 1:
        found.append(cell + cols)
    if col:
        found.append(cell - 1)
    if col < cols - 1:
        found.append(cell + 1)
    return found
