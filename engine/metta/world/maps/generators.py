"""Floor generators of map builders: mazes, caves, dungeons, radial maps, corridors, and registered custom generators.

A floor is a mask of the cells on which entities can be placed. A custom generator is a function of (rows, cols,
generator, settings) that returns a floor, `[rows, cols] bool`:

    @MAP_BUILDERS.register("stripes")
    def stripes(rows: int, cols: int, generator: np.random.Generator, settings: Mapping[str, Any]) -> Floor:
        ...

It can also be an entry point in the group `metta.map_builders`. Maps select it with `type = "Custom"` and
`name = "stripes"`. Objects, agents, the border and `connected` work as for the other generators.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metta.config.env.map_generators import (
    MAP_BUILDERS,
    CavesConfig,
    CorridorsConfig,
    CustomConfig,
    DungeonConfig,
    MazeConfig,
    RadialConfig,
    ScatterConfig,
    TerrainConfig,
)
from metta.errors import MapError
from metta.world.maps.mazes import backtracker, kruskal, walls_between
from metta.world.maps.terrain import generate_terrain

Floor = NDArray[np.bool_]
"""`[rows, cols] bool`: true where there is floor; without the border."""

Cell = tuple[int, int]
"""(row, col)"""


@dataclass(frozen=True)
class Layout:
    """A floor and its special cells."""

    floor: Floor
    is_connected: bool
    """whether the floor is known to be connected"""
    hub: tuple[Cell, ...] = ()
    """center of a radial map"""
    ends: tuple[Cell, ...] = ()
    """ends of the arms of a radial map"""


def generate_floor(builder: ScatterConfig, shape: tuple[int, int], generator: np.random.Generator) -> Layout:
    """Generate a floor of `shape` (rows, cols), without the border. The ranges of `builder` must be resolved."""
    match builder:
        case MazeConfig():
            return Layout(_maze(builder, shape, generator), is_connected=True)
        case CavesConfig():
            return Layout(_caves(builder, shape, generator), is_connected=False)
        case DungeonConfig():
            return Layout(_dungeon(builder, shape, generator), is_connected=True)
        case TerrainConfig():
            return Layout(generate_terrain(builder, shape, generator), is_connected=False)
        case RadialConfig():
            return _radial(builder, shape, generator)
        case CorridorsConfig():
            return Layout(_corridors(builder, shape, generator), is_connected=builder.across > 0 and builder.down > 0)
        case CustomConfig():
            return Layout(_custom(builder, shape, generator), is_connected=False)
        case _:
            return Layout(np.ones(shape, np.bool_), is_connected=True)


def _custom(builder: CustomConfig, shape: tuple[int, int], generator: np.random.Generator) -> Floor:
    """The floor of a registered map builder. Raises MapError unless it returns a bool array of the right shape."""
    floor = MAP_BUILDERS.find(builder.name)(*shape, generator, builder.settings)
    if not isinstance(floor, np.ndarray) or floor.dtype != np.bool_ or floor.shape != shape:
        returned = f"{list(floor.shape)} {floor.dtype}" if isinstance(floor, np.ndarray) else type(floor).__name__
        raise MapError(
            f'the map builder "{builder.name}" returned {returned}; it must return {list(shape)} bool, true for floor'
        )
    return floor


def _maze(builder: MazeConfig, shape: tuple[int, int], generator: np.random.Generator) -> Floor:
    """A grid of cells connected by a spanning tree, with a fraction `loops` of the remaining walls opened."""
    rows, cols = builder.maze_shape
    width = builder.corridor_width
    walls = walls_between(rows, cols)
    if builder.algorithm == "kruskal":
        opened = kruskal(walls, rows * cols, generator)
    else:
        opened = backtracker(rows, cols, generator)
    is_open = np.zeros(len(walls), np.bool_)
    is_open[opened] = True
    if builder.loops:
        closed = (~is_open).nonzero()[0]
        is_open[generator.permutation(closed)[: round(builder.loops * len(closed))]] = True

    # [maze rows, cell height + wall, maze cols, cell width + wall]
    floor = np.zeros((rows, width + 1, cols, width + 1), np.bool_)
    floor[:, :width, :, :width] = True
    across = rows * max(0, cols - 1)
    floor[:, :width, :-1, width] = is_open[:across].reshape(rows, 1, max(0, cols - 1))
    floor[:-1, width, :, :width] = is_open[across:].reshape(max(0, rows - 1), cols, 1)
    whole = np.zeros(shape, np.bool_)
    maze = floor.reshape(rows * (width + 1), cols * (width + 1))[: shape[0], : shape[1]]
    whole[: maze.shape[0], : maze.shape[1]] = maze
    return whole


def _caves(builder: CavesConfig, shape: tuple[int, int], generator: np.random.Generator) -> Floor:
    """A cellular automaton: a cell becomes a wall if at least 5 cells of its 3 x 3 neighborhood are walls.

    Cells outside the map count as walls.
    """
    padded = np.ones((shape[0] + 2, shape[1] + 2), np.int8)
    inside = padded[1:-1, 1:-1]
    inside[...] = generator.random(shape) < builder.fill
    for _ in range(builder.rounds):
        rows = padded[:-2] + padded[1:-1] + padded[2:]
        inside[...] = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] >= 5
    floor: Floor = inside == 0
    return floor


def _dungeon(builder: DungeonConfig, shape: tuple[int, int], generator: np.random.Generator) -> Floor:
    """Binary space partition: areas are split while both parts have space for a room; corridors connect their rooms."""
    floor = np.zeros(shape, np.bool_)
    min_side, width = min(builder.min_room, *shape), builder.corridor_width
    uniforms: list[float] = []

    def draw(low: int, high: int) -> int:
        """A random integer in [low, high)."""
        if not uniforms:
            uniforms.extend(generator.random(64).tolist())
        return low + int(uniforms.pop() * (high - low))

    def add_rooms(top: int, left: int, rows: int, cols: int) -> Cell:
        """Add connected rooms in an area of the floor. Returns a cell of one of them."""
        splits_rows = rows > cols if rows != cols else draw(0, 2) == 0
        side = rows if splits_rows else cols
        if side < 2 * min_side + 1:
            room_rows, room_cols = draw(min_side, rows + 1), draw(min_side, cols + 1)
            row, col = top + draw(0, rows - room_rows + 1), left + draw(0, cols - room_cols + 1)
            floor[row : row + room_rows, col : col + room_cols] = True
            return row + room_rows // 2, col + room_cols // 2
        cut = draw(min_side, side - min_side)
        if splits_rows:
            first, second = add_rooms(top, left, cut, cols), add_rooms(top + cut + 1, left, rows - cut - 1, cols)
        else:
            first, second = add_rooms(top, left, rows, cut), add_rooms(top, left + cut + 1, rows, cols - cut - 1)
        upper, lower = sorted((first[0], second[0]))
        floor[upper : lower + width, first[1] : first[1] + width] = True
        begin, end = sorted((first[1], second[1]))
        floor[second[0] : second[0] + width, begin : end + width] = True
        return first if draw(0, 2) == 0 else second

    add_rooms(0, 0, *shape)
    return floor


def _radial(builder: RadialConfig, shape: tuple[int, int], generator: np.random.Generator) -> Layout:
    """A square hub in the center and arms from it, clockwise; the first points up unless `builder.turned`."""
    middle = (shape[0] - 1) // 2, (shape[1] - 1) // 2
    before = (builder.arm_width - 1) // 2
    after = builder.arm_width - 1 - before
    turn = generator.random() if builder.turned else 0.0
    trace = np.zeros(shape, np.bool_)  # center lines of the arms, later dilated to `arm_width`
    ends = []
    for arm in range(builder.arms):
        angle = 2 * math.pi * (arm + turn) / builder.arms
        step = -math.cos(angle), math.sin(angle)
        # length to the first edge of the map in that direction
        limits = [
            side - 1 - after - at if component > 0 else at - before
            for side, at, component in zip(shape, middle, step, strict=True)
        ]
        length = min(
            limit / abs(component) for limit, component in zip(limits, step, strict=True) if abs(component) > 1e-9
        )
        length = max(0.0, min(length, builder.arm_length or length))
        steps = np.arange(int(2 * length) + 1) / 2
        rows, cols = (
            np.rint(at + component * steps).astype(np.int64) for at, component in zip(middle, step, strict=True)
        )
        trace[rows, cols] = True
        trace[rows[1:], cols[:-1]] = True  # keep the line 4-connected, since agents cannot move diagonally
        ends.append((int(rows[-1]), int(cols[-1])))
    floor = np.zeros((shape[0] + builder.arm_width, shape[1] + builder.arm_width), np.bool_)
    floor[: shape[0], : shape[1]] = trace
    for shift in range(1, builder.arm_width):
        floor[shift : shift + shape[0], : shape[1]] |= trace
    columns = floor.copy()
    for shift in range(1, builder.arm_width):
        floor[:, shift:] |= columns[:, :-shift]
    floor = floor[before : before + shape[0], before : before + shape[1]]
    floor[
        max(0, middle[0] - builder.hub) : middle[0] + builder.hub + 1,
        max(0, middle[1] - builder.hub) : middle[1] + builder.hub + 1,
    ] = True
    return Layout(floor, is_connected=True, hub=(middle,), ends=tuple(ends))


def _corridors(builder: CorridorsConfig, shape: tuple[int, int], generator: np.random.Generator) -> Floor:
    """Random rows and columns of floor, with walls between them."""
    floor = np.zeros(shape, np.bool_)
    width = builder.corridor_width
    for side, count, lines in ((shape[0], builder.across, floor), (shape[1], builder.down, floor.T)):
        starts = np.sort(generator.choice(side - count * width + 1, size=count, replace=False))
        starts += np.arange(count) * width
        lines[(starts[:, None] + np.arange(width)).ravel()] = True
    return floor
