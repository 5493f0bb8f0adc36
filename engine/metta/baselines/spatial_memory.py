"""Memory of the scripted policy: a map of the cells that each agent has seen, updated from its observations.

A map consists of bitboards of 64 x 64 cells, on which the agent moves. Rows and columns wrap around: when the agent
moves, the row or column 32 cells away is cleared, so that the map covers the surroundings of the agent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metta.agent.memory.state import Memory
from metta.baselines.bitboards import (
    COL_STEPS,
    ROW_STEPS,
    SIDE,
    Integers,
    Mask,
    Words,
    shift_columns,
    single_cells,
    window_to_words,
    words_to_window,
)
from metta.baselines.observation_parser import ParsedObservation
from metta.baselines.recipe_values import MAX_FILL, RecipeValues

REVISIT_AFTER: Final = 20
"""Number of conversions after which an empty converter is assumed to have output: another agent may have filled it."""

MAX_MISMATCHES: Final = 4
"""The map is discarded if at least this many cells differ between map and observation."""


@dataclass(frozen=True, kw_only=True)
class SpatialMemory(Memory):
    """Each agent's map. The base class has no tensors."""

    age: Integers
    """`[agents]`: steps since the map was empty"""
    row: Integers
    """`[agents]`: the agent's row on the map"""
    col: Integers
    """`[agents]`: the agent's column on the map"""
    seen: Words
    """`[agents, 64]`: cells that the agent has seen"""
    objects: Words
    """`[agents, 64]`: cells with an object"""
    outside: Words
    """`[agents, 64]`: cells outside the world, which look free but could not be entered"""
    converters: Words
    """`[agents, types, 64]`: cells with a converter of each type"""
    has_output: Words
    """`[agents, types, 64]`: converters with output to take"""
    converting: Words
    """`[agents, types, 64]`: converters that will have output after their conversion or cooldown"""
    has_room: Words
    """`[agents, types, 64]`: converters with room for ingredients"""
    put_row: Integers
    """`[agents]`: row of the cell in front of the agent at its last attempt to fill a converter; -1 if never"""
    put_col: Integers
    """`[agents]`: column of that cell; -1 if never"""
    put_age: Integers
    """`[agents]`: `age` at that time; -1 if never"""

    @classmethod
    def empty(cls, agents: int, types: int) -> SpatialMemory:
        """The memory of agents that have seen nothing; they are in the middle of their maps."""
        middle = np.full(agents, SIDE // 2)
        boards, by_type = np.zeros((agents, SIDE), np.uint64), np.zeros((agents, types, SIDE), np.uint64)
        never = np.full(agents, -1)
        return cls(
            age=np.zeros(agents, np.int64),
            row=middle,
            col=middle.copy(),
            seen=boards,
            objects=boards.copy(),
            outside=boards.copy(),
            converters=by_type,
            has_output=by_type.copy(),
            converting=by_type.copy(),
            has_room=by_type.copy(),
            put_row=never,
            put_col=never.copy(),
            put_age=never.copy(),
        )

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The fields that the base class lacks, by name."""
        return {name: value for name, value in vars(self).items() if name != "tensors"}

    def with_empty_maps(self, episode_starts: Mask) -> SpatialMemory:
        """The memory with empty maps where `episode_starts [agents]`."""
        empty = SpatialMemory.empty(1, self.converters.shape[1]).arrays
        cleared: dict[str, Any] = {
            name: np.where(episode_starts.reshape(-1, *[1] * (values.ndim - 1)), empty[name], values)
            for name, values in self.arrays.items()
        }
        return dataclasses.replace(self, **cleared)


class MapUpdater:
    """Updates maps from observations of a window of `height` x `width` cells.

    `move_id` is the action id of moves, `put_ids` are the action ids that may put items into a converter.
    """

    def __init__(self, recipes: RecipeValues, shape: tuple[int, int], move_id: int, put_ids: Sequence[int]):
        self._recipes = recipes
        self._height, self._width = shape
        self._move_id, self._put_ids = move_id, put_ids
        # converters that need ingredients produce only after an agent has put them in
        self._output_after = np.where(recipes.inputs.any(axis=1), REVISIT_AFTER, 1)

    def window_rows(self, row: Integers) -> Integers:
        """`[agents, rows]`: the rows of the map that agents at `row [agents]` see."""
        return (row[:, None] - self._height // 2 + np.arange(self._height)) & (SIDE - 1)

    def first_col(self, col: Integers) -> Integers:
        """`[agents]`: the first column of the map that agents at `col [agents]` see."""
        return np.asarray(col - self._width // 2)

    def update(self, memory: SpatialMemory, observation: ParsedObservation) -> SpatialMemory:
        """The memory after an observation: the agent's new position and an updated map."""
        is_known = memory.age > 0
        did_move = (observation.last_action == self._move_id) & is_known
        direction = np.where(did_move, observation.orientation ^ observation.last_argument, -1)
        moved, blocked, is_lost = self._locate(memory, observation, direction)
        row_step, col_step = ROW_STEPS[direction], COL_STEPS[direction]
        outside = memory.outside | single_cells(memory.row + row_step, memory.col + col_step) * blocked[:, None]
        row, col = memory.row + moved * row_step, memory.col + moved * col_step
        agents = np.arange(len(row))
        # clear the row and the column that are farthest from the agent, where the map wraps around
        seen = memory.seen & ~shift_columns(np.array([1], np.uint64), col + SIDE // 2)[:, None]
        seen[agents, (row + SIDE // 2) & (SIDE - 1)] = 0
        seen[is_lost] = 0
        write_window = self._window_writer(observation, row, col)
        keep = (~is_lost).astype(np.uint64)[:, None, None]
        converters, converting = memory.converters * keep, memory.converting * keep
        # converters out of sight change, so output and room are assumed after a typical time
        has_output, has_room = memory.has_output * keep, memory.has_room * keep
        has_output = has_output | converting * self._is_due(memory, 1)
        has_output = has_output | converters * self._is_due(memory, self._output_after)
        has_room = has_room | converters * self._is_due(memory, MAX_FILL)
        did_put = np.isin(observation.last_action, self._put_ids) & is_known
        return dataclasses.replace(
            memory,
            age=memory.age + 1,
            row=row,
            col=col,
            seen=write_window(seen, observation.visible),
            objects=write_window(memory.objects, observation.objects),
            outside=outside,
            converters=write_window(converters, observation.converters),
            has_output=write_window(has_output, observation.has_output),
            converting=write_window(converting, observation.converting),
            has_room=write_window(has_room, observation.has_room),
            put_row=np.where(did_put, row + ROW_STEPS[observation.orientation], memory.put_row),
            put_col=np.where(did_put, col + COL_STEPS[observation.orientation], memory.put_col),
            put_age=np.where(did_put, memory.age, memory.put_age),
        )

    def _window_writer(
        self, observation: ParsedObservation, row: Integers, col: Integers
    ) -> Callable[[Words, Mask], Words]:
        """Return a function that writes the visible cells of `[agents, (types,) rows, cols]` into a copy of boards."""
        rows, first_col = self.window_rows(row), self.first_col(col)
        visible = window_to_words(observation.visible, first_col)
        agents = np.arange(len(row))

        def write_window(boards: Words, window: Mask) -> Words:
            boards = boards.copy()
            if boards.ndim == 2:
                index: tuple[Integers, ...] = (agents[:, None], rows)
                is_visible = visible
            else:
                index = (agents[:, None, None], np.arange(boards.shape[1])[:, None], rows[:, None])
                is_visible = visible[:, None]
            boards[index] = (boards[index] & ~is_visible) | (window_to_words(window, first_col) & is_visible)
            return boards

        return write_window

    def _is_due(self, memory: SpatialMemory, conversions: Integers | int) -> Words:
        """`[agents, types, 1]`: 1 at one step per period, the duration of `conversions` with cooldowns; else 0."""
        period = conversions * (self._recipes.ticks + self._recipes.cooldown) + 1
        return np.asarray(memory.age[:, None] % period == 0, np.uint64)[:, :, None]

    def _locate(
        self, memory: SpatialMemory, observation: ParsedObservation, direction: Integers
    ) -> tuple[Mask, Mask, Mask]:
        """`[agents]` each: moved in `direction` (-1: no move tried), was blocked by nothing visible, has a wrong map.

        No token shows whether a move succeeded. The observed objects show it: if it did, they fit the map better at the
        new position than at the old one.
        """
        row_step, col_step = ROW_STEPS[direction], COL_STEPS[direction]

        def mismatches(row: Integers, col: Integers) -> Integers:
            """`[agents]`: cells that differ between map and observation if the agent is at `row`, `col`."""
            rows, first_col = self.window_rows(row), self.first_col(col)
            is_known = words_to_window(memory.seen, rows, first_col, self._width) & observation.visible
            differs = words_to_window(memory.objects, rows, first_col, self._width) != observation.objects
            return np.asarray((is_known & differs).sum(axis=(1, 2)))

        if_stayed = mismatches(memory.row, memory.col)
        if_moved = mismatches(memory.row + row_step, memory.col + col_step)
        row, col = self._height // 2 + row_step, self._width // 2 + col_step
        is_in_window = (row >= 0) & (row < self._height) & (col >= 0) & (col < self._width)
        target = (np.arange(len(row)), np.clip(row, 0, self._height - 1), np.clip(col, 0, self._width - 1))
        is_occupied = observation.other_agents[target] & is_in_window
        tried = direction >= 0
        moved = tried & ((if_moved < if_stayed) | ((if_moved == if_stayed) & ~is_occupied))
        is_free = is_in_window & ~observation.objects[target] & ~is_occupied
        blocked = tried & ~moved & is_free & ~observation.is_frozen
        return moved, blocked, np.where(moved, if_moved, if_stayed) >= MAX_MISMATCHES
