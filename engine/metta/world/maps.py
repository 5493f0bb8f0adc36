"""Config and a generator of random numbers in, cells out: what stands where when an episode begins.

A map is `[rows, cols] int16`: 0 an empty cell, t > 0 an object of type id t, -(g + 1) an agent of the g-th group of
`config.game.groups`, in the order of that table. Nothing here loops over cells or things: a reset of many worlds is
part of the time of a step.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from metta.config.env import EnvConfig
from metta.config.layouts import ScatterTable
from metta.config.map_builder import AsciiConfig, MapBuilderConfig, RoomsConfig
from metta.config.objects import ObjectConfig
from metta.errors import MapError
from metta.world.floors import draw_floor
from metta.world.reach import connected_places

Cells = NDArray[np.int16]
"""`[rows, cols] int16`, see the module."""

EMPTY = 0
MOST_DRAWS = 20
"""Times that a floor is drawn before it is taken for sure that not everything fits."""

LONGEST_SIDE = 4096
"""Rows or columns at most, as in `env.game`; rooms and drawn maps are measured only here."""


def build_map(config: EnvConfig, generator: np.random.Generator) -> Cells:
    """A fresh map `[rows, cols] int16` as `config.map_builder` describes it.

    Equal generators give equal maps; a drawn map takes nothing from the generator.
    Raises MapError where the rules of the config leave no map: no agent, or a side that is too long.
    """
    builder = config.map_builder
    rows, cols = builder.height, builder.width
    if max(rows, cols) > LONGEST_SIDE:
        raise MapError(f"the map is {rows} rows x {cols} columns; at most {LONGEST_SIDE} either way")
    if isinstance(builder, AsciiConfig):
        cells = _drawn(builder, config)
    elif isinstance(builder, RoomsConfig):
        cells = _rooms(builder, config, generator)
    elif builder.connected or not isinstance(builder, MapBuilderConfig):
        things = np.concatenate([_objects(builder, config), _agents(builder, config, first_agent=0)])
        cells = _on_floor(builder, _type_id(config.object_types, "wall"), things, generator)
    else:
        cells = np.full((rows, cols), _type_id(config.object_types, "wall"), np.int16)
        things = np.concatenate([_objects(builder, config), _agents(builder, config, first_agent=0)])
        _scatter(cells, builder, things, generator)
    if not (cells < EMPTY).any():
        raise MapError("the map has no agent; a world needs at least one")
    return cells


def _scatter(
    cells: Cells, builder: MapBuilderConfig, things: NDArray[np.int16], generator: np.random.Generator
) -> None:
    """Clear the inside of `cells` (its border stays) and put each of `things` on a free cell, all equally likely."""
    border = builder.border_width
    rows, cols = builder.height - 2 * border, builder.width - 2 * border
    if len(things) > rows * cols:
        raise MapError(f"{len(things)} objects and agents do not fit into {rows} x {cols} = {rows * cols} cells")
    inside = np.zeros(rows * cols, np.int16)
    inside[generator.choice(rows * cols, size=len(things), replace=False)] = things
    cells[border : border + rows, border : border + cols] = inside.reshape(rows, cols)


def _on_floor(builder: ScatterTable, wall: int, things: Cells, generator: np.random.Generator) -> Cells:
    """The floor of a builder with `things` on it, the objects first. A floor without room for them is drawn again."""
    border = builder.border_width
    shape = builder.height - 2 * border, builder.width - 2 * border
    for _ in range(MOST_DRAWS):
        floor = draw_floor(builder, shape, generator)
        if builder.connected:
            places = connected_places(floor, things, generator)
        else:
            free = floor.ravel().nonzero()[0]
            places = generator.choice(free, size=len(things), replace=False) if len(things) <= len(free) else None
        if places is not None:
            inside = np.where(floor, EMPTY, wall).astype(np.int16)
            inside.ravel()[places] = things
            cells = np.full((builder.height, builder.width), wall, np.int16)
            cells[border : border + shape[0], border : border + shape[1]] = inside
            return cells
    how = ", each within reach of every agent" if builder.connected else ""
    raise MapError(
        f"{len(things)} objects and agents do not fit{how}: map_builder.type = "
        f'"{builder.type}" of {shape[0]} x {shape[1]} cells was drawn {MOST_DRAWS} times, the last one with '
        f"{int(floor.sum())} cells of floor"
    )


def _objects(builder: ScatterTable, config: EnvConfig) -> Cells:
    """The cell values of all objects to place. `[objects] int16`"""
    values = np.array([_type_id(config.object_types, name) for name in builder.objects], np.int16)
    return values.repeat(list(builder.objects.values()))


def _agents(builder: ScatterTable, config: EnvConfig, first_agent: int) -> Cells:
    """The cell values of the agents to place. `[agents] int16`

    Agents are dealt to the groups in turn, as cards are: the world's n-th agent is of group n mod groups. So the
    groups are as even as they can be, over the rooms of a world as well as in each of them.
    """
    groups = np.arange(first_agent, first_agent + builder.agents) % len(config.game.groups)
    return (-1 - groups).astype(np.int16)


def _rooms(builder: RoomsConfig, config: EnvConfig, generator: np.random.Generator) -> Cells:
    """Rooms in reading order, each its own draw; the walls around and between them; then the doors."""
    room, wall = builder.room, builder.border_width
    cells = np.full((builder.height, builder.width), _type_id(config.object_types, "wall"), np.int16)
    tops = [wall + row * (room.height + wall) for row in range(builder.rows)]
    lefts = [wall + col * (room.width + wall) for col in range(builder.cols)]
    objects = _objects(room, config)
    for number, (top, left) in enumerate((top, left) for top in tops for left in lefts):
        things = np.concatenate([objects, _agents(room, config, first_agent=number * room.agents)])
        _scatter(cells[top : top + room.height, left : left + room.width], room, things, generator)

    # A door opens the whole wall between two insides: the wall of the grid and the rooms' own borders beside it.
    door, thickness = builder.door_width, wall + 2 * room.border_width
    for top in tops:
        for left in lefts[1:]:
            start, edge = top + (room.height - door) // 2, left - wall - room.border_width
            cells[start : start + door, edge : edge + thickness] = EMPTY
    for top in tops[1:]:
        for left in lefts:
            start, edge = left + (room.width - door) // 2, top - wall - room.border_width
            cells[edge : edge + thickness, start : start + door] = EMPTY
    return cells


def _drawn(builder: AsciiConfig, config: EnvConfig) -> Cells:
    """The cells of a drawn map, glyph by glyph."""
    if any(len(row) != builder.width for row in builder.rows):
        raise MapError("the rows of the drawn map are not equally long")
    drawing = np.array(["".join(builder.rows)]).view(np.uint32)
    glyphs, places = np.unique(drawing, return_inverse=True)
    values = [_cell_value(builder.cell_name(chr(glyph)), config) for glyph in glyphs]
    return np.array(values, np.int16)[places].reshape(builder.height, builder.width)


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
