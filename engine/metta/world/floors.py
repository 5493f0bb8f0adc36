"""Where one can walk: the floor of each kind of builder, before anything stands on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.config.layouts import CavesConfig, DungeonConfig, MazeConfig, ScatterTable, TerrainConfig

Floor = NDArray[np.bool_]
"""`[rows, cols] bool`: true where there is floor, the border not included."""


def draw_floor(builder: ScatterTable, shape: tuple[int, int], generator: np.random.Generator) -> Floor:
    """A fresh floor; equal generators give equal floors."""
    match builder:
        case MazeConfig():
            return _maze(builder, shape, generator)
        case CavesConfig():
            return _caves(builder, shape, generator)
        case DungeonConfig():
            return _dungeon(builder, shape, generator)
        case TerrainConfig():
            return _terrain(builder, shape, generator)
        case _:
            return np.ones(shape, np.bool_)


def _maze(builder: MazeConfig, shape: tuple[int, int], generator: np.random.Generator) -> Floor:
    """Places in a grid, joined by a spanning tree, and some more of the walls between them opened."""
    rows, cols = builder.crossings
    floor = np.zeros(shape, np.bool_)
    width, pitch = builder.corridor_width, builder.corridor_width + 1
    for row in range(rows):
        for col in range(cols):
            floor[row * pitch : row * pitch + width, col * pitch : col * pitch + width] = True
    walls = [(row * cols + col, row * cols + col + 1) for row in range(rows) for col in range(cols - 1)]
    walls += [(place, place + cols) for place in range((rows - 1) * cols)]
    opened = _kruskal(walls, rows * cols, generator) if builder.algorithm == "kruskal" else []
    if builder.algorithm == "backtracker":
        opened = _backtracker(rows, cols, generator)
    closed = sorted(set(walls) - set(opened))
    more = generator.permutation(len(closed))[: round(builder.loops * len(closed))].tolist()
    for first, second in [*opened, *(closed[index] for index in more)]:
        row, col = divmod(first, cols)
        if second == first + 1:
            floor[row * pitch : row * pitch + width, col * pitch + width] = True
        else:
            floor[row * pitch + width, col * pitch : col * pitch + width] = True
    return floor


def _kruskal(walls: list[tuple[int, int]], places: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    """The walls that are opened: taken in random order, each if the places beside it are not joined yet."""
    root = list(range(places))
    opened = []
    for index in generator.permutation(len(walls)).tolist():
        ends = []
        for place in walls[index]:
            while root[place] != place:
                root[place] = root[root[place]]
                place = root[place]
            ends.append(place)
        if ends[0] != ends[1]:
            root[ends[0]] = ends[1]
            opened.append(walls[index])
    return opened


def _backtracker(rows: int, cols: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    """The walls that are opened: a walk to random new places, back to where there are some when there are none."""
    places = rows * cols
    if not places:
        return []
    luck = generator.random(2 * places).tolist()
    visited = [False] * places
    path = [int(generator.integers(places))]
    visited[path[0]] = True
    opened = []
    while path:
        row, col = divmod(path[-1], cols)
        around = [(row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)]
        new = [r * cols + c for r, c in around if 0 <= r < rows and 0 <= c < cols and not visited[r * cols + c]]
        if not new:
            path.pop()
            continue
        place = new[int(luck.pop() * len(new))]
        visited[place] = True
        opened.append((min(path[-1], place), max(path[-1], place)))
        path.append(place)
    return opened


def _caves(builder: CavesConfig, shape: tuple[int, int], generator: np.random.Generator) -> Floor:
    """A cell becomes a wall if at least 5 of the 9 around and at it are, all outside counted as walls."""
    is_wall = generator.random(shape) < builder.fill
    for _ in range(builder.rounds):
        padded = np.pad(is_wall, 1, constant_values=True).astype(np.int8)
        rows = padded[:-2] + padded[1:-1] + padded[2:]
        is_wall = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] >= 5
    return ~is_wall


def _dungeon(builder: DungeonConfig, shape: tuple[int, int], generator: np.random.Generator) -> Floor:
    """Parts are split while both halves have room for a room and a wall; corridors join the rooms of both halves."""
    floor = np.zeros(shape, np.bool_)
    least, width = min(builder.min_room, *shape), builder.corridor_width

    def fill(top: int, left: int, rows: int, cols: int) -> tuple[int, int]:
        """Rooms in a part; a cell of one of them."""
        splits_rows = rows > cols if rows != cols else generator.random() < 0.5
        side = rows if splits_rows else cols
        if side < 2 * least + 1:
            height, breadth = int(generator.integers(least, rows + 1)), int(generator.integers(least, cols + 1))
            row = top + int(generator.integers(rows - height + 1))
            col = left + int(generator.integers(cols - breadth + 1))
            floor[row : row + height, col : col + breadth] = True
            return row + height // 2, col + breadth // 2
        cut = int(generator.integers(least, side - least))
        if splits_rows:
            first, second = fill(top, left, cut, cols), fill(top + cut + 1, left, rows - cut - 1, cols)
        else:
            first, second = fill(top, left, rows, cut), fill(top, left + cut + 1, rows, cols - cut - 1)
        upper, lower = sorted((first[0], second[0]))
        floor[upper : lower + width, first[1] : first[1] + width] = True
        begin, end = sorted((first[1], second[1]))
        floor[second[0] : second[0] + width, begin : end + width] = True
        return first if generator.random() < 0.5 else second

    fill(0, 0, *shape)
    return floor


def _terrain(builder: TerrainConfig, shape: tuple[int, int], generator: np.random.Generator) -> Floor:
    """Obstacles at random places, each if it leaves a cell free around it, until enough of the floor is covered."""
    if builder.obstacles == "walls":
        floor = np.ones(shape, np.bool_)
        count = round(builder.density * floor.size)
        floor.ravel()[generator.permutation(floor.size)[:count]] = False
        return floor
    size = min(builder.size, *shape)
    obstacle = np.zeros((size, size), np.bool_)  # true where it is solid
    if builder.obstacles == "blocks":
        obstacle[:] = True
    elif builder.obstacles == "crosses":
        obstacle[size // 2], obstacle[:, size // 2] = True, True
    else:
        obstacle[[0, -1]], obstacle[:, [0, -1]] = True, True
    blocked = np.zeros(shape, np.bool_)
    target = builder.density * blocked.size
    tries = generator.integers((shape[0] - size + 1, shape[1] - size + 1), size=(4 * blocked.size // size**2 + 1, 2))
    sides = generator.integers(4, size=len(tries)).tolist()
    covered = 0
    for (top, left), side in zip(tries.tolist(), sides, strict=True):
        if covered >= target:
            break
        around = blocked[max(0, top - 1) : top + size + 1, max(0, left - 1) : left + size + 1]
        if around.any():
            continue
        solid = obstacle.copy()
        if builder.obstacles == "labyrinths":  # a ring that opens to one side
            np.rot90(solid, side)[0, size // 2] = False
        blocked[top : top + size, left : left + size] = solid
        covered += int(solid.sum())
    return ~blocked
