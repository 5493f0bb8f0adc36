"""Entities of the reference simulator and the settings of groups and actions, by item id instead of name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from metta.config.env.env_config import EnvConfig
from metta.config.env.objects import ActionConfig, ObjectConfig

UP, DOWN, LEFT, RIGHT = range(4)
IDLE, CONVERTING, COOLING = "idle", "converting", "cooling"

float32 = np.float32
ZERO = float32(0)


@dataclass
class Placed:
    """An entity with a position."""

    row: int
    col: int


@dataclass
class Wall(Placed):
    kind: ObjectConfig


@dataclass
class Converter(Placed):
    kind: ObjectConfig
    input: dict[int, int]
    output: dict[int, int]
    inventory: Counter[int] = field(default_factory=Counter)
    phase: str = IDLE
    event_time: int = 0
    stats: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Group:
    """Settings of the agents of a group; tables by item id."""

    name: str
    id: int
    freeze_duration: int
    failure_penalty: np.float32
    caps: list[int]
    prices: list[np.float32]
    counted: list[np.float32]


@dataclass(frozen=True)
class Action:
    """An action with amounts by item id; `defense` is None if attacks cannot be blocked."""

    name: str
    type: str
    config: ActionConfig
    is_possible: bool
    largest_argument: int
    required: dict[int, int]
    consumed: dict[int, int]
    defense: dict[int, int] | None


@dataclass
class Agent(Placed):
    """`inventory` has the items with a token in observations, some of them possibly with 0 units."""

    index: int
    rules: Group
    orientation: int = UP
    color: int = 0
    frozen: int = 0
    inventory: dict[int, int] = field(default_factory=dict)
    reward: np.float32 = ZERO
    score: np.float32 = ZERO
    episode_reward: np.float32 = ZERO
    stats: Counter[str] = field(default_factory=Counter)


Entity = Wall | Converter | Agent


def by_id(items: Sequence[str], amounts: Mapping[str, int] | None) -> dict[int, int]:
    """Amounts by item id, in the order of ids; items that do not exist in this world are left out."""
    return {index: amounts[item] for index, item in enumerate(items) if item in amounts} if amounts else {}


def recipe(items: Sequence[str], amounts: Mapping[str, int] | None) -> dict[int, int]:
    """Amounts above 0 by item id."""
    return {item: amount for item, amount in by_id(items, amounts).items() if amount > 0}


def groups_of(config: EnvConfig) -> list[Group]:
    """The groups in the order of the config, in which maps number them."""
    game, items = config.game, config.game.inventory_item_names
    groups = []
    for name, group in game.groups.items():
        settings = game.group_settings(name)
        groups.append(
            Group(
                name,
                group.id,
                settings.freeze_duration,
                float32(settings.action_failure_penalty),
                [settings.item_cap(item) for item in items],
                [float32(settings.item_reward(item)) for item in items],
                [float32(settings.item_reward_cap(item)) for item in items],
            )
        )
    return groups


def actions_of(config: EnvConfig) -> list[Action]:
    """The actions in the order of their ids."""
    items = config.game.inventory_item_names
    actions = []
    for (name, type_, entry), largest in zip(config.action_table, config.spec.max_action_args, strict=True):
        consumed, defense = entry.consumed_resources, entry.defense_resources
        required = consumed if entry.required_resources is None else entry.required_resources
        is_defense_possible = all(item in items for item, amount in defense.items() if amount > 0)
        actions.append(
            Action(
                name,
                type_,
                entry,
                config.can_act(entry),
                largest,
                by_id(items, required),
                by_id(items, consumed),
                by_id(items, defense) if defense and is_defense_possible else None,
            )
        )
    return actions
