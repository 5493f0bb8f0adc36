"""Observation encoding: the window around each agent as a list of (location, feature id, value) tokens.

The rows of each window are gathered, the occupied cells in them are sorted into token order, and each entity is
expanded to its tokens from a table (`token_table.py`). The tokens of each agent, truncated to `num_observation_tokens`,
are copied to its row, or one agent after the other to a buffer without padding (`packed.py`).

`tests/benchmarks/README.md` lists where the time of these steps goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metta.config.env.token_features import NO_TOKEN
from metta.world.observation.packed import Observations, PackedObservations
from metta.world.observation.token_table import TokenTable
from metta.world.state.worlds import EMPTY, Worlds

# constants as arrays, see compiled_config.py
NOTHING = np.array(EMPTY, np.int32)
INDEX_BITS = np.array(0xFFFFFFFF)

CHUNK = 512
"""Number of agents encoded at once: fewer take more NumPy calls, more cause cache misses."""


def window_cells(height: int, width: int) -> list[tuple[int, int]]:
    """(row, col) offsets from the agent of the cells of a window, in token order.

    Token order, as in MettaGrid: by L1 distance, then by row, then the cell to the right before the cell to the left.
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
    """The tokens of all observations in compressed sparse row format: concatenated, without padding.

    The tokens of agent i are at `offsets[i]` to `offsets[i + 1] - 1`, in the order of its dense observation.
    """

    indices: NDArray[np.int32]
    """`[tokens]`: location * number of features + feature id; locations are 0 to 255"""
    values: NDArray[np.uint8]
    """`[tokens]`"""
    offsets: NDArray[np.int64]
    """`[agents + 1]`"""


class _TokenStream(NamedTuple):
    """Concatenated tokens of some agents, not truncated."""

    tokens: NDArray[np.uint8]  # three bytes per token; padded by the size of an observation after the last token
    starts: NDArray[np.int64]  # [agents], index of the first token of each
    totals: NDArray[np.int64]  # [agents], number of tokens; can exceed `num_observation_tokens`


class Window:
    """Cell offsets and token locations of the observation window, and scratch arrays.

    Observers of worlds of the same size share one.
    """

    def __init__(self, worlds: Worlds):
        spec = worlds.compiled.spec
        cells = window_cells(spec.observation_height, spec.observation_width)
        half_height, half_width = spec.observation_height // 2, spec.observation_width // 2
        # first the global tokens, which have the location of the agent's own cell, then the cells of the window
        locations = [spec.center, *((row + half_height) << 4 | (col + half_width) for row, col in cells)]
        self.num_cells, self.width = len(cells), spec.observation_width
        self.rank_of_location = np.zeros(256, np.int64)
        self.rank_of_location[locations[1:]] = np.arange(len(cells))
        layers = worlds.compiled.parts.num_layers + worlds.compiled.types.has_walkable
        locations[1:] = np.repeat(locations[1:], layers).tolist()
        # What the agents of a chunk see has keys in the order of their tokens: agent * places + place, where places are
        # the globals and then the layers of the cells in token order. Tables are indexed by key.
        places, height, width = len(locations), spec.observation_height, spec.observation_width
        self.chunk = min(CHUNK, worlds.agents, (1 << 16) // places)  # keys are uint16
        first_key = np.arange(self.chunk)[:, None] * places
        self.global_keys = first_key.ravel().astype(np.uint16)  # by agent
        self.is_global = np.tile(np.arange(places) == 0, self.chunk)
        self.locations = np.tile(np.array(locations, np.int64) << 32, self.chunk)
        # each row of a window is copied as one element, and its cells are found row by row
        self.row_offsets = (np.arange(height) - half_height) * worlds.stride - half_width
        self.grid_row = np.dtype((np.void, width * worlds.grid.itemsize))
        in_rows = np.array([(row + half_height) * width + (col + half_width) for row, col in cells])
        keys = np.empty((self.chunk, layers, len(cells)), np.uint16)
        keys[:, :, in_rows] = (first_key + 1)[:, :, None] + np.arange(layers)[:, None] + np.arange(len(cells)) * layers
        self.keys = keys.ravel()  # by agent, layer and cell, row by row
        self.cell_of_key = np.zeros(self.chunk * places, np.int64)  # the inverse
        self.cell_of_key[self.keys] = np.arange(len(self.keys))
        # Ends with cells that count as occupied, since NumPy finds the true values of an array in half the time if they
        # are more than a tenth of it; here they would often be just under a tenth.
        self.tail = len(self.keys) // 20 + 1
        self.is_occupied = np.ones(len(self.keys) + self.tail, np.bool_)
        self.numbers = np.arange(self.chunk * spec.num_observation_tokens)  # as many as the largest chunk has tokens

        self.num_tokens = spec.num_observation_tokens
        self.full = np.array(self.num_tokens)
        # a whole observation as one array element, so that NumPy copies it at once
        self.row = np.dtype((np.void, self.num_tokens * 3))
        # indexed by number of tokens: the bytes to combine with a row by OR, 0xff after its last token
        used = np.repeat(np.arange(self.num_tokens), 3) < np.arange(self.num_tokens + 1)[:, None]
        self.unused = np.where(used, 0, NO_TOKEN).astype(np.uint8)


class Observer:
    """Encodes the observations of `worlds`, which must not have more agents than the worlds of `window`."""

    def __init__(self, worlds: Worlds, window: Window):
        self.worlds = worlds
        self.window = window
        self.table = TokenTable(worlds)
        self._num_tokens = window.num_tokens
        self._num_features = len(worlds.compiled.spec.feature_names)
        self._streams: dict[int, _TokenStream] = {}  # last observations, by first agent of each chunk
        self._restarted: list[int] = []  # worlds whose cached observations are outdated

    def rebuild(self) -> None:
        """Rebuild the token table and discard cached observations, after the state of the worlds was replaced."""
        self.table.rebuild()
        self._streams, self._restarted = {}, []

    def discard(self, restarted: Sequence[int]) -> None:
        """Discard the cached observations of worlds that have started a new episode."""
        self._restarted += restarted

    def observe(self, rows: NDArray[np.int64] | None, out: Observations, is_counted: bool = True) -> None:
        """Write observations of agents `rows` (None: all) to `out`, `[rows, tokens, 3] uint8` or packed.

        With `is_counted`, their tokens are added to the statistics of the episodes.
        """
        self.table.update()
        worlds, streams, end, size = self.worlds, {}, 0, self.window.chunk
        for start in range(0, len(out), size):
            chunk = slice(start, start + size) if rows is None else rows[start : start + size]
            stream = self._tokens(chunk)
            written = np.minimum(stream.totals, self._num_tokens)
            if is_counted:
                worlds.tokens_written[chunk] += written
                worlds.tokens_dropped[chunk] += stream.totals - written
            if isinstance(out, PackedObservations):
                tokens = self._truncated(stream)
                out.buffer[end : end + len(tokens)] = tokens
                out.counts[start : start + size] = written
                end += len(tokens)
            else:
                self._copy_rows(stream, written, out[start : start + size])
            streams[start] = stream
        self._streams, self._restarted = streams if rows is None else {}, []

    def compact(self) -> CompactObservations:
        """The last observations of all agents: see CompactObservations."""
        streams = self._last_streams()
        location, feature, value = np.concatenate([self._truncated(stream) for stream in streams]).T
        indices = location * np.int32(self._num_features)
        indices += feature
        counts = np.minimum(np.concatenate([stream.totals for stream in streams]), self._num_tokens)
        return CompactObservations(indices, np.ascontiguousarray(value), np.concatenate([[0], counts.cumsum()]))

    def last_tokens(self) -> NDArray[np.int64] | None:
        """The last token of each full observation, as `rank << 8 | feature id` (tokens are in ascending order of it).

        `rank` is the index of the token's cell in `window_cells`, -1 for global tokens. For an observation with unused
        token slots, which holds all entities of the window, it is the number of cells. None if that is true of all
        observations. `[agents] int64`
        """
        if not self._may_be_full():
            return None
        streams = self._last_streams()
        codes = []
        for stream in streams:
            code = np.full(len(stream.totals), self.window.num_cells << 8)
            full = (stream.totals >= self._num_tokens).nonzero()[0]
            last = stream.starts[full] + (self._num_tokens - 1)
            location, feature = stream.tokens[3 * last], stream.tokens[3 * last + 1]
            is_global = self._num_tokens <= self.table.num_globals
            code[full] = -1 if is_global else self.window.rank_of_location[location] << 8 | feature
            codes.append(code)
        return np.concatenate(codes)

    def _may_be_full(self) -> bool:
        """Whether any observation may have no unused token slots, without encoding observations again."""
        worlds, streams = self.worlds, self._streams
        if len(streams) * self.window.chunk < worlds.agents:
            return True
        for stream in streams.values():
            if np.count_nonzero(stream.totals >= self.window.full):
                return True
        if not self._restarted:
            return False
        rows = worlds.rows_of_worlds(np.array(self._restarted))
        return bool(worlds.tokens_written[rows].max() >= self._num_tokens)  # of their first observations

    def _last_streams(self) -> list[_TokenStream]:
        """The tokens of the last observations, in chunks of agents; encoded again in worlds that were reset since."""
        self.worlds.check_episode(0)
        starts = range(0, self.worlds.agents, self.window.chunk)
        for world in self._restarted:
            rows = self.worlds.rows_of(world)
            for start in range(rows.start - rows.start % self.window.chunk, rows.stop, self.window.chunk):
                self._streams.pop(start, None)
        self._restarted = []
        if len(self._streams) < len(starts):
            self.table.update()
            for start in starts:
                if start not in self._streams:
                    self._streams[start] = self._tokens(slice(start, start + self.window.chunk))
        return [self._streams[start] for start in starts]

    def feature_grid(self, world: int) -> NDArray[np.uint8]:
        """The values of all tokens of a world by cell and feature: see `MettaGridEnv.feature_grid`."""
        self.worlds.check_episode(world)
        self.table.update()
        worlds, table, pad = self.worlds, self.table, self.worlds.pad
        start = int(worlds.slot_start[world])
        slots = [layer[start : start + worlds.slot_size] for layer in (worlds.grid, *table.layers)]
        slot = np.stack(slots).reshape(-1, worlds.slot_rows, worlds.stride)[:, pad:-pad, pad:-pad]
        layers, shape = slot.reshape(len(slots), -1), slot.shape[1:]
        layer, cells = (layers > EMPTY).nonzero()
        entities = layers[layer, cells]
        agents = worlds.rows_of(world)
        row, col = worlds.positions(worlds.cell[agents] - worlds.slot_start[world]).T
        # the global tokens of each agent belong to its cell
        cells = np.concatenate([cells, row * shape[1] + col])
        entities = np.concatenate([entities, worlds.first_global + worlds.all_agents[agents]])
        position, token = (np.arange(table.slots) < table.counts[entities][:, None]).nonzero()
        tokens = table.tokens[entities[position], token]
        grid = np.zeros((layers.shape[1], self._num_features), np.uint8)
        grid[cells[position], tokens & 0xFF] = tokens >> 8
        return grid.reshape(*shape, -1)

    def _tokens(self, rows: NDArray[np.int64] | slice) -> _TokenStream:
        """All tokens of at most `window.chunk` agents, not truncated to `num_observation_tokens`."""
        worlds, window = self.worlds, self.window
        corners = worlds.cell[rows][:, None] + window.row_offsets
        grid = worlds.grid
        found = self._rows_at(grid, corners)
        if layers := self.table.layers:
            by_layer = [found, *(self._rows_at(layer, corners) for layer in layers)]
            found = np.stack([entities.reshape(len(corners), -1) for entities in by_layer], axis=1).ravel()
        is_occupied = window.is_occupied[-len(found) - window.tail :]
        np.greater(found, NOTHING, out=is_occupied[: len(found)])
        occupied = is_occupied.nonzero()[0][: -window.tail]
        sorted_keys = np.concatenate((window.keys.take(occupied), window.global_keys[: len(corners)]))
        sorted_keys.sort()
        keys = sorted_keys.astype(np.int64)
        entities = found.take(window.cell_of_key.take(keys)).astype(np.int64)
        globals_ = window.is_global.take(keys).nonzero()[0]
        entities[globals_] = grid[worlds.globals_start :][rows]
        counts = self.table.counts.take(entities)
        ends = np.add.accumulate(counts)
        starts = ends - counts
        total = int(ends[-1])

        # low 32 bits: index of each token in the table; high 32 bits: its location
        first = window.locations.take(keys)
        entities *= self.table.slots
        first += entities
        first -= starts
        source = first.repeat(counts)
        if total > len(window.numbers):
            window.numbers = np.arange(2 * total)
        source += window.numbers[:total]

        tokens = np.empty((total + self._num_tokens) * 3, np.uint8)
        tokens[: total * 3 : 3] = source.view(np.uint8)[4::8]
        source &= INDEX_BITS
        np.ndarray(total, np.uint16, tokens, 1, (3,))[...] = self.table.tokens.ravel().take(source)

        agent_starts = starts.take(globals_)
        for slot, locations in self.table.offset_locations.items():
            tokens[3 * (agent_starts + slot)] = locations[rows]
        totals = np.empty(len(corners), np.int64)
        np.subtract(agent_starts[1:], agent_starts[:-1], out=totals[:-1])
        totals[-1] = total - agent_starts[-1]
        return _TokenStream(tokens, agent_starts, totals)

    def _rows_at(self, grid: NDArray[np.int32], corners: NDArray[np.int64]) -> NDArray[np.int32]:
        """The entities in the rows of windows that start at `corners [agents, rows]`, concatenated."""
        window = self.window
        rows = np.ndarray(len(grid) - window.width, window.grid_row, grid, 0, (grid.itemsize,))  # they overlap
        return rows[corners].view(np.int32).ravel()

    def _truncated(self, stream: _TokenStream) -> NDArray[np.uint8]:
        """The tokens of all agents, at most `num_observation_tokens` of each. `[tokens, 3] uint8`"""
        end = int(stream.starts[-1] + stream.totals[-1])
        tokens = stream.tokens[: end * 3].reshape(-1, 3)
        if stream.totals.max() <= self._num_tokens:
            return tokens
        position = np.arange(end) - stream.starts.repeat(stream.totals)
        return tokens[position < self._num_tokens]

    def _copy_rows(self, stream: _TokenStream, written: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy the tokens of each agent to its row of `out`, and fill the row with 0xff.

        A fixed number of tokens is copied for every agent, which is faster; those of the next agents are overwritten.
        """
        num_starts = len(stream.tokens) // 3 - self._num_tokens + 1
        rows = np.ndarray(num_starts, self.window.row, stream.tokens, 0, (3,))[stream.starts].view(np.uint8)
        unused = self.window.unused.take(written, axis=0)
        np.bitwise_or(rows.reshape(unused.shape), unused, out=out.reshape(unused.shape))
