"""What agents see: tokens (location, feature id, value) of everything in the window around them.

The cells of each window are gathered in the order in which tokens are listed, so that the things in them come out
sorted; each thing is expanded to its tokens from a table (token_table.py); and each agent's tokens are copied to its
row, cut to its capacity.

**What bounds it.** Passes over the 122 places looked at, the 10 to 16 things found and the 34 to 42 tokens of each
agent, not memory: its 600 bytes of observation (rows and blanks) are an eighth of the time. There are 4 passes over
places (add, take, compare, nonzero), some 12 over things and 6 over tokens (repeat, add, location, mask, take, copy).
An agent takes 0.3 to 0.9 microseconds, as the machine has it that day; of that in percent, sparse map and rich map:

    where to look 21, 17 | gather 12, 10 | what is there 13, 16 | things 11, 12 | expansion 13, 18
    bytes of tokens 10, 11 | ends 5, 4 | rows 7, 6 | blanks 8, 6

Tried and left out: keeping "where to look" from step to step and rewriting it for agents that moved (28 to 50 ns less
up to 4,096 agents, nothing at 65,536, and 1 KB more per agent); the expansion as one sum over steps within things and
jumps between them (90 to 110 ns more; only NumPy before version 2 repeats more slowly than it sums); writing tokens one
by one to their places in the padded rows (2,000 ns in all); blanks by a mask (165 ns more than OR-ing a row of a
table); chunks of 256 or 1,024 agents (3 percent slower, 3 faster); threads (the interpreter lock eats them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metta.world.observation.token_table import TokenTable
from metta.world.state.worlds import EMPTY, Worlds

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


@dataclass(frozen=True)
class CompactObservations:
    """The tokens of padded observations without the padding, agent after agent.

    Those of agent i are `offsets[i]` to `offsets[i + 1]`, in the order they have in its observation. For a layer that
    is a table of weights by (location, feature id), `indices` are its rows: location * number of features + feature id.
    """

    indices: NDArray[np.int32]  # [tokens]
    values: NDArray[np.uint8]  # [tokens]
    offsets: NDArray[np.int64]  # [agents + 1]


class _Stream(NamedTuple):
    """Tokens of some agents, one agent after the other."""

    tokens: NDArray[np.uint8]  # bytes, three to a token, with room for a whole row after the last
    begins: NDArray[np.int64]  # [agents], each one's first token
    totals: NDArray[np.int64]  # [agents], how many it has; perhaps more than fit in its observation


class Window:
    """What observers of worlds of one size share: where to look, what blanks out, and room for what they find."""

    def __init__(self, worlds: Worlds):
        spec = worlds.compiled.spec
        cells = window_cells(spec.observation_height, spec.observation_width)
        half_height, half_width = spec.observation_height // 2, spec.observation_width // 2
        # what is gathered for an agent: its globals, at the same location as its own cell, then its window
        locations = [spec.center, *((row + half_height) << 4 | (col + half_width) for row, col in cells)]
        agents = min(CHUNK, worlds.agents)
        self.locations = np.tile(np.array(locations, np.int64) << 32, agents)
        self.offsets = np.array([0, *(row * worlds.stride + col for row, col in cells)])
        self.gathered = np.empty((agents, len(locations)), np.int64)
        self.found = np.empty((agents, len(locations)), np.int32)

        self.num_tokens = spec.num_observation_tokens
        self.row = np.dtype((np.void, self.num_tokens * 3))  # all bytes of an observation as one thing to copy
        # by number of tokens, what blanks out the rest of a row
        used = np.repeat(np.arange(self.num_tokens), 3) < np.arange(self.num_tokens + 1)[:, None]
        self.blank = np.where(used, 0, NO_TOKEN).astype(np.uint8)


class Observer:
    """Draws the observations of a batch, of no more agents than `window` was made for."""

    def __init__(self, worlds: Worlds, window: Window):
        self.worlds = worlds
        self.window = window
        self.table = TokenTable(worlds)
        self._num_tokens = window.num_tokens
        self._num_features = len(worlds.compiled.spec.feature_names)
        self._streams: dict[int, _Stream] = {}  # by first agent: of CHUNK agents each, as last observed

    def redraw(self) -> None:
        """Forget what was drawn: the worlds have been replaced."""
        self.table.redraw()
        self._streams = {}

    def forget(self, begun: Sequence[int]) -> None:
        """Forget the last observations in the worlds `begun`, which have begun anew."""
        for world in begun:
            rows = self.worlds.rows_of(world)
            for start in range(rows.start - rows.start % CHUNK, rows.stop, CHUNK):
                self._streams.pop(start, None)

    def observe(self, rows: NDArray[np.int64] | None, out: NDArray[np.uint8]) -> None:
        """Write the observations of agents `rows` (None: all) to `out` `[rows, tokens, 3]`, and count their tokens."""
        self.table.update()
        worlds, streams = self.worlds, {}
        for start in range(0, len(out), CHUNK):
            chunk = slice(start, start + CHUNK) if rows is None else rows[start : start + CHUNK]
            stream = self._tokens(chunk)
            written = np.minimum(stream.totals, self._num_tokens)
            worlds.tokens_written[chunk] += written
            worlds.tokens_dropped[chunk] += stream.totals - written
            self._copy_rows(stream, written, out[start : start + CHUNK])
            streams[start] = stream
        self._streams = streams if rows is None else {}

    def compact(self) -> CompactObservations:
        """The last observations of all agents in compact form."""
        starts = range(0, self.worlds.agents, CHUNK)
        if len(self._streams) < len(starts):
            self.table.update()
        tokens, counts = [], []
        for start in starts:
            if start not in self._streams:
                self._streams[start] = self._tokens(slice(start, start + CHUNK))
            stream = self._streams[start]
            end = int(stream.begins[-1] + stream.totals[-1])
            own = stream.tokens[: end * 3].reshape(-1, 3)
            if stream.totals.max() > self._num_tokens:
                place = np.arange(end) - stream.begins.repeat(stream.totals)
                own = own[place < self._num_tokens]
            tokens.append(own)
            counts.append(np.minimum(stream.totals, self._num_tokens))
        location, feature, value = np.concatenate(tokens).T
        indices = location * np.int32(self._num_features)
        indices += feature
        offsets = np.concatenate([[0], *counts]).cumsum()
        return CompactObservations(indices, np.ascontiguousarray(value), offsets)

    def _tokens(self, rows: NDArray[np.int64] | slice) -> _Stream:
        """All tokens in the windows of at most CHUNK agents."""
        worlds, window = self.worlds, self.window
        cells = worlds.cell[rows]
        gathered, found = window.gathered[: len(cells)], window.found[: len(cells)]
        np.add(cells[:, None], window.offsets, out=gathered)
        gathered[:, 0] = worlds.globals_cell[rows]
        # no index is out of range: of the ways to treat those that are, wrapping costs least
        worlds.grid.take(gathered, out=found, mode="wrap")
        seen = (found > EMPTY).ravel().nonzero()[0]
        entities = found.ravel().take(seen)
        counts = self.table.counts.take(entities)
        ends = counts.cumsum()
        starts = ends - counts
        total = int(ends[-1])

        # where in the table each token is, and, 32 bits higher, its location, for one pass to give both
        first = window.locations.take(seen)
        first += entities * np.int64(self.table.slots)
        first -= starts
        source = first.repeat(counts)
        source += np.arange(total)

        tokens = np.empty((total + self._num_tokens) * 3, np.uint8)
        tokens[: total * 3 : 3] = source.view(np.uint8)[4::8]
        source &= 0xFFFFFFFF
        np.ndarray(total, np.uint16, tokens, 1, (3,))[...] = self.table.tokens.ravel().take(source)

        begins = starts[(entities < worlds.first_swappable).nonzero()[0]]  # every agent's first thing are its globals
        totals = np.empty(len(cells), np.int64)
        np.subtract(begins[1:], begins[:-1], out=totals[:-1])
        totals[-1] = total - begins[-1]
        return _Stream(tokens, begins, totals)

    def _copy_rows(self, stream: _Stream, written: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy each row at full length, with the tokens of whoever comes next, and blank those out."""
        places = len(stream.tokens) // 3 - self._num_tokens + 1
        rows = np.ndarray(places, self.window.row, stream.tokens, 0, (3,))[stream.begins].view(np.uint8)
        blanks = self.window.blank.take(written, axis=0)
        np.bitwise_or(rows.reshape(blanks.shape), blanks, out=out.reshape(blanks.shape))
