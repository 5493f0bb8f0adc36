"""Action masks: which actions of each agent may succeed in the next step, as far as its observation tells.

A masked action is certain to fail, whatever the turn order and whatever the other agents do. The mask of an agent is a
function of the tokens of its observation and of the rules of its world (`[env.game]`, objects, actions, and whether its
maps have walls at their edge). It depends on the agent itself and on the cells that the action reaches. Masked are

    all actions    of a frozen agent; those that the world disables, or whose required items are missing
    move           into a wall, an object or a frozen agent
    put, get, use  without a converter ahead, or with one that takes none of the items held and has no output that fits;
                   objects of registered types may always be used
    attack         on a cell without an agent
    swap           unless a swappable wall is ahead, or an agent that is or can become frozen
    gift           of an item that is not held, or unless an agent is ahead that can take it, or can come there first

Other agents act in the same step: one ahead may leave, agents that face this one may give an item, and so on. Whether
they have the resources or the space for it, and what their registered actions do, is not examined. A converter that is
busy may finish. What the observation does not hold (cells outside the window, tokens beyond `num_observation_tokens`)
may be as the action needs it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.config.env.token_features import FEATURE_IDS, FIRST_ITEM_FEATURE
from metta.geometry import STEPS
from metta.world.observation.mask_tables import (
    AGENT,
    FACES_EDGE,
    REACHED,
    SIDE_AT_EDGE,
    SIDES,
    AttackColumns,
    CellCodes,
    EntityKinds,
    Mask,
    MaskTables,
    Slot,
)
from metta.world.observation.observe import Observer
from metta.world.rules.converters import MAX_HELD
from metta.world.rules.custom_rules import may_succeed
from metta.world.rules.inventory import Rows
from metta.world.state.compiled_config import ABSENT, TurnKind
from metta.world.state.worlds import CONVERTING, EMPTY, IDLE, Worlds

GROUP, FROZEN = FEATURE_IDS["agent:group"], FEATURE_IDS["agent:frozen"]
ORIENTATION, CONVERTING_FEATURE = FEATURE_IDS["agent:orientation"], FEATURE_IDS["converting"]

IS_AGENT = np.array(AGENT, np.uint8)

IS_TARGET = np.array([ahead > 0 for ahead, _ in REACHED])

Array = NDArray[Any]
Entities = NDArray[np.int32]
ALL_ROWS = slice(None)


class ActionMasks:
    """Computes the masks of all agents of `worlds` from their observations, which `observer` encodes."""

    def __init__(self, worlds: Worlds, observer: Observer):
        spec = worlds.compiled.spec
        self._worlds, self._observer, self._tables = worlds, observer, MaskTables(worlds.compiled)
        self._cells = CellCodes(spec.observation_height, spec.observation_width, worlds.stride)
        self._entities = EntityKinds(worlds)

    def compute(self) -> Mask:
        """The actions that stay allowed: see `MettaGridEnv.action_masks`. `[agents, flat actions] bool`"""
        worlds = self._worlds
        worlds.check_episode(0)
        last_tokens = self._observer.last_tokens()
        if len(self._entities.values) != worlds.num_entity_ids + 2:
            self._entities = EntityKinds(worlds)
        self._entities.update(worlds, self._tables)
        return _Step(worlds, self._tables, self._cells, self._entities, last_tokens).masks()


class _Step:
    """The masks before one step; `last_tokens` is None if all observations hold their whole window."""

    def __init__(
        self, worlds: Worlds, tables: MaskTables, cells: CellCodes, entities: EntityKinds, last_tokens: Array | None
    ):
        self.worlds, self.tables, self.cells, self.entities, self.last = worlds, tables, cells, entities, last_tokens
        self.ruleset = worlds.ruleset.repeat(worlds.num_agents) if len(worlds.compiled.configs) > 1 else None
        self.unseen = worlds.num_entity_ids
        """entity id of cells that the observation does not hold, larger than all others"""
        self.sees_neighbors = last_tokens is None and cells.holds_neighbors
        neighbors = cells.steps.take(worlds.orientation, axis=1)
        neighbors += worlds.cell
        self.around: Entities = worlds.grid.take(neighbors)
        """the entities ahead and behind, `[2, agents]`"""
        if not self.sees_neighbors:
            for argument, entities_there in enumerate(self.around):
                entities_there[self._hides(ALL_ROWS, cells.neighbors.take(worlds.orientation ^ argument))] = self.unseen
        self.ahead = self.used = self.around[0]
        if worlds.compiled.types.has_walkable:  # an agent ahead may leave the object that it stands on
            below = worlds.floor.take(neighbors[0], mode="clip")
            self.used = np.where((worlds.agents_among(self.ahead) >= 0) & (below != EMPTY), below, self.ahead)
        # moves and swaps depend only on these entities
        ahead, behind = entities.values.take(self.around)
        self.can: Mask = tables.can_by_kind[0].take(ahead, axis=0)
        self.can |= tables.can_by_kind[1].take(behind, axis=0)
        self.affordable: dict[int, Mask] = {}

    def masks(self) -> Mask:
        """`[agents, flat actions] bool`"""
        tables = self.tables
        for index, slot in tables.own_slots:
            self.can[:, index] = self._affords(slot.action)
        for index, slot in tables.move_slots:
            if self.last is not None:
                self.can[:, index] |= self._may_be_frozen(slot.argument)
            self._check_cost(index, slot)
        for index, slot in tables.swap_slots:
            if not self.sees_neighbors:
                self.can[:, index] |= self._may_swap_unseen()
            self._check_cost(index, slot)
        if tables.converter_slots:
            self._fill_converter_actions()
        for index, slot in tables.custom_slots:
            self.can[:, index] = self._affords(slot.action) & may_succeed(self.worlds, slot.action, slot.argument)
        for index, slot in tables.gift_slots:
            self._fill_gift(index, slot)
        for attack in tables.attacks:
            self._fill_attacks(attack)
        if self.ruleset is None:
            masks: Mask = self.can.take(tables.column_of_action[0], axis=1)
        else:
            masks = np.take_along_axis(self.can, tables.column_of_action[self.ruleset], axis=1)
        self._leave_last_resorts(masks)
        return masks

    def _leave_last_resorts(self, masks: Mask) -> None:
        """Allow agents that are frozen, or whose actions all fail, the actions that always stay allowed."""
        worlds, tables = self.worlds, self.tables
        if np.count_nonzero(worlds.freeze):
            is_frozen = worlds.freeze != 0
            if self.last is not None:
                is_frozen &= self.last >= FROZEN
            masks[is_frozen] = False
        elif not tables.may_be_stuck:
            return
        stuck = np.flatnonzero(~masks.any(axis=1))
        if stuck.size:
            masks[stuck] = self._of_ruleset(tables.last_resort, stuck)

    # -- what observations hold ------------------------------------------------------------------------------------

    def _of_ruleset(self, table: Array, rows: Rows | slice = ALL_ROWS) -> Any:
        """The entries of a table `[rulesets, ...]` for agents; one entry if there is one ruleset."""
        return table[0] if self.ruleset is None else table[self.ruleset[rows]]

    def _hides(self, rows: Rows | slice, codes: Array) -> Mask:
        """Whether the observations of `rows` do not hold tokens, given by code. `[rows, ...]`, like `codes`"""
        if self.last is None:
            return codes > self.cells.end
        last = self.last[rows]
        return codes > last.reshape(-1, *(1,) * (codes.ndim - 1))

    def _active_agents(self, rows: Rows | slice, entities: Entities, codes: Array) -> tuple[Mask, Array]:
        """Whether each entity is an agent that may act in this step, and its orientation, -1 if that is not seen.

        `entities [rows]` are in cells with `codes [rows]`. Cells that are not seen may hold such an agent.
        """
        agents = self.worlds.agents_among(entities)
        orientation = self.worlds.orientation[agents]
        is_active = (agents >= 0) & (self.worlds.freeze[agents] == 0)
        if not self.sees_neighbors:
            is_active |= (agents >= 0) & self._hides(rows, codes + FROZEN)
            orientation[self._hides(rows, codes + ORIENTATION)] = -1
        is_unseen = entities == self.unseen
        is_active |= is_unseen & (self.tables.other_agents > 0)
        orientation[is_unseen] = -1
        return is_active, orientation

    @cached_property
    def givers(self) -> Array:
        """How many agents may give each agent an item before its turn: active ones that face it. `[agents]`"""
        givers = np.zeros(self.worlds.agents, np.int64)
        worlds = self.worlds
        for direction in range(len(STEPS)):
            directions = np.full(worlds.agents, direction)
            codes = self.cells.neighbors[directions]
            entities = worlds.grid.take(worlds.cell + worlds.step_offset[direction])
            if not self.sees_neighbors:
                entities[self._hides(ALL_ROWS, codes)] = self.unseen
            is_active, orientation = self._active_agents(ALL_ROWS, entities, codes)
            givers += is_active & ((orientation == direction ^ 1) | (orientation < 0))
        return np.minimum(givers, self.tables.other_agents)

    def _by_group(self, table: Array, largest: Array, rows: Rows | slice) -> Array:
        """A table `[group rows, items]` for agents; where the group is not seen, `largest [rulesets, items]`.

        A table of one row is returned unchanged.
        """
        if len(table) == 1:
            return table
        values: Array = table.take(self.worlds.group_row[rows], axis=0)
        if self.last is not None:
            values = np.where(self.last[rows, None] < GROUP, self._of_ruleset(largest, rows), values)
        return values

    @cached_property
    def caps(self) -> Array:
        """`[agents, items]`"""
        caps = self._by_group(self.worlds.compiled.groups.cap, self.tables.largest_cap, ALL_ROWS)
        return np.broadcast_to(caps, self.worlds.inventory.shape)

    def _items(self, rows: Rows) -> tuple[Array, Array]:
        """(least, most) units of each item that agents hold in the main phase, before their costs. `[rows, items]`

        Units that they may lose in the attack phase are left out here: see `MaskTables.room_cap`.
        """
        least = most = self.worlds.inventory.take(rows, axis=0)
        if self.last is not None:
            is_hidden = self.last[rows, None] < FIRST_ITEM_FEATURE + np.arange(least.shape[1])
            least, most = np.where(is_hidden, 0, least), np.where(is_hidden, self.caps[rows], most)
        if self.tables.has_gifts:
            given = self.givers[rows, None] * self._of_ruleset(self.tables.gifts, rows)
            most = np.minimum(most + given, self.caps[rows])
        return least, most

    def _affords(self, action: int) -> Mask:
        """Whether agents may have the resources for an action at their turn. `[agents] bool`"""
        cost = self.tables.same_cost[action]
        if cost not in self.affordable:
            self.affordable[cost] = self._affords_cost(cost)
        return self.affordable[cost]

    def _affords_cost(self, action: int) -> Mask:
        worlds, tables = self.worlds, self.tables
        can_receive = tables.has_gifts and action not in tables.attack_actions  # attacks come before gifts
        affords: Mask | None = None
        missing: Array | int = 0
        for item, required in tables.required_units[action]:
            if self.ruleset is not None:
                required = tables.required[self.ruleset, action, item]
            held: Array = worlds.inventory[:, item]
            if self.last is not None:
                held = np.where(self.last < FIRST_ITEM_FEATURE + item, self.caps[:, item], held)
            enough: Mask = held >= required
            if can_receive:
                missing = missing + np.maximum(required - held, 0)
                enough |= self._of_ruleset(tables.gifts)[..., item] & (self.caps[:, item] >= required)
            affords = enough if affords is None else affords & enough
        if affords is None:
            return np.ones(worlds.agents, np.bool_)
        return affords & (missing <= self.givers) if can_receive else affords

    # -- conditions of each kind of action ----------------------------------------------------------------------

    def _check_cost(self, index: int, slot: Slot) -> None:
        if slot.action != ABSENT:
            self.can[:, index] &= self._affords(slot.action)

    def _may_be_frozen(self, argument: int) -> Mask:
        """Whether there is an agent ahead (argument 0) or behind (1) that may be frozen, unseen. `[agents]`"""
        codes = self.cells.neighbors[self.worlds.orientation ^ argument] + FROZEN
        return np.asarray((self.worlds.agents_among(self.around[argument]) >= 0) & self._hides(ALL_ROWS, codes))

    def _may_swap_unseen(self) -> Mask:
        """Whether there may be something to swap with ahead that the agent does not see. `[agents]`"""
        may_hide = self._may_be_frozen(0) | (self.ahead == self.unseen)
        return np.asarray(may_hide & self._of_ruleset(self.tables.swaps_unseen))

    def _fill_converter_actions(self) -> None:
        rows = (self.used >= self.entities.first_converter).nonzero()[0]
        if not rows.size:
            return
        tables, (type_rows, held, phase) = self.tables, self._converters(rows)
        least, most = self._items(rows)
        room_cap = self._by_group(tables.room_cap, tables.largest_room_cap, rows)
        stocked = held | phase  # not 0: the converter has units of the item, or may have

        def gets(type_rows: Array, least: Array) -> Mask:
            fits = least < room_cap
            outputs = tables.output.take(type_rows, axis=0)
            np.logical_and(outputs, stocked, out=outputs)
            if tables.has_refilled:
                outputs |= tables.refilled[type_rows]
            fits &= outputs
            return np.asarray(fits.dot(tables.every_item))  # for booleans it is `any(axis=1)`, and faster

        def puts(type_rows: Array, most: Array) -> Mask:
            inputs = tables.input.take(type_rows, axis=0)
            np.logical_and(inputs, most, out=inputs)
            if not tables.other_agents:  # nobody else makes room in a full converter
                inputs &= (held < MAX_HELD) | (phase != IDLE)
            return np.asarray(inputs.dot(tables.every_item))

        for index, slot in tables.converter_slots:
            left, offered, types = least, most, type_rows
            if slot.action != ABSENT:
                consumed = self._of_ruleset(tables.consumed, rows)[..., slot.action, :]
                left, offered = np.maximum(least - consumed, 0), np.maximum(most - consumed, 0)
            if slot.kind == TurnKind.USE:
                types, is_usable = self._usable_types(slot.action, rows, type_rows)
                can = is_usable & (gets(types, left) | puts(types, offered) | tables.is_custom[types])
            else:
                can = gets(types, left) if slot.kind == TurnKind.GET_ITEMS else puts(types, offered)
                can |= tables.is_custom[types]
            if slot.action != ABSENT:
                can &= self._affords(slot.action)[rows]
            self.can[:, index][rows] = can  # faster than `can[rows, index] =`

    def _usable_types(self, action: int, rows: Rows, type_rows: Array) -> tuple[Array, Mask]:
        """The type row of each converter, that of any usable type if it is not seen; and whether `use` works on it."""
        first_rows = 0 if self.ruleset is None else self.ruleset[rows] * self.worlds.compiled.num_actions
        action_rows = first_rows + action
        is_seen = type_rows < self.tables.num_types
        usable = self.worlds.compiled.actions.usable_types[action_rows, np.where(is_seen, type_rows, 0)]
        return np.where(is_seen, type_rows, self.tables.first_usable + action_rows), usable | ~is_seen

    def _converters(self, rows: Rows) -> tuple[Array, Array, Array]:
        """(type rows `[rows]`, units held `[rows, items]`, phase `[rows, 1]`) of the converter ahead of each agent.

        Where an observation does not hold the units of an item, they are 1; where it does not hold the converter at
        all, the type row is that of any type. A phase that is not seen is not IDLE.
        """
        worlds = self.worlds
        converters = self.used[rows].astype(np.int64)
        converters -= self.entities.first_converter
        if self.sees_neighbors:
            phase = worlds.converter_phase.take(converters)[:, None]
            return worlds.converter_type.take(converters), worlds.converter_inventory.take(converters, axis=0), phase
        is_seen = self.used[rows] != self.unseen
        seen = converters[is_seen]
        type_rows = np.full(len(rows), self.tables.num_types)
        if self.ruleset is not None:
            type_rows += self.ruleset[rows]
        type_rows[is_seen] = worlds.converter_type[seen]
        held = np.ones((len(rows), worlds.compiled.num_items), np.int16)
        held[is_seen] = worlds.converter_inventory[seen]
        phase = np.full((len(rows), 1), CONVERTING, np.int8)
        phase[is_seen, 0] = worlds.converter_phase[seen]
        codes = self.cells.neighbors[worlds.orientation[rows], None]
        phase[self._hides(rows, codes + CONVERTING_FEATURE)] = CONVERTING
        held[self._hides(rows, codes + FIRST_ITEM_FEATURE + np.arange(held.shape[1]))] = 1
        return type_rows, held, phase

    def _fill_attacks(self, attack: AttackColumns) -> None:
        free = attack.action == ABSENT
        rows = self.worlds.all_agents if free else self._affords(attack.action).nonzero()[0]
        if rows.size:
            hits = self._hits(rows)
            self.can[:, attack.reached][rows] = hits
            self.can[:, attack.reached.stop][rows] = hits.dot(IS_TARGET)  # whether any target is hit

    def _hits(self, rows: Rows) -> Mask:
        """Whether an attack may hit an agent at each of REACHED. `[rows, REACHED]`"""
        worlds, cells, tables = self.worlds, self.cells, self.tables
        orientation = worlds.orientation.take(rows)
        entities = worlds.grid.take(worlds.cell.take(rows)[:, None] + cells.reached_offsets.take(orientation, axis=0))
        hits: Mask = self.entities.values.take(entities) >= IS_AGENT
        if self.last is not None or not cells.holds_reached:
            is_hidden = self._hides(rows, cells.reached.take(orientation, axis=0))
            hits[is_hidden] = tables.other_agents > 0
            entities[is_hidden] = EMPTY
        if not tables.all_walled:
            is_open = ~tables.is_walled[worlds.task[worlds.world_of_agent[rows]]]
            if is_open.any():
                hits[is_open] = _after_edge_rule(hits[is_open], entities[is_open] > EMPTY, orientation[is_open])
            if self.last is not None:
                hits[is_open & (self.last[rows] < ORIENTATION)] = True  # it may face a corner
        return hits

    def _fill_gift(self, index: int, slot: Slot) -> None:
        worlds, tables = self.worlds, self.tables
        items = np.broadcast_to(self._of_ruleset(tables.gift_item)[..., slot.action], worlds.agents)
        remaining = self._items(worlds.all_agents)[1] - self._of_ruleset(tables.consumed)[..., slot.action, :]
        rows = (self._affords(slot.action) & (remaining[worlds.all_agents, items] > 0)).nonzero()[0]
        self.can[rows, index] = self._receives(rows, items[rows])

    def _receives(self, rows: Rows, items: Array) -> Mask:
        """Whether an agent that takes a unit of an item may be ahead of each agent at its turn. `[rows] bool`"""
        worlds, tables, groups = self.worlds, self.tables, self.worlds.compiled.groups
        entities, codes = self.ahead[rows], self.cells.neighbors[worlds.orientation[rows]]
        agents = worlds.agents_among(entities)
        cap = groups.cap[worlds.group_row[agents], items]
        can_hold, has_room = cap > 0, worlds.inventory[agents, items] < cap
        if not self.sees_neighbors:
            can_hold |= self._hides(rows, codes + GROUP)
            has_room |= self._hides(rows, codes + FIRST_ITEM_FEATURE + items)
        is_active, _ = self._active_agents(rows, entities, codes)
        # an active agent may make room before; if there is a third agent, it may take the place of the one ahead
        receives = (agents >= 0) & (np.where(is_active, can_hold, has_room) | (tables.other_agents > 1))
        receives |= (entities == self.unseen) & is_active
        receives |= self._is_entered(rows, entities)
        ruleset = 0 if self.ruleset is None else self.ruleset[rows]
        fits: Mask = tables.largest_cap[ruleset, items] > 0
        return receives & fits

    def _is_entered(self, rows: Rows, entities: Entities) -> Mask:
        """Whether another agent may move into the empty cell ahead of each agent, or swap with the wall in it."""
        worlds, tables, steps = self.worlds, self.tables, np.array(STEPS)
        can_move = (entities <= EMPTY) & self._of_ruleset(tables.moves, rows)
        is_swappable = (entities >= worlds.first_swappable) & (entities < worlds.first_agent)
        can_swap = is_swappable & self._of_ruleset(tables.swaps, rows)
        is_entered = np.zeros(len(rows), np.bool_)
        ahead = worlds.orientation[rows]
        for direction in range(len(steps)):
            codes = self.cells.at(steps[ahead] + steps[direction])
            around = worlds.grid[worlds.cell[rows] + worlds.step_offset[ahead] + worlds.step_offset[direction]]
            around[self._hides(rows, codes)] = self.unseen
            is_active, orientation = self._active_agents(rows, around, codes)
            faces = (orientation == direction ^ 1) | (orientation < 0)
            comes = ((can_move | can_swap) & faces) | (can_move & (orientation == direction))
            is_entered |= is_active & comes & (ahead != direction ^ 1)  # behind that cell is the agent itself
        return is_entered


def _after_edge_rule(hits: Mask, is_occupied: Mask, orientation: Array) -> Mask:
    """The hits of attackers that may be near the top or left edge, to which targets outside are moved. `[n, REACHED]`

    An agent may be at any distance from the edge at which no cell of REACHED outside is seen to be occupied.
    """
    number, side, own = np.arange(len(hits)), SIDE_AT_EDGE[orientation], SIDES.index(0)
    hit, occupied = (array.reshape(len(hits), -1, len(SIDES)) for array in (hits.copy(), is_occupied.copy()))
    hit[:, 0, own] = occupied[:, 0, own] = True  # the attacker
    has_edge_beside = np.asarray(~occupied[number, :, side].any(axis=1))
    hit[number, :, side] |= hit[:, :, own] & has_edge_beside[:, None]
    for ahead in range(1, hit.shape[1]):
        has_edge_before = FACES_EDGE[orientation] & ~occupied[:, ahead:].any(axis=(1, 2))
        hit[:, ahead] |= hit[:, ahead - 1] & has_edge_before[:, None]
    return hit.reshape(hits.shape)
