"""Mazes: which of the walls between the places of a grid are opened."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Walls = NDArray[np.int64]
"""`[walls, 2]`: the two places beside each wall, numbered in reading order, the smaller first."""


def walls_between(rows: int, cols: int) -> Walls:
    """Every wall between two places of a grid: first those between neighbors in a row."""
    places = np.arange(rows * cols).reshape(rows, cols)
    across = np.stack([places[:, :-1].ravel(), places[:, 1:].ravel()], axis=1)
    down = np.stack([places[:-1].ravel(), places[1:].ravel()], axis=1)
    return np.concatenate([across, down])


def kruskal(walls: Walls, places: int, generator: np.random.Generator) -> list[int]:
    """The walls that are opened, by index: taken in random order, each if the places beside it are not joined yet."""
    root = list(range(places))
    opened = []
    order = generator.permutation(len(walls))
    for index, (first, second) in zip(order.tolist(), walls[order].tolist(), strict=True):
        while root[first] != first:
            root[first] = first = root[root[first]]
        while root[second] != second:
            root[second] = second = root[root[second]]
        if first != second:
            root[first] = second
            opened.append(index)
            if len(opened) == places - 1:
                break
    return opened


def backtracker(rows: int, cols: int, generator: np.random.Generator) -> list[int]:
    """The walls that are opened, by index: a walk to random new places, back to where there are some at its ends."""
    stride, across = cols + 2, rows * (cols - 1)
    is_new = bytearray(stride * (rows + 2))
    for row in range(1, rows + 1):
        is_new[row * stride + 1 : row * stride + 1 + cols] = b"\1" * cols
    task_uniform = generator.random(2 * rows * cols).tolist()
    start = int(generator.integers(rows * cols)) if rows * cols else 0
    path = [(start // cols + 1) * stride + start % cols + 1] if rows * cols else []
    opened = []
    for place in path:
        is_new[place] = 0
    while path:
        place = path[-1]
        new = [other for other in (place - stride, place + stride, place - 1, place + 1) if is_new[other]]
        if not new:
            path.pop()
            continue
        other = new[int(task_uniform.pop() * len(new))] if len(new) > 1 else new[0]
        is_new[other] = 0
        path.append(other)
        row, col = divmod(min(place, other), stride)
        if abs(place - other) == 1:
            opened.append((row - 1) * (cols - 1) + col - 1)
        else:
            opened.append(across + (row - 1) * cols + col - 1)
    return opened
