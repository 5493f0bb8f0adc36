"""Custom rules of a world: the tables `[[env.rewards]]`, `[[env.features]]` and `[[env.terminations]]`.

Each list can also be written as tables by name: `[env.rewards.near_altar]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import Field, model_validator

from metta.config.env.game import GameConfig, Reward
from metta.config.env.token_features import FEATURE_SCALES, ITEM_PREFIX
from metta.config.parts.registries import FEATURES, REWARDS, TERMINATIONS, FeatureOptions, PartRegistry
from metta.config.parts.settings import SettingValue, checked_settings
from metta.config.validation.frozen_model import NAME_PATTERN, NAME_RULE, Name, NamedTable, RegisteredName
from metta.errors import Problem, RulesError, did_you_mean

MAX_FEATURES: Final = 255
"""Largest number of features: a feature id is one byte of a token, and 255 marks unused tokens."""


class PartConfig(NamedTable):
    """A custom rule with its settings."""

    NAME_KEY: ClassVar[str] = "name"
    REGISTRY: ClassVar[PartRegistry[Any]]

    type: str
    name: Name = Field(default="", description="unique name, used in metrics, features and messages; empty: the type")
    settings: dict[str, SettingValue] = Field(
        default_factory=dict, description="settings of the part, by name; omitted ones have its defaults"
    )

    @classmethod
    def known(cls) -> list[str]:
        """The registered names."""
        return cls.REGISTRY.names()

    @classmethod
    def defaults(cls, name: str) -> dict[str, Any]:
        """A table whose name is that of a registered part needs no `type`."""
        return {"type": name}

    @model_validator(mode="after")
    def _name_and_settings(self) -> Self:
        try:
            settings = checked_settings(self.REGISTRY, self.type, self.settings)
        except RulesError as error:
            problems = [Problem(("settings", *problem.path), problem.message) for problem in error.problems]
            raise RulesError(problems) from None
        if not self.name and not re.fullmatch(NAME_PATTERN, self.type):
            message = f'must be set, since the type "{self.type}" is no name: {NAME_RULE}'
            raise RulesError([Problem(("name",), message)])
        self.__dict__.update(name=self.name or self.type, settings=settings)
        return self


class RewardConfig(PartConfig):
    """A custom reward, added to the rewards of items in every step, before rewards are shared.

    The metric `reward_terms/NAME` has its sum over an episode.
    """

    REGISTRY: ClassVar[PartRegistry[Any]] = REWARDS

    type: Annotated[str, RegisteredName(REWARDS)] = Field(description="registered name of the reward")
    weight: Reward = Field(default=1.0, description="factor of the reward")
    groups: list[str] = Field(
        default_factory=list, max_length=256, description="names of the groups that receive the reward; empty: all"
    )


class FeatureConfig(PartConfig):
    """A custom feature of observations, whose id follows those of the built-in features and of the items."""

    REGISTRY: ClassVar[PartRegistry[Any]] = FEATURES

    type: Annotated[str, RegisteredName(FEATURES)] = Field(description="registered name of the feature")

    @property
    def options(self) -> FeatureOptions:
        """The options with which the feature was registered."""
        return FEATURES.options(self.type)


class TerminationConfig(PartConfig):
    """A custom end of episodes, besides `max_steps` and `episode_lifetime`."""

    REGISTRY: ClassVar[PartRegistry[Any]] = TERMINATIONS

    type: Annotated[str, RegisteredName(TERMINATIONS)] = Field(description="registered name of the termination")
    truncates: bool = Field(
        default=False, description="true: the episode is truncated, as by max_steps; false: it terminates"
    )


def part_problems(tables: Mapping[str, Sequence[PartConfig]], game: GameConfig) -> Iterator[Problem]:
    """Names that are used twice, unknown groups, and too many features. `tables` has the lists of parts by key."""
    for key, parts in tables.items():
        names = [part.name for part in parts]
        for index, part in enumerate(parts):
            if part.name in names[:index]:
                message = f'must be unique; "{part.name}" is used twice: give both a name'
                yield Problem((key, index, "name"), message)
            for place, group in enumerate(part.groups if isinstance(part, RewardConfig) else ()):
                if group not in game.groups:
                    hint = did_you_mean(group, game.groups)
                    yield Problem((key, index, "groups", place), f'unknown group "{group}"{hint}')
            if isinstance(part, FeatureConfig) and part.name in FEATURE_SCALES:
                yield Problem((key, index, "name"), f'must not be the built-in feature "{part.name}"')
    count = len(FEATURE_SCALES) + len(game.inventory_item_names) + len(tables["features"])
    if count > MAX_FEATURES:
        yield Problem(
            ("features",),
            f"observations can have {MAX_FEATURES} features; {len(FEATURE_SCALES)} built-in ones, "
            f"{len(game.inventory_item_names)} items ({ITEM_PREFIX}ITEM) and {len(tables['features'])} features are "
            f"{count}",
        )
