"""Distances of the cells of many maps to the closest target: around obstacles, or as the city-block distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FAR = np.float32(np.inf)


class DistanceFields:
    """Distance fields that are computed again only in worlds where targets or obstacles have changed."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_] | None, NDArray[np.float32]]] = {}
        self._episodes: dict[str, NDArray[np.uint64]] = {}

    def of_episodes(self, name: str, episodes: NDArray[np.uint64]) -> NDArray[np.float32] | None:
        """The field kept under that name if no world has started an episode since the last call, else None.

        `episodes [worlds] uint64` has a key of the episode of each world that no other episode has.
        """
        kept, self._episodes[name] = self._episodes.get(name), episodes.copy()
        is_same = kept is not None and name in self._kept and np.array_equal(kept, episodes)
        return self._kept[name][2] if is_same else None

    def get(self, name: str, targets: NDArray[np.bool_], free: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        """The distance field of that name: see `walking_fields`, or `city_block_fields` if `free` is None."""
        kept = self._kept.get(name)
        if kept is None or kept[0].shape != targets.shape:
            field = city_block_fields(targets) if free is None else walking_fields(targets, free)
        else:
            old_targets, old_free, field = kept
            changed = (targets != old_targets).any(axis=(1, 2))
            if free is not None and old_free is not None:
                changed |= (free != old_free).any(axis=(1, 2))
            if not changed.any():
                return field
            new = targets[changed]
            field[changed] = city_block_fields(new) if free is None else walking_fields(new, free[changed])
        self._kept[name] = targets, free, field
        return field


def city_block_fields(targets: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The city-block distance of each cell to the closest of `targets [worlds, rows, cols]`; infinity without one."""
    field = np.where(targets, np.float32(0), FAR)
    for axis in (1, 2):
        shape = [1, 1, 1]
        shape[axis] = -1
        place = np.arange(targets.shape[axis], dtype=np.float32).reshape(shape)
        backward = np.flip(np.minimum.accumulate(np.flip(field + place, axis), axis), axis) - place
        field = np.minimum(np.minimum.accumulate(field - place, axis) + place, backward)
    return field


def walking_fields(targets: NDArray[np.bool_], free: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The number of moves from each cell to the closest of `targets [worlds, rows, cols]` through `free` cells.

    The target itself need not be free. Cells that are not free have the distance of a path that starts there. Infinity
    if there is no path. The fields grow by one move per round (breadth-first search), in all worlds at once.
    """
    field = np.where(targets, np.float32(0), FAR)
    frontier, distance = targets, np.float32(0)
    while frontier.any():
        distance += np.float32(1)
        reached = np.zeros_like(frontier)
        reached[:, 1:] |= frontier[:, :-1]
        reached[:, :-1] |= frontier[:, 1:]
        reached[:, :, 1:] |= frontier[:, :, :-1]
        reached[:, :, :-1] |= frontier[:, :, 1:]
        reached &= field == FAR
        field[reached] = distance
        frontier = reached & free
    return field


def count_within(
    marked: NDArray[np.bool_], world: NDArray[np.int64], positions: NDArray[np.int64], radius: int
) -> NDArray[np.int64]:
    """Number of cells of `marked [worlds, rows, cols]` at most `radius` rows and columns from each position. `[n]`"""
    row, col = positions.T
    padded = np.pad(marked, ((0, 0), (radius, radius), (radius, radius)))
    sums = np.pad(padded.cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))  # sums above and to the left
    width = 2 * radius + 1
    corners = sums[world, row + width, col + width] - sums[world, row, col + width]
    counts: NDArray[np.int64] = corners - sums[world, row + width, col] + sums[world, row, col]
    return counts
