"""Pictures of a world as arrays of pixels, for `render_mode="rgb_array"` of Gymnasium and PettingZoo.

A dome is a mine and a hexagon a generator, in their color; squares are other converters, in a color of their type. A
disc is an agent in the color of its group (Okabe and Ito 2008), with a white tip on the side that it faces; a blue ring
means that it is frozen. Busy converters are darker; a white dot means that an output can be taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from metta.config.env.objects import ObjectConfig
from metta.geometry import STEPS
from metta.world.render import converter_rows, view_cells, view_converters
from metta.world.state.worlds import Worlds

Pixels = NDArray[np.uint8]

FLOOR, WALL, MORTAR, BLOCK, BLOCK_EDGE = 0x1A2026, 0x606C79, 0x47515C, 0xA98A63, 0x3A2D1C
WHITE, BLACK, FROZEN, FROZEN_EDGE = 0xFFFFFF, 0x000000, 0xE4EFFA, 0x3B93F0
GROUP_COLORS: Final = (0xE69F00, 0x56B4E9, 0xF0E442, 0xCC79A7, 0x00B183, 0xFFFFFF, 0xE8622B, 0x5B8FD9)
"""Colors of agents, by group index, as on the replay page."""
OBJECT_COLORS: Final = (0xE8795A, 0x6CB6EE, 0x4FC79B, 0xE0B050, 0xC9A0DC, 0x9FB4C7)
"""Colors of mines and generators by their `color`, of other converters by type id."""

MAX_CELL, MIN_CELL, PICTURE_SIZE = 24, 4, 512
"""Pixels of a cell at most and at least; pixels of a picture at most, unless cells would be too small."""


def paint_world(worlds: Worlds, world: int, agent: int | None = None) -> Pixels:
    """A picture of a world: see `MettaGridEnv.render_rgb`. `[rows * pixels, cols * pixels, 3] uint8`"""
    cells = view_cells(worlds, world)
    rows, cols = worlds.slot_rows - 2 * worlds.pad, worlds.stride - 2 * worlds.pad  # of the largest map
    size = min(MAX_CELL, max(MIN_CELL, PICTURE_SIZE // max(rows, cols)))
    size -= size % 2  # video formats need an even number of pixels
    picture = np.zeros((rows, cols, size, size, 3), np.uint8)
    on_map = picture[: cells.shape[0], : cells.shape[1]]
    on_map[:] = rgb(FLOOR)
    types = {
        entry.type_id: entry for entry in worlds.compiled.configs[int(worlds.ruleset[world])].object_types.values()
    }
    for code in np.unique(cells[cells > 0]).tolist():
        _paint_object(on_map, cells == code, types[code])
    _mark_converters(on_map, worlds, world, types)
    members = worlds.rows_of(world)
    positions = worlds.positions(worlds.cell[members] - worlds.slot_start[world])
    for index, (row, col) in enumerate(positions.tolist(), members.start):
        group = int(worlds.group_row[index]) % worlds.compiled.num_groups
        _paint_agent(on_map[row, col], int(worlds.orientation[index]), group, is_frozen=worlds.freeze[index] != 0)
    flat = picture.transpose(0, 2, 1, 3, 4).reshape(rows * size, cols * size, 3)
    if agent is not None:
        spec, (row, col) = worlds.compiled.spec, positions[agent].tolist()
        height, width = spec.observation_height // 2, spec.observation_width // 2
        _outline(flat, (row - height) * size, (row + height + 1) * size, (col - width) * size, (col + width + 1) * size)
    return flat


def rgb(color: int) -> Pixels:
    """Red, green and blue of a color. `[3] uint8`"""
    return np.array([color >> 16, color >> 8 & 0xFF, color & 0xFF], np.uint8)


def _coordinates(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(down, right): coordinates of the pixels of a cell from its center, -0.5 to 0.5. `[size, 1]` and `[1, size]`"""
    places = (np.arange(size) + 0.5) / size - 0.5
    return places[:, None], places[None, :]


def _paint_object(on_map: Pixels, mask: NDArray[np.bool_], entry: ObjectConfig) -> None:
    """Paint an object into the cells of `mask [rows, cols]`."""
    down, right = _coordinates(on_map.shape[2])
    sprite = on_map[mask][0].copy()
    if entry.type != "wall":
        index = (entry.color if entry.type in ("mine", "generator") else entry.type_id) or 0
        sprite[_converter_shape(entry.type, down, right)] = rgb(OBJECT_COLORS[index % len(OBJECT_COLORS)])
    elif entry.swappable:
        inner = np.maximum(abs(down), abs(right))
        sprite[inner < 0.44] = rgb(BLOCK)
        is_cross = np.minimum(abs(down - right), abs(down + right)) < 0.06
        sprite[(inner < 0.44) & (is_cross | (inner > 0.36))] = rgb(BLOCK_EDGE)
    else:
        sprite[:] = rgb(WALL)
        upper, lower = down < 0, down >= 0
        is_mortar = (abs(down) < 0.04) | (down > 0.46) | (upper & (abs(right) < 0.04)) | (lower & (abs(right) > 0.46))
        sprite[is_mortar] = rgb(MORTAR)
    on_map[mask] = sprite


def _converter_shape(type_: str, down: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.bool_]:
    if type_ == "mine":
        is_roof = (down < 0) & (down**2 + right**2 < 0.44**2)
        return is_roof | ((down >= 0) & (down < 0.4) & (abs(right) < 0.44))
    if type_ == "generator":
        return (abs(right) < 0.43) & (abs(down) + abs(right) * 0.58 < 0.49)
    return np.asarray(np.maximum(abs(down), abs(right)) < 0.4)


def _mark_converters(on_map: Pixels, worlds: Worlds, world: int, types: Mapping[int | None, ObjectConfig]) -> None:
    """Darken busy converters and faint objects, and mark those that hold an output with a white dot."""
    state = view_converters(worlds, world)
    outputs = worlds.compiled.types.output[worlds.converter_type[converter_rows(worlds, world)]]
    is_ready = np.asarray(((state["inventory"] > 0) & (outputs > 0)).any(axis=1))
    down, right = _coordinates(on_map.shape[2])
    is_dot = down**2 + right**2 < 0.16**2
    for index, (row, col) in enumerate(state["position"].tolist()):
        is_faint = types[state["type_id"][index]].is_faint(state["states"][index].tolist())
        if state["is_busy"][index] or is_faint:
            shape = (on_map[row, col] != rgb(FLOOR)).any(axis=-1)
            on_map[row, col][shape] = on_map[row, col][shape] // 4 * (2 if is_faint else 3)
        if is_ready[index]:
            on_map[row, col][is_dot] = rgb(WHITE)


def _paint_agent(cell: Pixels, orientation: int, group: int, is_frozen: bool) -> None:
    down, right = _coordinates(len(cell))
    ahead_down, ahead_right = STEPS[orientation]
    ahead = down * ahead_down + right * ahead_right
    aside = abs(down * ahead_right) + abs(right * ahead_down)
    distance = np.sqrt(down**2 + right**2)
    cell[(ahead > 0.2) & (aside < 0.9 * (0.53 - ahead))] = rgb(WHITE)
    cell[distance < 0.36] = rgb(FROZEN_EDGE if is_frozen else WHITE)
    cell[distance < 0.3] = rgb(FROZEN if is_frozen else GROUP_COLORS[group % len(GROUP_COLORS)])
    cell[(distance < 0.3) & (ahead > 0.08) & (aside < 0.08)] = rgb(BLACK)


def _outline(picture: Pixels, top: int, bottom: int, left: int, right: int) -> None:
    """Draw the edges of a rectangle, of which only a part may be on the picture."""
    height, width = picture.shape[:2]
    rows, cols = slice(max(0, top), min(bottom, height)), slice(max(0, left), min(right, width))
    for row in (top, bottom - 1):
        if 0 <= row < height:
            picture[row, cols] = rgb(WHITE)
    for col in (left, right - 1):
        if 0 <= col < width:
            picture[rows, col] = rgb(WHITE)
