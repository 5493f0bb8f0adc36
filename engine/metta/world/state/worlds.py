"""Worlds: the state of all worlds of a batch as NumPy arrays (grid, agents, converters, counters).

The grid is one flat int32 array with the cells of all worlds. Each world has a slot of the same size, padded on every
side by the radius of the observation window and by the attack range, so that offsets from a cell of a world never leave
its slot. The value of a cell is an entity id, in these ascending ranges:

    -1 outside the world | 0 empty | globals | swappable walls | agents | plain walls | converters

Viewed as uint32, the values of cells that can be entered or vacated (empty, swappable walls, agents) are smaller than
those of plain walls, converters and the outside, so that one comparison finds them. All walls of a type have the same
id, since walls have no state. Objects of registered types are converters without a recipe; some of them are walkable:
an agent or a swappable wall can be in the same cell and is the value of the cell, while `floor` keeps the object's id.
"Globals" are the global tokens of an agent's observation (see `observe.py`); their ids
are in extra cells after those of the worlds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.config.env.objects import ATTACK_RANGE
from metta.errors import UsageError
from metta.geometry import neighbor_offsets
from metta.world.state.compiled_config import NEVER, CompiledConfig
from metta.world.state.compiled_rules import ALWAYS_WALKABLE, NOT_WALKABLE
from metta.world.state.counters import AgentColumns, ConverterColumns, InvalidCounts

# grid values of cells without an entity
OUTSIDE = -1
EMPTY = 0

OUTSIDE_CELL = np.iinfo(np.int16).min
"""Cell code of cells outside of a map that is smaller than the largest one, see `Worlds.cell_codes`."""

# phases of a converter
IDLE, CONVERTING, COOLING = 0, 1, 2

LOCKS_PER_AGENT = 16
"""Size of the lock table per agent, see `turn_order.conflict_free_batches`."""

WORLD_ARRAYS = ("task", "ruleset", "steps", "first_step", "episode", "turn_stream", "object_counts")
"""Arrays of Worlds with one row per world."""

AGENT_ARRAYS = (
    "cell",
    "orientation",
    "group_row",
    "color",
    "freeze",
    "inventory",
    "has_token",
    "score",
    "reward",
    "individual_rewards",
    "returned_rewards",
    "success",
    "last_action",
    "agent_counters",
    "tokens_written",
    "tokens_dropped",
)
"""Arrays of Worlds with one row per agent."""

CONVERTER_ARRAYS = (
    "converter_type",
    "converter_cell",
    "converter_inventory",
    "converter_phase",
    "converter_due",
    "converter_counters",
    "converter_state",
)
"""Arrays of Worlds with one row per converter slot."""

MEMORY_DTYPES = tuple(map(np.dtype, ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "f4", "f8")))
"""Types of `Worlds.part_arrays`."""

CellsAndEntities = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Grid indices of cells, and the entity ids in them."""


class Worlds:
    """Mutable state of `num_worlds` worlds. Rows of agents are world-major: row = world * num_agents + agent.

    `ARRAYS` are the names of the arrays in a saved state, which also contains `part_arrays`, `clock` and `invalid`.
    """

    ARRAYS = ("grid", *WORLD_ARRAYS, *AGENT_ARRAYS, *CONVERTER_ARRAYS)

    def __init__(self, compiled: CompiledConfig, num_worlds: int):
        spec, types = compiled.spec, compiled.types
        self.compiled = compiled
        self.num_worlds = num_worlds
        self.num_agents = spec.num_agents
        self.agents = agents = num_worlds * spec.num_agents

        self.pad = max(spec.observation_height // 2, spec.observation_width // 2, ATTACK_RANGE)
        self.slot_rows = max(config.game.height for config in compiled.tasks) + 2 * self.pad
        self.stride = max(config.game.width for config in compiled.tasks) + 2 * self.pad
        self.slot_size = self.slot_rows * self.stride
        self.step_offset = np.array(neighbor_offsets(self.stride))  # by orientation
        self.clamped_cells = self._clamped_cells()

        # entity ids
        self.first_global = 1
        self.first_swappable = 1 + agents
        self.first_agent = self.first_swappable + types.num_walls - types.num_plain_walls
        self.first_plain_wall = self.first_agent + agents
        self.first_converter = self.first_plain_wall + types.num_plain_walls
        self.wall_entity = self._wall_entities()

        self.clock = 0  # steps of the batch so far; the time of converter events
        self._allocate_worlds()
        self._allocate_agents()
        self._allocate_counters()
        self.allocate_converters(0)
        # by name: what custom rules add to the state; the first axis is worlds, agents or world * something
        self.part_arrays: dict[str, NDArray[Any]] = {}
        # hash table of locks to turns; only entries written in the same call are read, see turn_order.py
        self.lock_holder = np.zeros(1 << (LOCKS_PER_AGENT * agents).bit_length(), np.int32)

    def _allocate_worlds(self) -> None:
        num_worlds = self.num_worlds
        self.grid = np.full(num_worlds * self.slot_size + self.agents, OUTSIDE, np.int32)
        # after the worlds, one cell per agent with its globals: observing gathers them together with the window
        self.globals_start = num_worlds * self.slot_size
        self.grid[self.globals_start :] = self.first_global + np.arange(self.agents)
        self.slot_start = np.arange(num_worlds) * self.slot_size
        # the walkable object of each cell, or EMPTY; not saved, since `converter_cell` determines it
        self.floor = np.zeros(self.globals_start if self.compiled.types.has_walkable else 0, np.int32)
        self.task = np.zeros(num_worlds, np.int64)
        self.ruleset = np.zeros(num_worlds, np.int64)  # of the task
        self.steps = np.zeros(num_worlds, np.int64)  # of the current episode
        self.first_step = np.zeros(num_worlds, np.int64)  # of the current episode: 0 unless worlds were staggered
        self.episode = np.full(num_worlds, -1, np.int64)
        self.turn_stream = np.zeros(num_worlds, np.uint64)  # the key of the episode's turn orders and sampled values
        # by type row, at the start of the episode
        self.object_counts = np.zeros((num_worlds, len(self.compiled.types.names)), np.int64)

    def _allocate_agents(self) -> None:
        agents, num_items = self.agents, self.compiled.num_items
        self.all_agents = np.arange(agents)
        self.globals_cell = self.globals_start + self.all_agents
        self.world_of_agent = np.repeat(np.arange(self.num_worlds), self.num_agents)
        self.slot_start_of_agent = self.slot_start[self.world_of_agent]
        self.cell = np.zeros(agents, np.int64)  # index into the grid
        self.orientation = np.zeros(agents, np.int64)
        self.group_row = np.zeros(agents, np.int64)
        self.color = np.zeros(agents, np.int64)
        self.freeze = np.zeros(agents, np.int64)  # number of further actions that are skipped; -1: all
        self.inventory = np.zeros((agents, num_items), np.int16)
        self.has_token = np.zeros((agents, num_items), np.bool_)  # the item has a token, even if its amount is 0
        self.items_changed = np.zeros(agents, np.bool_)  # the token table is to be updated
        self.score = np.zeros(agents, np.float32)  # value of the inventory: sum of reward * amount
        self.reward = np.zeros(agents, np.float32)  # of this step, before sharing
        self.individual_rewards = np.zeros(agents, np.float32)  # sum of `reward` over the episode
        self.returned_rewards = np.zeros(agents, np.float32)  # sum over the episode of the rewards that `step` returned
        self.success = np.zeros(agents, np.bool_)
        self.last_action = np.zeros((agents, 2), np.uint8)

    def _allocate_counters(self) -> None:
        """Allocate the counters of agents (see counters.py)."""
        self.agent_columns = AgentColumns(self.compiled)
        self.converter_columns = ConverterColumns(self.compiled)
        # index of each agent's first `failed` counter in the flattened array
        self.failed_start = self.all_agents * self.agent_columns.width + self.agent_columns.failed
        self.agent_counters = np.zeros((self.agents, self.agent_columns.width), np.int32)
        self.tokens_written = np.zeros(self.agents, np.int64)  # in the observations of the episode
        self.tokens_dropped = np.zeros(self.agents, np.int64)  # because they exceeded `num_observation_tokens`
        self.invalid: InvalidCounts = InvalidCounts()

    def _clamped_cells(self) -> NDArray[np.int64]:
        """The edge rule as a table, by index within a slot: negative rows and columns of a world are clamped to 0.

        As in MettaGrid, cells below and to the right of the world are not clamped.
        """
        row = np.maximum(np.arange(self.slot_rows), self.pad)
        col = np.maximum(np.arange(self.stride), self.pad)
        return (row[:, None] * self.stride + col[None, :]).ravel()

    def _wall_entities(self) -> NDArray[np.int32]:
        """The entity id of a wall by type id; EMPTY for types that are not walls. `[rulesets, 256] int32`"""
        types, type_row = self.compiled.types, self.compiled.rulesets.type_row
        plain = (type_row >= 0) & (type_row < types.num_plain_walls)
        swappable = (type_row >= types.num_plain_walls) & (type_row < types.num_walls)
        entities = np.full(type_row.shape, EMPTY, np.int32)
        entities[plain] = self.first_plain_wall + type_row[plain]
        entities[swappable] = self.first_swappable + type_row[swappable] - types.num_plain_walls
        return entities

    def allocate_converters(self, slots: int) -> None:
        """Allocate `slots` unused converter slots in every world, discarding existing converters."""
        self.converter_slots = slots
        count = self.num_worlds * slots
        self.converter_type = np.zeros(count, np.int64)  # type row
        self.converter_cell = np.full(count, -1)  # -1: the slot is unused
        self.converter_inventory = np.zeros((count, self.compiled.num_items), np.int16)
        self.converter_phase = np.full(count, IDLE, np.int8)
        self.converter_due = np.full(count, NEVER)  # clock time of the next event
        self.converter_counters = np.zeros((count, self.converter_columns.width), np.int32)
        self.converter_state = np.zeros((count, self.compiled.types.num_states), np.uint8)  # of registered types
        self.converter_changed = np.zeros(count, np.bool_)  # the token table is to be updated

    def reserve_converters(self, slots: int) -> None:
        """Grow to at least `slots` converter slots per world; converters keep their index within their world."""
        if slots <= self.converter_slots:
            return
        old_slots, old = self.converter_slots, {name: getattr(self, name) for name in CONVERTER_ARRAYS}
        self.allocate_converters(slots)
        for name, array in old.items():
            by_world = getattr(self, name).reshape(self.num_worlds, slots, *array.shape[1:])
            by_world[:, :old_slots] = array.reshape(self.num_worlds, old_slots, *array.shape[1:])
        used = np.flatnonzero(self.converter_cell >= 0)
        self.place_converters(used)

    def place_converters(self, converters: NDArray[np.int64]) -> None:
        """Write the entity ids of converters to their cells, except where an agent or a swappable wall is on one."""
        cells, entities = self.converter_cell[converters], (self.first_converter + converters).astype(np.int32)
        if self.compiled.types.has_walkable:
            is_walkable = self.compiled.types.walkable[self.converter_type[converters]] != NOT_WALKABLE
            self.floor[cells[is_walkable]] = entities[is_walkable]
            is_free = ~is_walkable | ~self.may_be_vacated(self.grid[cells]) | (self.grid[cells] == EMPTY)
            cells, entities = cells[is_free], entities[is_free]
        self.grid[cells] = entities
        self.converter_changed[converters] = True

    def lay_floor(self) -> None:
        """Write `floor` from the cells of converters."""
        if self.compiled.types.has_walkable:
            used = np.flatnonzero(self.converter_cell >= 0)
            is_walkable = self.compiled.types.walkable[self.converter_type[used]] != NOT_WALKABLE
            self.floor[:] = EMPTY
            self.floor[self.converter_cell[used[is_walkable]]] = self.first_converter + used[is_walkable]

    @property
    def num_entity_ids(self) -> int:
        """One more than the highest entity id."""
        return self.first_converter + len(self.converter_type)

    def check_episode(self, world: int) -> None:
        """Raise UsageError unless `world` is the index of a world, and its first episode has started."""
        if not 0 <= world < self.num_worlds:
            raise UsageError(f"world must be from 0 to {self.num_worlds - 1}; got {world}")
        if self.episode[world] < 0:
            raise UsageError("no episode has started yet: call reset() first")

    def rows_of(self, world: int) -> slice:
        """The rows of the agents of a world."""
        return slice(world * self.num_agents, (world + 1) * self.num_agents)

    def rows_of_worlds(self, worlds: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of the agents of several worlds, world by world. `[worlds * num_agents] int64`"""
        rows: NDArray[np.int64] = (worlds[:, None] * self.num_agents + np.arange(self.num_agents)).ravel()
        return rows

    def by_world(self, name: str) -> NDArray[Any]:
        """A view of one of ARRAYS with a leading axis of worlds. `[num_worlds, rows of a world, ...]`"""
        return self._split(self.grid[: self.globals_start] if name == "grid" else getattr(self, name))

    def part_by_world(self, name: str) -> NDArray[Any]:
        """A view of one of `part_arrays` with a leading axis of worlds. `[num_worlds, rows of a world, ...]`"""
        return self._split(self.part_arrays[name])

    def match_part_arrays(self, other: Worlds) -> None:
        """Add the part arrays that `other` worlds of the same compiled config have, with zeros."""
        for name in other.part_arrays.keys() - self.part_arrays.keys():
            array = other.part_by_world(name)
            shape = (self.num_worlds * array.shape[1], *array.shape[2:])
            self.part_arrays[name] = np.zeros(shape, array.dtype)

    def _split(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.reshape(self.num_worlds, len(array) // self.num_worlds, *array.shape[1:])

    def by_ruleset(self, table: NDArray[Any]) -> NDArray[Any]:
        """The entry of each world in a table `[rulesets]`. `[worlds]`, or `[1]` if there is only one ruleset"""
        return table if len(table) == 1 else table[self.ruleset]

    def positions(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """(row, col) in the world of cells given by their index within a slot. `[cells, 2] int64`"""
        row, col = np.divmod(cells, self.stride)
        return np.stack([row - self.pad, col - self.pad], axis=1)

    def cell_codes(self) -> NDArray[np.int16]:
        """The cell code of each entity, by entity id, as in `MettaGridEnv.cells`. `[entity ids + 1] int16`

        The last one, for the id OUTSIDE, is OUTSIDE_CELL.
        """
        types = self.compiled.types
        codes = np.zeros(self.num_entity_ids + 1, np.int16)
        codes[self.first_swappable : self.first_agent] = types.type_id[types.num_plain_walls : types.num_walls]
        codes[self.first_agent : self.first_plain_wall] = -1 - self.group_row % self.compiled.num_groups
        codes[self.first_plain_wall : self.first_converter] = types.type_id[: types.num_plain_walls]
        codes[self.first_converter : -1] = types.type_id[self.converter_type]
        codes[OUTSIDE] = OUTSIDE_CELL
        return codes

    def wall_ids_of(self, other: Worlds) -> NDArray[np.int32]:
        """Entity ids of walls in these worlds, indexed by their ids in `other` worlds of the same compiled config.

        Arbitrary for agents and converters. Index it with `take(..., mode="wrap")`: the last entry is OUTSIDE.
        """
        entities = np.full(other.first_converter + 1, OUTSIDE, np.int32)
        entities[EMPTY] = EMPTY
        entities[other.first_swappable : other.first_agent] = np.arange(self.first_swappable, self.first_agent)
        entities[other.first_plain_wall : other.first_converter] = np.arange(
            self.first_plain_wall, self.first_converter
        )
        return entities

    def translate(
        self, grid: NDArray[np.int32], other: Worlds, walls: NDArray[np.int32] | None = None
    ) -> NDArray[np.int32]:
        """Cells of `other` worlds with the entity ids of walls in these ones; EMPTY or arbitrary if not a wall.

        `walls` is the result of `wall_ids_of`, if it is known.
        """
        walls = self.wall_ids_of(other) if walls is None else walls
        translated: NDArray[np.int32] = walls.take(grid, mode="wrap")
        if self.compiled.types.has_walkable:
            translated[grid >= other.first_converter] = EMPTY  # for `place_converters`
        return translated

    # -- cells around agents ---------------------------------------------------------------------------------------

    def look_at(self, rows: NDArray[np.int64], offset: NDArray[np.int64]) -> CellsAndEntities:
        """The cell at a grid index `offset` from each agent of `rows`, after the edge rule, and the entity in it.

        At the top or left edge, the cell can be the agent's own.
        """
        cells = self.cell[rows] + offset
        entities = self.grid[cells]
        outside = (entities == OUTSIDE).nonzero()[0]
        if outside.size:
            start = self.slot_start_of_agent[rows[outside]]
            cells[outside] = start + self.clamped_cells[cells[outside] - start]
            entities[outside] = self.grid[cells[outside]]
        return cells, entities

    def look_toward(self, rows: NDArray[np.int64], direction: NDArray[np.int64]) -> CellsAndEntities:
        """The next cell in a `direction` (an orientation) from each agent of `rows`, and the entity in it."""
        return self.look_at(rows, self.step_offset[direction])

    def look_ahead(self, rows: NDArray[np.int64]) -> CellsAndEntities:
        """The cell that each agent of `rows` faces, and the entity in it."""
        return self.look_toward(rows, self.orientation[rows])

    def may_be_vacated(self, entities: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether a cell is empty, or contains a swappable wall or an agent."""
        is_candidate: NDArray[np.bool_] = entities.view(np.uint32) < self.first_plain_wall
        return is_candidate

    def is_enterable(self, entities: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether a move into a cell with each of the entities succeeds: it is empty, or a walkable object is there."""
        enterable: NDArray[np.bool_] = entities == EMPTY
        if self.compiled.types.has_walkable and entities.size:
            objects = (entities >= self.first_converter).nonzero()[0]
            enterable[objects] = self.is_walkable(entities[objects] - np.int64(self.first_converter))
        return enterable

    def is_walkable(self, converters: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether an agent can enter the cell of each converter: its type or its state allows it. `[converters]`"""
        column = self.compiled.types.walkable[self.converter_type[converters]]
        walkable: NDArray[np.bool_] = column == ALWAYS_WALKABLE
        by_state = (column >= 0).nonzero()[0]
        walkable[by_state] = self.converter_state[converters[by_state], column[by_state]] > 0
        return walkable

    def leave(self, cells: NDArray[np.int64]) -> None:
        """Empty cells whose agents have left; what they stood on appears."""
        self.grid[cells] = self.floor[cells] if self.compiled.types.has_walkable else EMPTY

    def agents_among(self, entities: NDArray[np.int32]) -> NDArray[np.int64]:
        """The agent row of each entity that is an agent, -1 for others. `[entities] int64`"""
        is_agent = (entities >= self.first_agent) & (entities < self.first_plain_wall)
        return np.where(is_agent, entities - np.int64(self.first_agent), -1)

    # -- counting ---------------------------------------------------------------------------------------------

    def count(self, rows: NDArray[np.int64], column: NDArray[np.int64] | int, by: NDArray[np.int64] | int = 1) -> None:
        """Add `by` to one counter of each agent of `rows`. Rows must be distinct."""
        _add(self.agent_counters, rows, column, by)

    def count_converters(
        self, converters: NDArray[np.int64], column: NDArray[np.int64] | int | slice, by: NDArray[np.int64] | int = 1
    ) -> None:
        """Add `by` to one counter, or to adjacent ones, of each converter. Converters must be distinct."""
        _add(self.converter_counters, converters, column, by)


def _add(
    counters: NDArray[np.int32],
    rows: NDArray[np.int64],
    column: NDArray[np.int64] | int | slice,
    by: NDArray[np.int64] | int,
) -> None:
    if isinstance(column, np.ndarray):
        counters[rows, column] += by
    else:  # `array[:, column][rows]` takes a third of the time of `array[rows, column]`
        counters[:, column][rows] += by
