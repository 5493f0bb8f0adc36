"""The state of every world of a batch in one set of arrays.

**Grid.** One flat int32 array holds the cells of all worlds. Each world has a slot of the same size, padded on every
side by the radius of the window (and by an attack's reach), so that neither a look nor a step from inside a world ever
leaves its slot and one table of offsets serves every agent. A cell holds the id of the thing in it:

    -1 outside the world | 0 empty | globals | swappable walls | agents | plain walls | converters

One comparison tells kinds apart: seen as unsigned, all that may ever make way comes before all that never does. Walls
have no state of their own, so all of a type share one id and moving one is copying a number. "Globals" are an
observer's own global tokens (see observe.py); no cell of a world holds them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.geometry import neighbor_offsets
from metta.world.state.compiled_config import ATTACK_REACH, NEVER, CompiledConfig
from metta.world.state.counters import AgentColumns, ConverterColumns, InvalidCounts

OUTSIDE = -1
EMPTY = 0

IDLE, CONVERTING, COOLING = 0, 1, 2

LOCKS_PER_AGENT = 16

CONVERTER_ARRAYS = (
    "converter_type",
    "converter_cell",
    "converter_inventory",
    "converter_phase",
    "converter_due",
    "converter_counters",
)
"""The arrays of Worlds whose length is that of all converter slots."""

CellsAndEntities = tuple[NDArray[np.int64], NDArray[np.int32]]


class Worlds:
    """Everything that changes, as arrays; rows of agents are world-major.

    `ARRAYS` names all of it but `invalid`: they are what a saved state holds.
    """

    ARRAYS = (
        "grid",
        "task",
        "ruleset",
        "steps",
        "first_step",
        "episode",
        "turn_stream",
        "object_counts",
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
        *CONVERTER_ARRAYS,
    )

    def __init__(self, compiled: CompiledConfig, num_worlds: int):
        spec = compiled.spec
        self.compiled = compiled
        self.num_worlds = num_worlds
        self.num_agents = spec.num_agents
        self.agents = agents = num_worlds * spec.num_agents

        self.pad = max(spec.observation_height // 2, spec.observation_width // 2, ATTACK_REACH)
        self.slot_rows = max(config.game.height for config in compiled.tasks) + 2 * self.pad
        self.stride = max(config.game.width for config in compiled.tasks) + 2 * self.pad
        self.slot = self.slot_rows * self.stride
        self.step_offset = np.array(neighbor_offsets(self.stride))  # by orientation
        self.clamped = self._clamped_cells()

        self.first_global = 1
        self.first_swappable = 1 + agents
        self.first_agent = self.first_swappable + compiled.types.static - compiled.types.plain_walls
        self.first_plain = self.first_agent + agents
        self.first_converter = self.first_plain + compiled.types.plain_walls

        self.standing_thing = self._standing_entities()

        # -- worlds --
        self.clock = 0  # steps of the batch so far; converters' events are due by it
        self.grid = np.full(num_worlds * self.slot + agents, OUTSIDE, np.int32)
        # behind the worlds, a cell for each agent that holds its globals, so that one gather finds them as well
        self.globals_start = num_worlds * self.slot
        self.grid[self.globals_start :] = self.first_global + np.arange(agents)
        self.task = np.zeros(num_worlds, np.int64)
        self.ruleset = np.zeros(num_worlds, np.int64)  # of that task
        self.steps = np.zeros(num_worlds, np.int64)  # of the current episode
        self.first_step = np.zeros(num_worlds, np.int64)  # that it began at: 0 unless worlds were staggered
        self.episode = np.full(num_worlds, -1, np.int64)
        self.turn_stream = np.zeros(num_worlds, np.uint64)  # the key of the episode's turn orders
        self.slot_start = np.arange(num_worlds) * self.slot

        self.num_converters = np.zeros(num_worlds, np.int64)  # in each world
        self.object_counts = np.zeros((num_worlds, len(compiled.types.names)), np.int64)  # at the start, by type row

        # -- agents --
        self.everyone = np.arange(agents)
        self.globals_cell = self.globals_start + self.everyone
        self.world = np.repeat(np.arange(num_worlds), spec.num_agents)
        self.world_start = self.slot_start[self.world]
        self.cell = np.zeros(agents, np.int64)  # index in the grid
        self.orientation = np.zeros(agents, np.int64)
        self.group_row = np.zeros(agents, np.int64)
        self.color = np.zeros(agents, np.int64)
        self.freeze = np.zeros(agents, np.int64)  # actions still lost; -1: for ever
        self.inventory = np.zeros((agents, compiled.num_items), np.int16)
        self.has_token = np.zeros((agents, compiled.num_items), np.bool_)  # has a token, be it with amount 0
        self.score = np.zeros(agents, np.float32)  # worth of the inventory
        self.reward = np.zeros(agents, np.float32)  # individual, of this step
        self.individual_rewards = np.zeros(agents, np.float32)  # sum over the episode of `reward`
        self.returned_rewards = np.zeros(agents, np.float32)  # sum over the episode of what `step` returned
        self.success = np.zeros(agents, np.bool_)
        self.last_action = np.zeros((agents, 2), np.uint8)

        # -- counters, see stats.py --
        self.agent_columns = AgentColumns(compiled)
        self.converter_columns = ConverterColumns(compiled)
        self.failed_start = self.everyone * self.agent_columns.width + self.agent_columns.failed  # in all counters
        self.agent_counters = np.zeros((agents, self.agent_columns.width), np.int32)
        self.tokens_written = np.zeros(agents, np.int64)  # in observations so far
        self.tokens_dropped = np.zeros(agents, np.int64)  # for want of room
        self.invalid: InvalidCounts = InvalidCounts()

        # by lock, the turn that holds it; only ever read where it has just been written (see turns.py)
        self.lock_holder = np.zeros(1 << (LOCKS_PER_AGENT * agents).bit_length(), np.int32)

        self.items_changed = np.zeros(agents, np.bool_)  # has to be drawn anew in the token table

        # -- converters: each world has as many slots as the fullest ever had --
        self.allot_converters(0)

    def _clamped_cells(self) -> NDArray[np.int64]:
        """Where a look lands, by index within a slot: above or left of the world it lands on the first row or column.

        Below and to the right there is no such rule: those cells are outside and stay what they are.
        """
        row = np.maximum(np.arange(self.slot_rows), self.pad)
        col = np.maximum(np.arange(self.stride), self.pad)
        return (row[:, None] * self.stride + col[None, :]).ravel()

    def _standing_entities(self) -> NDArray[np.int32]:
        """The thing a type id puts into the grid, EMPTY where that is no wall. `[rulesets, 256]`"""
        types, type_row = self.compiled.types, self.compiled.rulesets.type_row
        plain = (type_row >= 0) & (type_row < types.plain_walls)
        swappable = (type_row >= types.plain_walls) & (type_row < types.static)
        entities = np.full(type_row.shape, EMPTY, np.int32)
        entities[plain] = self.first_plain + type_row[plain]
        entities[swappable] = self.first_swappable + type_row[swappable] - types.plain_walls
        return entities

    def allot_converters(self, slots: int) -> None:
        """Room for `slots` converters in every world, all of it unused."""
        self.converter_slots = slots
        count = self.num_worlds * slots
        self.converter_type = np.zeros(count, np.int64)  # type row
        self.converter_cell = np.full(count, -1)  # -1: the slot is not used
        self.converter_inventory = np.zeros((count, self.compiled.num_items), np.int16)
        self.converter_phase = np.full(count, IDLE, np.int8)
        self.converter_due = np.full(count, NEVER)  # clock of the next event
        self.converter_counters = np.zeros((count, self.converter_columns.width), np.int32)
        self.converter_changed = np.zeros(count, np.bool_)  # has to be drawn anew in the token table

    def reserve_converters(self, slots: int) -> None:
        """Make room for `slots` converters in every world; what is there keeps its world and its place in it."""
        if slots <= self.converter_slots:
            return
        old_slots, old = self.converter_slots, {name: getattr(self, name) for name in CONVERTER_ARRAYS}
        self.allot_converters(slots)
        for name, array in old.items():
            by_world = getattr(self, name).reshape(self.num_worlds, slots, *array.shape[1:])
            by_world[:, :old_slots] = array.reshape(self.num_worlds, old_slots, *array.shape[1:])
        standing = np.flatnonzero(self.converter_cell >= 0)
        self.grid[self.converter_cell[standing]] = self.first_converter + standing
        self.converter_changed[standing] = True

    @property
    def num_entities(self) -> int:
        """One more than the highest thing id."""
        return self.first_converter + len(self.converter_type)

    def rows_of(self, world: int) -> slice:
        """The rows of a world's agents."""
        return slice(world * self.num_agents, (world + 1) * self.num_agents)

    def by_world(self, name: str) -> NDArray[Any]:
        """A view of one of ARRAYS, world by world. `[worlds, ...]`"""
        array = self.grid[: self.globals_start] if name == "grid" else getattr(self, name)
        return array.reshape(self.num_worlds, len(array) // self.num_worlds, *array.shape[1:])

    def positions(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """(row, col) in the world of places in its slot. `[places, 2]`"""
        row, col = np.divmod(places, self.stride)
        return np.stack([row - self.pad, col - self.pad], axis=1)

    # -- looking around ---------------------------------------------------------------------------------------

    def look_at(self, rows: NDArray[np.int64], offset: NDArray[np.int64]) -> CellsAndEntities:
        """The cell at `offset` in the grid from each agent of `rows`, and the thing in it.

        Looks that leave the world above or on the left are bent back by the edge rule.
        """
        cells = self.cell[rows] + offset
        entities = self.grid[cells]
        left = (entities == OUTSIDE).nonzero()[0]
        if left.size:
            start = self.world_start[rows[left]]
            cells[left] = start + self.clamped[cells[left] - start]
            entities[left] = self.grid[cells[left]]
        return cells, entities

    def look(self, rows: NDArray[np.int64], direction: NDArray[np.int64]) -> CellsAndEntities:
        """The next cell in a direction (as orientations) from each agent of `rows`, and the thing in it."""
        return self.look_at(rows, self.step_offset[direction])

    def look_ahead(self, rows: NDArray[np.int64]) -> CellsAndEntities:
        """The cell each agent of `rows` faces, and the thing in it."""
        return self.look(rows, self.orientation[rows])

    def may_make_way(self, entities: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which things a move or a swap can possibly put somebody in the place of: empty cells, blocks, agents."""
        makes_way: NDArray[np.bool_] = entities.view(np.uint32) < self.first_plain
        return makes_way

    def agent_in(self, entities: NDArray[np.int32]) -> NDArray[np.int64]:
        """The rows of those things that are agents, -1 for others."""
        is_agent = (entities >= self.first_agent) & (entities < self.first_plain)
        return np.where(is_agent, entities - np.int64(self.first_agent), -1)

    # -- counting ---------------------------------------------------------------------------------------------

    def count(self, rows: NDArray[np.int64], column: NDArray[np.int64] | int, by: NDArray[np.int64] | int = 1) -> None:
        """Add to one counter of each agent of `rows`, which must be distinct."""
        _add(self.agent_counters, rows, column, by)

    def count_converters(
        self, converters: NDArray[np.int64], column: NDArray[np.int64] | int | slice, by: NDArray[np.int64] | int = 1
    ) -> None:
        """Add to one counter, or to several in a row, of each converter, which must be distinct."""
        _add(self.converter_counters, converters, column, by)


def _add(
    counters: NDArray[np.int32],
    rows: NDArray[np.int64],
    column: NDArray[np.int64] | int | slice,
    by: NDArray[np.int64] | int,
) -> None:
    if isinstance(column, np.ndarray):
        counters[rows, column] += by
    else:  # rows of a column take a third of the time of both at once
        counters[:, column][rows] += by
