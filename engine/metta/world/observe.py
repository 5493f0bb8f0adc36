"""What agents see: tokens (location, feature id, value) of everything in the window around them.

Three stages. Each thing has a row in the *token table*, drawn anew only when the thing has changed. Per agent, the
cells of its window are gathered in the order tokens are listed in, so that the things in it come out sorted. Each thing
found is expanded to its tokens, and the tokens are cut to the agent's capacity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.world.rules import Rules
from metta.world.state import IDLE, Worlds

# feature ids, in the order of BASE_FEATURES of the config
TYPE_ID, GROUP, _, FROZEN, ORIENTATION, COLOR, CONVERTING, SWAPPABLE = range(8)
EPISODE_COMPLETION, LAST_ACTION, LAST_ACTION_ARGUMENT, LAST_REWARD = range(8, 12)
FIRST_ITEM = 12

NUM_GLOBALS = 4
AGENT_FIXED = 5  # tokens of an agent before its items
CONVERTER_FIXED = 3

NO_TOKEN = 0xFF
CHUNK = 1024
"""Agents observed at a time: fewer pay for calls, more for cache misses."""


def token(feature: NDArray[np.integer[Any]] | int, value: NDArray[Any] | int) -> NDArray[np.uint32]:
    """A token without its location: feature id and value in the second and third byte."""
    return (np.asarray(feature, np.uint32) << np.uint32(8)) | (np.asarray(value).astype(np.uint32) << np.uint32(16))


def window_cells(height: int, width: int) -> list[tuple[int, int]]:
    """(row, col) offsets of the cells of a window in the order their tokens are listed.

    By L1 distance, then by row, then the cell to the right before the one to the left.
    """
    half_height, half_width = height // 2, width // 2
    cells = []
    for distance in range(half_height + half_width + 1):
        for row in range(-distance, distance + 1):
            side = distance - abs(row)
            cells += [(row, side), (row, -side)] if side else [(row, 0)]
    return [(row, col) for row, col in cells if abs(row) <= half_height and abs(col) <= half_width]


class Observer:
    """Draws the observations of a batch."""

    def __init__(self, worlds: Worlds):
        self.worlds = worlds
        rules = worlds.rules
        spec = rules.spec
        cells = window_cells(spec.observation_height, spec.observation_width)
        self.offsets = np.array([row * worlds.stride + col for row, col in cells])
        half_height, half_width = spec.observation_height // 2, spec.observation_width // 2
        locations = [(row + half_height) << 4 | (col + half_width) for row, col in cells]
        # an observer's own globals come before the cells, at the same location as its own
        self.columns = 1 + len(cells)
        self.locations = np.tile(np.array([spec.center, *locations]), CHUNK)
        self.num_tokens = rules.num_tokens
        self.slots = AGENT_FIXED + rules.num_items
        self.table = np.zeros((0, self.slots), np.uint32)
        self.counts = np.zeros(0, np.int64)
        self.totals = np.zeros(worlds.agents, np.int64)
        self._found = np.zeros((CHUNK, self.columns), np.int32)
        self.redraw()

    def redraw(self) -> None:
        """Draw the token table of everything there is."""
        worlds = self.worlds
        self.table = np.zeros((worlds.first_converter + len(worlds.converter_type), self.slots), np.uint32)
        self.counts = np.zeros(len(self.table), np.int64)
        self._draw_walls(worlds.rules)
        self.counts[worlds.first_global : worlds.first_wall] = NUM_GLOBALS
        worlds.agent_changed[:] = True
        worlds.converter_changed[:] = worlds.converter_cell >= 0

    def observe(self, rows: NDArray[np.int64] | None, out: NDArray[np.uint8]) -> None:
        """Write the observations of agents `rows` (None: all) to `out` `[rows, tokens, 3]`."""
        worlds = self.worlds
        if len(self.table) != worlds.first_converter + len(worlds.converter_type):
            self.redraw()
        self._draw_agents(np.flatnonzero(worlds.agent_changed))
        self._draw_converters(np.flatnonzero(worlds.converter_changed))
        worlds.agent_changed[:] = False
        worlds.converter_changed[:] = False
        self._draw_globals()
        rows = np.arange(worlds.agents) if rows is None else rows
        for start in range(0, len(rows), CHUNK):
            self._observe_chunk(rows[start : start + CHUNK], out[start : start + CHUNK])
        written = np.minimum(self.totals[rows], self.num_tokens)
        world = worlds.world[rows]
        for column, counted in enumerate((written, self.totals[rows] - written)):
            sums = np.bincount(world, counted, worlds.num_worlds)
            worlds.token_counters[:, column] += sums.astype(np.int64)

    # -- the token table ----------------------------------------------------------------------------------------

    def _draw_walls(self, rules: Rules) -> None:
        types, first = rules.types, self.worlds.first_wall
        walls = slice(first, first + types.static)
        self.table[walls, 0] = token(TYPE_ID, types.type_id[: types.static])
        self.counts[walls] = 1
        swappable = slice(self.worlds.first_swappable, first + types.static)
        self.table[swappable, 1] = token(SWAPPABLE, 1)
        self.counts[swappable] = 2

    def _draw_globals(self) -> None:
        worlds = self.worlds
        table = self.table[worlds.first_global : worlds.first_wall]
        table[:, 0] = token(EPISODE_COMPLETION, self._completion())[worlds.world]
        table[:, 1] = token(LAST_ACTION, worlds.last_action[:, 0])
        table[:, 2] = token(LAST_ACTION_ARGUMENT, worlds.last_action[:, 1])
        table[:, 3] = token(LAST_REWARD, reward_byte(worlds.reward))

    def _completion(self) -> NDArray[np.int64]:
        """Part of the episode that is over, in 255ths, by world; past the end it wraps."""
        worlds = self.worlds
        max_steps = worlds.rules.rulesets.max_steps[worlds.ruleset]
        part = worlds.steps / np.maximum(max_steps, 1) * 255.0
        return np.where(max_steps > 0, round_half_up(part).astype(np.int64) & 0xFF, 0)

    def _draw_agents(self, rows: NDArray[np.int64]) -> None:
        worlds = self.worlds
        things = worlds.first_agent + rows
        group_row = worlds.group_row[rows]
        self.table[things, 0] = token(TYPE_ID, 0)
        self.table[things, 1] = token(GROUP, worlds.rules.groups.token_id[group_row])
        self.table[things, 2] = token(FROZEN, worlds.freeze[rows] != 0)
        self.table[things, 3] = token(ORIENTATION, worlds.orientation[rows])
        self.table[things, 4] = token(COLOR, worlds.color[rows])
        self._draw_items(things, AGENT_FIXED, worlds.listed[rows], worlds.inventory[rows])

    def _draw_converters(self, converters: NDArray[np.int64]) -> None:
        worlds = self.worlds
        things = worlds.first_converter + converters
        types, type_rows = worlds.rules.types, worlds.converter_type[converters]
        self.table[things, 0] = token(TYPE_ID, types.type_id[type_rows])
        self.table[things, 1] = token(COLOR, types.color[type_rows])
        self.table[things, 2] = token(CONVERTING, worlds.converter_phase[converters] != IDLE)
        held = worlds.converter_inventory[converters]
        self._draw_items(things, CONVERTER_FIXED, held > 0, held)

    def _draw_items(
        self, things: NDArray[np.int64], fixed: int, listed: NDArray[np.bool_], amounts: NDArray[np.int16]
    ) -> None:
        """Item tokens of things, after their `fixed` other tokens. `listed`, `amounts [things, items]`"""
        position, item = np.nonzero(listed)
        slot = fixed + (np.cumsum(listed, axis=1) - 1)[position, item]
        self.table[things[position], slot] = token(FIRST_ITEM + item, amounts[position, item])
        self.counts[things] = fixed + listed.sum(axis=1)

    # -- from cells to tokens -----------------------------------------------------------------------------------

    def _observe_chunk(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        worlds = self.worlds
        found = self._found[: len(rows)]
        found[:, 0] = worlds.first_global + rows
        worlds.grid.take(worlds.cell[rows][:, None] + self.offsets, out=found[:, 1:], mode="clip")
        seen = np.flatnonzero(found > 0)
        things = found.ravel().take(seen)
        counts = self.counts.take(things)
        ends = np.cumsum(counts)
        starts = ends - counts
        source = np.repeat(things.astype(np.int64) * self.slots - starts, counts) + np.arange(ends[-1])
        location = np.repeat(self.locations.take(seen), counts)
        tokens = self.table.ravel().take(source) | location.astype(np.uint32)

        begins = starts[np.flatnonzero(things < worlds.first_wall)]
        totals = np.diff(begins, append=ends[-1])
        self.totals[rows] = totals
        position = np.arange(ends[-1]) - np.repeat(begins, totals)
        agent = np.repeat(np.arange(len(rows)), totals)
        kept = position < self.num_tokens
        out[...] = NO_TOKEN
        token_bytes = tokens.view(np.uint8).reshape(-1, 4)[:, :3]
        out[agent[kept], position[kept]] = token_bytes[kept]


def reward_byte(reward: NDArray[np.float32]) -> NDArray[np.int64]:
    """The last_reward token's value: hundredths, rounded, 0 to 255."""
    hundredths = np.clip(reward * np.float32(100), np.float32(0), np.float32(255))
    return round_half_up(hundredths).astype(np.int64)


def round_half_up(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Values that are not negative, rounded, halves up; `floor(x + 0.5)` would round in its sum, too."""
    whole = np.floor(values)
    rounded: NDArray[np.floating[Any]] = whole + (values - whole >= 0.5)
    return rounded
