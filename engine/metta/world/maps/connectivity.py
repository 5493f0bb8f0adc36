"""What can be reached on foot: floors of one piece, and places for things that leave them so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from metta.geometry import flood_fill, framed_cell

Floor = NDArray[np.bool_]
CellPreferences = Callable[[int], Iterable[int]]
"""For the n-th object: cells, numbered in reading order, those where it should rather be first."""


def _stays_joined(ring: int) -> bool:
    """Whether the free cells beside a cell, one or more, are joined around it; `ring` has a bit each, clockwise."""
    free = [ring >> side & 1 for side in range(8)]
    stretches = sum(free[side] and not (free[side - 1] and free[side - 2]) for side in range(0, 8, 2))
    return stretches <= 1 and any(free[::2])


STAYS_JOINED = bytes(map(_stays_joined, range(256)))


def largest_component(floor: Floor) -> Floor:
    """The cells of the largest part of a floor in which one can walk everywhere, up, down, left and right."""
    rows, cols = floor.shape
    is_open = np.zeros((rows, cols + 1), np.bool_)
    is_open[:, 1:] = floor
    begins = np.zeros((rows, cols), np.bool_)
    np.greater(is_open[:, 1:], is_open[:, :-1], out=begins)
    stretch = begins.ravel().cumsum().reshape(rows, cols) - 1  # of floor, along a row
    joined = floor[:-1] & floor[1:]
    joined[:, 1:] &= ~(joined[:, :-1] & floor[:-1, :-1] & floor[1:, :-1])
    upper, lower = stretch[:-1][joined], stretch[1:][joined]
    num_stretches = int(stretch[-1, -1]) + 1 if rows * cols else 0
    if num_stretches < 2:
        return floor.copy()

    # every stretch points to one further up of the same piece, in the end to the uppermost
    parent = np.arange(num_stretches)
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
    piece = parent[stretch]
    sizes = np.bincount(piece[floor], minlength=num_stretches)
    largest: Floor = floor & (piece == sizes.argmax())
    return largest


def framed(floor: Floor) -> Floor:
    """A floor with a frame of wall, one cell wide. `[rows + 2, cols + 2] bool`"""
    # several times as fast as np.pad
    padded = np.zeros((floor.shape[0] + 2, floor.shape[1] + 2), np.bool_)
    padded[1:-1, 1:-1] = floor
    return padded


def reachable(is_open: Floor, start: int) -> Floor:
    """The cells that one can walk to from `start`, numbered in reading order."""
    found: Floor = walking_distances(is_open, start) >= 0
    return found


def walking_distances(floor: Floor, start: int) -> NDArray[np.int64]:
    """`[rows, cols]`: steps from a cell, numbered in reading order, to every other; -1 where one cannot get to."""
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


def connected_places(
    floor: Floor,
    num_objects: int,
    generator: np.random.Generator,
    kept_free: Sequence[int] = (),
    wishes: CellPreferences | None = None,
) -> list[int] | None:
    """A cell for each object, numbered in reading order; None if there are not enough. The floor is one piece.

    Objects stand in the way: each goes where the cells around it stay joined without it, and where neither it nor an
    object beside it is walled in. So what is left of the floor is one piece, with every object at its edge.
    """
    cols, padded = floor.shape[1], framed(floor)
    stride = cols + 2
    is_free = bytearray(padded.tobytes())
    is_object = bytearray(len(is_free))
    beside = (-stride, 1, stride, -1)
    is_kept = {framed_cell(cell, cols) for cell in kept_free}
    places: list[int] = []

    def walls_in(cell: int) -> bool:
        """Whether an object there would take the last free cell beside another object."""
        if not (is_object[cell - stride] or is_object[cell + 1] or is_object[cell + stride] or is_object[cell - 1]):
            return False
        others = [cell + step for step in beside if is_object[cell + step]]
        return any(sum(is_free[other + step] for step in beside) < 2 for other in others)

    def is_fit(cell: int) -> bool:
        """Whether the cells around it stay joined to each other within the ring of the eight."""
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
        return bool(is_free[cell] and STAYS_JOINED[ring]) and cell not in is_kept and not walls_in(cell)

    shared = None
    if wishes is None:
        candidates = _hardly_in_the_way(padded).ravel().nonzero()[0]
        shared = iter(generator.permutation(candidates).tolist())
    while len(places) < num_objects:
        cells = shared if shared is not None else (framed_cell(cell, cols) for cell in wishes(len(places)))  # type: ignore[misc]
        where = next((cell for cell in cells if is_fit(cell)), None)
        if where is None:  # where walls stand close, ways around a cell are longer than its ring
            if _is_tree(is_free, stride):
                return None
            joints = _articulation_points(is_free, stride)
            free = np.frombuffer(is_free, np.bool_).nonzero()[0]
            others = (
                cell for cell in generator.permutation(free).tolist() if cell not in joints and cell not in is_kept
            )
            where = next((cell for cell in others if not walls_in(cell)), None)
        if where is None:
            return None
        is_free[where], is_object[where] = 0, 1
        places.append(where)
    return [(cell // stride - 1) * cols + cell % stride - 1 for cell in places]


def _hardly_in_the_way(padded: Floor) -> Floor:
    """Cells whose free neighbors are joined within the eight around them, as far as all others stay free."""
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    up, down = padded[:-2, 1:-1], padded[2:, 1:-1]
    stretches = (up & ~(padded[:-2, :-2] & left)).astype(np.int8)
    stretches += right & ~(padded[:-2, 2:] & up)
    stretches += down & ~(padded[2:, 2:] & right)
    stretches += left & ~(padded[2:, :-2] & down)
    found = np.zeros(padded.shape, np.bool_)
    found[1:-1, 1:-1] = padded[1:-1, 1:-1] & (stretches <= 1)
    return found


def _is_tree(is_free: bytearray, stride: int) -> bool:
    """Whether there is no way around anything: one neighbor fewer than there are cells, in one piece."""
    free = np.frombuffer(is_free, np.bool_)
    return int(free.sum() - (free[1:] & free[:-1]).sum() - (free[stride:] & free[:-stride]).sum()) == 1


def _articulation_points(is_free: bytearray, stride: int) -> set[int]:
    """The free cells without which the others, which are one piece, would be several.

    Articulation points by depth-first search: a cell is one if some part found beyond it never leads back above it
    (Hopcroft and Tarjan, 1973).
    """
    root = is_free.find(1)
    depth, low = [0] * len(is_free), [0] * len(is_free)
    depth[root] = low[root] = 1
    parts_of_root = 0
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
                parts_of_root += 1
            elif lowest >= depth[before]:
                found.add(before)
    return found | {root} if parts_of_root > 1 else found
