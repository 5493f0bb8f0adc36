"""What agents see: tokens (location, feature id, value) of everything in the window around them.

Three stages. Each thing has a row in the *token table*, drawn anew only when the thing has changed. Per agent, the
cells of its window are gathered in the order tokens are listed in, so that the things in it come out sorted. Each thing
found is expanded to its tokens, and the tokens are cut to the agent's capacity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.world.state import EMPTY, IDLE, Worlds

# ids of features, as in BASE_FEATURES of the config; in the order in which the tokens of a thing are listed
GLOBAL_FEATURES = (8, 9, 10, 11)  # episode_completion_pct, last_action, last_action_arg, last_reward
AGENT_FEATURES = (0, 1, 3, 4, 5)  # type_id, group, frozen, orientation, color
CONVERTER_FEATURES = (0, 5, 6)  # type_id, color, converting
SWAPPABLE_FEATURES = (0, 7)  # type_id, swappable
PLAIN_FEATURES = (0,)  # type_id
FIRST_ITEM = 12

NUM_GLOBALS, AGENT_FIXED, CONVERTER_FIXED = len(GLOBAL_FEATURES), len(AGENT_FEATURES), len(CONVERTER_FEATURES)
SWAPPABLE_FIXED, PLAIN_FIXED = len(SWAPPABLE_FEATURES), len(PLAIN_FEATURES)

NO_TOKEN = 0xFF
CHUNK = 512
"""Agents observed at a time: fewer pay for calls, more for cache misses."""


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
        spec = worlds.rules.spec
        cells = window_cells(spec.observation_height, spec.observation_width)
        half_height, half_width = spec.observation_height // 2, spec.observation_width // 2
        # what is gathered for an agent: its globals, at the same location as its own cell, then its window
        locations = [spec.center, *((row + half_height) << 4 | (col + half_width) for row, col in cells)]
        self.locations = np.tile(np.array(locations, np.uint8), CHUNK)
        self.offsets = np.array([row * worlds.stride + col for row, col in cells])
        self.gathered = np.empty((CHUNK, len(locations)), np.int64)
        self.found = np.empty((CHUNK, len(locations)), np.int32)

        self.num_tokens = spec.num_observation_tokens
        # by number of tokens, what blanks out the rest of a row
        used = np.repeat(np.arange(self.num_tokens), 3) < np.arange(self.num_tokens + 1)[:, None]
        self.blank = np.where(used, 0, NO_TOKEN).astype(np.uint8)
        self.slots = AGENT_FIXED + worlds.rules.num_items
        self.redraw()

    def redraw(self) -> None:
        """Draw the token table of everything there is. `[things, slots]`, a token is feature id | value << 8."""
        worlds = self.worlds
        self.table = np.zeros((worlds.first_converter + len(worlds.converter_type), self.slots), np.uint16)
        self.counts = np.zeros(len(self.table), np.int64)
        # the two bytes of each token; features of the fixed slots are written once and only values from then on
        features, self.values = np.moveaxis(self.table.view(np.uint8).reshape(*self.table.shape, 2), -1, 0)
        global_, swappable = (
            slice(worlds.first_global, worlds.first_swappable),
            slice(worlds.first_swappable, worlds.first_agent),
        )
        agent, plain = slice(worlds.first_agent, worlds.first_plain), slice(worlds.first_plain, worlds.first_converter)
        features[global_, :NUM_GLOBALS] = GLOBAL_FEATURES
        features[swappable, :SWAPPABLE_FIXED] = SWAPPABLE_FEATURES
        features[agent, :AGENT_FIXED] = AGENT_FEATURES
        features[worlds.first_converter :, :CONVERTER_FIXED] = CONVERTER_FEATURES
        self.counts[global_], self.counts[swappable], self.counts[plain] = NUM_GLOBALS, SWAPPABLE_FIXED, PLAIN_FIXED
        self.global_values, self.agent_values = self.values[global_], self.values[agent]
        types = worlds.rules.types
        self.values[plain, 0] = types.type_id[: types.plain_walls]
        self.values[swappable, 0] = types.type_id[types.plain_walls : types.static]
        self.values[swappable, 1] = 1
        worlds.items_changed[:] = True
        worlds.converter_changed[:] = worlds.converter_cell >= 0

    def observe(self, rows: NDArray[np.int64] | None, out: NDArray[np.uint8]) -> None:
        """Write the observations of agents `rows` (None: all) to `out` `[rows, tokens, 3]`."""
        self._draw_things()
        rows = self.worlds.everyone if rows is None else rows
        for start in range(0, len(rows), CHUNK):
            self._observe_chunk(rows[start : start + CHUNK], out[start : start + CHUNK])

    # -- the token table ----------------------------------------------------------------------------------------

    def _draw_things(self) -> None:
        """Bring the token table up to date."""
        worlds = self.worlds
        if len(self.table) != worlds.first_converter + len(worlds.converter_type):
            self.redraw()
        self.global_values[:, 0] = self._completion().repeat(worlds.num_agents)
        self.global_values[:, 1:3] = worlds.last_action
        self.global_values[:, 3] = reward_byte(worlds.reward)
        self.agent_values[:, 2] = worlds.freeze != 0
        self.agent_values[:, 3] = worlds.orientation
        self.agent_values[:, 4] = worlds.color
        agents = worlds.items_changed.nonzero()[0]
        if agents.size:
            self.agent_values[agents, 1] = worlds.rules.groups.token_id[worlds.group_row[agents]]
            self._draw_items(worlds.first_agent + agents, AGENT_FIXED, worlds.listed[agents], worlds.inventory[agents])
            worlds.items_changed[agents] = False
        converters = worlds.converter_changed.nonzero()[0]
        if converters.size:
            self._draw_converters(converters)
            worlds.converter_changed[converters] = False

    def _completion(self) -> NDArray[np.int64]:
        """Part of the episode that is over, in 255ths, by world; past the end it wraps in its byte."""
        worlds = self.worlds
        return rounded(worlds.steps / worlds.rules.rulesets.max_steps[worlds.ruleset] * 255.0)

    def _draw_converters(self, converters: NDArray[np.int64]) -> None:
        worlds = self.worlds
        things = worlds.first_converter + converters
        types, type_rows = worlds.rules.types, worlds.converter_type[converters]
        self.values[things, 0] = types.type_id[type_rows]
        self.values[things, 1] = types.color[type_rows]
        self.values[things, 2] = worlds.converter_phase[converters] != IDLE
        held = worlds.converter_inventory[converters]
        self._draw_items(things, CONVERTER_FIXED, held > 0, held)

    def _draw_items(
        self, things: NDArray[np.int64], fixed: int, listed: NDArray[np.bool_], amounts: NDArray[np.int16]
    ) -> None:
        """Item tokens of things, after their `fixed` other tokens. `listed`, `amounts [things, items]`"""
        ends = np.add.accumulate(listed, axis=1, dtype=np.int64)
        position, item = listed.nonzero()
        slot = fixed - 1 + ends[position, item]
        self.table[things[position], slot] = FIRST_ITEM + item + (amounts[position, item].astype(np.int64) << 8)
        self.counts[things] = fixed + listed.sum(axis=1)

    # -- from cells to tokens -----------------------------------------------------------------------------------

    def _observe_chunk(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        worlds = self.worlds
        gathered, found = self.gathered[: len(rows)], self.found[: len(rows)]
        gathered[:, 0] = worlds.globals_start + rows
        np.add(worlds.cell[rows, None], self.offsets, out=gathered[:, 1:])
        # no index is out of range: of the ways to treat those that are, wrapping costs least
        worlds.grid.take(gathered, out=found, mode="wrap")
        seen = (found > EMPTY).ravel().nonzero()[0]
        things = found.ravel().take(seen)
        counts = self.counts.take(things)
        ends = counts.cumsum()
        starts = ends - counts
        total = int(ends[-1])

        # Where in the table each token is, and, 32 bits higher, its location: both go up by one or not at all from a
        # token to the next of the same thing, and jump from thing to thing. A sum over steps and jumps gives all of
        # them in one pass; `repeat` takes longer for so few repetitions.
        first = (self.locations.take(seen).astype(np.int64) << 32) + things * np.int64(self.slots)
        steps = np.ones(total, np.int64)
        steps[0] = first[0]
        steps[starts[1:]] = first[1:] - first[:-1] - counts[:-1] + 1
        source = steps.cumsum()

        # tokens of all agents, one after the other, with room for a whole row after the last
        stream = np.empty((total + self.num_tokens) * 3, np.uint8)
        stream[: total * 3 : 3] = source.view(np.uint8)[4::8]
        source &= 0xFFFFFFFF
        np.ndarray(total, np.uint16, stream, 1, (3,))[...] = self.table.ravel().take(source)

        begins = starts[(things < worlds.first_swappable).nonzero()[0]]
        totals = np.empty(len(rows), np.int64)
        np.subtract(begins[1:], begins[:-1], out=totals[:-1])
        totals[-1] = total - begins[-1]
        written = np.minimum(totals, self.num_tokens)
        worlds.tokens_written[rows] += written
        worlds.tokens_dropped[rows] += totals - written
        # each row is copied at full length, with the tokens of whoever comes next, which are then blanked out
        row = np.dtype((np.void, self.num_tokens * 3))
        windows = np.ndarray(total + 1, row, stream, 0, (3,))
        bytes_out = out.reshape(len(rows), -1)
        bytes_out.view(row)[:, 0] = windows[begins]
        bytes_out |= self.blank.take(written, axis=0)


def reward_byte(reward: NDArray[np.float32]) -> NDArray[np.int64]:
    """The last_reward token's value: hundredths, rounded, 0 to 255."""
    hundredths = reward * np.float32(100)
    np.maximum(hundredths, np.float32(0), out=hundredths)
    np.minimum(hundredths, np.float32(255), out=hundredths)
    return rounded(hundredths)


def rounded(values: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Values that are not negative, rounded, halves up. (`floor(x + 0.5)` would round in its sum, too.)"""
    whole = values.astype(np.int64)
    whole += values - whole >= 0.5
    return whole
