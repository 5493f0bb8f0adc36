"""Readable state of one world, for display and replays: cells as an array, converters, and a text drawing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.config.env.labels import cell_glyphs
from metta.world.state.worlds import IDLE, Worlds

AGENT_GLYPHS = "^v<>"
"""Glyph of an agent, indexed by orientation."""


def view_cells(worlds: Worlds, world: int) -> NDArray[np.int16]:
    """The cells of a world: see `MettaGridEnv.cells`. `[rows, cols] int16`"""
    worlds.check_episode(world)
    pad = worlds.pad
    game = worlds.compiled.tasks[int(worlds.task[world])].game
    slot = worlds.grid[worlds.slot_start[world] : worlds.slot_start[world] + worlds.slot_size].reshape(
        -1, worlds.stride
    )
    return worlds.cell_codes()[slot[pad : pad + game.height, pad : pad + game.width]]


def converter_rows(worlds: Worlds, world: int) -> NDArray[np.int64]:
    """Rows of the converters of a world in the converter arrays, in row-major order of the map. `[converters] int64`"""
    worlds.check_episode(world)
    first, slots = world * worlds.converter_slots, worlds.converter_slots
    return first + np.flatnonzero(worlds.converter_cell[first : first + slots] >= 0)


def view_converters(worlds: Worlds, world: int) -> dict[str, NDArray[Any]]:
    """The state of the converters of a world: see `MettaGridEnv.converters`."""
    rows = converter_rows(worlds, world)
    return {
        "type_id": worlds.compiled.types.type_id[worlds.converter_type[rows]],
        "position": worlds.positions(worlds.converter_cell[rows] - worlds.slot_start[world]),
        "is_busy": worlds.converter_phase[rows] != IDLE,
        "inventory": worlds.converter_inventory[rows],
        "states": worlds.converter_state[rows],
    }


def draw_world(worlds: Worlds, world: int) -> str:
    """A text drawing of a world: see `MettaGridEnv.render`."""
    cells = view_cells(worlds, world)
    config = worlds.compiled.configs[int(worlds.ruleset[world])]
    glyph_of = cell_glyphs(config)
    glyphs = {entry.type_id: glyph_of[name] for name, entry in config.object_types.items()} | {0: glyph_of["empty"]}
    canvas = [[glyphs.get(code, "@") for code in row] for row in cells.tolist()]
    rows = worlds.rows_of(world)
    positions = worlds.positions(worlds.cell[rows] - worlds.slot_start[world])
    for (row, col), orientation in zip(positions.tolist(), worlds.orientation[rows].tolist(), strict=True):
        canvas[row][col] = AGENT_GLYPHS[orientation]
    return "\n".join("".join(row) for row in canvas)
