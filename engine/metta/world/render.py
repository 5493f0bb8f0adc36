"""Worlds as people, tests and replays look at them: what stands where."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.config.env.map_builder import GLYPHS
from metta.world.state.worlds import IDLE, Worlds

FACING = "^v<>"


def view_cells(worlds: Worlds, world: int) -> NDArray[np.int16]:
    """What stands where, encoded as by `build_map`. `[rows, cols] int16`"""
    types, pad = worlds.compiled.types, worlds.pad
    game = worlds.compiled.tasks[int(worlds.task[world])].game
    slot = worlds.grid[worlds.slot_start[world] : worlds.slot_start[world] + worlds.slot].reshape(-1, worlds.stride)
    codes = np.zeros(worlds.num_entities, np.int16)
    codes[worlds.first_swappable : worlds.first_agent] = types.type_id[types.plain_walls : types.static]
    codes[worlds.first_agent : worlds.first_plain] = -1 - worlds.group_row % worlds.compiled.num_groups
    codes[worlds.first_plain : worlds.first_converter] = types.type_id[: types.plain_walls]
    codes[worlds.first_converter :] = types.type_id[worlds.converter_type]
    return codes[slot[pad : pad + game.height, pad : pad + game.width]]


def converter_rows(worlds: Worlds, world: int) -> NDArray[np.int64]:
    """The converters of a world in row-major order of the map."""
    first, slots = world * worlds.converter_slots, worlds.converter_slots
    return first + np.flatnonzero(worlds.converter_cell[first : first + slots] >= 0)


def view_converters(worlds: Worlds, world: int) -> dict[str, NDArray[Any]]:
    """The converters of a world in row-major order of the map: see `MettaGridEnv.converters`."""
    rows = converter_rows(worlds, world)
    return {
        "type_id": worlds.compiled.types.type_id[worlds.converter_type[rows]],
        "position": worlds.positions(worlds.converter_cell[rows] - worlds.slot_start[world]),
        "is_busy": worlds.converter_phase[rows] != IDLE,
        "inventory": worlds.converter_inventory[rows],
    }


def draw_world(worlds: Worlds, world: int) -> str:
    """A world as text: the glyphs of maps, agents as ^ v < > by where they face."""
    glyph_of = {name: glyph for glyph, name in reversed(GLYPHS.items())}
    kinds = worlds.compiled.configs[int(worlds.ruleset[world])].object_types
    glyphs = {kind.type_id: glyph_of.get(name, "?") for name, kind in kinds.items()} | {0: glyph_of["empty"]}
    canvas = [[glyphs.get(code, "@") for code in row] for row in view_cells(worlds, world).tolist()]
    rows = worlds.rows_of(world)
    places = worlds.positions(worlds.cell[rows] - worlds.slot_start[world])
    for (row, col), orientation in zip(places.tolist(), worlds.orientation[rows].tolist(), strict=True):
        canvas[row][col] = FACING[orientation]
    return "\n".join("".join(row) for row in canvas)
