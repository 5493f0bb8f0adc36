"""Connectivity of floors: largest component, walking distances, and object placement that keeps a floor connected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from metta.geometry import flood_fill, framed_cell, neighbor_offsets

Floor = NDArray[np.bool_]
"""`[rows, cols] bool`: true where there is floor."""

CellPreferences = Callable[[int], Iterable[int]]
"""A function from the index of an object to its candidate cells (row-major indices), most preferred first."""


def _stays_connected(ring: int) -> bool:
    """Whether a cell has a free neighbor, and its free neighbors are connected by free cells of the ring around it.

    `ring` has one bit for each of the eight surrounding cells, clockwise from the one above: 1 if it is free.
    """
    free = [ring >> side & 1 for side in range(8)]
    components = sum(free[side] and not (free[side - 1] and free[side - 2]) for side in range(0, 8, 2))
    return components <= 1 and any(free[::2])


STAYS_CONNECTED = bytes(map(_stays_connected, range(256)))
"""`_stays_connected(ring)` for every ring."""


def largest_component(floor: Floor) -> Floor:
    """The largest 4-connected component of a floor. `[rows, cols] bool`

    Vectorized union-find over horizontal runs of floor cells.
    """
    rows, cols = floor.shape
    is_open = np.zeros((rows, cols + 1), np.bool_)
    is_open[:, 1:] = floor
    is_run_start = np.zeros((rows, cols), np.bool_)
    np.greater(is_open[:, 1:], is_open[:, :-1], out=is_run_start)
    run = is_run_start.ravel().cumsum().reshape(rows, cols) - 1  # index of the run of each floor cell
    joined = floor[:-1] & floor[1:]
    joined[:, 1:] &= ~(joined[:, :-1] & floor[:-1, :-1] & floor[1:, :-1])
    upper, lower = run[:-1][joined], run[1:][joined]
    num_runs = int(run[-1, -1]) + 1 if rows * cols else 0
    if num_runs < 2:
        return floor.copy()

    # each run points to an earlier run of its component; at the end, all point to the first one
    parent = np.arange(num_runs)
    while len(upper):
        first, second = parent[upper], parent[lower]
        apart = first != second
        if not apart.any():
            break
        upper, lower = upper[apart], lower[apart]
        first, second = first[apart], second[apart]
        parent[np.maximum(first, second)] = np.minimum(first, second)
        while True:
            above = parent[parent]
            if (above == parent).all():
                break
            parent = above
    component = parent[run]
    sizes = np.bincount(component[floor], minlength=num_runs)
    largest: Floor = floor & (component == np.argmax(sizes))
    return largest


def framed(floor: Floor) -> Floor:
    """A floor with a frame of wall one cell wide. `[rows + 2, cols + 2] bool`"""
    # faster than np.pad
    padded = np.zeros((floor.shape[0] + 2, floor.shape[1] + 2), np.bool_)
    padded[1:-1, 1:-1] = floor
    return padded


def reachable_cells(is_open: Floor, start: int) -> Floor:
    """The cells that are reachable from the cell `start` (row-major index). `[rows, cols] bool`"""
    found: Floor = walking_distances(is_open, start) >= 0
    return found


def walking_distances(floor: Floor, start: int) -> NDArray[np.int64]:
    """Number of steps from the cell `start` (row-major index) to each cell, -1 if unreachable. `[rows, cols] int64`"""
    cols, padded = floor.shape[1], framed(floor)
    stride = cols + 2
    cells: list[int] = []
    counts: list[int] = []
    for layer in flood_fill(bytearray(padded.tobytes()), framed_cell(start, cols), stride):
        cells += layer
        counts.append(len(layer))
    distances = np.full(padded.size, -1, np.int64)
    distances[cells] = np.arange(len(counts)).repeat(counts)
    return distances.reshape(padded.shape)[1:-1, 1:-1]


def place_connected(
    floor: Floor,
    num_objects: int,
    generator: np.random.Generator,
    kept_free: Sequence[int] = (),
    preferences: CellPreferences | None = None,
) -> list[int] | None:
    """Choose a cell for each object on a connected floor, such that the remaining floor stays connected.

    Every object stays adjacent to the remaining floor. Cells are row-major indices; no object is placed on `kept_free`.
    Returns None if there are not enough cells.
    """
    cols, padded = floor.shape[1], framed(floor)
    stride = cols + 2
    offsets = neighbor_offsets(stride)
    is_free = bytearray(padded.tobytes())
    is_object = bytearray(len(is_free))
    is_kept = {framed_cell(cell, cols) for cell in kept_free}

    def would_enclose(cell: int) -> bool:
        """Whether an object in this cell would take the last free neighbor of another object."""
        if not (is_object[cell - stride] or is_object[cell + 1] or is_object[cell + stride] or is_object[cell - 1]):
            return False
        others = [cell + offset for offset in offsets if is_object[cell + offset]]
        return any(sum(is_free[other + offset] for offset in offsets) < 2 for other in others)

    def can_hold_object(cell: int) -> bool:
        """Whether the eight surrounding cells suffice to tell that an object can be placed here."""
        up, down = cell - stride, cell + stride
        ring = (
            is_free[up]
            | is_free[up + 1] << 1
            | is_free[cell + 1] << 2
            | is_free[down + 1] << 3
            | is_free[down] << 4
            | is_free[down - 1] << 5
            | is_free[cell - 1] << 6
            | is_free[up - 1] << 7
        )
        return bool(is_free[cell] and STAYS_CONNECTED[ring]) and cell not in is_kept and not would_enclose(cell)

    candidates = _candidates(padded, preferences, generator)
    places: list[int] = []
    while len(places) < num_objects:
        place = next((cell for cell in candidates(len(places)) if can_hold_object(cell)), None)
        if place is None:  # neighbors of a cell can be connected by a path outside the ring around it
            removable = (cell for cell in _removable_cells(is_free, stride, generator) if cell not in is_kept)
            place = next((cell for cell in removable if not would_enclose(cell)), None)
        if place is None:
            return None
        is_free[place], is_object[place] = 0, 1
        places.append(place)
    return [(cell // stride - 1) * cols + cell % stride - 1 for cell in places]


def _candidates(
    padded: Floor, preferences: CellPreferences | None, generator: np.random.Generator
) -> Callable[[int], Iterable[int]]:
    """A function from the index of an object to the cells to try, in order (indices in the framed floor)."""
    cols = padded.shape[1] - 2
    if preferences is None:
        removable = _likely_removable(padded).ravel().nonzero()[0]
        cells = iter(generator.permutation(removable).tolist())
        return lambda _: cells
    return lambda number: (framed_cell(cell, cols) for cell in preferences(number))


def _removable_cells(is_free: bytearray, stride: int, generator: np.random.Generator) -> Iterator[int]:
    """The free cells that can be removed without disconnecting the others, in random order.

    Yields nothing if the free cells form a tree: only its leaves can be removed, which the test by ring already finds.
    """
    if _is_tree(is_free, stride):
        return
    articulation_points = _articulation_points(is_free, stride)
    free = np.frombuffer(is_free, np.bool_).nonzero()[0]
    yield from (cell for cell in generator.permutation(free).tolist() if cell not in articulation_points)


def _likely_removable(padded: Floor) -> Floor:
    """Cells of a framed floor without objects whose free neighbors are connected by the ring around the cell.

    `_stays_connected` for all cells at once. `[rows + 2, cols + 2] bool`
    """
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    up, down = padded[:-2, 1:-1], padded[2:, 1:-1]
    components = (up & ~(padded[:-2, :-2] & left)).astype(np.int8)
    components += right & ~(padded[:-2, 2:] & up)
    components += down & ~(padded[2:, 2:] & right)
    components += left & ~(padded[2:, :-2] & down)
    found = np.zeros(padded.shape, np.bool_)
    found[1:-1, 1:-1] = padded[1:-1, 1:-1] & (components <= 1)
    return found


def _is_tree(is_free: bytearray, stride: int) -> bool:
    """Whether the free cells, which are connected, form a tree: one edge fewer than cells."""
    free = np.frombuffer(is_free, np.bool_)
    return int(free.sum() - (free[1:] & free[:-1]).sum() - (free[stride:] & free[:-stride]).sum()) == 1


def _articulation_points(is_free: bytearray, stride: int) -> set[int]:
    """The articulation points of the free cells: cells whose removal disconnects the others.

    Depth-first search without recursion (Hopcroft and Tarjan, 1973). The free cells must be connected.
    """
    root = is_free.find(1)
    depth, low = [0] * len(is_free), [0] * len(is_free)
    depth[root] = low[root] = 1
    children_of_root = 0
    found = set()
    path = [root]
    left = [[root - stride, root + stride, root - 1, root + 1]]
    while path:
        cell, others = path[-1], left[-1]
        lowest = low[cell]
        while others:
            other = others.pop()
            if not is_free[other]:
                continue
            if depth[other]:
                lowest = min(lowest, depth[other])
                continue
            low[cell] = lowest
            path.append(other)
            left.append([other - stride, other + stride, other - 1, other + 1])
            depth[other] = low[other] = len(path)
            break
        else:
            low[cell] = lowest
            path.pop()
            left.pop()
            if not path:
                break
            before = path[-1]
            low[before] = min(low[before], lowest)
            if before == root:
                children_of_root += 1
            elif lowest >= depth[before]:
                found.add(before)
    return found | {root} if children_of_root > 1 else found
