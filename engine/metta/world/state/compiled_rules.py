"""Actions and objects of registered types: their functions, settings and rows of the lookup tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.config.env.objects import ObjectConfig
from metta.config.parts.registries import ACTIONS, OBJECTS, ActionOptions
from metta.errors import Noted
from metta.world.parts.compiled_parts import unique_keys

NOT_WALKABLE, ALWAYS_WALKABLE = -2, -1
"""Entries of `TypeTables.walkable`; others are the index of the state on which it depends."""


@dataclass(frozen=True)
class _CompiledRule:
    """Actions or objects of a registered type, with the same name and settings."""

    table: ClassVar[str]
    """key of their list in `[env]`"""
    kind: ClassVar[str]
    """noun for messages"""
    name: str
    key: str
    """name that distinguishes them from all others of the worlds: prefix of their arrays in `Worlds.part_arrays`"""
    has_row: NDArray[np.bool_]
    """whether an action row, or a row of object types, is one of them"""

    @property
    def stream(self) -> str:
        """Name of their random stream in each world."""
        return f"{self.table}.{self.name}"

    @property
    def title(self) -> str:
        """The action or object, for messages."""
        return f'the {self.kind} "{self.name}"'


@dataclass(frozen=True)
class CompiledAction(_CompiledRule):
    """Actions of a registered type, with the same name and settings."""

    table: ClassVar[str] = "actions"
    kind: ClassVar[str] = ACTIONS.kind
    function: Callable[..., Any]
    options: ActionOptions
    settings: dict[str, Any]


@dataclass(frozen=True)
class CompiledObject(_CompiledRule):
    """Objects of a registered type, with the same name and settings."""

    table: ClassVar[str] = "objects"
    kind: ClassVar[str] = OBJECTS.kind
    use: Callable[..., Any] | None  # methods of an instance of the registered class, if it has them
    step: Callable[..., Any] | None
    initial: NDArray[np.uint8]  # [states], their values at the start of an episode


def compile_states(objects: Sequence[ObjectConfig], feature_names: Sequence[str]) -> dict[str, Any]:
    """The values of TypeTables for registered types."""
    options = [entry.options for entry in objects]
    states = [[] if own is None else list(own.states) for own in options]
    most = max(map(len, states), default=0)
    walkable = [
        NOT_WALKABLE
        if own is None or own.walkable is False
        else ALWAYS_WALKABLE
        if own.walkable is True
        else list(own.states).index(own.walkable)
        for own in options
    ]
    features = [[feature_names.index(name) for name in names] + [-1] * (most - len(names)) for names in states]
    return {
        "is_custom": np.array([own is not None for own in options], np.bool_),
        "walkable": np.array(walkable, np.int64),
        "state_features": np.array(features, np.int64).reshape(len(objects), most),
        "num_states": most,
        "has_walkable": any(column != NOT_WALKABLE for column in walkable),
    }


def compile_custom_actions(configs: Sequence[EnvConfig]) -> list[CompiledAction]:
    """The actions of registered types, one entry for all that have equal names and settings."""
    owned = [(name, action) for config in configs for name, _, action in config.action_table]
    rows_of: dict[tuple[str, str], list[int]] = {}
    for row, (name, action) in enumerate(owned):
        if action.type not in ACTIONS.simulated:
            rows_of.setdefault((name, json.dumps([action.type, action.settings], sort_keys=True)), []).append(row)
    unique = unique_keys(CompiledAction.table, [name for name, _ in rows_of])
    return [
        CompiledAction(
            name=name,
            key=key,
            function=ACTIONS.find(owned[rows[0]][1].type),
            options=ACTIONS.options(owned[rows[0]][1].type),
            settings=owned[rows[0]][1].settings,
            has_row=np.isin(np.arange(len(owned)), rows),
        )
        for ((name, _), rows), key in zip(rows_of.items(), unique, strict=True)
    ]


def compile_custom_objects(
    configs: Sequence[EnvConfig], type_row: NDArray[np.int64], num_types: int
) -> list[CompiledObject]:
    """The objects of registered types. Those of a ruleset are in the order of its config, whatever other rulesets have.

    Objects in the same place of that order with equal names and settings have one entry.
    """
    rows_of: dict[tuple[int, str, str], list[int]] = {}
    entry_of: dict[tuple[int, str, str], ObjectConfig] = {}
    for ruleset, config in enumerate(configs):
        registered = [entry for entry in config.object_types.values() if entry.options is not None]
        for place, entry in enumerate(registered):
            key = place, entry.name, json.dumps([entry.type, entry.settings], sort_keys=True)
            rows_of.setdefault(key, []).append(int(type_row[ruleset, entry.type_id or 0]))
            entry_of.setdefault(key, entry)
    compiled = []
    ordered = sorted(entry_of)
    for key, unique_key in zip(ordered, unique_keys(CompiledObject.table, [key[1] for key in ordered]), strict=True):
        entry = entry_of[key]
        with Noted(f'the object "{entry.name}" was made'):
            rules = OBJECTS.find(entry.type)(**entry.settings)
        options = OBJECTS.options(entry.type)
        compiled.append(
            CompiledObject(
                name=entry.name,
                key=unique_key,
                use=getattr(rules, "use", None),
                step=getattr(rules, "step", None),
                initial=np.array([options.initial.get(name, 0) for name in options.states], np.uint8),
                has_row=np.isin(np.arange(num_types), rows_of[key]),
            )
        )
    return compiled
