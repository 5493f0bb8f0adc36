"""Action masks from the tokens of one observation and the config alone, in plain loops: the oracle of `action_masks`.

It shares only the config with the engine, and `is_walled`, which says whether agents can be at the top or left edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from metta.config.env.env_config import EnvConfig
from metta.config.env.objects import ActionConfig, ObjectConfig

TYPE_ID, GROUP, FROZEN, ORIENTATION, CONVERTING, FIRST_ITEM = 0, 1, 3, 4, 6, 12
GLOBALS = range(8, 12)
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))
LEFT_OF = (2, 3, 1, 0)
ATTACKS = ("attack", "attack_nearest")
TARGETS = [(ahead, left) for ahead in (1, 2, 3) for left in (1, 0, -1)]

Offset = tuple[int, int]


class Seen:
    """What an observation `[tokens, 3]` holds."""

    def __init__(self, config: EnvConfig, tokens: np.ndarray):
        self.config = config
        game = config.game
        rows, cols = game.observation_height // 2, game.observation_width // 2
        window = [(row, col) for row in range(-rows, rows + 1) for col in range(-cols, cols + 1)]
        window.sort(key=lambda cell: (abs(cell[0]) + abs(cell[1]), cell[0], -cell[1]))
        self.rank = {cell: rank for rank, cell in enumerate(window)}
        self.features: dict[Offset, dict[int, int]] = {cell: {} for cell in window}
        used = [token for token in tokens.tolist() if token != [255, 255, 255]]
        self.end = (len(window), 0)
        """where the observation ends: (rank of the cell, feature) of the last token"""
        self.below: dict[Offset, int] = {}
        """type ids of the objects that agents or swappable walls stand on"""
        for location, feature, value in used:
            if feature not in GLOBALS:
                cell = ((location >> 4) - rows, (location & 15) - cols)
                if feature == TYPE_ID and TYPE_ID in self.features[cell]:
                    self.below[cell] = value
                self.features[cell].setdefault(feature, value)
            if len(used) == len(tokens):  # more tokens may follow
                cell = ((location >> 4) - rows, (location & 15) - cols)
                self.end = (-1 if feature in GLOBALS else self.rank[cell], feature)

    def holds(self, cell: Offset, feature: int) -> bool:
        """Whether a token of this cell and feature would be in the observation, if there is one."""
        return cell in self.rank and (self.rank[cell], feature) <= self.end

    def look(self, cell: Offset) -> Entity:
        """What the observation holds of the entity at a (row, col) offset from the agent."""
        return Entity(self, cell)


@dataclass(frozen=True)
class Entity:
    """What the observation holds of the entity in a cell."""

    seen: Seen
    cell: Offset

    @property
    def is_unseen(self) -> bool:
        """Whether the cell may hold anything."""
        return not self.seen.holds(self.cell, TYPE_ID)

    @cached_property
    def features(self) -> dict[int, int]:
        """Values of the tokens by feature."""
        return self.seen.features.get(self.cell, {})

    @property
    def is_empty(self) -> bool:
        """Whether the cell is seen to be empty, or outside the map."""
        return not self.is_unseen and not self.features

    @property
    def is_agent(self) -> bool:
        """Whether it is an agent."""
        return self.features.get(TYPE_ID) == 0

    @property
    def kind(self) -> ObjectConfig | None:
        """The type of an object; None for agents and empty cells."""
        kinds = {kind.type_id: kind for kind in self.seen.config.object_types.values()}
        return kinds.get(self.features.get(TYPE_ID))

    @property
    def is_walkable(self) -> bool:
        """Whether it is an object whose cell agents may enter, at least in some state."""
        return bool(self.kind and self.kind.options and self.kind.options.walkable)

    @property
    def is_swappable(self) -> bool:
        """Whether it is a swappable wall."""
        return bool(self.kind and self.kind.swappable)

    def values(self, feature: int, others: range) -> list[int]:
        """The values of a feature that are possible: that of its token; `others` if it is not seen; 0 without one."""
        if feature in self.features:
            return [self.features[feature]]
        return [0] if self.seen.holds(self.cell, feature) else list(others)

    def units(self, item: int, most: int) -> tuple[int, int]:
        """The least and the most units of an item that it may hold."""
        values = self.values(FIRST_ITEM + item, range(most + 1))
        return min(values), max(values)


class Rules:
    """What others may do in a world, and what this agent may do there."""

    def __init__(self, config: EnvConfig, is_walled: bool, seen: Seen):
        self.config, self.is_walled, self.seen = config, is_walled, seen
        self.items = list(config.game.inventory_item_names)
        self.others = config.game.num_agents - 1
        self.me = seen.look((0, 0))
        self.actions = {  # those that the world has
            action_id: (type_, action)
            for action_id, (_, type_, action) in enumerate(config.action_table)
            if config.can_act(action)
        }
        self.types = {type_ for type_, _ in self.actions.values()}
        self.kinds = list(config.object_types.values())

    # -- groups ------------------------------------------------------------------------------------------------------

    def groups_of(self, entity: Entity) -> list[str]:
        """The groups that an agent may be in."""
        ids = {group.id: name for name, group in self.config.game.groups.items()}
        return [ids[value] for value in entity.values(GROUP, range(256)) if value in ids]

    def cap(self, entity: Entity, item: int) -> int:
        """The most units of an item that an agent can hold."""
        return max(
            self.config.game.group_settings(group).item_cap(self.items[item]) for group in self.groups_of(entity)
        )

    @property
    def attacks(self) -> list[ActionConfig]:
        return [action for type_, action in self.actions.values() if type_ in ATTACKS]

    @property
    def freezes(self) -> bool:
        """Whether some agents can be frozen by others."""
        settings = [self.config.game.group_settings(group) for group in self.config.game.groups]
        return bool(self.attacks) and self.others > 0 and any(group.freeze_duration for group in settings)

    # -- other agents --------------------------------------------------------------------------------------------

    def is_active(self, entity: Entity) -> bool:
        """Whether it may be another agent that acts in this step."""
        if entity.is_unseen:
            return self.others > 0
        return entity.is_agent and 0 in entity.values(FROZEN, range(2))

    def faces(self, entity: Entity, step: Offset) -> bool:
        """Whether an agent may look in the direction of a (row, col) step."""
        return any(STEPS[value] == step for value in entity.values(ORIENTATION, range(4)) if value < 4)

    def givers(self) -> int:
        """How many others may give something to this agent."""
        count = sum(
            self.is_active(entity) and (entity.is_unseen or self.faces(entity, (-row, -col)))
            for row, col in STEPS
            for entity in [self.seen.look((row, col))]
        )
        return min(count, self.others)

    def is_gift(self, item: int) -> bool:
        return self.others > 0 and any(
            type_ == "gift" and action.item == self.items[item] for type_, action in self.actions.values()
        )

    # -- this agent ----------------------------------------------------------------------------------------------

    def most(self, item: int, is_attack: bool = False) -> int:
        """The most units of an item at the turn of this agent."""
        cap = self.cap(self.me, item)
        most = self.me.units(item, cap)[1]
        return min(cap, most + self.givers()) if self.is_gift(item) and not is_attack else most

    def least(self, item: int) -> int:
        """The least units: an attack may rob agents that it does not freeze, or use up what defends them."""
        may_thaw = any(not self.config.game.group_settings(group).freeze_duration for group in self.groups_of(self.me))
        defends = any(self.attacks_that_need(item))
        is_robbed = self.attacks and self.others and (may_thaw or defends)
        return 0 if is_robbed else self.me.units(item, 0)[0]

    def attacks_that_need(self, item: int) -> list[bool]:
        return [
            action.defense_resources.get(self.items[item], 0) > 0
            and all(name in self.items for name, count in action.defense_resources.items() if count)
            for action in self.attacks
        ]

    def affords(self, type_: str, action: ActionConfig) -> bool:
        required = action.consumed_resources if action.required_resources is None else action.required_resources
        missing = 0
        for item, name in enumerate(self.items):
            needed = required.get(name, 0)
            cap = self.cap(self.me, item)
            lacks = max(0, needed - self.me.units(item, cap)[1])
            if lacks and (type_ in ATTACKS or not self.is_gift(item) or cap < needed):
                return False
            missing += lacks
        return missing == 0 or missing <= self.givers()

    # -- conditions of each type of action, for this agent with a known orientation ------------------------------

    def allowed(self, action_id: int, argument: int) -> bool:
        """Whether an action may succeed."""
        if action_id not in self.actions:
            return False
        type_, action = self.actions[action_id]
        if type_ == "noop":
            return True
        if self.me.features.get(FROZEN) == 1:
            return False
        orientations = self.me.values(ORIENTATION, range(4))
        works = getattr(self, f"_{type_}")
        return self.affords(type_, action) and any(works(action, argument, facing) for facing in orientations)

    def _rotate(self, action: ActionConfig, argument: int, facing: int) -> bool:
        return True

    _change_color = _signal = _rotate

    def _move(self, action: ActionConfig, argument: int, facing: int) -> bool:
        row, col = STEPS[facing]
        target = self.seen.look((-row, -col) if argument else (row, col))
        return target.is_unseen or target.is_empty or target.is_walkable or self.is_active(target)

    def _swap(self, action: ActionConfig, argument: int, facing: int) -> bool:
        target = self.seen.look(STEPS[facing])
        has_swappable = any(kind.swappable for kind in self.kinds)
        if target.is_unseen:
            return has_swappable or self.freezes
        if not target.is_agent:
            return target.is_swappable
        flags = target.values(FROZEN, range(2))
        if flags == [1]:
            return True
        if 1 in flags and (has_swappable or self.freezes):
            return True
        can_be_frozen_by_third = self.freezes and (self.others > 1 or not self.is_walled)
        return has_swappable or can_be_frozen_by_third

    def _consumed(self, action: ActionConfig, item: int) -> int:
        return action.consumed_resources.get(self.items[item], 0)

    def _converters(self, target: Entity) -> list[ObjectConfig]:
        """The types that the converter in a cell may have, also below an agent."""
        if target.is_unseen:
            return [kind for kind in self.kinds if kind.type != "wall"]
        below = self.seen.below.get(target.cell) if target.is_agent else None
        kinds = [target.kind, *(kind for kind in self.kinds if kind.type_id == below)]
        return [kind for kind in kinds if kind and kind.type != "wall"]

    def _takes(self, kind: ObjectConfig, target: Entity, action: ActionConfig) -> bool:
        if kind.options is not None:
            return True
        for item, name in enumerate(self.items):
            if (kind.input or {}).get(name, 0) and self.most(item) > self._consumed(action, item):
                is_full = target.units(item, 0)[0] >= 255 if not target.is_unseen else False
                if not is_full or self.others or 1 in target.values(CONVERTING, range(2)):
                    return True
        return False

    def _gives(self, kind: ObjectConfig, target: Entity, action: ActionConfig) -> bool:
        if kind.options is not None:
            return True
        others_put = self.others and {"put_items", "use"} & self.types
        for item, name in enumerate(self.items):
            if (kind.output or {}).get(name, 0):
                may_hold = (
                    target.units(item, 255)[1] > 0
                    or 1 in target.values(CONVERTING, range(2))
                    or (others_put and (kind.input or {}).get(name, 0))
                )
                has_room = max(0, self.least(item) - self._consumed(action, item)) < self.cap(self.me, item)
                if may_hold and has_room:
                    return True
        return False

    def _put_items(self, action: ActionConfig, argument: int, facing: int) -> bool:
        target = self.seen.look(STEPS[facing])
        return any(self._takes(kind, target, action) for kind in self._converters(target))

    def _get_items(self, action: ActionConfig, argument: int, facing: int) -> bool:
        target = self.seen.look(STEPS[facing])
        return any(self._gives(kind, target, action) for kind in self._converters(target))

    def _use(self, action: ActionConfig, argument: int, facing: int) -> bool:
        target = self.seen.look(STEPS[facing])
        return any(
            action.use in (None, kind.name, kind.type)
            and (self._gives(kind, target, action) or self._takes(kind, target, action))
            for kind in self._converters(target)
        )

    def _gift(self, action: ActionConfig, argument: int, facing: int) -> bool:
        item = self.items.index(action.item or "")
        groups = self.config.game.groups
        is_wanted = any(self.config.game.group_settings(group).item_cap(self.items[item]) for group in groups)
        if self.most(item) <= self._consumed(action, item) or not is_wanted:
            return False
        ahead = STEPS[facing]
        target = self.seen.look(ahead)
        if target.is_unseen:
            return self.others > 0
        if target.is_agent:
            cap = self.cap(target, item)
            if self.others > 1 or (self.is_active(target) and cap > 0):
                return True
            is_hidden = not self.seen.holds(ahead, FIRST_ITEM + item)
            return not self.is_active(target) and (target.units(item, 0)[0] < cap or is_hidden)
        if target.is_empty or target.is_swappable:
            return self._is_entered(ahead, is_empty=target.is_empty)
        return False

    def _is_entered(self, ahead: Offset, is_empty: bool) -> bool:
        """Whether another agent may come into the cell ahead: by a move, or by a swap with the wall in it."""
        for row, col in STEPS:
            cell = (ahead[0] + row, ahead[1] + col)
            entity = self.seen.look(cell)
            if cell != (0, 0) and self.is_active(entity):
                comes = entity.is_unseen or self.faces(entity, (-row, -col))
                backs = is_empty and (entity.is_unseen or self.faces(entity, (row, col)))
                if (("move" if is_empty else "swap") in self.types and comes) or ("move" in self.types and backs):
                    return True
        return False

    def _attack(self, action: ActionConfig, argument: int, facing: int) -> bool:
        return argument > 0 and self._may_hit(*TARGETS[argument - 1], facing)

    def _attack_nearest(self, action: ActionConfig, argument: int, facing: int) -> bool:
        return any(self._may_hit(*target, facing) for target in TARGETS)

    def _offset(self, ahead: int, left: int, facing: int) -> Offset:
        (row, col), (left_row, left_col) = STEPS[facing], STEPS[LEFT_OF[facing]]
        return ahead * row + left * left_row, ahead * col + left * left_col

    def _may_hit(self, ahead: int, left: int, facing: int) -> bool:
        """Whether the target holds an agent; outside the top and left edges it is moved to the edge.

        The edge may be at any distance at which no cell outside, among those that attacks reach, is seen occupied.
        """
        target = self._offset(ahead, left, facing)
        region = [self._offset(one, other, facing) for one in range(4) for other in (1, 0, -1)]
        occupied = [cell for cell in region if not (entity := self.seen.look(cell)).is_unseen and not entity.is_empty]
        occupied.append((0, 0))

        def possible(axis: int) -> list[int]:
            least = max(-cell[axis] for cell in occupied)  # cells between the agent and the edge, at least
            if self.is_walled or target[axis] >= 0 or least >= -target[axis]:
                return [target[axis]]
            return list(range(target[axis], -least + 1))

        return any(self._holds_agent((row, col)) for row in possible(0) for col in possible(1))

    def _holds_agent(self, cell: Offset) -> bool:
        entity = self.seen.look(cell)
        return cell == (0, 0) or entity.is_agent or (entity.is_unseen and self.others > 0)


def mask_from_tokens(config: EnvConfig, is_walled: bool, tokens: np.ndarray) -> list[bool]:
    """The mask of an agent from its observation `[tokens, 3]`, by flat action."""
    rules = Rules(config, is_walled, Seen(config, tokens))
    flat = config.spec.flat_actions
    mask = [rules.allowed(*pair) for pair in flat]
    if not any(mask):
        first = next((index for index, pair in enumerate(flat) if pair[0] in rules.actions), 0)
        mask[first] = True
    return mask
