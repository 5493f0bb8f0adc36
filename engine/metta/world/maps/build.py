"""Map generation: `build_map` generates a map for `config.map_builder`; drawn, rooms, mirrored and random builders.

A map is `[rows, cols] int16`: 0 is an empty cell, t > 0 an object of type id t, -(g + 1) an agent of group g, in the
order of `config.game.groups`.

Builders that combine other builders (rooms, mirrored images) pass constraints to each part: whether it must be
connected, and its entrances, which are cells at its edge that must be open. Connected parts with adjacent entrances
form a connected map.

`tests/benchmarks/README.md` lists where the time of map generation goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from metta.config.env.env_config import EnvConfig
from metta.config.env.map_builder import (
    AsciiConfig,
    ChoiceConfig,
    MapBuilder,
    MapBuilderConfig,
    MirroredConfig,
    RoomsConfig,
)
from metta.config.env.map_generators import AgentCounts, ScatterConfig
from metta.config.env.objects import ObjectConfig
from metta.config.env.ranges import Range, RangeResolver
from metta.errors import MapError
from metta.world.maps.connectivity import largest_component, reachable_cells
from metta.world.maps.entrances import Cells, open_entrances
from metta.world.maps.generators import Cell, generate_floor
from metta.world.maps.placement import place_entities

EMPTY = 0
MAX_DRAWS = 20
"""Number of floors generated before MapError is raised because not all entities fit."""

MAX_SIDE = 4096
"""Maximum number of rows or columns, as in `env.game`. The size of rooms and drawn maps is checked only here."""


@dataclass(frozen=True)
class PartConstraints:
    """Constraints on a part of a map."""

    connected: bool = False
    entrances: tuple[Cell, ...] = ()
    """(row, col) of cells at the edge of the part that must be open and connected to its floor"""
    first_agent: int = 0
    """number of agents in earlier parts"""
    num_dealt_groups: int = 1
    """agents are assigned in turn to the first `num_dealt_groups` groups"""


def build_map(config: EnvConfig, generator: np.random.Generator) -> Cells:
    """Generate a map `[rows, cols] int16` with `config.map_builder`.

    The result depends only on the config and the state of `generator`. Drawn maps (`type = "Ascii"`) are not random.

    Raises MapError if the map has no agent, more than MAX_SIDE rows or columns, or an unknown object or group, or if
    not all entities fit in MAX_DRAWS attempts.
    """
    builder = config.map_builder
    rows, cols = builder.height, builder.width
    if max(rows, cols) > MAX_SIDE:
        raise MapError(f"the map has {rows} rows and {cols} columns; the maximum is {MAX_SIDE} of each")
    cells = _build_part(builder, config, PartConstraints(num_dealt_groups=len(config.game.groups)), generator)
    if not (cells < EMPTY).any():
        raise MapError("the map has no agent; a world needs at least one")
    return cells


def _build_part(
    builder: MapBuilder, config: EnvConfig, constraints: PartConstraints, generator: np.random.Generator
) -> Cells:
    """Generate a map or a part of one."""
    if builder.connected and not constraints.connected:
        constraints = replace(constraints, connected=True)
    match builder:
        case AsciiConfig():
            return _build_ascii(builder, config, constraints)
        case RoomsConfig():
            return _build_rooms(builder, config, constraints, generator)
        case MirroredConfig():
            return _build_mirrored(builder, config, constraints, generator)
        case ChoiceConfig():
            chosen = np.cumsum(builder.shares).searchsorted(generator.random(), side="right")
            part = builder.builders[min(int(chosen), len(builder.builders) - 1)]
            return _build_part(part, config, constraints, generator)
        case _:
            return _build_scattered(builder, config, constraints, generator)


def _build_scattered(
    builder: ScatterConfig, config: EnvConfig, constraints: PartConstraints, generator: np.random.Generator
) -> Cells:
    """Generate a floor and place objects and agents on it; if they do not fit, generate another one."""
    wall = _type_id(config.object_types, "wall")
    agents = _agents(builder, config, constraints)
    sample = _range_sampler(generator)
    for _ in range(MAX_DRAWS):
        resolved = builder.resolve_ranges(sample)
        border, shape = resolved.border_width, resolved.inner_shape
        entities = np.concatenate([_objects(resolved, config), agents])
        cells = np.full((resolved.height, resolved.width), wall, np.int16)
        inside = cells[border : border + shape[0], border : border + shape[1]]
        if isinstance(resolved, MapBuilderConfig) and not constraints.connected and not resolved.mean_distance:
            if len(entities) > shape[0] * shape[1]:
                continue
            flat = np.zeros(shape[0] * shape[1], np.int16)
            flat[generator.choice(len(flat), size=len(entities), replace=False)] = entities
            inside[...] = flat.reshape(shape)
        else:
            layout = generate_floor(resolved, shape, generator)
            kept_free = [
                (row - border) * shape[1] + col - border
                for row, col in constraints.entrances
                if 0 <= row - border < shape[0] and 0 <= col - border < shape[1]
            ]
            found = place_entities(
                resolved, layout, len(entities) - len(agents), kept_free, constraints.connected, generator
            )
            if found is None:
                continue
            floor, placed = found
            inside[floor] = EMPTY
            inside[placed // shape[1], placed % shape[1]] = entities
        if open_entrances(cells, constraints.entrances, wall) or not constraints.connected:
            return cells
    raise MapError(_no_space_message(resolved, len(entities), constraints.connected))


def _no_space_message(builder: ScatterConfig, entities: int, connected: bool) -> str:
    """The error message for a floor on which not all entities fit."""
    rows, cols = builder.inner_shape
    if isinstance(builder, MapBuilderConfig) and not connected:
        return f"{entities} objects and agents do not fit into {rows} x {cols} = {rows * cols} cells"
    reachable = ", each reachable by every agent" if connected else ""
    return (
        f"{entities} objects and agents do not fit{reachable}: map_builder.type = "
        f'"{builder.type}" of {rows} x {cols} cells was generated {MAX_DRAWS} times'
    )


def _range_sampler(generator: np.random.Generator) -> RangeResolver:
    """A function that samples uniformly from a range; integers from ranges of integers, which include the maximum."""

    def sample(range_: Range) -> float:
        if isinstance(range_.min, int) and isinstance(range_.max, int):
            return int(generator.integers(range_.min, range_.max + 1))
        return float(generator.uniform(range_.min, range_.max))

    return sample


def _objects(builder: ScatterConfig, config: EnvConfig) -> Cells:
    """The cell values of all objects to place. `[objects] int16`"""
    values = np.array([_type_id(config.object_types, name) for name in builder.objects], np.int16)
    return values.repeat(list(builder.objects.values()))


def _agents(builder: ScatterConfig, config: EnvConfig, constraints: PartConstraints) -> Cells:
    """The cell values of the agents to place. `[agents] int16`

    Without numbers by group, agent n of a world is in group n modulo `num_dealt_groups`, so that groups are as equal in
    size as possible, in the world and in each room.
    """
    if isinstance(builder.agents, AgentCounts):
        names = list(config.game.groups)
        by_group = builder.agents.by_group
        groups = np.array([names.index(name) for name in by_group], np.int64).repeat(list(by_group.values()))
    else:
        first = constraints.first_agent
        groups = np.arange(first, first + builder.agents) % constraints.num_dealt_groups
    return (-1 - groups).astype(np.int16)


def _build_rooms(
    builder: RoomsConfig, config: EnvConfig, constraints: PartConstraints, generator: np.random.Generator
) -> Cells:
    """Generate rooms in row-major order, each centered in its grid cell, with walls around and doors between them."""
    builder = builder.resolve_ranges(_range_sampler(generator))
    wall, door = _type_id(config.object_types, "wall"), builder.door_width
    heights, widths, thickness = builder.row_heights, builder.col_widths, builder.border_width
    tops = np.cumsum([thickness, *(height + thickness for height in heights)]).tolist()
    lefts = np.cumsum([thickness, *(width + thickness for width in widths)]).tolist()
    cells = np.full((builder.height, builder.width), wall, np.int16)
    first_agent = constraints.first_agent
    edges = []  # by room: top, bottom, left, right
    for number, room in enumerate(builder.all_rooms):
        row, col = divmod(number, builder.cols)
        top = tops[row] + (heights[row] - room.height) // 2
        left = lefts[col] + (widths[col] - room.width) // 2
        bottom, right = top + room.height, left + room.width
        edges.append((top, bottom, left, right))
        across = range(tops[row] + (heights[row] - door) // 2 - top, tops[row] + (heights[row] + door) // 2 - top)
        down = range(lefts[col] + (widths[col] - door) // 2 - left, lefts[col] + (widths[col] + door) // 2 - left)
        entrances = [(r - top, c - left) for r, c in constraints.entrances if top <= r < bottom and left <= c < right]
        entrances += [(r, 0) for r in across] if col > 0 else []
        entrances += [(r, room.width - 1) for r in across] if col < builder.cols - 1 else []
        entrances += [(0, c) for c in down] if row > 0 else []
        entrances += [(room.height - 1, c) for c in down] if row < builder.rows - 1 else []
        part = replace(constraints, entrances=tuple(dict.fromkeys(entrances)), first_agent=first_agent)
        cells[top:bottom, left:right] = _build_part(room, config, part, generator)
        first_agent += room.agents

    for number, (_, bottom, _, right) in enumerate(edges):  # a door is a passage through the wall between two rooms
        row, col = divmod(number, builder.cols)
        if col < builder.cols - 1:
            start = tops[row] + (heights[row] - door) // 2
            cells[start : start + door, right : edges[number + 1][2]] = EMPTY
        if row < builder.rows - 1:
            start = lefts[col] + (widths[col] - door) // 2
            cells[bottom : edges[number + builder.cols][0], start : start + door] = EMPTY
    _require_entrances(cells, constraints, wall, builder)
    return cells


def _build_mirrored(
    builder: MirroredConfig, config: EnvConfig, constraints: PartConstraints, generator: np.random.Generator
) -> Cells:
    """Generate one image and its mirror images; agents of image n are n groups further than those of the first."""
    wall, border = _type_id(config.object_types, "wall"), builder.border_width
    (image_rows, image_cols), (height, width) = builder.images, (builder.builder.height, builder.builder.width)
    is_rotated = builder.symmetry == "rotated"
    entrances = []
    for row, col in constraints.entrances:  # mapped to the first image; the others are copies of it
        row, col = row - border, col - border
        if 0 <= row < image_rows * height and 0 <= col < image_cols * width:
            row = row if row < height and not (is_rotated and col >= width) else image_rows * height - 1 - row
            entrances.append((row, col if col < width else 2 * width - 1 - col))
    if constraints.connected and image_cols == 2:
        row = int(generator.integers(height))
        entrances += [(row, width - 1), (height - 1 - row, width - 1)] if is_rotated else [(row, width - 1)]
    if constraints.connected and image_rows == 2:
        entrances.append((height - 1, int(generator.integers(width))))
    num_dealt_groups = 1 if builder.apart else constraints.num_dealt_groups
    part = replace(constraints, entrances=tuple(dict.fromkeys(entrances)), num_dealt_groups=num_dealt_groups)
    image = _build_part(builder.builder, config, part, generator)

    cells = np.full((builder.height, builder.width), wall, np.int16)
    for row in range(image_rows):
        for col in range(image_cols):
            mirrored = image[:: -1 if row or (is_rotated and col) else 1, :: -1 if col else 1]
            number = row * image_cols + col
            groups = (-1 - mirrored.astype(np.int64) + number) % len(config.game.groups)
            top, left = border + row * height, border + col * width
            cells[top : top + height, left : left + width] = np.where(mirrored < EMPTY, -1 - groups, mirrored)
    _require_entrances(cells, constraints, wall, builder)
    return cells


def _require_entrances(cells: Cells, constraints: PartConstraints, wall: int, builder: MapBuilder) -> None:
    """Open the entrances of a part by removing walls. Raises MapError if the part must be connected and cannot be."""
    if not open_entrances(cells, constraints.entrances, wall) and constraints.connected:
        raise MapError(f'an entrance of the map of map_builder.type = "{builder.type}" is blocked by an object')


def _build_ascii(builder: AsciiConfig, config: EnvConfig, constraints: PartConstraints) -> Cells:
    """The cells of a drawn map, with its entrances opened.

    Raises MapError for rows of different lengths, unknown objects or groups, and entrances that cannot be opened.
    """
    if any(len(row) != builder.drawing_width for row in builder.rows):
        raise MapError("the rows of the drawn map must have the same length")
    drawing = np.array(["".join(builder.rows)]).view(np.uint32)
    glyphs, glyph_of_cell = np.unique(drawing, return_inverse=True)
    meanings = builder.meanings
    values = [_cell_value(meanings.get(chr(glyph)), config) for glyph in glyphs]
    drawn = np.array(values, np.int16)[glyph_of_cell].reshape(len(builder.rows), builder.drawing_width)
    wall = _type_id(config.object_types, "wall")
    cells = np.pad(drawn, builder.border_width, constant_values=wall)
    goal = None
    if constraints.connected and constraints.entrances:  # connect entrances to the first agent, if there is one
        agents = (cells < EMPTY).ravel().nonzero()[0]
        goal = reachable_cells(cells <= EMPTY, int(agents[0])) if len(agents) else largest_component(cells <= EMPTY)
    is_open = open_entrances(cells, constraints.entrances, wall, goal)
    if constraints.connected and not is_open:
        raise MapError("an entrance of the drawn map is blocked by an object, or the drawn map has no floor")
    return cells


def _cell_value(name: str | None, config: EnvConfig) -> int:
    """The map value of a cell by name: 0 for "empty", a type id, or -(group index + 1) for an agent.

    Raises MapError for an unknown object or group.
    """
    if name == "empty":
        return EMPTY
    if name == "agent":
        return -1
    if name is not None and name.startswith("agent."):
        groups = list(config.game.groups)
        group = name.removeprefix("agent.")
        if group not in groups:
            raise MapError(f'the map has an agent of the unknown group "{group}"; known: {", ".join(groups)}')
        return -1 - groups.index(group)
    return _type_id(config.object_types, name)


def _type_id(types: Mapping[str, ObjectConfig], name: str | None) -> int:
    """The type id of an object. Raises MapError for an unknown name."""
    entry = types.get(name or "")
    if entry is None or entry.type_id is None:
        raise MapError(f'the map has an unknown object "{name}"; known: {", ".join(types)}')
    return entry.type_id
