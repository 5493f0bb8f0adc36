"""CompiledConfig: environment configs as lookup tables (NumPy arrays), with TurnKind, the kinds of executed actions.

A batch of worlds plays one or more configs ("tasks"). Tasks that differ only in their maps share a ruleset, so that
thousands of tasks need little memory.

Tables have one row per group, action or object type of any ruleset, so that one index selects a row: a group row is
`ruleset * groups + group`, an action row is `ruleset * actions + action id`, and type rows number the object types of
all rulesets: first plain walls, then swappable walls, then converters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.config.env.objects import ActionConfig, ObjectConfig
from metta.config.env.ranges import range_max, range_min
from metta.config.parts.registries import ACTIONS
from metta.world.parts.compiled_parts import CompiledParts
from metta.world.state.compiled_rules import compile_custom_actions, compile_custom_objects, compile_states

NEVER = np.iinfo(np.int64).max
"""Step number of an event that does not happen."""

ABSENT = -1
"""In tables of amounts: the config does not mention the item, unlike an amount of 0. In tables of indices: none."""


class TurnKind:
    """How an agent's action in a step is executed. Integers, since comparing arrays with an Enum is slower.

    The order matters: the constants below are ranges of kinds.
    """

    FROZEN = 0  # the agent is frozen; the action is skipped
    INVALID_ARGUMENT = 1  # the action does not have this argument; penalized, no effect
    UNKNOWN_ACTION = 2  # the action id does not exist; penalized in both phases, no effect
    INVALID_ATTACK = 3  # an attack with an invalid argument
    ATTACK = 4
    ATTACK_NEAREST = 5
    REFUSED = 6  # disabled, or the agent lacks the resources
    NOOP = 7
    ROTATE = 8
    ROTATE_BY = 9  # rotate with a delta
    CHANGE_COLOR = 10
    PUT_ITEMS = 11
    GET_ITEMS = 12
    USE = 13
    MOVE = 14
    SWAP = 15
    CUSTOM = 16  # of a registered type; changes only the agent itself
    GIFT = 17
    CUSTOM_REACHING = 18  # of a registered type; reads or changes other cells
    CUSTOM_MOVING = 19  # of a registered type; also moves or turns other agents

    @classmethod
    def of(cls, type_: str) -> int:
        """The kind of an action type, such as `"put_items"`."""
        kind: int = getattr(cls, type_.upper())
        return kind


NUM_KINDS = TurnKind.CUSTOM_MOVING + 1

# Constants in operations on arrays are arrays of the same type. For a few agents NumPy takes half the time, as there is
# no Python number to convert.
FIRST_ATTACK = np.array(TurnKind.ATTACK, np.uint8)
LAST_REFUSED = np.array(TurnKind.REFUSED, np.uint8)
FIRST_AHEAD = np.array(TurnKind.PUT_ITEMS, np.uint8)
"""This kind and the later ones depend on the cell ahead."""
MOVE = np.array(TurnKind.MOVE, np.uint8)
SWAP = np.array(TurnKind.SWAP, np.uint8)
CUSTOM = np.array(TurnKind.CUSTOM, np.uint8)
CUSTOM_REACHING = np.array(TurnKind.CUSTOM_REACHING, np.uint8)
CUSTOM_MOVING = np.array(TurnKind.CUSTOM_MOVING, np.uint8)
FIRST_REACHING = np.array(TurnKind.GIFT, np.uint8)
"""This kind and the later ones change other agents, so that all turns around them are executed in turn order."""

# inclusive ranges of kinds: (first, last)
ATTACK_PHASE = (TurnKind.UNKNOWN_ACTION, TurnKind.ATTACK_NEAREST)  # executed in the attack phase
INVALID = (TurnKind.INVALID_ARGUMENT, TurnKind.UNKNOWN_ACTION)  # penalized in the main phase
MAIN_PHASE = (TurnKind.REFUSED, TurnKind.CUSTOM_MOVING)  # executed in the main phase
ALWAYS_SUCCEEDS = (TurnKind.NOOP, TurnKind.CHANGE_COLOR)
USES_CONVERTER = (TurnKind.PUT_ITEMS, TurnKind.USE)
CHANGES_CELL = (TurnKind.MOVE, TurnKind.SWAP)
CUSTOM_KINDS = (TurnKind.CUSTOM, TurnKind.CUSTOM_REACHING, TurnKind.CUSTOM_MOVING)


@dataclass(frozen=True)
class GroupTables:
    """Settings of agent groups, indexed by group row."""

    names: list[str]
    token_id: NDArray[np.int64]  # [groups]
    cap: NDArray[np.int64]  # [groups, items]
    reward: NDArray[np.float32]  # [groups, items]
    reward_cap: NDArray[np.float32]  # [groups, items]
    freeze_duration: NDArray[np.int64]  # [groups]
    failure_penalty: NDArray[np.float32]  # [groups]
    reward_share: NDArray[np.float32]  # [groups], `group_reward_pct`
    share_to: NDArray[np.float32]  # [groups, groups of a ruleset], `reward_sharing_groups`


@dataclass(frozen=True)
class ActionTables:
    """Costs and effects of actions, indexed by action row."""

    kind: NDArray[np.int64]  # [actions]
    possible: NDArray[np.bool_]  # [actions]; false: disabled, or requires items that the world does not have
    has_cost: NDArray[np.bool_]  # [actions]
    pays: NDArray[np.bool_]  # [actions], both of the above
    required: NDArray[np.int64]  # [actions, items], units or ABSENT
    consumed: NDArray[np.int64]  # [actions, items], units or ABSENT
    defense: NDArray[np.int64]  # [actions, items], units that the victim of an attack needs to block it, or ABSENT
    delta: NDArray[np.int64]  # [actions], clockwise quarter turns
    gift_item: NDArray[np.int64]  # [actions], item id
    usable_types: NDArray[np.bool_]  # [actions, types], whether `use` works on the type


SAMPLED = ("max_output", "conversion_ticks", "cooldown", "initial_items")
"""Values of object types that can be ranges, which are sampled for every episode. Never change their order."""


@dataclass(frozen=True)
class TypeTables:
    """Object types, indexed by type row: `num_plain_walls` plain walls, swappable walls, then converters."""

    names: list[str]
    num_plain_walls: int
    num_walls: int
    type_id: NDArray[np.int64]  # [types]
    color: NDArray[np.int64]  # [types]
    input: NDArray[np.int64]  # [types, items], units per conversion
    output: NDArray[np.int64]  # [types, items], units per conversion
    input_items: NDArray[np.int64]  # [types, max number of inputs], item ids in ascending order, then ABSENT
    output_items: NDArray[np.int64]  # [types, max number of outputs], the same
    # values that can be ranges: the lowest, see `spans`
    max_output: NDArray[np.int64]  # [types], units of all outputs at which no conversion starts; -1: no limit
    conversion_ticks: NDArray[np.int64]  # [types], steps
    cooldown: NDArray[np.int64]  # [types], steps
    initial_items: NDArray[np.int64]  # [types], units of each output at the start of an episode
    spans: dict[str, NDArray[np.int64]]  # name of a value -> [types], highest minus lowest; only values with a range
    # of registered types
    is_custom: NDArray[np.bool_]  # [types]
    walkable: NDArray[np.int64]  # [types], NOT_WALKABLE, ALWAYS_WALKABLE or the index of a state
    state_features: NDArray[np.int64]  # [types, states], feature ids, then ABSENT
    num_states: int  # the most states of any type
    has_walkable: bool  # whether any type can be walkable


@dataclass(frozen=True)
class Rulesets:
    """Settings of worlds, indexed by ruleset."""

    max_steps: NDArray[np.float64]  # [rulesets], infinity: no limit
    last_step: NDArray[np.int64]  # [rulesets], step at which the episode ends, min of `max_steps`, `episode_lifetime`
    terminates: NDArray[np.bool_]  # [rulesets], whether the episode ends by `episode_lifetime` (not by `max_steps`)
    time_punishment: NDArray[np.float32]  # [rulesets], reward of every agent in every step
    shares_rewards: bool  # whether any ruleset does
    type_row: NDArray[np.int64]  # [rulesets, 256], type row by type id, or ABSENT


class CompiledConfig:
    """Lookup tables and sizes of a batch of worlds; constant during play."""

    def __init__(self, configs: Sequence[EnvConfig], shares_rulesets: bool = True):
        """Compile one config per task, all of the same `spec`.

        With `shares_rulesets`, tasks that differ only in their maps share a ruleset.
        """
        self.tasks = tuple(configs)
        keys = [config.rules_key if shares_rulesets else index for index, config in enumerate(configs)]
        first_of = {key: task for task, key in reversed(list(enumerate(keys)))}
        firsts = sorted(first_of.values())
        self.ruleset_of_task = np.array([firsts.index(first_of[key]) for key in keys])  # [tasks]
        configs = [configs[task] for task in firsts]
        self.configs = tuple(configs)
        """one config per ruleset: that of the first task with this ruleset"""
        self.spec = configs[0].spec
        self.items = list(configs[0].game.inventory_item_names)
        self.num_items = len(self.items)
        self.num_groups = len(configs[0].game.groups)
        self.num_actions = len(self.spec.action_names)
        self.num_tokens = self.spec.num_observation_tokens
        self.num_features = len(self.spec.feature_names)
        self.groups = _compile_groups(configs, self.items)
        self.types, type_row = _compile_types(configs, self.items)
        self.actions = _compile_actions(configs, self.items, self.types, type_row)
        self.parts = CompiledParts(configs)
        self.custom_actions = compile_custom_actions(configs)
        self.custom_objects = compile_custom_objects(configs, type_row, len(self.types.names))
        self.part_keys = self.parts.keys + [action.key for action in self.custom_actions]
        self.part_keys += [kind.key for kind in self.custom_objects]
        lifetime = np.array([config.game.episode_lifetime or NEVER for config in configs])
        max_steps = np.array([config.game.max_steps or NEVER for config in configs])
        self.rulesets = Rulesets(
            max_steps=np.array([config.game.max_steps or np.inf for config in configs]),
            last_step=np.minimum(lifetime, max_steps),
            terminates=lifetime <= max_steps,
            time_punishment=np.array([config.game.time_punishment for config in configs], np.float32),
            shares_rewards=bool(self.groups.reward_share.any() or self.groups.share_to.any()),
            type_row=type_row,
        )
        self.has_use = bool((self.actions.kind == TurnKind.USE).any())
        self.has_swaps = bool((self.actions.kind == TurnKind.SWAP).any())
        self.has_reaching_kinds = bool((self.actions.kind >= FIRST_REACHING).any())
        is_attack = self.actions.kind <= TurnKind.ATTACK_NEAREST
        self.main_phase_has_costs = bool((~is_attack & (self.actions.has_cost | ~self.actions.possible)).any())
        self.has_penalty = bool(self.groups.failure_penalty.any())
        # only items that some action requires or consumes are checked for costs
        priced = (self.actions.required != ABSENT) | (self.actions.consumed != ABSENT)
        self.cost_items: list[int] = np.flatnonzero(priced.any(axis=0)).tolist()
        self.num_arguments = max(self.spec.max_action_args) + 1
        self.first_invalid = np.array([self.num_actions, self.num_arguments], np.uint64)  # [2], action id and argument
        self.kind_by_action = self._compile_kinds()
        self.flat_kinds, self.kinds_of_ruleset = self.kind_by_action.flatten(), self.kind_by_action[0].size
        self.kinds_of_action = np.array(self.num_arguments + 1)
        self.success_columns = np.array(self.num_actions)

    def _compile_kinds(self) -> NDArray[np.uint8]:
        """The TurnKind by (ruleset, action id, argument). `[rulesets, actions + 1, arguments + 1] uint8`

        The last action id and the last argument represent all larger ones.
        """
        shape = (len(self.configs), self.num_actions + 1, self.num_arguments + 1)
        kinds = np.full(shape, TurnKind.INVALID_ARGUMENT, np.uint8)
        kind_by_id = self.actions.kind.reshape(len(self.configs), self.num_actions)
        for action, largest in enumerate(self.spec.max_action_args):
            kinds[:, action][kind_by_id[:, action] <= TurnKind.ATTACK_NEAREST] = TurnKind.INVALID_ATTACK
            kinds[:, action, : largest + 1] = kind_by_id[:, action, None]
        kinds[:, -1] = TurnKind.UNKNOWN_ACTION
        return kinds


def _amounts(table: Mapping[str, int], items: Sequence[str], absent: int) -> list[int]:
    return [table.get(item, absent) for item in items]


def _compile_groups(configs: Sequence[EnvConfig], items: Sequence[str]) -> GroupTables:
    owners = [(config, name) for config in configs for name in config.game.groups]
    settings = [config.game.group_settings(name) for config, name in owners]
    shares = [
        [config.game.reward_sharing_groups.get(name, {}).get(taker, 0.0) for taker in config.game.groups]
        for config, name in owners
    ]
    return GroupTables(
        names=[name for _, name in owners],
        token_id=np.array([config.game.groups[name].id for config, name in owners]),
        cap=_integers([[own.item_cap(item) for item in items] for own in settings]),
        reward=_floats([[own.item_reward(item) for item in items] for own in settings]),
        reward_cap=_floats([[own.item_reward_cap(item) for item in items] for own in settings]),
        freeze_duration=np.array([own.freeze_duration for own in settings]),
        failure_penalty=np.array([own.action_failure_penalty for own in settings], np.float32),
        reward_share=np.array([config.game.groups[name].group_reward_pct for config, name in owners], np.float32),
        share_to=_floats(shares),
    )


def _integers(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(len(rows), -1)


def _floats(rows: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(len(rows), -1)


def _compile_types(configs: Sequence[EnvConfig], items: Sequence[str]) -> tuple[TypeTables, NDArray[np.int64]]:
    entries = [(ruleset, entry) for ruleset, config in enumerate(configs) for entry in config.object_types.values()]
    # a stable sort: plain walls, swappable walls, converters
    entries.sort(key=lambda entry: 2 if entry[1].type != "wall" else 1 if entry[1].swappable else 0)
    objects = [entry for _, entry in entries]
    type_row = np.full((len(configs), 256), ABSENT, np.int64)
    for row, (ruleset, entry) in enumerate(entries):
        type_row[ruleset, entry.type_id or 0] = row
    input_ = _integers([_amounts(entry.input or {}, items, 0) for entry in objects])
    output = _integers([_amounts(entry.output or {}, items, 0) for entry in objects])
    given = {
        "max_output": [entry.max_output or 0 for entry in objects],
        "conversion_ticks": [entry.conversion_ticks or 0 for entry in objects],
        "cooldown": [entry.cooldown or 0 for entry in objects],
        "initial_items": [entry.initial_items or 0 for entry in objects],
    }
    lowest = {name: np.array([range_min(value) for value in values], np.int64) for name, values in given.items()}
    highest = {name: np.array([range_max(value) for value in values], np.int64) for name, values in given.items()}
    tables = TypeTables(
        names=[entry.name for entry in objects],
        num_plain_walls=sum(entry.type == "wall" and not entry.swappable for entry in objects),
        num_walls=sum(entry.type == "wall" for entry in objects),
        type_id=np.array([entry.type_id for entry in objects]),
        color=np.array([entry.color for entry in objects]),
        input=input_,
        output=output,
        input_items=_recipe_items([entry.input or {} for entry in objects], items),
        output_items=_recipe_items([entry.output or {} for entry in objects], items),
        max_output=lowest["max_output"],
        conversion_ticks=lowest["conversion_ticks"],
        cooldown=lowest["cooldown"],
        initial_items=lowest["initial_items"],
        spans={name: highest[name] - lowest[name] for name in SAMPLED if (highest[name] != lowest[name]).any()},
        **compile_states(objects, configs[0].spec.feature_names),
    )
    return tables, type_row


def _recipe_items(recipes: Sequence[Mapping[str, int]], items: Sequence[str]) -> NDArray[np.int64]:
    """The item ids of each recipe in ascending order, then `ABSENT`. `[types, max items of a recipe] int64`"""
    item_ids = [[index for index, item in enumerate(items) if recipe.get(item, 0) > 0] for recipe in recipes]
    most = max(map(len, item_ids), default=0)
    return _integers([ids + [ABSENT] * (most - len(ids)) for ids in item_ids])


def _compile_actions(
    configs: Sequence[EnvConfig], items: Sequence[str], types: TypeTables, type_row: NDArray[np.int64]
) -> ActionTables:
    owned = [
        (ruleset, config, kind, action)
        for ruleset, config in enumerate(configs)
        for _, kind, action in config.action_table
    ]
    actions = [action for _, _, _, action in owned]
    required = [
        action.consumed_resources if action.required_resources is None else action.required_resources
        for action in actions
    ]
    required_table = _integers([_amounts(table, items, ABSENT) for table in required])
    consumed_table = _integers([_amounts(action.consumed_resources, items, ABSENT) for action in actions])
    gift_items = [items.index(action.item) if action.item in items else 0 for action in actions]
    possible = np.array([config.can_act(action) for _, config, _, action in owned])
    has_cost = np.asarray((required_table != ABSENT).any(axis=1) | (consumed_table != ABSENT).any(axis=1))
    return ActionTables(
        kind=np.array([_kind(kind, action) for _, _, kind, action in owned]),
        possible=possible,
        has_cost=has_cost,
        pays=possible & has_cost,
        required=required_table,
        consumed=consumed_table,
        defense=_integers([_amounts(_possible_defense(action, items), items, ABSENT) for action in actions]),
        delta=np.array([action.delta or 0 for action in actions]),
        gift_item=np.array(gift_items),
        usable_types=np.array(
            [
                _usable_types(config, action, [int(row) for row in type_row[ruleset]], len(types.names))
                for ruleset, config, _, action in owned
            ]
        ),
    )


def _kind(name: str, action: ActionConfig) -> int:
    if name == "rotate" and action.delta is not None:
        return TurnKind.ROTATE_BY
    if action.type in ACTIONS.simulated:
        return TurnKind.of(name)
    options = ACTIONS.options(name)
    if options.touches == "self":
        return TurnKind.CUSTOM
    return TurnKind.CUSTOM_MOVING if options.moves_others else TurnKind.CUSTOM_REACHING


def _possible_defense(action: ActionConfig, items: Sequence[str]) -> dict[str, int]:
    """`defense_resources`, or none if it requires an item that the world does not have."""
    needed = action.defense_resources
    return needed if all(item in items for item, count in needed.items() if count > 0) else {}


def _usable_types(config: EnvConfig, action: ActionConfig, row_of_type: Sequence[int], num_types: int) -> list[bool]:
    def is_usable(entry: ObjectConfig) -> bool:
        return entry.type != "wall" and action.use in (None, entry.name, entry.type)

    usable = {row_of_type[entry.type_id or 0] for entry in config.object_types.values() if is_usable(entry)}
    return [row in usable for row in range(num_types)]
