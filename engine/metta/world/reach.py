"""What can be reached on foot: floors of one piece, and places for things that leave them so."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floor = NDArray[np.bool_]


def largest_piece(floor: Floor) -> Floor:
    """The cells of the largest part of a floor in which one can walk everywhere, up, down, left and right."""
    rows, cols = floor.shape
    stride = cols + 2
    is_open = np.zeros((rows + 2, stride), np.bool_)
    is_open[1:-1, 1:-1] = floor
    left = bytearray(is_open.tobytes())
    best: list[int] = []
    for start in is_open.ravel().nonzero()[0].tolist():
        if not left[start]:
            continue
        left[start] = 0
        piece = [start]
        for cell in piece:  # grows while it is walked through
            for other in (cell - stride, cell + stride, cell - 1, cell + 1):
                if left[other]:
                    left[other] = 0
                    piece.append(other)
        if len(piece) > len(best):
            best = piece
    found = np.zeros(is_open.size, np.bool_)
    found[best] = True
    return found.reshape(is_open.shape)[1:-1, 1:-1]


def connected_places(
    floor: Floor, things: NDArray[np.int16], generator: np.random.Generator
) -> NDArray[np.int64] | None:
    """A cell for each of `things`, objects (above 0) first; None if there are not enough.

    `floor` becomes its largest piece. Objects stand in the way: each goes where the cells around it stay joined without
    it, and where neither it nor an object beside it is walled in. So what is left of the floor is one piece, with every
    agent on it and every object at its edge.
    """
    floor &= largest_piece(floor)
    rows, cols = floor.shape
    stride = cols + 2
    padded = np.zeros((rows + 2, stride), np.bool_)
    padded[1:-1, 1:-1] = floor
    is_free = bytearray(padded.tobytes())
    is_object = bytearray(len(is_free))
    beside = (-stride, 1, stride, -1)
    around = (-stride, -stride + 1, 1, stride + 1, stride, stride - 1, -1, -stride - 1)
    num_objects = int((things > 0).sum())
    places: list[int] = []

    def can_be_reached(cell: int) -> bool:
        """Whether an object there can be worked at, and those beside it still can."""
        return any(is_free[cell + step] for step in beside) and not any(
            is_object[cell + step] and sum(is_free[cell + step + other] for other in beside) < 2 for step in beside
        )

    def put(cell: int) -> None:
        is_free[cell], is_object[cell] = 0, 1
        places.append(cell)

    for cell in generator.permutation(padded.ravel().nonzero()[0]).tolist():
        if len(places) == num_objects:
            break
        ring = [is_free[cell + step] for step in around]
        # stretches of free cells around it that touch it by a side
        stretches = sum(ring[side] and not (ring[side - 1] and ring[side - 2]) for side in range(0, 8, 2))
        if stretches <= 1 and can_be_reached(cell):
            put(cell)
    while len(places) < num_objects:  # where walls stand close, ways around a cell are longer than its ring
        joints = _joints(is_free, stride)
        free = np.frombuffer(is_free, np.bool_).nonzero()[0]
        cells = generator.permutation(free).tolist()
        where = next((cell for cell in cells if cell not in joints and can_be_reached(cell)), None)
        if where is None:
            break
        put(where)
    free = np.frombuffer(is_free, np.bool_).nonzero()[0]
    if len(places) < num_objects or len(free) < len(things) - num_objects:
        return None
    agents = generator.choice(free, size=len(things) - num_objects, replace=False)
    cells = np.concatenate([np.array(places, np.int64), agents])
    inside: NDArray[np.int64] = (cells // stride - 1) * cols + cells % stride - 1
    return inside


def _joints(is_free: bytearray, stride: int) -> set[int]:
    """The free cells without which the others, which are one piece, would be several.

    Articulation points by depth-first search: a cell is one if some part found beyond it never leads back above it
    (Hopcroft and Tarjan, 1973).
    """
    root = is_free.find(1)
    depth, low = {root: 0}, {root: 0}
    parts_of_root = 0
    found = set()
    path = [(root, iter((root - stride, root + stride, root - 1, root + 1)))]
    while path:
        cell, others = path[-1]
        for other in others:
            if other in depth:
                low[cell] = min(low[cell], depth[other])
            elif is_free[other]:
                depth[other] = low[other] = len(path)
                path.append((other, iter((other - stride, other + stride, other - 1, other + 1))))
                break
        else:
            path.pop()
            if not path:
                break
            before = path[-1][0]
            low[before] = min(low[before], low[cell])
            if before == root:
                parts_of_root += 1
            elif low[cell] >= depth[before]:
                found.add(before)
    return found | {root} if parts_of_root > 1 else found
