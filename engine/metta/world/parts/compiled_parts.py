"""CompiledParts: the custom rules of a batch of worlds, with their functions, weights and the worlds that have them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.config.parts.tables import FeatureConfig, PartConfig, RewardConfig, TerminationConfig


@dataclass(frozen=True)
class CompiledPart:
    """A part with its settings, for all rulesets that have it."""

    table: str
    """key of the list in `[env]`: `rewards`, `features` or `terminations`"""
    kind: str
    """noun for messages"""
    name: str
    function: Callable[..., Any]
    settings: dict[str, Any]
    configs: tuple[PartConfig | None, ...]
    """the entry of each ruleset; None where the ruleset does not have the part"""
    key: str
    """name that distinguishes the part from all others of the worlds: prefix of its state"""
    rulesets: NDArray[np.bool_]
    """`[rulesets] bool`: whether the ruleset has the part"""

    @property
    def stream(self) -> str:
        """Name of its random stream in each world, where no other part has the name."""
        return f"{self.table}.{self.name}"

    @property
    def title(self) -> str:
        """The part, for messages: `the reward "near_altar"`."""
        return f'the {self.kind} "{self.name}"'


@dataclass(frozen=True)
class CompiledReward:
    """A reward with its weights."""

    part: CompiledPart
    term: int
    """index of its name among the reward terms"""
    weight: NDArray[np.float32]
    """`[groups] float32`, indexed by group row; 0 for groups that do not receive it"""


@dataclass(frozen=True)
class CompiledFeature:
    """A feature with its place in observations."""

    part: CompiledPart
    feature_id: int
    at: str

    @property
    def array(self) -> str:
        """Name of its values in `Worlds.part_arrays`, which no memory of the part can have: see `PartCall.memory`."""
        return f"{self.part.key}:values"


@dataclass(frozen=True)
class CompiledTermination:
    """An end of episodes."""

    part: CompiledPart
    truncates: NDArray[np.bool_]
    """`[rulesets] bool`"""


class CompiledParts:
    """The custom rules of all rulesets, in the order in which they are called."""

    def __init__(self, configs: Sequence[EnvConfig]):
        """`configs` has one config per ruleset, all of the same `spec`."""
        rewards = list(_compile(configs, "rewards"))
        self.terms = list(dict.fromkeys(part.name for part in rewards))
        """the names of the reward terms"""
        self.rewards = [CompiledReward(part, self.terms.index(part.name), _weights(configs, part)) for part in rewards]
        self.features = [_feature(configs, part) for part in _compile(configs, "features")]
        self.terminations = [
            CompiledTermination(part, np.array([_truncates(entry) for entry in part.configs]))
            for part in _compile(configs, "terminations")
        ]

    def __bool__(self) -> bool:
        return bool(self.rewards or self.features or self.terminations)

    @property
    def keys(self) -> list[str]:
        """The key of every part."""
        parts = [reward.part for reward in self.rewards] + [feature.part for feature in self.features]
        return [part.key for part in (*parts, *(termination.part for termination in self.terminations))]

    @property
    def num_layers(self) -> int:
        """Number of entities that a cell of the window can have: the one in the grid, and values of features."""
        return 2 if self.features_at("cells") else 1

    def features_at(self, *places: str) -> list[CompiledFeature]:
        """The features at some places, by feature id; several can have the same id in different rulesets."""
        return [feature for feature in self.features if feature.at in places]


def _compile(configs: Sequence[EnvConfig], table: str) -> Iterator[CompiledPart]:
    """The parts of a list of `[env]`. Those of a ruleset are in the order of its config, whatever other rulesets have.

    Entries in the same place of that order with equal name, type and settings are one part.
    """
    entries: dict[tuple[int, str, str, str], list[PartConfig | None]] = {}
    for ruleset, config in enumerate(configs):
        for place, entry in enumerate(config.parts[table]):
            key = (place, entry.name, entry.type, json.dumps(entry.settings, sort_keys=True))
            entries.setdefault(key, [None] * len(configs))[ruleset] = entry
    keys = sorted(entries)
    unique = unique_keys(table, [name for _, name, _, _ in keys])
    for key, unique_key in zip(keys, unique, strict=True):
        (_, name, type_, settings), owners = key, entries[key]
        registry = next(entry for entry in owners if entry is not None).REGISTRY
        yield CompiledPart(
            table=table,
            kind=registry.kind,
            name=name,
            function=registry.find(type_),
            settings=json.loads(settings),
            configs=tuple(owners),
            key=unique_key,
            rulesets=np.array([entry is not None for entry in owners]),
        )


def unique_keys(table: str, names: Sequence[str]) -> list[str]:
    """A key for each rule of a list of `[env]`: its name, with a number if an earlier one has the name.

    Rules have the same name if they are in different rulesets and differ in their settings.
    """
    earlier = [names[:index].count(name) for index, name in enumerate(names)]
    return [f"{table}.{name}" + (f".{count + 1}" if count else "") for name, count in zip(names, earlier, strict=True)]


def _weights(configs: Sequence[EnvConfig], part: CompiledPart) -> NDArray[np.float32]:
    weights = [
        entry.weight if isinstance(entry, RewardConfig) and (not entry.groups or group in entry.groups) else 0.0
        for config, entry in zip(configs, part.configs, strict=True)
        for group in config.game.groups
    ]
    return np.array(weights, np.float32)


def _feature(configs: Sequence[EnvConfig], part: CompiledPart) -> CompiledFeature:
    entry = next(entry for entry in part.configs if isinstance(entry, FeatureConfig))
    return CompiledFeature(part, configs[0].spec.feature_names.index(part.name), entry.options.at)


def _truncates(entry: PartConfig | None) -> bool:
    return isinstance(entry, TerminationConfig) and entry.truncates
