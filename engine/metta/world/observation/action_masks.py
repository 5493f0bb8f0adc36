"""Action masks: which actions of each agent may succeed in the next step, as far as its observation tells.

A masked action is certain to fail, whatever the turn order and whatever the other agents do. The mask of an agent is a
function of the tokens of its observation and of the rules of its world (`[env.game]`, objects, actions, and whether its
maps have walls at their edge). It depends on the agent itself and on the cells that the action reaches. Masked are

    all actions    of a frozen agent; those that the world disables, or whose required items are missing
    move           into a wall, an object or a frozen agent
    put, get, use  without a converter ahead, or with one that takes none of the items held and has no output that fits
    attack         on a cell without an agent
    swap           unless a swappable wall is ahead, or an agent that is or can become frozen
    gift           of an item that is not held, or unless an agent is ahead that can take it, or can come there first

Other agents act in the same step: one ahead may leave, agents that face this one may give an item, and so on. Whether
they have the resources or the space for it is not examined. A converter that is busy may finish. What the observation
does not hold (cells outside the window, tokens beyond `num_observation_tokens`) may be as the action needs it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.config.env.objects import ATTACK_RANGE
from metta.config.env.token_features import FEATURE_IDS, FIRST_ITEM_FEATURE
from metta.geometry import STEPS
from metta.world.observation.mask_tables import ALWAYS, ATTACKS, CONVERTER_KINDS, Mask, MaskTables, Slots
from metta.world.observation.observe import Observer, window_cells
from metta.world.rules.combat import AHEAD, LEFT
from metta.world.rules.converters import MAX_HELD
from metta.world.rules.inventory import Rows
from metta.world.state.compiled_config import ABSENT, TurnKind
from metta.world.state.worlds import EMPTY, IDLE, Worlds

GROUP, FROZEN = FEATURE_IDS["agent:group"], FEATURE_IDS["agent:frozen"]
ORIENTATION, CONVERTING = FEATURE_IDS["agent:orientation"], FEATURE_IDS["converting"]

SIDES = (1, 0, -1)
REACHED = tuple((ahead, left) for ahead in range(ATTACK_RANGE + 1) for left in SIDES)
"""(cells ahead, cells to the left) of all cells that attacks can hit: at the edge of the map the attacker's own and
those beside it, then the targets of `attack` in the order of its arguments."""

FACES_EDGE = np.array([True, False, True, False])
"""By orientation: whether the agent faces the top or left edge of the map."""

EDGE_SIDE = np.array([0, 2, 2, 0])
"""By orientation: the index in SIDES of the side that is towards the top or left edge of the map."""

Array = NDArray[Any]
ALL_ROWS = slice(None)


class CellCodes:
    """Codes of the cells around an agent, as in `Observer.last_tokens`."""

    def __init__(self, height: int, width: int):
        window = window_cells(height, width)
        ranks = {cell: rank for rank, cell in enumerate(window)}
        reach = range(-ATTACK_RANGE, ATTACK_RANGE + 1)
        self.end = len(window) << 8
        """larger than the codes of all tokens in the window, smaller than those of cells outside"""
        self._codes = np.array([[ranks.get((row, col), len(window) + 1) << 8 for col in reach] for row in reach])
        steps = np.array(REACHED)
        self.reached_offsets = steps[:, :1] * AHEAD[:, None] + steps[:, 1:] * LEFT[:, None]
        self.reached = self.at(self.reached_offsets)  # [orientations, REACHED]
        self.adjacent = self.at(np.array(STEPS))  # [orientations]
        self.holds_adjacent = bool((self.adjacent < self.end).all())
        self.holds_reached = bool((self.reached < self.end).all())

    def at(self, offsets: Array) -> Array:
        """The code of the first token of each cell at (row, col) `offsets [..., 2]` from the agent."""
        codes: Array = self._codes[offsets[..., 0] + ATTACK_RANGE, offsets[..., 1] + ATTACK_RANGE]
        return codes


class ActionMasks:
    """Computes the masks of all agents of `worlds` from their observations, which `observer` encodes."""

    def __init__(self, worlds: Worlds, observer: Observer):
        spec = worlds.compiled.spec
        self._worlds, self._observer, self._tables = worlds, observer, MaskTables(worlds.compiled)
        self._cells = CellCodes(spec.observation_height, spec.observation_width)

    def compute(self) -> Mask:
        """The actions that stay allowed: see `MettaGridEnv.action_masks`. `[agents, flat actions] bool`"""
        return _Step(self._worlds, self._tables, self._cells, self._observer.last_tokens()).masks()


class _Step:
    """The masks before one step; `last_tokens` is None if all observations hold their whole window."""

    def __init__(self, worlds: Worlds, tables: MaskTables, cells: CellCodes, last_tokens: Array | None):
        self.worlds, self.tables, self.cells, self.last = worlds, tables, cells, last_tokens
        self.ruleset = worlds.ruleset.repeat(worlds.num_agents) if len(worlds.compiled.configs) > 1 else None
        self.unseen = worlds.num_entity_ids
        """entity id of cells that the observation does not hold, larger than all others"""
        self.ahead = self._look(ALL_ROWS, worlds.orientation)
        self.can = np.zeros((len(tables.slots), worlds.agents), np.bool_)
        self.affordable: dict[int, Mask] = {}

    def masks(self) -> Mask:
        """`[agents, flat actions] bool`"""
        tables, can = self.tables, self.can
        can[ALWAYS] = True
        for kinds, fill in (
            ((TurnKind.MOVE,), self._fill_moves),
            ((TurnKind.SWAP,), self._fill_swaps),
            (CONVERTER_KINDS, self._fill_converter_actions),
            ((TurnKind.GIFT,), self._fill_gifts),
            (ATTACKS, self._fill_attacks),
            ((TurnKind.ROTATE,), self._fill_affordable),
        ):
            if slots := tables.slots_of(kinds):
                fill(slots)
        if self.ruleset is None:
            masks: Mask = can.take(tables.slot_of_action[0], axis=0).T.copy()
        else:
            masks = np.take_along_axis(can.T, tables.slot_of_action[self.ruleset], axis=1)
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

    def _hides(self, rows: Rows | slice, codes: Array | int) -> Mask:
        """Whether the observations of `rows` do not hold tokens, given by code. `[rows, ...]`, like `codes`"""
        codes = np.asarray(codes)
        if self.last is None:
            return codes > self.cells.end
        last = self.last[rows]
        return codes > last.reshape(-1, *(1,) * (codes.ndim - 1))

    def _look(self, rows: Rows | slice, direction: Array) -> NDArray[np.int32]:
        """The entity in the next cell in a direction (an orientation) from each agent, without the edge rule."""
        worlds = self.worlds
        entities: NDArray[np.int32] = worlds.grid.take(worlds.cell[rows] + worlds.step_offset.take(direction))
        if self.last is not None or not self.cells.holds_adjacent:
            entities[self._hides(rows, self.cells.adjacent.take(direction))] = self.unseen
        return entities

    def _active_agents(self, rows: Rows | slice, entities: NDArray[np.int32], codes: Array) -> tuple[Mask, Array]:
        """Whether each entity is an agent that may act in this step, and its orientation, -1 if that is not seen.

        `entities [rows]` are in cells with `codes [rows]`. Cells that are not seen may hold such an agent.
        """
        agents = self.worlds.agents_among(entities)
        orientation = self.worlds.orientation[agents]
        is_active = (agents >= 0) & (self.worlds.freeze[agents] == 0)
        if self.last is not None:
            is_active |= (agents >= 0) & self._hides(rows, codes + FROZEN)
            orientation[self._hides(rows, codes + ORIENTATION)] = -1
        is_unseen = entities == self.unseen
        if is_unseen.any():
            is_active |= is_unseen & (self.tables.other_agents > 0)
            orientation[is_unseen] = -1
        return is_active, orientation

    @cached_property
    def givers(self) -> Array:
        """How many agents may give each agent an item before its turn: active ones that face it. `[agents]`"""
        worlds = self.worlds
        givers = np.zeros(worlds.agents, np.int64)
        for direction in range(len(STEPS)):
            directions = np.full(worlds.agents, direction)
            entities = self._look(ALL_ROWS, directions)
            is_active, orientation = self._active_agents(ALL_ROWS, entities, self.cells.adjacent[directions])
            givers += is_active & ((orientation == direction ^ 1) | (orientation < 0))
        return np.minimum(givers, self.tables.other_agents)

    def _caps(self, rows: Rows | slice) -> Array:
        """The caps of each agent; the largest ones of its world where its group is not seen. `[rows, items]`"""
        caps: Array = self.worlds.compiled.groups.cap[self.worlds.group_row[rows]]
        if self.last is not None:
            is_hidden = self._hides(rows, np.array([[GROUP]]))
            caps = np.where(is_hidden, self._of_ruleset(self.tables.largest_cap, rows), caps)
        return caps

    def _items(self, rows: Rows | slice) -> tuple[Array, Array]:
        """(least, most) units of each item that agents hold in the main phase, before their costs. `[rows, items]`"""
        worlds, tables = self.worlds, self.tables
        least = most = worlds.inventory[rows]
        if self.last is not None:
            is_hidden = self._hides(rows, FIRST_ITEM_FEATURE + np.arange(least.shape[1])[None])
            least, most = np.where(is_hidden, 0, least), np.where(is_hidden, self._caps(rows), most)
        if tables.loses_any:
            least = np.where(tables.loses[worlds.group_row[rows]], 0, least)
        if tables.has_gifts:
            given = self.givers[rows, None] * self._of_ruleset(tables.gifts, rows)
            most = np.minimum(most + given, self._caps(rows))
        return least, most

    def _affords(self, action: int) -> Mask:
        """Whether agents may have the resources for an action at their turn. `[agents] bool`"""
        if action not in self.affordable:
            worlds, tables = self.worlds, self.tables
            can_receive = tables.has_gifts and action not in tables.attack_actions  # attacks come before gifts
            affords = np.ones(worlds.agents, np.bool_)
            missing: Array | int = 0
            for item in tables.required_items[action]:
                required = self._of_ruleset(tables.required)[..., action, item]
                held: Array = worlds.inventory[:, item]
                if self.last is not None:
                    held = np.where(self.last < FIRST_ITEM_FEATURE + item, self._caps(ALL_ROWS)[:, item], held)
                if can_receive:
                    lacks = np.maximum(required - held, 0)
                    affords &= (lacks == 0) | (
                        self._of_ruleset(tables.gifts)[..., item] & (self._caps(ALL_ROWS)[:, item] >= required)
                    )
                    missing = missing + lacks
                else:
                    affords &= held >= required
            if can_receive:
                affords &= missing <= self.givers
            self.affordable[action] = affords
        return self.affordable[action]

    def _consumed(self, action: int, rows: Rows) -> Array | int:
        """Units of each item that an action consumes, also if it then fails. `[rows, items]`, or 0"""
        return 0 if action == ABSENT else self._of_ruleset(self.tables.consumed, rows)[..., action, :]

    # -- conditions of each kind of action ----------------------------------------------------------------------

    def _fill_affordable(self, slots: Slots) -> None:
        for index, slot in slots:
            self.can[index] = self._affords(slot.action)

    def _fill_moves(self, slots: Slots) -> None:
        worlds = self.worlds
        for index, slot in slots:
            direction = worlds.orientation ^ slot.argument
            entities = self._look(ALL_ROWS, direction) if slot.argument else self.ahead
            can = (entities <= EMPTY) | (entities == self.unseen)
            can |= self._active_agents(ALL_ROWS, entities, self.cells.adjacent[direction])[0]
            self.can[index] = can if slot.action == ABSENT else can & self._affords(slot.action)

    def _fill_swaps(self, slots: Slots) -> None:
        worlds, tables, entities = self.worlds, self.tables, self.ahead
        can = (entities >= worlds.first_swappable) & (entities < worlds.first_agent)
        agents = worlds.agents_among(entities)
        is_frozen = worlds.freeze[agents] != 0
        can |= (agents >= 0) & (is_frozen | self._of_ruleset(tables.swaps_agents))
        may_hide = entities == self.unseen
        if self.last is not None:
            may_hide |= (agents >= 0) & self._hides(ALL_ROWS, self.cells.adjacent[worlds.orientation] + FROZEN)
        can |= may_hide & self._of_ruleset(tables.swaps_unseen)
        for index, slot in slots:
            self.can[index] = can if slot.action == ABSENT else can & self._affords(slot.action)

    def _fill_converter_actions(self, slots: Slots) -> None:
        worlds, tables = self.worlds, self.tables
        rows = (self.ahead >= worlds.first_converter).nonzero()[0]
        if not rows.size:
            return
        type_rows, held, is_busy = self._converters(rows)
        stocked = (held > 0) | is_busy[:, None]
        if tables.has_refilled:
            stocked |= tables.refilled[type_rows]
        outputs, inputs = tables.output[type_rows] & stocked, tables.input[type_rows]
        if not tables.other_agents:
            inputs &= (held < MAX_HELD) | is_busy[:, None]
        (least, most), cap = self._items(rows), self._caps(rows)
        for index, slot in slots:
            consumed = self._consumed(slot.action, rows)
            can = np.zeros(len(rows), np.bool_)
            if slot.kind != TurnKind.PUT_ITEMS:
                can |= (outputs & (np.maximum(least - consumed, 0) < cap)).any(axis=1)
            if slot.kind != TurnKind.GET_ITEMS:
                can |= (inputs & (most > consumed)).any(axis=1)
            if slot.kind == TurnKind.USE:
                can &= tables.usable[self._action_rows(slot.action, rows), type_rows]
            if slot.action != ABSENT:
                can &= self._affords(slot.action)[rows]
            self.can[index, rows] = can

    def _action_rows(self, action: int, rows: Rows) -> Array | int:
        """The row of an action in the tables of the world of each agent."""
        return action if self.ruleset is None else self.ruleset[rows] * self.worlds.compiled.num_actions + action

    def _converters(self, rows: Rows) -> tuple[Array, Array, Mask]:
        """(type rows, units held `[rows, items]`, whether it is busy) of the converter ahead of each agent.

        Where an observation does not hold the units of an item, the converter has some; where it does not hold the
        converter at all, the type row is that of any type.
        """
        worlds = self.worlds
        converters = self.ahead[rows] - worlds.first_converter
        if self.last is None and self.cells.holds_adjacent:
            is_busy = worlds.converter_phase[converters] != IDLE
            return worlds.converter_type[converters], worlds.converter_inventory[converters], is_busy
        is_seen = self.ahead[rows] != self.unseen
        seen = converters[is_seen]
        type_rows = np.full(len(rows), self.tables.num_types)
        if self.ruleset is not None:
            type_rows += self.ruleset[rows]
        type_rows[is_seen] = worlds.converter_type[seen]
        held = np.ones((len(rows), worlds.compiled.num_items), np.int64)
        held[is_seen] = worlds.converter_inventory[seen]
        is_busy = np.ones(len(rows), np.bool_)
        is_busy[is_seen] = worlds.converter_phase[seen] != IDLE
        codes = self.cells.adjacent[worlds.orientation[rows]]
        is_busy |= self._hides(rows, codes + CONVERTING)
        item_codes = codes[:, None] + FIRST_ITEM_FEATURE + np.arange(held.shape[1])
        held[self._hides(rows, item_codes)] = 1
        return type_rows, held, is_busy

    def _fill_attacks(self, slots: Slots) -> None:
        worlds = self.worlds
        affords = {slot.action: self._affords(slot.action) for _, slot in slots if slot.action != ABSENT}
        is_free = any(slot.action == ABSENT for _, slot in slots)
        rows = worlds.all_agents if is_free else np.logical_or.reduce(list(affords.values())).nonzero()[0]
        if not rows.size:
            return
        hits = self._reached_agents(rows)
        for index, slot in slots:
            targets = hits[:, len(SIDES) :]
            # arguments count the targets from 1
            can = targets[:, slot.argument - 1] if slot.kind == TurnKind.ATTACK else targets.any(axis=1)
            self.can[index, rows] = can if slot.action == ABSENT else can & affords[slot.action][rows]

    def _reached_agents(self, rows: Rows) -> Mask:
        """Whether an agent may be hit by an attack at each of REACHED. `[rows, REACHED]`"""
        worlds, cells = self.worlds, self.cells
        orientation = worlds.orientation[rows]
        offsets = cells.reached_offsets[..., 0] * worlds.stride + cells.reached_offsets[..., 1]
        entities = worlds.grid[worlds.cell[rows, None] + offsets[orientation]]
        hits: Mask = (entities >= worlds.first_agent) & (entities < worlds.first_plain_wall)
        is_occupied = entities > EMPTY
        if self.last is not None or not cells.holds_reached:
            is_hidden = self._hides(rows, cells.reached[orientation])
            hits = np.where(is_hidden, self.tables.other_agents > 0, hits)
            is_occupied &= ~is_hidden
        # the attacker's own cell is known
        hits[:, 1] = is_occupied[:, 1] = True
        at_edge = np.flatnonzero(~self.tables.is_walled[worlds.task[worlds.world_of_agent[rows]]])
        if at_edge.size:
            self._apply_edge_rule(hits, is_occupied, at_edge, orientation[at_edge])
        return hits

    def _apply_edge_rule(self, hits: Mask, is_occupied: Mask, rows: Rows, orientation: Array) -> None:
        """Add the hits of agents `rows` that may be at the top or left edge, where targets outside are moved to it.

        An agent may be at any distance from the edge at which no cell outside is seen to be occupied.
        """
        hit = hits[rows].reshape(len(rows), -1, len(SIDES))
        occupied = is_occupied[rows].reshape(hit.shape)
        number, side = np.arange(len(rows)), EDGE_SIDE[orientation]
        may_be_beside = np.asarray(~occupied[number, :, side].any(axis=1))
        hit[number, :, side] |= hit[:, :, 1] & may_be_beside[:, None]
        for ahead in range(1, hit.shape[1]):
            may_be_before = FACES_EDGE[orientation] & ~occupied[:, ahead:].any(axis=(1, 2))
            hit[:, ahead] |= hit[:, ahead - 1] & may_be_before[:, None]
        hits[rows] = hit.reshape(len(rows), -1)

    def _fill_gifts(self, slots: Slots) -> None:
        worlds, tables = self.worlds, self.tables
        for index, slot in slots:
            items = np.broadcast_to(self._of_ruleset(tables.gift_item)[..., slot.action], worlds.agents)
            remaining = self._items(ALL_ROWS)[1] - self._consumed(slot.action, worlds.all_agents)
            rows = (self._affords(slot.action) & (remaining[worlds.all_agents, items] > 0)).nonzero()[0]
            self.can[index, rows] = self._receives(rows, items[rows])

    def _receives(self, rows: Rows, items: Array) -> Mask:
        """Whether an agent that takes a unit of an item may be ahead of each agent at its turn. `[rows] bool`"""
        worlds, tables, groups = self.worlds, self.tables, self.worlds.compiled.groups
        entities, codes = self.ahead[rows], self.cells.adjacent[worlds.orientation[rows]]
        agents = worlds.agents_among(entities)
        cap = groups.cap[worlds.group_row[agents], items]
        has_room = worlds.inventory[agents, items] < cap
        can_hold = cap > 0
        if self.last is not None:
            has_room |= self._hides(rows, codes + FIRST_ITEM_FEATURE + items)
            can_hold |= self._hides(rows, codes + GROUP)
        is_active, _ = self._active_agents(rows, entities, codes)
        # an active agent may make room first; a third agent may take the place of any agent
        receives = ((agents >= 0) & (tables.other_agents > 1)) | np.where(is_active, can_hold, (agents >= 0) & has_room)
        receives |= (entities == self.unseen) & is_active
        receives |= self._is_entered(rows, entities)
        ruleset = 0 if self.ruleset is None else self.ruleset[rows]
        fits: Mask = tables.largest_cap[ruleset, items] > 0
        return receives & fits

    def _is_entered(self, rows: Rows, entities: NDArray[np.int32]) -> Mask:
        """Whether another agent may move into the empty cell ahead of each agent, or swap with the wall in it."""
        worlds, steps = self.worlds, np.array(STEPS)
        is_empty = entities <= EMPTY
        is_swappable = (entities >= worlds.first_swappable) & (entities < worlds.first_agent)
        can_move, can_swap = (
            condition & self._of_ruleset(table, rows)
            for condition, table in ((is_empty, self.tables.moves), (is_swappable, self.tables.swaps))
        )
        is_entered = np.zeros(len(rows), np.bool_)
        ahead = worlds.orientation[rows]
        for direction in range(len(steps)):
            codes = self.cells.at(steps[ahead] + steps[direction])
            around = worlds.grid[worlds.cell[rows] + worlds.step_offset[ahead] + worlds.step_offset[direction]]
            around[self._hides(rows, codes)] = self.unseen
            is_active, orientation = self._active_agents(rows, around, codes)
            faces = (orientation == direction ^ 1) | (orientation < 0)
            comes = ((can_move | can_swap) & faces) | (can_move & (orientation == direction))
            is_entered |= is_active & comes & (ahead != direction ^ 1)  # its own cell is behind
        return is_entered
