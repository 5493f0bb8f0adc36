"""WorldsView: what custom rules ("parts") see of the worlds, as read-only arrays of all worlds at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from metta.errors import UsageError, did_you_mean
from metta.geometry import STEPS
from metta.world.parts.distances import DistanceFields, city_block_fields, count_within, walking_fields
from metta.world.parts.outcomes import OUTCOMES, TERMINATED, WAS_TERMINATED
from metta.world.parts.part_call import PartCall
from metta.world.state.worlds import EMPTY, OUTSIDE_CELL, Worlds

Per = Literal["agent", "world", "cell"]


class WorldsView:
    """The state of worlds after a step, for custom rules. Its arrays are read-only.

    A rule is called for all worlds at once, or for those that start an episode or have the rule. Arrays `[agents]` have
    one row per agent, world by world: `num_agents` rows for each world. `(row, col)` counts from the upper left corner.
    """

    def __init__(self, worlds: Worlds, selected: NDArray[np.int64] | None = None, fields: DistanceFields | None = None):
        """`selected [n]`: the indices of the worlds, ascending; None: all. `fields` keeps distances between steps."""
        self._worlds = worlds
        self._selected = selected
        self._fields = fields
        self._call = PartCall()
        self.num_worlds: int = worlds.num_worlds if selected is None else len(selected)
        """number of worlds"""
        self.num_agents: int = worlds.num_agents
        """number of agents per world"""
        self.agents: int = self.num_worlds * self.num_agents
        """number of agents of all worlds, the length of arrays `[agents]`"""
        self.items: list[str] = worlds.compiled.items
        """names of the items, in the order of `inventories`"""
        self.group_names: list[str] = list(worlds.compiled.configs[0].game.groups)
        """names of the groups, in the order of `groups`"""
        self.action_names: list[str] = worlds.compiled.spec.action_names
        """names of the actions, by action id"""
        self.shape: tuple[int, int] = (worlds.slot_rows - 2 * worlds.pad, worlds.stride - 2 * worlds.pad)
        """(rows, cols) of the largest map"""
        self.window: tuple[int, int] = worlds.compiled.spec.observation_height, worlds.compiled.spec.observation_width
        """(rows, cols) that an agent sees, with itself in the center"""

    # -- for the code that calls parts -----------------------------------------------------------------------------

    def begin(self, call: PartCall) -> None:
        """Start a call of a part."""
        self._call = call

    def end(self) -> None:
        """End the call of a part: store the memory of selected worlds."""
        self._call.end(self._worlds, self._selected)

    def forget(self) -> None:
        """Discard what was derived from the state of the worlds, after the state has changed."""
        for name in self.__dict__.keys() & CACHED:
            del self.__dict__[name]

    def _of(self, name: str) -> NDArray[Any]:
        """An array of the worlds with the rows of the selected worlds, read-only."""
        return _read_only(self._rows_of(self._worlds.by_world(name)))

    def _rows_of(self, by_world: NDArray[Any]) -> NDArray[Any]:
        chosen = by_world if self._selected is None else by_world[self._selected]
        return chosen.reshape(-1, *by_world.shape[2:])

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        """The row of each agent in the arrays of the worlds. `[agents] int64`"""
        worlds = self._worlds
        return worlds.all_agents if self._selected is None else worlds.rows_of_worlds(self._selected)

    def _own_rows(self, entities: NDArray[np.int32]) -> NDArray[np.int64]:
        """Rows of the agents with these ids of entities in the arrays `[agents]`; -1: not an agent. `[n] int64`"""
        rows = self._worlds.agents_among(entities)
        return rows if self._selected is None else np.where(rows < 0, -1, self._rows.searchsorted(rows))

    # -- episodes ----------------------------------------------------------------------------------------------------

    @cached_property
    def world(self) -> NDArray[np.int64]:
        """World of each agent, 0 to num_worlds - 1. `[agents] int64`"""
        return _read_only(self._worlds.world_of_agent[: self.agents])

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """Step of the episode of each world: 0 at its start, 1 after the first step. `[worlds] int64`"""
        return self._of("steps")

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """Whether the episode of each world terminates with this step; false if it is truncated. `[worlds] bool`

        Terminations are called first; for them, it is false where only they end the episode.
        """
        rulesets = self._worlds.compiled.rulesets
        ruleset = self._of("ruleset")
        is_over = rulesets.terminates[ruleset] & (self.steps >= rulesets.last_step[ruleset])
        if OUTCOMES in self._worlds.part_arrays:
            outcomes = self._rows_of(self._worlds.part_by_world(OUTCOMES))
            is_over |= (outcomes == TERMINATED) | (outcomes == WAS_TERMINATED)
        return _read_only(is_over)

    def by_world(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of agents by world: `[agents, ...]` to `[worlds, num_agents, ...]`."""
        return values.reshape(self.num_worlds, self.num_agents, *values.shape[1:])

    def per_agent(self, values: NDArray[Any]) -> NDArray[Any]:
        """The value of its world for each agent: `[worlds, ...]` to `[agents, ...]`."""
        return np.repeat(values, self.num_agents, axis=0)

    # -- agents ------------------------------------------------------------------------------------------------------

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """(row, col) of each agent. `[agents, 2] int64`"""
        worlds = self._worlds
        return _read_only(worlds.positions(self._of("cell") - worlds.slot_start_of_agent[self._rows]))

    @cached_property
    def orientations(self) -> NDArray[np.int64]:
        """Orientation of each agent: 0 up, 1 down, 2 left, 3 right. `[agents] int64`"""
        return self._of("orientation")

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """Group of each agent, as an index into `group_names`. `[agents] int64`"""
        return _read_only(self._of("group_row") % self._worlds.compiled.num_groups)

    def in_group(self, name: str) -> NDArray[np.bool_]:
        """Whether each agent belongs to a group. `[agents] bool`"""
        return np.equal(self.groups, self._index(name, self.group_names, "group"))

    @cached_property
    def colors(self) -> NDArray[np.int64]:
        """Color of each agent, 0 to 255. `[agents] int64`"""
        return self._of("color")

    @cached_property
    def frozen(self) -> NDArray[np.bool_]:
        """Whether each agent is frozen. `[agents] bool`"""
        return _read_only(self._of("freeze") != 0)

    @cached_property
    def inventories(self) -> NDArray[np.int16]:
        """Units of each item that each agent holds. `[agents, items] int16`"""
        return self._of("inventory")

    def inventory(self, item: str) -> NDArray[np.int16]:
        """Units of an item that each agent holds. `[agents] int16`"""
        return self.inventories[:, self._index(item, self.items, "item")]

    @cached_property
    def item_limits(self) -> NDArray[np.int64]:
        """Largest number of units of each item that each agent can hold. `[agents, items] int64`"""
        return _read_only(self._worlds.compiled.groups.cap[self._of("group_row")])

    @property
    def rewards(self) -> NDArray[np.float32]:
        """Reward of each agent in this step, without those of parts that are called later. `[agents] float32`"""
        return self._of("reward")

    @cached_property
    def actions(self) -> NDArray[np.uint8]:
        """(action id, argument) of each agent's last action. `[agents, 2] uint8`"""
        return self._of("last_action")

    @cached_property
    def succeeded(self) -> NDArray[np.bool_]:
        """Whether the last action of each agent succeeded; false at the start of an episode. `[agents] bool`"""
        return self._of("success")

    def did(self, action: str) -> NDArray[np.bool_]:
        """Whether each agent's last action was `action` and succeeded. `[agents] bool`"""
        index = self._index(action, self.action_names, "action")
        took: NDArray[np.bool_] = self.actions[:, 0] == index
        return took & self.succeeded

    def stat(self, name: str) -> NDArray[np.int64]:
        """A statistic of each agent in its episode so far: a metric `stats/NAME`, such as "heart.gained". `[agents]`

        0 for agents whose group does not have the statistic. Statistics of maps and tokens do not exist here.
        """
        columns = self._worlds.agent_columns
        totals = columns.totals(name, self._of("group_row"), self._of("agent_counters"))
        if totals is None:
            raise UsageError(f'{self._call.title}: unknown statistic "{name}"{did_you_mean(name, columns.all_names())}')
        return totals

    # -- cells -------------------------------------------------------------------------------------------------------

    @cached_property
    def cells(self) -> NDArray[np.int16]:
        """The cells of all worlds. `[worlds, rows, cols] int16`

        0 is an empty cell, t > 0 an object of type id t, -(g + 1) an agent of group g; the smallest int16
        (OUTSIDE_CELL) is outside of a map that is smaller than the largest one.
        """
        return _read_only(self._worlds.cell_codes()[self._grid])

    @property
    def _grid(self) -> NDArray[np.int32]:
        """Entity ids of the cells of the maps. `[worlds, rows, cols] int32`"""
        return self._inner(self._worlds.by_world("grid"))

    def _inner(self, slots: NDArray[Any]) -> NDArray[Any]:
        """The cells of the maps in an array by world and cell of the slot. `[worlds, rows, cols]`"""
        worlds, pad = self._worlds, self._worlds.pad
        inner = slots.reshape(worlds.num_worlds, worlds.slot_rows, worlds.stride)[:, pad:-pad, pad:-pad]
        return inner if self._selected is None else inner[self._selected]

    def find(self, name: str) -> NDArray[np.bool_]:
        """The cells with an entity: an object type, "agent", "agent.GROUP" or "empty". `[worlds, rows, cols] bool`"""
        return self._matches(self.cells, name)

    def _matches(self, codes: NDArray[np.int16], name: str) -> NDArray[np.bool_]:
        """Which of the `codes` of cells mean an entity of that name."""
        if name == "agent":
            is_agent: NDArray[np.bool_] = (codes < EMPTY) & (codes != OUTSIDE_CELL)
            return is_agent
        if name == "empty":
            code = EMPTY
        elif name.startswith("agent."):
            code = -1 - self._index(name.removeprefix("agent."), self.group_names, "group")
        else:
            types = self._worlds.compiled.spec.object_type_names
            code = self._index(name, types, "object", ("agent", "empty", *filter(None, types[1:])))
        return np.equal(codes, code)

    def at(self, cells: NDArray[Any], positions: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """The value of `cells [worlds, rows, cols]` at the position of each agent, or at `positions [agents, 2]`.

        Positions outside are moved to the closest cell. `[agents]`
        """
        if positions is None:
            rows, cols = self.positions.T
        else:
            rows, cols = positions.clip(0, np.array(self.shape) - 1).T
        values: NDArray[Any] = cells[self.world, rows, cols]
        return values

    def place(self, values: ArrayLike, dtype: DTypeLike = np.uint8) -> NDArray[Any]:
        """Cells with the value of the agent that stands on them, 0 elsewhere. `[worlds, rows, cols]`

        `values` is `[agents]` or one number; the inverse of `at`.
        """
        cells = np.zeros((self.num_worlds, *self.shape), dtype)
        cells[self.world, *self.positions.T] = values
        return cells

    def stock(self, item: str) -> NDArray[np.int64]:
        """Units of an item in the object at each cell; 0 without an object. `[worlds, rows, cols] int64`"""
        worlds, grid = self._worlds, self._grid
        units = np.zeros(worlds.num_entity_ids + 1, np.int64)
        units[worlds.first_converter : -1] = worlds.converter_inventory[:, self._index(item, self.items, "item")]
        return units[grid]

    # -- objects of registered types -------------------------------------------------------------------------------

    def state(self, objects: ArrayLike, name: str) -> NDArray[np.uint8]:
        """A state of each of `objects [n]`; 0 where the type does not have it. `[n] uint8`"""
        rows = self._object_rows(objects)
        columns = self._state_columns(rows, name)
        states = self._worlds.converter_state[rows, np.maximum(columns, 0)]
        return np.where(columns >= 0, states, 0).astype(np.uint8)

    def state_cells(self, name: str) -> NDArray[np.uint8]:
        """A state of the object at each cell, also below an agent; 0 without one. `[worlds, rows, cols] uint8`"""
        worlds = self._worlds
        rows = np.flatnonzero(worlds.converter_cell >= 0)
        slots = np.zeros((worlds.num_worlds, worlds.slot_size), np.uint8)
        slots.ravel()[worlds.converter_cell[rows]] = self.state(rows, name)
        return self._inner(slots)

    def object_worlds(self, objects: ArrayLike) -> NDArray[np.int64]:
        """World of each of `objects [n]`, 0 to num_worlds - 1. `[n] int64`"""
        worlds = self._object_rows(objects) // max(1, self._worlds.converter_slots)
        return worlds if self._selected is None else self._selected.searchsorted(worlds)

    def object_positions(self, objects: ArrayLike) -> NDArray[np.int64]:
        """(row, col) of `objects [n]`. `[n, 2] int64`"""
        worlds, rows = self._worlds, self._object_rows(objects)
        return worlds.positions(worlds.converter_cell[rows] % worlds.slot_size)

    def object_random(self, objects: ArrayLike) -> NDArray[np.float64]:
        """Uniform random numbers in [0, 1), one for each of `objects [n]`, as those of `random`. `[n] float64`"""
        numbers = self._object_rows(objects) % max(1, self._worlds.converter_slots)
        return self._call.uniform(self._random_keys()[self.object_worlds(objects)], numbers)

    @cached_property
    def faced_objects(self) -> NDArray[np.int64]:
        """The object of a registered type that each agent faces; -1: none. `[agents] int64`"""
        worlds = self._worlds
        entities = worlds.grid[self._of("cell") + worlds.step_offset[self.orientations]].astype(np.int64)
        rows = entities - worlds.first_converter
        is_object = rows >= 0
        is_object[is_object] = worlds.compiled.types.is_custom[worlds.converter_type[rows[is_object]]]
        return _read_only(np.where(is_object, rows, -1))

    def agents_on(self, objects: ArrayLike) -> NDArray[np.int64]:
        """Row of the agent that stands on each of the walkable `objects [n]`; -1: none. `[n] int64`"""
        worlds = self._worlds
        return self._own_rows(worlds.grid[worlds.converter_cell[self._object_rows(objects)]])

    def count_near(self, objects: ArrayLike, name: str, radius: int) -> NDArray[np.int64]:
        """Number of other objects whose state is not 0, at most `radius` rows and columns from each. `[n] int64`"""
        rows = self._object_rows(objects)
        marked = self.state_cells(name) > 0
        counts = count_within(marked, self.object_worlds(rows), self.object_positions(rows), radius)
        return counts - (self.state(rows, name) > 0)

    def _object_rows(self, objects: ArrayLike) -> NDArray[np.int64]:
        """The rows of objects in the arrays of the worlds. Raises UsageError unless they are integers and exist."""
        rows, count = np.asarray(objects), len(self._worlds.converter_cell)
        if rows.size and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= count):
            found = f"{rows.dtype} from {rows.min()} to {rows.max()}"
            raise UsageError(f"{self._call.title}: objects must be integers from 0 to {count - 1}; got {found}")
        return rows.astype(np.int64)

    def _state_columns(self, rows: NDArray[np.int64], name: str) -> NDArray[np.int64]:
        """The column of a state in `Worlds.converter_state` for each object; -1: its type does not have it. `[rows]`"""
        worlds = self._worlds
        feature = self._index(name, worlds.compiled.spec.feature_names, "state")
        is_state = worlds.compiled.types.state_features[worlds.converter_type[rows]] == feature
        return np.where(is_state.any(axis=1), is_state.argmax(axis=1), -1)

    # -- distances and neighbors -------------------------------------------------------------------------------------

    @cached_property
    def ahead(self) -> NDArray[np.int64]:
        """(row, col) of the cell that each agent faces, which can be outside of the map. `[agents, 2] int64`"""
        return _read_only(self.positions + np.array(STEPS)[self.orientations])

    def faces(self, name: str) -> NDArray[np.bool_]:
        """Whether each agent faces an entity, named as in `find`. `[agents] bool`"""
        is_inside = ((self.ahead >= 0) & (self.ahead < self.shape)).all(axis=1)
        return is_inside & self._matches(self.at(self.cells, self.ahead), name)

    @cached_property
    def faced_agents(self) -> NDArray[np.int64]:
        """Row of the agent that each agent faces; -1: none. `[agents] int64`"""
        worlds = self._worlds
        return _read_only(self._own_rows(worlds.grid[self._of("cell") + worlds.step_offset[self.orientations]]))

    @cached_property
    def agent_distances(self) -> NDArray[np.int64]:
        """City-block distance of each agent to each agent of its world and itself. `[agents, num_agents] int64`"""
        rows, cols = self.by_world(self.positions).transpose(2, 0, 1)
        apart = np.abs(rows[:, :, None] - rows[:, None]) + np.abs(cols[:, :, None] - cols[:, None])
        return _read_only(apart.reshape(self.agents, self.num_agents))

    def distances(self, name: str, through_walls: bool = False) -> NDArray[np.float32]:
        """Number of moves of each agent to the closest entity; infinity if there is none. `[agents] float32`

        `name` is one of `find`. Paths lead around objects, unless these are walkable, and through agents; the last move
        is the one into the cell of the entity, so that the distance to an adjacent object is 1. With `through_walls`,
        the city-block distance.
        """
        return self.at(self.distance_fields(name, through_walls))

    def distance_fields(self, name: str, through_walls: bool = False) -> NDArray[np.float32]:
        """The distance of each cell to the closest entity: see `distances`. `[worlds, rows, cols] float32`"""
        worlds, key = self._worlds, f"{name} {through_walls}"
        is_fixed = not worlds.compiled.has_swaps and not worlds.compiled.types.has_walkable
        keeps = self._fields is not None and is_fixed and name != "empty" and not name.startswith("agent")
        if keeps and self._fields and (field := self._fields.of_episodes(key, worlds.turn_stream)) is not None:
            return _read_only(field)
        targets = self.find(name)
        free = None if through_walls else (self.cells <= EMPTY) & (self.cells != OUTSIDE_CELL)
        if free is not None and worlds.compiled.types.has_walkable:
            objects = (self._grid >= worlds.first_converter).nonzero()
            free[objects] = worlds.is_enterable(self._grid[objects])
        if self._fields is not None:
            return _read_only(self._fields.get(key, targets, free))
        return city_block_fields(targets) if free is None else walking_fields(targets, free)

    # -- memory and random numbers -----------------------------------------------------------------------------------

    def memory(
        self, name: str, per: Per = "agent", shape: int | Sequence[int] = (), dtype: DTypeLike = np.float32
    ) -> NDArray[Any]:
        """An array of this part that keeps its values from step to step, and in saved worlds: change it in place.

        All values are 0 at the start of an episode. `per` selects the first axes: "agent" is `[agents, *shape]`,
        "world" `[worlds, *shape]`, "cell" `[worlds, rows, cols, *shape]`. `dtype` is bool, an integer type except
        uint64, float32 or float64. Raises UsageError if the part asked for another shape or type before.
        """
        if per not in ("agent", "world", "cell"):
            raise UsageError(f'{self._call.title}: per must be "agent", "world" or "cell"; got {per!r}')
        inner = tuple(shape) if isinstance(shape, Sequence) else (shape,)
        inner = (*self.shape, *inner) if per == "cell" else inner
        whole = (self._worlds.agents if per == "agent" else self._worlds.num_worlds, *map(int, inner))
        return self._call.memory(self._worlds, self._selected, name, whole, dtype)

    def random(self, per: Per = "agent") -> NDArray[np.float64]:
        """Uniform random numbers in [0, 1): `[agents]`, `[worlds]` or `[worlds, rows, cols] float64`.

        They depend only on the seed, the episode, the step, the part and the number of earlier calls in this step.
        """
        sizes = {"agent": (self.num_agents,), "world": (), "cell": self.shape}
        if per not in sizes:
            raise UsageError(f'{self._call.title}: per must be "agent", "world" or "cell"; got {per!r}')
        count = int(np.prod(sizes[per], dtype=np.int64))
        uniform = self._call.uniform(self._random_keys()[:, None], np.arange(count))
        return uniform.reshape(self.agents if per == "agent" else (self.num_worlds, *sizes[per]))

    def _random_keys(self) -> NDArray[np.uint64]:
        """The key of this step's random numbers of the part in each world. `[worlds] uint64`"""
        return self._call.keys(self._of("turn_stream"), self.steps)

    def _index(self, name: str, names: Sequence[str], kind: str, known: Sequence[str] | None = None) -> int:
        """The index of a name. Raises UsageError for an unknown one."""
        if not name or name not in names:
            raise UsageError(f'{self._call.title}: unknown {kind} "{name}"{did_you_mean(str(name), known or names)}')
        return names.index(name)


CACHED: Final = frozenset(name for name, value in vars(WorldsView).items() if isinstance(value, cached_property))
"""Names of what a view keeps until `forget`."""


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    (view := array.view()).flags.writeable = False
    return view
