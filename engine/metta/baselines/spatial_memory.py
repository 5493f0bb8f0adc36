"""Memory of the scripted policy: a map of the cells that each agent has seen, updated from its observations.

A map consists of bitboards, on which the agent moves, from cell (0, 0) on. Rows and columns wrap around. The map holds
the whole world and what can be seen around it, or 64 x 64 cells if that is larger. When the agent moves, the row or
column 32 cells away is then cleared, so that the map covers the surroundings of the agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from metta.agent.memory.state import Memory
from metta.baselines.bitboards import (
    COL_STEPS,
    ROW_STEPS,
    Integers,
    Mask,
    Words,
    column_bit,
    count_bits,
    shift_columns,
    word_size,
)
from metta.baselines.observation_parser import OBJECTS, SEEN, ParsedObservation, Planes
from metta.baselines.recipe_values import MAX_FILL, RecipeValues
from metta.config.env.env_config import EnvConfig

REVISIT_AFTER: Final = 20
"""Number of conversions after which an empty converter is assumed to have output: another agent may have filled it."""

MAX_MISMATCHES: Final = 4
"""The map is discarded if at least this many cells differ between map and observation."""

MAX_ROWS: Final = 64
"""Rows of the largest maps, which have as many columns."""

_SIGNED: Final = {4: np.int32, 8: np.int64}
"""Bytes of a word -> the type of its tensors, since torch lacks most operations on unsigned integers."""


@dataclass(frozen=True)
class MapFormat:
    """The size of the maps of an environment."""

    rows: int
    dtype: np.dtype[np.unsignedinteger[Any]]
    """type of the words"""
    wraps_rows: bool
    """whether rows far from the agent are cleared, because the world and what is seen around it has more rows"""
    wraps_cols: bool
    """the same for columns"""

    @classmethod
    def of(cls, env_config: EnvConfig) -> MapFormat:
        """The smallest format for these environments, with a multiple of 16 rows, so that few sizes of maps exist.

        At least one row and one column are never seen, as a border.
        """
        game = env_config.game
        rows = -(-(game.height + 2 * (game.observation_height // 2) + 1) // 16) * 16
        cols = game.width + 2 * (game.observation_width // 2) + 1
        small, large = np.dtype(np.uint32), np.dtype(np.uint64)
        dtype: np.dtype[np.unsignedinteger[Any]] = small if cols <= word_size(small) else large
        return cls(min(rows, MAX_ROWS), dtype, rows > MAX_ROWS, cols > word_size(dtype))


@dataclass(frozen=True)
class SpatialMemory:
    """Each agent's map. The last axis is that of agents, which makes operations on whole rows fast.

    A `Memory` has the same arrays as tensors `[1, agents, ...]`, with the axes in reverse; empty maps are zero.
    """

    maps: Words
    """`[planes, rows, agents]`: the planes of `Planes`"""
    outside: Words
    """`[rows, agents]`: cells outside the world, which look free but could not be entered"""
    age: Integers
    """`[agents]`: steps since the map was empty"""
    row: Integers
    """`[agents]`: the agent's row on the map, which wraps around"""
    col: Integers
    """`[agents]`: the agent's column on the map, which wraps around"""
    put_row: Integers
    """`[agents]`: row of the cell in front of the agent at its last attempt to fill a converter"""
    put_col: Integers
    """`[agents]`: column of that cell"""
    put_age: Integers
    """`[agents]`: `age` at that time; 0 if never"""

    @classmethod
    def empty(cls, agents: int, planes: Planes, size: MapFormat) -> SpatialMemory:
        """The memory of agents that have seen nothing."""
        maps = np.zeros((planes.count, size.rows, agents), size.dtype)
        return cls(maps, np.zeros((size.rows, agents), size.dtype), *np.zeros((6, agents), np.int64))

    @classmethod
    def of(cls, memory: Memory) -> SpatialMemory:
        """The arrays of a memory, which share its storage if their agents are adjacent there."""
        arrays = {name: np.ascontiguousarray(tensor[0].numpy().T) for name, tensor in memory.tensors.items()}
        for name in ("maps", "outside"):
            arrays[name] = arrays[name].view(f"uint{word_size(arrays[name].dtype)}")
        return cls(**arrays)

    def to_memory(self) -> Memory:
        """The memory with these arrays, which shares their storage."""
        arrays = dict(vars(self))
        for name in ("maps", "outside"):
            arrays[name] = arrays[name].view(_SIGNED[arrays[name].itemsize])
        return Memory({name: torch.from_numpy(array.T)[None] for name, array in arrays.items()})


@dataclass(frozen=True)
class PlacedWindow:
    """What agents see, moved to the columns of their maps."""

    rows: Integers
    """`[rows * agents]`: indices into the words of a plane of the maps"""
    words: Words
    """`[planes, rows, agents]`"""


class MapUpdater:
    """Updates maps from observations of a window of `height` x `width` cells.

    `move_id` is the action id of moves, `put_ids` are the action ids that may put items into a converter.
    """

    def __init__(
        self,
        recipes: RecipeValues,
        planes: Planes,
        size: MapFormat,
        shape: tuple[int, int],
        move_id: int,
        put_ids: Sequence[int],
    ):
        self._recipes, self._planes, self._size = recipes, planes, size
        self._height, self._width = shape
        self._move_id = move_id
        self._is_put = np.zeros(256, bool)
        self._is_put[put_ids] = True
        # converters that need ingredients produce only after an agent has put them in
        self._output_after = np.where(recipes.inputs.any(axis=1), REVISIT_AFTER, 1)

    def window_rows(self, row: Integers) -> Integers:
        """`[rows, agents]`: the rows that agents at `row [agents]` see, as indices into the words of a plane."""
        rows = row - (self._height // 2 - np.arange(self._height)[:, None])
        rows %= self._size.rows
        rows *= len(row)
        rows += np.arange(len(row))
        return rows

    def on_map(self, window: Words, col: Integers) -> Words:
        """Move the columns of windows `[..., agents]` of agents at column `col [agents]` to those of their maps."""
        return shift_columns(window, col - self._width // 2)

    def update(self, memory: SpatialMemory, observation: ParsedObservation) -> tuple[SpatialMemory, PlacedWindow]:
        """The memory after an observation, with the agent's new position and an updated map; the window on this map."""
        is_known = memory.age > 0
        did_move = (observation.last_action == self._move_id) & is_known
        direction = np.where(did_move, observation.orientation ^ observation.last_argument, -1)
        moved, blocked, is_lost = self._locate(memory, observation, direction)
        row, col = memory.row + moved * ROW_STEPS[direction], memory.col + moved * COL_STEPS[direction]
        maps, outside, size = memory.maps.copy(), memory.outside, self._size
        if (hit := blocked.nonzero()[0]).size:
            outside = outside.copy()
            target = memory.row[hit] + ROW_STEPS[direction[hit]], memory.col[hit] + COL_STEPS[direction[hit]]
            outside[target[0] % size.rows, hit] |= column_bit(target[1], outside.dtype)
        if size.wraps_cols:
            maps[SEEN] &= ~column_bit(col + word_size(size.dtype) // 2, size.dtype)
        if size.wraps_rows:
            maps[SEEN, (row + size.rows // 2) % size.rows, np.arange(len(row))] = 0
        if (lost := is_lost.nonzero()[0]).size:
            objects = maps[OBJECTS][:, lost]
            maps[:, :, lost] = 0
            maps[OBJECTS][:, lost] = objects
        self._assume(maps, memory.age)
        placed = PlacedWindow(self.window_rows(row).ravel(), self.on_map(observation.window, col))
        seen = placed.words[SEEN].ravel()
        unseen = ~seen
        for plane, words in zip(maps.reshape(len(maps), -1), placed.words.reshape(len(maps), -1), strict=True):
            plane[placed.rows] = (plane.take(placed.rows) & unseen) | (words & seen)
        did_put = self._is_put[observation.last_action] & is_known
        updated = replace(
            memory,
            maps=maps,
            outside=outside,
            age=memory.age + 1,
            row=row,
            col=col,
            put_row=np.where(did_put, row + ROW_STEPS[observation.orientation], memory.put_row),
            put_col=np.where(did_put, col + COL_STEPS[observation.orientation], memory.put_col),
            put_age=np.where(did_put, memory.age, memory.put_age),
        )
        return updated, placed

    def _assume(self, maps: Words, age: Integers) -> None:
        """Assume output and room after a typical time, in place, since converters out of sight change."""
        planes = self._planes
        for source, target, conversions in (
            (planes.converting, planes.has_output, 1),
            (planes.converters, planes.has_output, self._output_after),
            (planes.converters, planes.has_room, MAX_FILL),
        ):
            period = conversions * (self._recipes.ticks + self._recipes.cooldown) + 1
            for type_index, length in enumerate(period.tolist()):
                if (agent := (age % length == 0).nonzero()[0]).size:
                    maps[target.start + type_index][:, agent] |= maps[source.start + type_index][:, agent]

    def _locate(
        self, memory: SpatialMemory, observation: ParsedObservation, direction: Integers
    ) -> tuple[Mask, Mask, Mask]:
        """`[agents]` each: moved in `direction` (-1: no move tried), was blocked by nothing visible, has a wrong map.

        No token shows whether a move succeeded. The observed objects show it: if it did, they fit the map better at the
        new position than at the old one.
        """
        row_step, col_step = ROW_STEPS[direction], COL_STEPS[direction]
        window = observation.window

        def mismatches(row: Integers, col: Integers) -> Integers:
            """`[agents]`: cells that differ between map and observation if the agent is at `row`, `col`."""
            rows, first_col = self.window_rows(row), col - self._width // 2
            seen, objects = (shift_columns(memory.maps[plane].take(rows), -first_col) for plane in (SEEN, OBJECTS))
            differs = seen & window[SEEN] & (objects ^ window[OBJECTS])
            return np.asarray(count_bits(differs).sum(axis=0, dtype=np.int64))

        if_stayed = mismatches(memory.row, memory.col)
        if_moved = mismatches(memory.row + row_step, memory.col + col_step)
        row, col = self._height // 2 + row_step, self._width // 2 + col_step
        is_in_window = (row >= 0) & (row < self._height) & (col >= 0) & (col < self._width)
        agents, target_row = np.arange(len(row)), np.clip(row, 0, self._height - 1)
        bit = column_bit(np.clip(col, 0, self._width - 1), window.dtype)
        is_occupied = ((observation.other_agents[target_row, agents] & bit) != 0) & is_in_window
        has_object = (window[OBJECTS][target_row, agents] & bit) != 0
        tried = direction >= 0
        moved = tried & ((if_moved < if_stayed) | ((if_moved == if_stayed) & ~is_occupied))
        is_free = is_in_window & ~has_object & ~is_occupied
        blocked = tried & ~moved & is_free & ~observation.is_frozen
        return moved, blocked, np.where(moved, if_moved, if_stayed) >= MAX_MISMATCHES
