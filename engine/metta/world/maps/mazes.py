"""Maze algorithms (Kruskal, recursive backtracker): which walls between the cells of a grid to open."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Walls = NDArray[np.int64]
"""`[walls, 2] int64`: row-major indices of the two cells beside each wall, the smaller one first."""


def walls_between(rows: int, cols: int) -> Walls:
    """All walls between neighboring cells of a grid: first between neighbors in a row, then in a column."""
    cells = np.arange(rows * cols).reshape(rows, cols)
    across = np.stack([cells[:, :-1].ravel(), cells[:, 1:].ravel()], axis=1)
    down = np.stack([cells[:-1].ravel(), cells[1:].ravel()], axis=1)
    return np.concatenate([across, down])


def kruskal(walls: Walls, cells: int, generator: np.random.Generator) -> list[int]:
    """Randomized Kruskal's algorithm: indices of the walls to open for a random spanning tree of the cells."""
    root = list(range(cells))
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
            if len(opened) == cells - 1:
                break
    return opened


def backtracker(rows: int, cols: int, generator: np.random.Generator) -> list[int]:
    """Randomized depth-first search: indices of the walls to open, in `walls_between(rows, cols)`."""
    stride, across = cols + 2, rows * (cols - 1)
    is_unvisited = bytearray(stride * (rows + 2))
    for row in range(1, rows + 1):
        is_unvisited[row * stride + 1 : row * stride + 1 + cols] = b"\1" * cols
    uniforms = generator.random(2 * rows * cols).tolist()
    start = int(generator.integers(rows * cols)) if rows * cols else 0
    path = [(start // cols + 1) * stride + start % cols + 1] if rows * cols else []
    opened = []
    for cell in path:
        is_unvisited[cell] = 0
    while path:
        cell = path[-1]
        new = [other for other in (cell - stride, cell + stride, cell - 1, cell + 1) if is_unvisited[other]]
        if not new:
            path.pop()
            continue
        other = new[int(uniforms.pop() * len(new))] if len(new) > 1 else new[0]
        is_unvisited[other] = 0
        path.append(other)
        row, col = divmod(min(cell, other), stride)
        if abs(cell - other) == 1:
            opened.append((row - 1) * (cols - 1) + col - 1)
        else:
            opened.append(across + (row - 1) * cols + col - 1)
    return opened
