"""MaskTables: what action masks need of the rules of each world, compiled once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.config.env.map_builder import AsciiConfig, ChoiceConfig, MapBuilder
from metta.config.env.objects import ObjectConfig
from metta.config.env.ranges import range_min
from metta.world.state.compiled_config import ABSENT, CompiledConfig, TurnKind

Mask = NDArray[np.bool_]

ATTACKS = (TurnKind.ATTACK, TurnKind.ATTACK_NEAREST)
CONVERTER_KINDS = (TurnKind.PUT_ITEMS, TurnKind.GET_ITEMS, TurnKind.USE)
TURNS_ONLY = (TurnKind.ROTATE, TurnKind.ROTATE_BY, TurnKind.CHANGE_COLOR)
"""Kinds that change nothing but the agent itself, and therefore succeed if it has the resources."""

NEVER, ALWAYS = 0, 1
"""The slots of actions that certainly fail, and of those that certainly succeed."""


class Slot(NamedTuple):
    """Flat actions that may succeed under the same conditions."""

    kind: int
    argument: int
    action: int
    """action id; ABSENT where the conditions are those of all actions of the kind"""


Slots = list[tuple[int, Slot]]
"""Slots, each with its index."""


class MaskTables:
    """Tables by task, ruleset, group row, action row or type row, as in CompiledConfig."""

    def __init__(self, compiled: CompiledConfig):
        actions, types, groups = compiled.actions, compiled.types, compiled.groups
        rulesets, num_groups = len(compiled.configs), compiled.num_groups
        others = compiled.spec.num_agents - 1
        by_ruleset = (rulesets, compiled.num_actions)
        kind, possible = actions.kind.reshape(by_ruleset), actions.possible.reshape(by_ruleset)

        def any_possible(*kinds: int) -> Mask:
            """Whether each world has an action of these kinds. `[rulesets]`"""
            return np.asarray((possible & np.isin(kind, kinds)).any(axis=1))

        self.slots, self.slot_of_action, self.last_resort = _slots(compiled)
        self._slots_of: dict[tuple[int, ...], Slots] = {}
        is_noop = actions.kind == TurnKind.NOOP
        self.may_be_stuck = not (is_noop & actions.possible).reshape(by_ruleset).any(axis=1).all()
        by_item = (*by_ruleset, compiled.num_items)
        self.required = np.maximum(actions.required, 0).reshape(by_item)
        self.consumed = np.maximum(actions.consumed, 0).reshape(by_item)
        needs_item = np.asarray((self.required > 0).any(axis=0))
        self.required_items = [np.flatnonzero(needed).tolist() for needed in needs_item]
        self.gift_item = actions.gift_item.reshape(by_ruleset)
        self.attack_actions = set(np.flatnonzero(np.isin(kind, ATTACKS).any(axis=0)).tolist())
        self.is_walled = np.array([is_walled(config) for config in compiled.tasks])  # [tasks]
        self.moves, self.swaps = any_possible(TurnKind.MOVE), any_possible(TurnKind.SWAP)  # [rulesets]
        self.other_agents = others

        is_swappable = (compiled.rulesets.type_row >= types.num_plain_walls) & (
            compiled.rulesets.type_row < types.num_walls
        )
        attacks = any_possible(*ATTACKS) & (others > 0)
        freezes = attacks & (groups.freeze_duration != 0).reshape(rulesets, num_groups).any(axis=1)
        # an agent ahead is frozen by a third one, or by its own attack at the edge of the map
        open_rulesets = np.isin(np.arange(rulesets), compiled.ruleset_of_task[~self.is_walled])
        freezes_ahead = freezes & ((others > 1) | open_rulesets)
        # [rulesets]: an agent ahead that is not frozen can be frozen, or swap places with something else, before a swap
        self.swaps_agents = (others > 0) & (is_swappable.any(axis=1) | freezes_ahead)
        # [rulesets]: the same of a cell that is not seen
        self.swaps_unseen = is_swappable.any(axis=1) | freezes

        # [group rows, items]: an agent can lose units in the attack phase without being frozen
        is_attack = np.isin(actions.kind, ATTACKS) & actions.possible
        blocks = ((actions.defense > 0) & is_attack[:, None]).reshape(*by_ruleset, compiled.num_items).any(axis=1)
        is_robbed = (groups.freeze_duration == 0)[:, None] | blocks.repeat(num_groups, axis=0)
        self.loses = attacks.repeat(num_groups)[:, None] & is_robbed
        self.loses_any = bool(self.loses.any())

        # [rulesets, items]: items that other agents can give
        self.gifts = np.zeros((rulesets, compiled.num_items), np.bool_)
        is_gift = (kind == TurnKind.GIFT) & possible & (others > 0)
        self.gifts[is_gift.nonzero()[0], actions.gift_item.reshape(by_ruleset)[is_gift]] = True
        self.has_gifts = bool(self.gifts.any())

        # [rulesets, items]: the largest cap of any group
        self.largest_cap = groups.cap.reshape(rulesets, num_groups, compiled.num_items).max(axis=1)
        self._compile_types(compiled, any_possible(TurnKind.PUT_ITEMS, TurnKind.USE) & (others > 0))

    def slots_of(self, kinds: tuple[int, ...]) -> Slots:
        """The slots of some kinds, each with its index."""
        if kinds not in self._slots_of:
            self._slots_of[kinds] = [(index, slot) for index, slot in enumerate(self.slots) if slot.kind in kinds]
        return self._slots_of[kinds]

    def _compile_types(self, compiled: CompiledConfig, others_put: Mask) -> None:
        """Compile recipes by type row. Rows after those of the types, one per ruleset, are for cells that are not seen:
        any type of the ruleset.
        """
        types, type_row = compiled.types, compiled.rulesets.type_row
        self.num_types = len(types.names)
        members = np.zeros((len(type_row), self.num_types), np.bool_)
        for member, rows in zip(members, type_row, strict=True):
            member[rows[rows >= 0]] = True
        self.input, self.output = (  # [type rows, items]
            np.concatenate([table > 0, members @ (table > 0)]) for table in (types.input, types.output)
        )
        # [type rows, items]: outputs that other agents can put in, because they are inputs too
        ruleset = np.concatenate([members.argmax(axis=0), np.arange(len(type_row))])
        self.refilled = self.input & self.output & others_put[ruleset][:, None]
        self.has_refilled = bool(self.refilled.any())
        usable = compiled.actions.usable_types
        self.usable = np.concatenate([usable, usable @ members.T], axis=1)  # [action rows, type rows]


def _slots(compiled: CompiledConfig) -> tuple[list[Slot], NDArray[np.int64], Mask]:
    """The slots, and by `[rulesets, flat actions]` the slot of each action, and the actions that always stay allowed.

    These are all noops. A world without noop has its first action in their place, only for agents that have no other.
    """
    flat, actions = compiled.spec.flat_actions, compiled.actions
    has_cost = np.asarray(actions.has_cost.reshape(len(compiled.configs), -1).any(axis=0))
    slots = {Slot(TurnKind.REFUSED, 0, ABSENT): NEVER, Slot(TurnKind.NOOP, 0, ABSENT): ALWAYS}
    slot_of = np.full((len(compiled.configs), len(flat)), NEVER)
    last_resort: Mask = np.zeros(slot_of.shape, np.bool_)
    for ruleset in range(len(slot_of)):
        own_slots, stays = slot_of[ruleset], last_resort[ruleset]
        for index, (action, argument) in enumerate(flat):
            kind = int(compiled.kind_by_action[ruleset, action, argument])
            if not actions.possible[ruleset * compiled.num_actions + action] or (kind, argument) == (ATTACKS[0], 0):
                continue
            stays[index] = kind == TurnKind.NOOP
            if kind == TurnKind.NOOP or (kind in TURNS_ONLY and not has_cost[action]):
                own_slots[index] = ALWAYS
                continue
            if kind in TURNS_ONLY:
                kind, argument = TurnKind.ROTATE, 0
            is_own = has_cost[action] or kind in (TurnKind.USE, TurnKind.GIFT)
            slot = Slot(kind, argument, action if is_own else ABSENT)
            own_slots[index] = slots.setdefault(slot, len(slots))
        if flat and not stays.any():
            stays[(own_slots != NEVER).argmax()] = True
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
