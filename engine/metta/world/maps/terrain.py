"""Terrain generator: open floors with obstacles (single walls, blocks, crosses, rings, labyrinths)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.config.env.map_generators import TerrainConfig
from metta.world.maps.mazes import kruskal, walls_between

Floor = NDArray[np.bool_]
"""`[rows, cols] bool`: true where there is floor."""

KINDS = ("blocks", "crosses", "rings", "labyrinths")


def generate_terrain(builder: TerrainConfig, shape: tuple[int, int], generator: np.random.Generator) -> Floor:
    """Place obstacles at random, at least one cell apart, until they cover the fraction `density` of the floor."""
    if builder.obstacles == "walls":
        floor = np.ones(shape, np.bool_)
        count = round(builder.density * floor.size)
        floor.ravel()[generator.permutation(floor.size)[:count]] = False
        return floor
    size = min(builder.size, *shape)
    blocked = np.zeros(shape, np.bool_)
    target = builder.density * blocked.size
    positions = generator.integers(
        (shape[0] - size + 1, shape[1] - size + 1), size=(4 * blocked.size // size**2 + 1, 2)
    )
    kinds = generator.integers(len(KINDS), size=len(positions)).tolist() if builder.obstacles == "mixed" else []
    covered = 0
    for number, (top, left) in enumerate(positions.tolist()):
        if covered >= target:
            break
        around = blocked[max(0, top - 1) : top + size + 1, max(0, left - 1) : left + size + 1]
        if around.any():
            continue
        kind = KINDS[kinds[number]] if kinds else builder.obstacles
        solid = _obstacle(kind, size, generator)
        blocked[top : top + size, left : left + size] = solid
        covered += int(solid.sum())
    return ~blocked


def _obstacle(kind: str, size: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """An obstacle, true where it is solid. `[size, size] bool`"""
    solid = np.zeros((size, size), np.bool_)
    if kind == "blocks":
        solid[:] = True
    elif kind == "crosses":
        solid[size // 2], solid[:, size // 2] = True, True
    elif kind == "rings" or size < 5:
        solid[[0, -1]], solid[:, [0, -1]] = True, True
        np.rot90(solid, int(generator.integers(4)))[0, size // 2] = False
    else:
        solid[:] = True
        side = (size - 1) // 2  # maze cells in each direction, with walls between and around them
        walls = walls_between(side, side)
        opened = walls[kruskal(walls, side * side, generator)]
        centers = np.arange(side) * 2 + 1
        solid[np.ix_(centers, centers)] = False
        rows, cols = opened // side, opened % side
        solid[rows.sum(axis=1) + 1, cols.sum(axis=1) + 1] = False  # the wall between two maze cells
        edge = 2 * int(generator.integers(side)) + 1
        top = solid[: 2 * side + 1, : 2 * side + 1]  # without the last row and column of an even size
        np.rot90(top, int(generator.integers(4)))[0, edge] = False
        if size % 2 == 0:
            solid[-1], solid[:, -1] = False, False
    return solid
