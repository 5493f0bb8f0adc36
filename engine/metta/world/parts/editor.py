"""WorldsEditor: the view of the worlds with functions that change them and keep inventories and cells consistent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metta.errors import UsageError
from metta.world.parts.view import WorldsView
from metta.world.rules.inventory import update_items
from metta.world.state.worlds import Worlds


class WorldsEditor(WorldsView):
    """A WorldsView for rules that change the worlds.

    `agents` are rows of agents, `[n]` distinct integers; other arguments have one value per agent, or one for all.
    """

    def __init__(self, worlds: Worlds, movable: NDArray[np.int64] | None = None):
        """`movable` are the only agents that can be moved and turned; None: all."""
        super().__init__(worlds)
        self._movable = movable

    def add_items(self, agents: ArrayLike, item: str, change: ArrayLike) -> NDArray[np.int64]:
        """Add `change` units of an item to the inventories of agents, or remove them if it is negative.

        Inventories stay between 0 and their limit. Counts the statistics and gives the rewards of the item. Returns the
        change of each inventory. `[n] int64`
        """
        rows = self._checked(agents)
        index = self._index(item, self.items, "item")
        return self._changed(update_items(self._worlds, rows, index, self._values(rows, change, "change", -255, 255)))

    def transfer_items(
        self, givers: ArrayLike, takers: ArrayLike, item: str, amount: ArrayLike = 1
    ) -> NDArray[np.int64]:
        """Move up to `amount` units of an item from each of `givers [n]` to the agent at the same place of `takers`.

        No more than the giver has and the taker can hold. No agent may be in both lists. Returns the units that each
        taker got. `[n] int64`
        """
        both = self._checked(np.concatenate([np.atleast_1d(givers), np.atleast_1d(takers)]))
        from_, to = both[: len(both) // 2], both[len(both) // 2 :]
        if len(from_) != len(to):
            raise UsageError(f"{self._call.title}: givers and takers must have the same length")
        worlds, index = self._worlds, self._index(item, self.items, "item")
        wanted = self._values(from_, amount, "amount", 0, 255)
        room = self.item_limits[to, index] - worlds.inventory[to, index]
        units = np.minimum(np.minimum(wanted, worlds.inventory[from_, index]), np.maximum(room, 0))
        update_items(worlds, from_, index, -units)
        return self._changed(update_items(worlds, to, index, units))

    def move(self, agents: ArrayLike, positions: ArrayLike) -> NDArray[np.bool_]:
        """Move agents to `positions [n, 2]` (row, col), where these cells are empty or walkable; the others stay.

        If several agents of a world have the same target, the first one in `agents` gets it. Returns which agents
        moved. `[n] bool`
        """
        rows, worlds = self._checked_movable(agents), self._worlds
        row, col = np.broadcast_to(np.asarray(positions, np.int64), (len(rows), 2)).T
        is_inside = (row >= 0) & (row < self.shape[0]) & (col >= 0) & (col < self.shape[1])
        cells = (
            (row.clip(0, self.shape[0] - 1) + worlds.pad) * worlds.stride + col.clip(0, self.shape[1] - 1) + worlds.pad
        )
        cells += worlds.slot_start_of_agent[rows]
        possible = (is_inside & worlds.is_enterable(worlds.grid[cells])).nonzero()[0]
        moves = np.zeros(len(rows), np.bool_)
        moves[possible[np.unique(cells[possible], return_index=True)[1]]] = True
        rows, cells = rows[moves], cells[moves]
        worlds.leave(worlds.cell[rows])
        worlds.grid[cells] = worlds.first_agent + rows
        worlds.cell[rows] = cells
        return self._changed(moves)

    def turn(self, agents: ArrayLike, orientations: ArrayLike) -> None:
        """Set the orientations of agents: 0 up, 1 down, 2 left, 3 right."""
        rows = self._checked_movable(agents)
        self._worlds.orientation[rows] = self._values(rows, orientations, "orientations", 0, 3)
        self.forget()

    def freeze(self, agents: ArrayLike, actions: ArrayLike) -> None:
        """Let agents skip their next `actions`; 0 unfreezes them, -1 freezes them until the episode ends."""
        rows = self._checked(agents)
        self._worlds.freeze[rows] = self._values(rows, actions, "actions", -1, 32767)
        self.forget()

    def set_state(self, objects: ArrayLike, name: str, values: ArrayLike) -> None:
        """Set a state of `objects [n]` of registered types, 0 to 255."""
        rows = np.atleast_1d(self._object_rows(objects))
        columns = self._state_columns(rows, name)
        if rows.size and columns.min() < 0:
            raise UsageError(f'{self._call.title}: an object of another type has no state "{name}"')
        self._worlds.converter_state[rows, columns] = self._values(rows, values, name, 0, 255)
        self._worlds.converter_changed[rows] = True
        self.forget()

    def paint(self, agents: ArrayLike, colors: ArrayLike) -> None:
        """Set the colors of agents, 0 to 255."""
        rows = self._checked(agents)
        self._worlds.color[rows] = self._values(rows, colors, "colors", 0, 255)
        self.forget()

    def _checked_movable(self, agents: ArrayLike) -> NDArray[np.int64]:
        """Like `_checked`. Raises UsageError for agents that cannot be moved, since their turns may come later."""
        rows = self._checked(agents)
        if self._movable is not None and not np.isin(rows, self._movable).all():
            raise UsageError(
                f"{self._call.title}: moves or turns agents other than those that act; only actions registered with "
                "moves_others=True, and the method step of objects, can do that"
            )
        return rows

    def _checked(self, agents: ArrayLike) -> NDArray[np.int64]:
        """The rows of agents in the arrays of the worlds. Raises UsageError unless they are distinct and exist."""
        rows = np.atleast_1d(np.asarray(agents))
        if rows.shape == (0,):
            return np.zeros(0, np.int64)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            found = f"{rows.dtype} {list(rows.shape)}"
            raise UsageError(f"{self._call.title}: agents must be rows [n], integers; got {found}")
        rows = rows.astype(np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.agents):
            raise UsageError(f"{self._call.title}: agents must be rows from 0 to {self.agents - 1}")
        if len(rows) > 1 and np.bincount(rows).max() > 1:
            raise UsageError(f"{self._call.title}: agents must be distinct rows")
        return rows if self._selected is None else self._rows[rows]

    def _values(
        self, rows: NDArray[np.int64], values: ArrayLike, name: str, lowest: int, highest: int
    ) -> NDArray[np.int64]:
        array = np.asarray(values)
        if not len(rows) and array.size < 2:
            return np.zeros(0, np.int64)
        if array.shape not in ((), (len(rows),)) or array.dtype.kind not in "iu":
            raise UsageError(
                f"{self._call.title}: {name} must be an integer or integers [{len(rows)}]; got {array.dtype} "
                f"{list(array.shape)}"
            )
        if array.size and (array.min() < lowest or array.max() > highest):
            raise UsageError(f"{self._call.title}: {name} must be from {lowest} to {highest}")
        return np.broadcast_to(array.astype(np.int64), (len(rows),))

    def _changed(self, result: NDArray[Any]) -> NDArray[Any]:
        self.forget()
        return result
