"""MaskTables and CellCodes: what action masks need of the rules and of the observation window, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.config.env.map_builder import AsciiConfig, ChoiceConfig, MapBuilder
from metta.config.env.objects import ATTACK_RANGE, ObjectConfig
from metta.config.env.ranges import range_min
from metta.geometry import STEPS
from metta.world.observation.observe import window_cells
from metta.world.rules.combat import AHEAD, LEFT
from metta.world.state.compiled_config import ABSENT, CUSTOM_KINDS, CompiledConfig, TurnKind
from metta.world.state.compiled_rules import NOT_WALKABLE
from metta.world.state.worlds import EMPTY, OUTSIDE, Worlds

Mask = NDArray[np.bool_]

SIDES = (1, 0, -1)
"""Cells to the left, in the order of the targets of `attack`."""

REACHED = tuple((ahead, left) for ahead in range(ATTACK_RANGE + 1) for left in SIDES)
"""(cells ahead, cells to the left) of all cells that attacks can hit. The first ones, the attacker's own cell and those
beside it, can be hit at the edge of the map; the others are the targets of `attack` in the order of its arguments."""

FACES_EDGE = np.array([True, False, True, False])
"""By orientation: whether the agent faces the top or left edge of the map."""

SIDE_AT_EDGE = np.array([0, 2, 2, 0])
"""By orientation: the index in SIDES of the side that is towards the top or left edge of the map."""

ATTACKS = (TurnKind.ATTACK, TurnKind.ATTACK_NEAREST)
OWN_KINDS = (TurnKind.ROTATE, TurnKind.ROTATE_BY, TurnKind.CHANGE_COLOR)
"""Kinds that change only the agent itself: they succeed if it has the resources. So are those of registered actions
without the option `possible`."""

MANY = np.iinfo(np.int16).max
"""More units than an agent can hold."""

PASSABLE, SWAPPABLE, AGENT = 1, 2, 4
"""Kinds of entities: a move may enter the cell, a swap may exchange it, it is an agent. All other kinds are 0."""

NEVER, ALWAYS = 0, 1
"""The slots of actions that certainly fail, and of those that certainly succeed."""


class Slot(NamedTuple):
    """Flat actions that may succeed under the same conditions."""

    kind: int
    """a TurnKind; ROTATE stands for all of OWN_KINDS"""
    argument: int
    action: int
    """action id, for `use`, `gift` and actions with costs; otherwise ABSENT"""


class AttackColumns(NamedTuple):
    """Attacks with the same cost, and where their conditions are stored."""

    action: int
    """id of one of the attacks; ABSENT if they are free"""
    reached: slice
    """one column for each of REACHED; the next one is for the nearest agent"""


class CellCodes:
    """Codes of the cells around an agent, as in `Observer.last_tokens`, in a grid with `stride` columns."""

    def __init__(self, height: int, width: int, stride: int):
        window = window_cells(height, width)
        ranks = {cell: rank for rank, cell in enumerate(window)}
        reach = range(-ATTACK_RANGE, ATTACK_RANGE + 1)
        self.end = len(window) << 8
        """larger than the codes of all tokens in the window, smaller than those of cells outside"""
        self._codes = np.array([[ranks.get((row, col), len(window) + 1) << 8 for col in reach] for row in reach])
        targets = np.array(REACHED)
        offsets = targets[:, :1] * AHEAD[:, None] + targets[:, 1:] * LEFT[:, None]
        self.reached = self.at(offsets)  # [orientations, REACHED]
        self.reached_offsets = offsets[..., 0] * stride + offsets[..., 1]  # in the grid, [orientations, REACHED]
        self.neighbors = self.at(np.array(STEPS))  # by direction
        step = np.array(STEPS) @ [stride, 1]
        self.steps = np.stack([step, -step])  # ahead and behind in the grid, [2, orientations]
        self.holds_neighbors = bool((self.neighbors < self.end).all())
        self.holds_reached = bool((self.reached < self.end).all())

    def at(self, offsets: NDArray[Any]) -> NDArray[Any]:
        """The code of the first token of each cell at (row, col) `offsets [..., 2]` from the agent."""
        codes: NDArray[Any] = self._codes[offsets[..., 0] + ATTACK_RANGE, offsets[..., 1] + ATTACK_RANGE]
        return codes


class MaskTables:
    """Tables by task, ruleset, group row, action row or type row, as in CompiledConfig."""

    def __init__(self, compiled: CompiledConfig):
        self.other_agents = compiled.spec.num_agents - 1
        self.is_walled = np.array([is_walled(config) for config in compiled.tasks])  # [tasks]
        self.all_walled = bool(self.is_walled.all())
        self._compile_actions(compiled)
        self._compile_interference(compiled)
        self._compile_types(compiled)

    def _compile_actions(self, compiled: CompiledConfig) -> None:
        actions = compiled.actions
        self._by_ruleset = (len(compiled.configs), compiled.num_actions)
        self._kind, self._possible = actions.kind.reshape(self._by_ruleset), actions.possible.reshape(self._by_ruleset)
        self.required, self.consumed = (  # [rulesets, actions, items]
            np.maximum(table, 0).reshape(*self._by_ruleset, compiled.num_items)
            for table in (actions.required, actions.consumed)
        )
        self.gift_item = actions.gift_item.reshape(self._by_ruleset)
        self.moves, self.swaps = self._has(TurnKind.MOVE), self._has(TurnKind.SWAP)
        self.may_be_stuck = not self._has(TurnKind.NOOP).all()

        # by action
        needs_item = np.asarray((self.required > 0).any(axis=0))
        # the items that each action requires, and their units with the first ruleset
        self.required_units: list[list[tuple[int, Any]]] = [
            [(item, int(self.required[0, action, item])) for item in np.flatnonzero(needed).tolist()]
            for action, needed in enumerate(needs_item)
        ]
        is_attack = np.asarray(np.isin(self._kind, ATTACKS).any(axis=0))
        costs = [(self.required[:, action].tobytes(), is_attack[action]) for action in range(compiled.num_actions)]
        self.same_cost = [costs.index(cost) for cost in costs]  # the first action with the same conditions
        self.attack_actions = set(np.flatnonzero(is_attack).tolist())

        self.slots, slot_of_action, self.last_resort = _slots(compiled)
        self.own_slots = self._slots_of(TurnKind.ROTATE)
        self.move_slots, self.swap_slots = self._slots_of(TurnKind.MOVE), self._slots_of(TurnKind.SWAP)
        self.converter_slots = self._slots_of(TurnKind.PUT_ITEMS, TurnKind.GET_ITEMS, TurnKind.USE)
        self.gift_slots = self._slots_of(TurnKind.GIFT)
        self.custom_slots = self._slots_of(TurnKind.CUSTOM)
        self.attacks: list[AttackColumns] = []
        column_of_slot = np.arange(len(self.slots))
        for index, slot in self._slots_of(*ATTACKS):
            attack = self._attack_columns(ABSENT if slot.action == ABSENT else self.same_cost[slot.action])
            # arguments number the targets from 1
            target = len(SIDES) + slot.argument - 1 if slot.kind == TurnKind.ATTACK else len(REACHED)
            column_of_slot[index] = attack.reached.start + target
        self.column_of_action = column_of_slot[slot_of_action]  # [rulesets, flat actions]
        columns = len(self.slots) + len(self.attacks) * (len(REACHED) + 1)
        kinds = np.arange(2 * AGENT)
        # by the kind of the entity, without costs: [2 (it is ahead, behind), kinds, columns]
        self.can_by_kind: Mask = np.zeros((2, len(kinds), columns), np.bool_)
        self.can_by_kind[0, :, ALWAYS] = True
        for index, slot in self.move_slots:
            self.can_by_kind[slot.argument, :, index] = kinds & PASSABLE > 0
        for index, _ in self.swap_slots:
            self.can_by_kind[0, :, index] = kinds & SWAPPABLE > 0

    def _attack_columns(self, cost: int) -> AttackColumns:
        for attack in self.attacks:
            if attack.action == cost:
                return attack
        start = len(self.slots) + len(self.attacks) * (len(REACHED) + 1)
        self.attacks.append(AttackColumns(cost, slice(start, start + len(REACHED))))
        return self.attacks[-1]

    def _slots_of(self, *kinds: int) -> list[tuple[int, Slot]]:
        """The slots of some kinds, each with its index."""
        return [(index, slot) for index, slot in enumerate(self.slots) if slot.kind in kinds]

    def _has(self, *kinds: int) -> Mask:
        """Whether the worlds of each ruleset have an enabled action of one of these kinds. `[rulesets]`"""
        return np.asarray((self._possible & np.isin(self._kind, kinds)).any(axis=1))

    def _compile_interference(self, compiled: CompiledConfig) -> None:
        """Compile what other agents can do before the turn of an agent."""
        actions, types, groups = compiled.actions, compiled.types, compiled.groups
        rulesets, num_groups, others = len(compiled.configs), compiled.num_groups, self.other_agents
        type_row = compiled.rulesets.type_row
        has_swappable = ((type_row >= types.num_plain_walls) & (type_row < types.num_walls)).any(axis=1)
        attacks = self._has(*ATTACKS) & (others > 0)
        freezes = attacks & (groups.freeze_duration != 0).reshape(rulesets, num_groups).any(axis=1)
        # an agent ahead is frozen by a third one, or by its own attack at the edge of the map
        open_rulesets = np.isin(np.arange(rulesets), compiled.ruleset_of_task[~self.is_walled])
        # [rulesets]: an agent ahead that is not frozen can be frozen, or can swap places with something else, in time
        self.swaps_agents = (others > 0) & (has_swappable | (freezes & ((others > 1) | open_rulesets)))
        # [rulesets]: the same of a cell that is not seen
        self.swaps_unseen = has_swappable | freezes
        self.all_swap_agents = bool(self.swaps_agents.all())

        # [group rows, items]: units at which there is no room for another one, unless attacks can take units from an
        # agent without freezing it
        is_attack = np.isin(actions.kind, ATTACKS) & actions.possible
        blocks = ((actions.defense > 0) & is_attack[:, None]).reshape(rulesets, -1, compiled.num_items).any(axis=1)
        is_robbed = (groups.freeze_duration == 0)[:, None] | blocks.repeat(num_groups, axis=0)
        loses = attacks.repeat(num_groups)[:, None] & is_robbed & (groups.cap > 0)
        self.room_cap = np.where(loses, MANY, groups.cap).astype(np.int16)

        # [rulesets, items]: items that other agents can give
        self.gifts = np.zeros((rulesets, compiled.num_items), np.bool_)
        is_gift = (self._kind == TurnKind.GIFT) & self._possible & (others > 0)
        self.gifts[is_gift.nonzero()[0], self.gift_item[is_gift]] = True
        self.has_gifts = bool(self.gifts.any())

        # [rulesets, items]: the values of an agent whose group is not seen
        by_group = (rulesets, num_groups, compiled.num_items)
        self.largest_cap = groups.cap.reshape(by_group).max(axis=1)
        self.largest_room_cap = self.room_cap.reshape(by_group).max(axis=1)

    def _compile_types(self, compiled: CompiledConfig) -> None:
        """Compile recipes by type row.

        Further rows are for converters that are not seen, which can be of any type: one per ruleset, then one per
        action row for the types on which `use` works.
        """
        types, type_row, usable = compiled.types, compiled.rulesets.type_row, compiled.actions.usable_types
        self.num_types = len(types.names)
        self.first_usable = self.num_types + len(type_row)
        others_put = self._has(TurnKind.PUT_ITEMS, TurnKind.USE) & (self.other_agents > 0)
        members = [rows[rows >= 0] for rows in type_row]
        can_refill = np.zeros(self.num_types, np.bool_)
        for ruleset, rows in enumerate(members):
            can_refill[rows] = others_put[ruleset]
        input_, output = types.input > 0, types.output > 0
        # outputs that other agents can put in, because they are inputs too
        refilled = input_ & output & can_refill[:, None]
        uses = compiled.actions.kind == TurnKind.USE
        members += [row.nonzero()[0] if is_use else row[:0] for row, is_use in zip(usable, uses, strict=True)]
        self.input, self.output, self.refilled = (  # [type rows, items]
            np.concatenate([table, [table[rows].any(axis=0) for rows in members]])
            for table in (input_, output, refilled)
        )
        self.has_refilled = bool(self.refilled.any())
        # [type rows]: objects of registered types, which may be used in any state
        is_custom = types.is_custom
        self.is_custom = np.concatenate([is_custom, np.array([is_custom[rows].any() for rows in members], np.bool_)])
        self.every_item = np.ones(compiled.num_items, np.bool_)


class EntityKinds:
    """What agents can do with each entity. `values [entity ids + 2] uint8`: PASSABLE | SWAPPABLE | AGENT

    After the entities, there is an entry for cells that are not seen, and one for the outside (-1).
    """

    def __init__(self, worlds: Worlds):
        self.values = np.zeros(worlds.num_entity_ids + 2, np.uint8)
        self.values[[EMPTY, worlds.num_entity_ids, OUTSIDE]] = PASSABLE
        self.values[worlds.first_swappable : worlds.first_agent] = SWAPPABLE
        self.first_converter = np.array(worlds.first_converter, np.int32)
        self._is_current = False

    def update(self, worlds: Worlds, tables: MaskTables) -> None:
        """Update the entries of agents, some of which are frozen."""
        types = worlds.compiled.types
        if types.has_walkable:  # closed doors may be opened
            self.values[worlds.first_converter : worlds.num_entity_ids] = PASSABLE * (
                types.walkable[worlds.converter_type] != NOT_WALKABLE
            )
        none_frozen = not np.count_nonzero(worlds.freeze)
        if none_frozen and self._is_current:
            return
        is_frozen = (worlds.freeze != 0).reshape(worlds.num_worlds, -1)
        swaps = worlds.by_ruleset(tables.swaps_agents)[:, None]
        kinds = AGENT + PASSABLE * ~is_frozen + SWAPPABLE * (swaps | is_frozen)
        self.values[worlds.first_agent : worlds.first_plain_wall] = kinds.ravel()
        self._is_current = none_frozen and tables.all_swap_agents  # otherwise entries depend on the ruleset


def _slots(compiled: CompiledConfig) -> tuple[list[Slot], NDArray[np.int64], Mask]:
    """The slots, and by `[rulesets, flat actions]` the slot of each action, and the actions that always stay allowed.

    These are all noops. A world without noop has its first action in their place, only for agents that have no other.
    """
    flat, actions = compiled.spec.flat_actions, compiled.actions
    has_cost = np.asarray(actions.has_cost.reshape(len(compiled.configs), -1).any(axis=0))
    slots = {Slot(TurnKind.REFUSED, 0, ABSENT): NEVER, Slot(TurnKind.NOOP, 0, ABSENT): ALWAYS}
    slot_of = np.full((len(compiled.configs), len(flat)), NEVER)
    last_resort: Mask = np.zeros(slot_of.shape, np.bool_)
    is_conditional = np.zeros(len(actions.kind), np.bool_)
    for custom in compiled.custom_actions:
        is_conditional |= custom.has_row & (custom.options.possible is not None)
    for ruleset in range(len(slot_of)):
        own_slots, stays, is_possible = slot_of[ruleset], last_resort[ruleset], np.zeros(len(flat), np.bool_)
        for index, (action, argument) in enumerate(flat):
            kind = int(compiled.kind_by_action[ruleset, action, argument])
            is_possible[index] = actions.possible[ruleset * compiled.num_actions + action]
            if not is_possible[index] or (kind, argument) == (TurnKind.ATTACK, 0):
                continue
            stays[index] = kind == TurnKind.NOOP
            if kind in CUSTOM_KINDS:
                kind = TurnKind.CUSTOM if is_conditional[ruleset * compiled.num_actions + action] else TurnKind.ROTATE
            if kind == TurnKind.NOOP or (kind in OWN_KINDS and not has_cost[action]):
                own_slots[index] = ALWAYS
                continue
            if kind in OWN_KINDS:
                kind, argument = TurnKind.ROTATE, 0
            is_own = has_cost[action] or kind in (TurnKind.USE, TurnKind.GIFT, TurnKind.CUSTOM)
            slot = Slot(kind, argument, action if is_own else ABSENT)
            own_slots[index] = slots.setdefault(slot, len(slots))
        if flat and not stays.any():
            stays[is_possible.argmax()] = True
    return list(slots), slot_of, last_resort


def is_walled(config: EnvConfig) -> bool:
    """Whether no agent can be in the top row or the leftmost column of any map: they have walls or converters.

    MettaGrid's edge rule (see `Worlds.look_at`) then has no effect on attacks.
    """
    return _is_walled(config.map_builder, config.object_types)


def _is_walled(builder: MapBuilder, types: Mapping[str, ObjectConfig]) -> bool:
    if isinstance(builder, ChoiceConfig):
        return all(_is_walled(part, types) for part in builder.builders)
    if range_min(builder.border_width) > 0:
        return not types["wall"].swappable
    if not isinstance(builder, AsciiConfig):
        return False
    edge = {*builder.rows[0], *(row[:1] for row in builder.rows)}
    names = [builder.meanings.get(glyph, "") for glyph in edge]
    return all(name in types and not types[name].swappable for name in names)
