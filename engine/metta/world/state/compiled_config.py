"""EnvConfigs compiled into arrays, once: several configs ("tasks") become the rulesets of one batch.

Tasks that differ in their maps alone share a ruleset, so that there can be thousands of them.

Rows of every table are global across rulesets, so that one index is enough to look anything up:
a group row is `ruleset * groups + group`, an action row `ruleset * actions + action id`, and type rows number the
object types of all rulesets, plain walls first, then swappable walls, then converters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.config.env.objects import ActionConfig, ObjectConfig
from metta.errors import ConfigError, Problem

ATTACK_REACH = 3
"""How many cells ahead an attack can hit; the grid is padded by at least this much."""

NEVER = np.iinfo(np.int64).max
"""The time of what does not happen."""

ABSENT = -1
"""In tables of amounts: the item is not mentioned, which differs from an amount of 0."""


class Kind:
    """What becomes of a turn, as plain integers (an Enum is slow to look up, and slow to compare with arrays).

    The order matters: see the groups of kinds below.
    """

    FROZEN = 0  # frozen: the turn is lost
    BAD_ARGUMENT = 1  # of a known action; a penalty and nothing else
    UNKNOWN = 2  # no such action id: penalized in both passes
    BAD_ATTACK = 3  # an attack's argument is bad
    ATTACK = 4
    ATTACK_NEAREST = 5
    REFUSED = 6  # not possible in this world, or not paid for
    NOOP = 7
    ROTATE = 8
    TURN = 9  # rotate with a delta
    CHANGE_COLOR = 10
    PUT_ITEMS = 11
    GET_ITEMS = 12
    USE = 13
    MOVE = 14
    SWAP = 15
    GIFT = 16

    @classmethod
    def of(cls, type_: str) -> int:
        """The kind that a type of action has by its name."""
        kind: int = getattr(cls, type_.upper())
        return kind


NUM_KINDS = Kind.GIFT + 1


# first and last of the kinds that ...
FIRST_PASS = (Kind.UNKNOWN, Kind.ATTACK_NEAREST)  # have their turn in the first pass
INVALID = (Kind.BAD_ARGUMENT, Kind.UNKNOWN)  # are penalized in the second pass
ACTS = (Kind.ATTACK, Kind.GIFT)  # are counted as a success or a failure of their action
SECOND_PASS = (Kind.REFUSED, Kind.GIFT)  # act in the second pass
ALWAYS_WORKS = (Kind.NOOP, Kind.CHANGE_COLOR)
AT_CONVERTER = (Kind.PUT_ITEMS, Kind.USE)
LEAVES_CELL = (Kind.MOVE, Kind.SWAP)


@dataclass(frozen=True)
class GroupTables:
    """What holds for the agents of a group, by group row."""

    names: list[str]
    token_id: NDArray[np.int64]  # [groups]
    cap: NDArray[np.int64]  # [groups, items]
    reward: NDArray[np.float32]  # [groups, items]
    reward_cap: NDArray[np.float32]  # [groups, items]
    freeze_duration: NDArray[np.int64]  # [groups]
    failure_penalty: NDArray[np.float32]  # [groups]
    reward_share: NDArray[np.float32]  # [groups], group_reward_pct
    share_to: NDArray[np.float32]  # [groups, groups of the ruleset], reward_sharing_groups


@dataclass(frozen=True)
class ActionTables:
    """What an action costs and does, by action row. Amounts are `ABSENT` where the item is not mentioned."""

    kind: NDArray[np.int64]  # [actions]
    possible: NDArray[np.bool_]  # [actions]; false: disabled, or needs items that do not exist
    has_cost: NDArray[np.bool_]  # [actions]
    required: NDArray[np.int64]  # [actions, items]
    consumed: NDArray[np.int64]  # [actions, items]
    defense: NDArray[np.int64]  # [actions, items]
    delta: NDArray[np.int64]  # [actions], quarter turns clockwise
    gift_item: NDArray[np.int64]  # [actions]
    works_on: NDArray[np.bool_]  # [actions, types], what `use` works


@dataclass(frozen=True)
class TypeTables:
    """Object types by type row: `plain_walls` rows that never move, then `static - plain_walls` swappable ones."""

    names: list[str]
    plain_walls: int
    static: int
    type_id: NDArray[np.int64]  # [types]
    color: NDArray[np.int64]  # [types]
    input: NDArray[np.int64]  # [types, items], amounts, 0: none
    output: NDArray[np.int64]  # [types, items]
    input_items: NDArray[np.int64]  # [types, most inputs], item ids in order, ABSENT after the last
    output_items: NDArray[np.int64]  # [types, most outputs]
    max_output: NDArray[np.int64]  # [types], -1: no limit
    conversion_ticks: NDArray[np.int64]  # [types]
    cooldown: NDArray[np.int64]  # [types]
    initial_items: NDArray[np.int64]  # [types]


@dataclass(frozen=True)
class Rulesets:
    """What holds for a whole world, by ruleset."""

    max_steps: NDArray[np.float64]  # [rulesets], infinite: no end
    last_step: NDArray[np.int64]  # [rulesets], when the episode ends, by max_steps or lifetime
    terminates: NDArray[np.bool_]  # [rulesets], whether that end is the lifetime's
    time_punishment: NDArray[np.float32]  # [rulesets]
    shares_rewards: bool  # whether any ruleset does
    type_row: NDArray[np.int64]  # [rulesets, 256], type id -> type row, ABSENT: no such type


class CompiledConfig:
    """All that is fixed about a batch: its tables and its sizes."""

    def __init__(self, configs: Sequence[EnvConfig], shares_rulesets: bool = True):
        """`shares_rulesets`: tasks that differ in nothing but their maps have one ruleset between them."""
        _check_same_spec(configs)
        self.tasks = tuple(configs)
        keys = [config.rules_key if shares_rulesets else index for index, config in enumerate(configs)]
        first_of = {key: task for task, key in reversed(list(enumerate(keys)))}
        firsts = sorted(first_of.values())
        self.ruleset_of_task = np.array([firsts.index(first_of[key]) for key in keys])  # [tasks]
        configs = [configs[task] for task in firsts]
        self.configs = tuple(configs)
        """a config of each ruleset; what their maps are is a matter of tasks"""
        self.spec = configs[0].spec
        self.items = list(configs[0].game.inventory_item_names)
        self.num_items = len(self.items)
        self.num_groups = len(configs[0].game.groups)
        self.num_actions = len(self.spec.action_names)
        self.num_tokens = self.spec.num_observation_tokens
        self.groups = _compile_groups(configs, self.items)
        self.types, type_row = _compile_types(configs, self.items)
        self.actions = _compile_actions(configs, self.items, self.types, type_row)
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
        self.has_use = bool((self.actions.kind == Kind.USE).any())
        self.has_gifts = bool((self.actions.kind == Kind.GIFT).any())
        is_attack = self.actions.kind <= Kind.ATTACK_NEAREST
        self.second_pass_costs = bool((~is_attack & (self.actions.has_cost | ~self.actions.possible)).any())
        self.has_penalty = bool(self.groups.failure_penalty.any())
        # the items that any action asks for or takes: all that has to be looked at for costs
        priced = (self.actions.required != ABSENT) | (self.actions.consumed != ABSENT)
        self.priced_items: list[int] = np.flatnonzero(priced.any(axis=0)).tolist()
        self.most_arguments = max(self.spec.max_action_args) + 1
        self.too_large = np.array([self.num_actions, self.most_arguments], np.uint64)  # the first ones
        self.kind_of_pair = self._compile_pairs()

    def _compile_pairs(self) -> NDArray[np.uint8]:
        """Kind by (ruleset, action id, argument), with one more id and one more argument for all that are too large."""
        pairs = np.full((len(self.configs), self.num_actions + 1, self.most_arguments + 1), Kind.BAD_ARGUMENT, np.uint8)
        kinds = self.actions.kind.reshape(len(self.configs), self.num_actions)
        for action, largest in enumerate(self.spec.max_action_args):
            pairs[:, action][kinds[:, action] <= Kind.ATTACK_NEAREST] = Kind.BAD_ATTACK
            pairs[:, action, : largest + 1] = kinds[:, action, None]
        pairs[:, -1] = Kind.UNKNOWN
        return pairs


def _check_same_spec(configs: Sequence[EnvConfig]) -> None:
    first = configs[0].spec
    problems = []
    for index, config in enumerate(configs):
        for field in type(first).model_fields:
            ours, theirs = getattr(config.spec, field), getattr(first, field)
            if ours != theirs:
                problems.append(Problem((f"task {index}", field), f"is {ours}, but that of task 0 is {theirs}"))
    if problems:
        raise ConfigError("the list of tasks", problems)


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
    # a stable sort by class: plain walls, swappable walls, converters
    entries.sort(key=lambda owned: 2 if owned[1].type != "wall" else 1 if owned[1].swappable else 0)
    objects = [entry for _, entry in entries]
    type_row = np.full((len(configs), 256), ABSENT, np.int64)
    for row, (ruleset, entry) in enumerate(entries):
        type_row[ruleset, entry.type_id or 0] = row
    input_ = _integers([_amounts(entry.input or {}, items, 0) for entry in objects])
    output = _integers([_amounts(entry.output or {}, items, 0) for entry in objects])
    tables = TypeTables(
        names=[entry.name for entry in objects],
        plain_walls=sum(entry.type == "wall" and not entry.swappable for entry in objects),
        static=sum(entry.type == "wall" for entry in objects),
        type_id=np.array([entry.type_id for entry in objects]),
        color=np.array([entry.color for entry in objects]),
        input=input_,
        output=output,
        input_items=_listed_items([entry.input or {} for entry in objects], items),
        output_items=_listed_items([entry.output or {} for entry in objects], items),
        max_output=np.array([entry.max_output for entry in objects]),
        conversion_ticks=np.array([entry.conversion_ticks for entry in objects]),
        cooldown=np.array([entry.cooldown for entry in objects]),
        initial_items=np.array([entry.initial_items for entry in objects]),
    )
    return tables, type_row


def _listed_items(recipes: Sequence[Mapping[str, int]], items: Sequence[str]) -> NDArray[np.int64]:
    """Per type the ids of the items in its recipe, in id order, `ABSENT` after the last. `[types, most]`."""
    has_token = [[index for index, item in enumerate(items) if recipe.get(item, 0) > 0] for recipe in recipes]
    most = max(map(len, has_token), default=0)
    return _integers([ids + [ABSENT] * (most - len(ids)) for ids in has_token])


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
    return ActionTables(
        kind=np.array([_kind(kind, action) for _, _, kind, action in owned]),
        possible=np.array([config.can_act(action) for _, config, _, action in owned]),
        has_cost=(required_table != ABSENT).any(axis=1) | (consumed_table != ABSENT).any(axis=1),
        required=required_table,
        consumed=consumed_table,
        defense=_integers([_amounts(_possible_defense(action, items), items, ABSENT) for action in actions]),
        delta=np.array([action.delta or 0 for action in actions]),
        gift_item=np.array(gift_items),
        works_on=np.array(
            [
                _works_on(config, action, [int(row) for row in type_row[ruleset]], len(types.names))
                for ruleset, config, _, action in owned
            ]
        ),
    )


def _kind(name: str, action: ActionConfig) -> int:
    if name == "rotate" and action.delta is not None:
        return Kind.TURN
    return Kind.of(name)


def _possible_defense(action: ActionConfig, items: Sequence[str]) -> dict[str, int]:
    """The defense, or none at all where it needs an item that nobody can hold."""
    needed = action.defense_resources
    return needed if all(item in items for item, count in needed.items() if count > 0) else {}


def _works_on(config: EnvConfig, action: ActionConfig, row_of_type: Sequence[int], num_types: int) -> list[bool]:
    def is_worked(entry: ObjectConfig) -> bool:
        return entry.type != "wall" and action.use in (None, entry.name, entry.type)

    worked = {row_of_type[entry.type_id or 0] for entry in config.object_types.values() if is_worked(entry)}
    return [row in worked for row in range(num_types)]
