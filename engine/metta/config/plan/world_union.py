"""The union of the actions of several worlds, with which one policy plays all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from metta.config.env.env_config import MAX_ACTIONS, EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.env.objects import ActionConfig
from metta.config.env.token_features import ITEM_PREFIX
from metta.errors import ConfigError, Problem

_KEYS = {
    "num_agents": "env.game.num_agents",
    "feature_names": "env.game.inventory_item_names",
    "feature_scales": "env.features, by scale,",
    "object_type_names": "env.objects",
    "group_ids": "env.game.groups, by id,",
    "observation_height": "env.game.observation_height",
    "observation_width": "env.game.observation_width",
    "num_observation_tokens": "env.game.num_observation_tokens",
}
"""Fields of `EnvSpec` that must be equal in all worlds of a policy, with their keys in the TOML file."""


def unite_worlds(configs: Sequence[EnvConfig]) -> tuple[EnvConfig, ...]:
    """The worlds with equal specs: each with the actions of all of them.

    Worlds whose specs are already equal are returned unchanged. Raises ConfigError if one policy cannot play all.
    """
    union = WorldUnion(configs)
    problems = [
        Problem((f"task {index}",), f"must be a world that the policy of the other tasks can play; {difference}")
        for index, config in enumerate(configs)
        for difference in union.differences(config)
    ]
    if problems:
        raise ConfigError("the list of tasks", problems)
    return tuple(union.fit(config) for config in configs)


class WorldUnion:
    """The actions of several worlds in one order: those of the first world, then those that later worlds add.

    Actions are matched by name, so that their costs may differ between worlds, and an action may be disabled in some.
    One policy has an output for every action that can succeed in at least one of the worlds.
    """

    def __init__(self, configs: Iterable[EnvConfig]):
        self._entries: dict[str, ActionConfig] = {}  # by key: the entry of the first world that has it
        self._signatures: dict[str, tuple[str, int]] = {}  # (type, largest argument) by name
        self._sampled: set[str] = set()  # keys of the actions for which a policy has outputs
        self._fitted: dict[str, EnvConfig] = {}  # by the `rules_key` before
        self._first: EnvConfig | None = None
        for config in configs:
            self._first = self._first or config
            for entry in config.actions:
                self._entries.setdefault(entry.key, entry)
                if config.is_sampled(entry):
                    self._sampled.add(entry.key)
            for name, signature in _signatures(config):
                self._signatures.setdefault(name, signature)

    def differences(self, config: EnvConfig) -> list[str]:
        """What prevents a policy of these worlds from playing `config`, for messages."""
        assert self._first is not None
        found = list(_spec_differences(config.spec, self._first.spec))
        for name, (type_, largest) in _signatures(config):
            expected_type, expected_largest = self._signatures.get(name, (type_, largest))
            if type_ != expected_type:
                found.append(f'the action "{name}" is of type "{type_}", not "{expected_type}"; rename one of them')
            elif largest != expected_largest:
                found.append(
                    f'the largest argument of the action "{name}" is {largest}, not {expected_largest}; '
                    "rename one of them"
                )
        if len(self._entries) > MAX_ACTIONS and self._missing(self._first, config):
            found.append(f"all worlds together have {len(self._entries)} actions; the limit is {MAX_ACTIONS}")
        return found

    def covers(self, config: EnvConfig) -> bool:
        """Whether a policy of these worlds can play `config`, and has an output for all of its actions."""
        is_known = all(entry.key in self._sampled for entry in config.actions if config.is_sampled(entry))
        return is_known and not self.differences(config)

    def lacking(self, config: EnvConfig) -> list[str]:
        """Names of the actions that can succeed in other worlds, but not in `config`."""
        able = {entry.key for entry in config.actions if config.can_act(entry)}
        lacked = (entry for key, entry in self._entries.items() if key in self._sampled - able)
        return [name for entry in lacked for name, _ in entry.names_and_types]

    def fit(self, config: EnvConfig) -> EnvConfig:
        """The world with the actions of the union; `config`, if it has exactly these.

        Actions that fail in `config`, but not in all worlds, are disabled and reserved.
        """
        own = {entry.key: entry for entry in config.actions}
        actions = [self._entry(config, key, own.get(key)) for key in self._entries]
        if actions == config.actions:
            return config
        rules = config.rules_key
        fitted = config.with_actions(actions)
        if (like := self._fitted.setdefault(rules, fitted)) is not fitted:  # worlds that differ in their maps alone
            fitted.__dict__.update(action_table=like.action_table, rules_key=like.rules_key, spec=like.spec)
        return fitted

    def _entry(self, config: EnvConfig, key: str, own: ActionConfig | None) -> ActionConfig:
        """The entry of an action in the fitted world, where `own` is that of `config`; None: it has none."""
        is_sampled = key in self._sampled
        if own is not None and config.is_sampled(own) == is_sampled:
            return own
        entry = own or self._entries[key]
        # without costs and `use`, which may name items and objects that this world does not have
        kept = {name: getattr(entry, name) for name in ("type", "key", "delta", "item", "settings")}
        return ActionConfig(**kept, enabled=False, reserved=is_sampled)

    def _missing(self, config: EnvConfig, other: EnvConfig) -> list[str]:
        keys = {entry.key for entry in config.actions}
        return [entry.key for entry in other.actions if entry.key not in keys]


def _signatures(config: EnvConfig) -> Iterator[tuple[str, tuple[str, int]]]:
    """(name, (type, largest argument)) of each action."""
    for (name, type_, _), largest in zip(config.action_table, config.spec.max_action_args, strict=True):
        yield name, (type_, largest)


def _spec_differences(spec: EnvSpec, first: EnvSpec) -> Iterator[str]:
    """The differences between two specs, apart from actions."""
    for field, key in _KEYS.items():
        ours, theirs = getattr(spec, field), getattr(first, field)
        if ours == theirs:
            continue
        if field == "feature_names" and (set(ours) ^ set(theirs)).difference(_items([*ours, *theirs])):
            key = "env.features"
        if isinstance(ours, list) and (more := [entry for entry in ours if entry not in ("", *theirs)]):
            yield f"{key} has {_list_text(more)}"
        elif isinstance(ours, list) and (less := [entry for entry in theirs if entry not in ("", *ours)]):
            yield f"{key} lacks {_list_text(less)}"
        elif isinstance(ours, list):
            yield f"{key} has the same entries with other ids"
        else:
            yield f"{key} is {ours}, not {theirs}"


def _items(features: Sequence[str]) -> list[str]:
    """The features of items."""
    return [name for name in features if name.startswith(ITEM_PREFIX)]


def _list_text(entries: Sequence[Any]) -> str:
    text = ", ".join(str(entry).removeprefix(ITEM_PREFIX) for entry in entries[:5])
    return f"{text}, ..." if len(entries) > 5 else text
