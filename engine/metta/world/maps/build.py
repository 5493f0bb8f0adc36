"""Config and a generator of random numbers in, cells out: what stands where when an episode begins.

A map is `[rows, cols] int16`: 0 an empty cell, t > 0 an object of type id t, -(g + 1) an agent of the g-th group of
`config.game.groups`, in the order of that table.

A builder that makes a map of others' maps says to each what it must bring along: that it is connected, and on its edge
the gates, cells that are open and lead inside. Connected parts whose gates meet are a connected whole. A reset of many
worlds is part of the time of a step: what is drawn most often, open floors and caves, loops over nothing.

**What bounds it.** Calls, on open floors; where all must be connected, loops over cells as well. In microseconds a map:

    open: 32 x 32 20, 64 x 64 25, rich 30, four rooms of 25 x 25 140
    connected: 32 x 32 115, 64 x 64 190, the four rooms 850
    terrain of 18 x 18 (`navigation`) 250, a maze (`navigation_sequence`) 140, connected too

Of the terrain's, a third is its obstacles, a fifth its largest piece, a quarter places for objects. 64 connected worlds
of 4 agents that all end cost 22 to 60 steps of theirs, where open floors cost 18: such a batch takes but half a
millisecond a step. Tried and left out: obstacles looked for in lines of bits (no faster).
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
from metta.config.env.map_generators import ScatterConfig
from metta.config.env.objects import ObjectConfig
from metta.config.env.ranges import Range, RangeResolver
from metta.errors import MapError
from metta.world.maps.connectivity import largest_component, reachable
from metta.world.maps.entrances import Cells, open_gates
from metta.world.maps.generators import Cell, draw_floor
from metta.world.maps.placement import find_places

EMPTY = 0
MOST_DRAWS = 20
"""Times that a floor is drawn before it is taken for sure that not everything fits."""

LONGEST_SIDE = 4096
"""Rows or columns at most, as in `env.game`; rooms and drawn maps are measured only here."""


@dataclass(frozen=True)
class PartConstraints:
    """What a part of a map must bring along."""

    connected: bool = False
    gates: tuple[Cell, ...] = ()
    """cells on its edge that are open and lead inside"""
    first_agent: int = 0
    """agents on the map before it"""
    dealt: int = 1
    """groups that agents are dealt to, the first so many"""


def build_map(config: EnvConfig, generator: np.random.Generator) -> Cells:
    """A fresh map `[rows, cols] int16` as `config.map_builder` describes it.

    Equal generators give equal maps; a drawn map takes nothing from the generator.
    Raises MapError where the rules of the config leave no map: no agent, or a side that is too long; or where not
    everything fits in many tries.
    """
    builder = config.map_builder
    rows, cols = builder.height, builder.width
    if max(rows, cols) > LONGEST_SIDE:
        raise MapError(f"the map is {rows} rows x {cols} columns; at most {LONGEST_SIDE} either way")
    cells = _built(builder, config, PartConstraints(dealt=len(config.game.groups)), generator)
    if not (cells < EMPTY).any():
        raise MapError("the map has no agent; a world needs at least one")
    return cells


def _built(builder: MapBuilder, config: EnvConfig, demand: PartConstraints, generator: np.random.Generator) -> Cells:
    """A map, or a part of one."""
    if builder.connected and not demand.connected:
        demand = replace(demand, connected=True)
    match builder:
        case AsciiConfig():
            return _drawn(builder, config, demand)
        case RoomsConfig():
            return _rooms(builder, config, demand, generator)
        case MirroredConfig():
            return _mirrored(builder, config, demand, generator)
        case ChoiceConfig():
            chosen = np.cumsum(builder.shares).searchsorted(generator.random(), side="right")
            part = builder.builders[min(int(chosen), len(builder.builders) - 1)]
            return _built(part, config, demand, generator)
        case _:
            return _scattered(builder, config, demand, generator)


def _scattered(
    builder: ScatterConfig, config: EnvConfig, demand: PartConstraints, generator: np.random.Generator
) -> Cells:
    """The floor of a builder with objects and agents on it. One without room for them is drawn again."""
    wall = _type_id(config.object_types, "wall")
    agents = _agents(builder, demand)
    choose = _chooser(generator)
    for _ in range(MOST_DRAWS):
        drawn = builder.resolve_ranges(choose)
        border, shape = drawn.border_width, drawn.inner_shape
        entities = np.concatenate([_objects(drawn, config), agents])
        cells = np.full((drawn.height, drawn.width), wall, np.int16)
        inside = cells[border : border + shape[0], border : border + shape[1]]
        if isinstance(drawn, MapBuilderConfig) and not demand.connected and not drawn.mean_distance:
            if len(entities) > shape[0] * shape[1]:
                continue
            flat = np.zeros(shape[0] * shape[1], np.int16)
            flat[generator.choice(len(flat), size=len(entities), replace=False)] = entities
            inside[...] = flat.reshape(shape)
        else:
            layout = draw_floor(drawn, shape, generator)
            kept_free = [
                (row - border) * shape[1] + col - border
                for row, col in demand.gates
                if 0 <= row - border < shape[0] and 0 <= col - border < shape[1]
            ]
            found = find_places(drawn, layout, len(entities) - len(agents), kept_free, demand.connected, generator)
            if found is None:
                continue
            floor, places = found
            inside[floor] = EMPTY
            inside[places // shape[1], places % shape[1]] = entities
        if open_gates(cells, demand.gates, wall) or not demand.connected:
            return cells
    raise MapError(_does_not_fit(drawn, len(entities), demand.connected))


def _does_not_fit(builder: ScatterConfig, entities: int, connected: bool) -> str:
    rows, cols = builder.inner_shape
    if isinstance(builder, MapBuilderConfig) and not connected:
        return f"{entities} objects and agents do not fit into {rows} x {cols} = {rows * cols} cells"
    how = ", each within reach of every agent" if connected else ""
    return (
        f"{entities} objects and agents do not fit{how}: map_builder.type = "
        f'"{builder.type}" of {rows} x {cols} cells was drawn {MOST_DRAWS} times'
    )


def _chooser(generator: np.random.Generator) -> RangeResolver:
    def choose(one: Range) -> float:
        if isinstance(one.min, int) and isinstance(one.max, int):
            return int(generator.integers(one.min, one.max + 1))
        return float(generator.uniform(one.min, one.max))

    return choose


def _objects(builder: ScatterConfig, config: EnvConfig) -> Cells:
    """The cell values of all objects to place. `[objects] int16`"""
    values = np.array([_type_id(config.object_types, name) for name in builder.objects], np.int16)
    return values.repeat(list(builder.objects.values()))


def _agents(builder: ScatterConfig, demand: PartConstraints) -> Cells:
    """The cell values of the agents to place. `[agents] int16`

    Agents are dealt to the groups in turn, as cards are: the world's n-th agent is of group n mod groups. So the
    groups are as even as they can be, over the rooms of a world as well as in each of them.
    """
    groups = np.arange(demand.first_agent, demand.first_agent + builder.agents) % demand.dealt
    return (-1 - groups).astype(np.int16)


def _rooms(builder: RoomsConfig, config: EnvConfig, demand: PartConstraints, generator: np.random.Generator) -> Cells:
    """Rooms in reading order, each its own draw in the middle of its place; walls around and between them; doors."""
    builder = builder.resolve_ranges(_chooser(generator))
    wall, door = _type_id(config.object_types, "wall"), builder.door_width
    heights, widths, thickness = builder.row_heights, builder.col_widths, builder.border_width
    tops = np.cumsum([thickness, *(height + thickness for height in heights)]).tolist()
    lefts = np.cumsum([thickness, *(width + thickness for width in widths)]).tolist()
    cells = np.full((builder.height, builder.width), wall, np.int16)
    first_agent = demand.first_agent
    edges = []  # of each room: top, bottom, left, right
    for number, room in enumerate(builder.all_rooms):
        row, col = divmod(number, builder.cols)
        top = tops[row] + (heights[row] - room.height) // 2
        left = lefts[col] + (widths[col] - room.width) // 2
        bottom, right = top + room.height, left + room.width
        edges.append((top, bottom, left, right))
        across = range(tops[row] + (heights[row] - door) // 2 - top, tops[row] + (heights[row] + door) // 2 - top)
        down = range(lefts[col] + (widths[col] - door) // 2 - left, lefts[col] + (widths[col] + door) // 2 - left)
        gates = [(r - top, c - left) for r, c in demand.gates if top <= r < bottom and left <= c < right]
        gates += [(r, 0) for r in across] if col > 0 else []
        gates += [(r, room.width - 1) for r in across] if col < builder.cols - 1 else []
        gates += [(0, c) for c in down] if row > 0 else []
        gates += [(room.height - 1, c) for c in down] if row < builder.rows - 1 else []
        part = replace(demand, gates=tuple(dict.fromkeys(gates)), first_agent=first_agent)
        cells[top:bottom, left:right] = _built(room, config, part, generator)
        first_agent += room.agents

    for number, (_, bottom, _, right) in enumerate(edges):  # a door opens all that is between two rooms
        row, col = divmod(number, builder.cols)
        if col < builder.cols - 1:
            start = tops[row] + (heights[row] - door) // 2
            cells[start : start + door, right : edges[number + 1][2]] = EMPTY
        if row < builder.rows - 1:
            start = lefts[col] + (widths[col] - door) // 2
            cells[bottom : edges[number + builder.cols][0], start : start + door] = EMPTY
    _lead_inside(cells, demand, wall, builder)
    return cells


def _mirrored(
    builder: MirroredConfig, config: EnvConfig, demand: PartConstraints, generator: np.random.Generator
) -> Cells:
    """One image, and its mirror images with the next groups' agents."""
    wall, border = _type_id(config.object_types, "wall"), builder.border_width
    (image_rows, image_cols), (height, width) = builder.images, (builder.builder.height, builder.builder.width)
    turned = builder.symmetry == "rotated"
    gates = []
    for row, col in demand.gates:  # in one image, a gate of any other is a gate as well
        row, col = row - border, col - border
        if 0 <= row < image_rows * height and 0 <= col < image_cols * width:
            row = row if row < height and not (turned and col >= width) else image_rows * height - 1 - row
            gates.append((row, col if col < width else 2 * width - 1 - col))
    if demand.connected and image_cols == 2:
        row = int(generator.integers(height))
        gates += [(row, width - 1), (height - 1 - row, width - 1)] if turned else [(row, width - 1)]
    if demand.connected and image_rows == 2:
        gates.append((height - 1, int(generator.integers(width))))
    dealt = 1 if builder.apart else demand.dealt
    part = replace(demand, gates=tuple(dict.fromkeys(gates)), dealt=dealt)
    image = _built(builder.builder, config, part, generator)

    cells = np.full((builder.height, builder.width), wall, np.int16)
    for row in range(image_rows):
        for col in range(image_cols):
            one = image[:: -1 if row or (turned and col) else 1, :: -1 if col else 1]
            number = row * image_cols + col
            groups = (-1 - one.astype(np.int64) + number) % len(config.game.groups)
            top, left = border + row * height, border + col * width
            cells[top : top + height, left : left + width] = np.where(one < EMPTY, -1 - groups, one)
    _lead_inside(cells, demand, wall, builder)
    return cells


def _lead_inside(cells: Cells, demand: PartConstraints, wall: int, builder: MapBuilder) -> None:
    """Open the gates of a part, which takes away walls alone."""
    if not open_gates(cells, demand.gates, wall) and demand.connected:
        raise MapError(f'a door into the map of map_builder.type = "{builder.type}" has an object behind it')


def _drawn(builder: AsciiConfig, config: EnvConfig, demand: PartConstraints) -> Cells:
    """The cells of a drawn map, glyph by glyph."""
    if any(len(row) != builder.width for row in builder.rows):
        raise MapError("the rows of the drawn map are not equally long")
    drawing = np.array(["".join(builder.rows)]).view(np.uint32)
    glyphs, places = np.unique(drawing, return_inverse=True)
    values = [_cell_value(builder.cell_name(chr(glyph)), config) for glyph in glyphs]
    cells = np.array(values, np.int16)[places].reshape(builder.height, builder.width)
    goal = None
    if demand.connected and demand.gates:  # to where its agents are, if it has any
        agents = (cells < EMPTY).ravel().nonzero()[0]
        goal = reachable(cells <= EMPTY, int(agents[0])) if len(agents) else largest_component(cells <= EMPTY)
    if not open_gates(cells, demand.gates, _type_id(config.object_types, "wall"), goal) and demand.connected:
        raise MapError("a door into the drawn map has an object behind it, or leads nowhere")
    return cells


def _cell_value(name: str | None, config: EnvConfig) -> int:
    """What a cell of this name holds: 0, a type id, or -(index of the agent's group + 1)."""
    if name == "empty":
        return EMPTY
    if name == "agent":
        return -1
    if name is not None and name.startswith("agent."):
        groups = list(config.game.groups)
        group = name.removeprefix("agent.")
        if group not in groups:
            raise MapError(f'the map has an agent of an unknown group "{group}"; known: {", ".join(groups)}')
        return -1 - groups.index(group)
    return _type_id(config.object_types, name)


def _type_id(types: Mapping[str, ObjectConfig], name: str | None) -> int:
    entry = types.get(name or "")
    if entry is None or entry.type_id is None:
        raise MapError(f'the map has an unknown object "{name}"; known: {", ".join(types)}')
    return entry.type_id
