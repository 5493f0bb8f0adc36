"""World config: the table `[env]` with game, objects, actions and map builder, and its environment spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from metta.config.env.env_spec import EnvSpec
from metta.config.env.game import GameConfig
from metta.config.env.map_builder import MapBuilder, MapBuilderConfig, walk_builders
from metta.config.env.map_generators import MAP_BUILDERS, CustomConfig
from metta.config.env.map_sizes import fit_problems, group_counts, infer_sizes
from metta.config.env.name_rules import name_problems
from metta.config.env.object_rules import action_problems, complete_types, recipe_problems, state_problems
from metta.config.env.objects import CATALOG, DEFAULT_ACTIONS, MAX_ARGUMENT, ActionConfig, ObjectConfig
from metta.config.env.token_features import FEATURE_SCALES, ITEM_PREFIX, ITEM_SCALE
from metta.config.parts.registries import ACTIONS, OBJECTS, PART_TABLES
from metta.config.parts.settings import unknown_names
from metta.config.parts.tables import FeatureConfig, PartConfig, RewardConfig, TerminationConfig, part_problems
from metta.config.validation.error_messages import MAX_PROBLEMS, problems_in
from metta.config.validation.frozen_model import FrozenModel
from metta.config.validation.unknown_keys import OTHER_NAMES
from metta.errors import ConfigError, Problem, RulesError, did_you_mean
from metta.extensions import Registry

MAX_ACTIONS: Final = 100
"""Largest length of `[[env.actions]]`: action ids, two of each attack, are bytes in tokens."""


class EnvConfig(FrozenModel):
    """A world: game mechanics, objects, actions, custom rules and the map builder."""

    game: GameConfig = Field(default_factory=GameConfig, description="game mechanics and sizes")
    objects: Annotated[list[ObjectConfig], BeforeValidator(ObjectConfig.listed)] = Field(
        default_factory=lambda: list(CATALOG.values()),
        max_length=240,
        description="object types, added to the catalog or replacing its entry of the same name",
    )
    actions: Annotated[list[ActionConfig], BeforeValidator(ActionConfig.listed)] = Field(
        default_factory=lambda: list(DEFAULT_ACTIONS),
        min_length=1,
        max_length=MAX_ACTIONS,
        description="all actions, in the order of their ids",
    )
    rewards: Annotated[list[RewardConfig], BeforeValidator(RewardConfig.listed)] = Field(
        default_factory=list, max_length=100, description="custom rewards, in addition to those of items"
    )
    features: Annotated[list[FeatureConfig], BeforeValidator(FeatureConfig.listed)] = Field(
        default_factory=list, max_length=100, description="custom features of observations"
    )
    terminations: Annotated[list[TerminationConfig], BeforeValidator(TerminationConfig.listed)] = Field(
        default_factory=list, max_length=100, description="custom ends of episodes"
    )
    map_builder: MapBuilder = Field(default_factory=MapBuilderConfig, description="generation of maps")

    @model_validator(mode="after")
    def _infer_and_validate(self) -> Self:
        game, builder, problems = infer_sizes(self.game, self.map_builder)
        self.__dict__.update(game=game, map_builder=builder)
        names = name_problems(game, self.objects, self.actions, builder, self.object_types)
        problems += islice(names, MAX_PROBLEMS)  # limited, since searching for similar names takes time
        problems += recipe_problems(self.objects, self.object_types)
        items = [f"{ITEM_PREFIX}{item}" for item in game.inventory_item_names]
        custom_features = [feature.name for feature in self.features]
        problems += state_problems(self.objects, [*FEATURE_SCALES, *items], custom_features)
        problems += action_problems(self.actions)
        problems += part_problems(self.parts, game)
        problems += self._names_in_settings()
        problems += fit_problems(builder) if not problems else []
        if not problems:
            group_counts(builder, list(game.groups), 0, len(game.groups), ("map_builder",), problems)
        if problems:
            raise RulesError(list(dict.fromkeys(problems)))
        return self

    @cached_property
    def object_types(self) -> dict[str, ObjectConfig]:
        """All object types by name with every value set; `objects` takes precedence over the catalog."""
        return complete_types(self.objects)

    @property
    def parts(self) -> dict[str, Sequence[PartConfig]]:
        """The lists of custom rules, by key."""
        return {"rewards": self.rewards, "features": self.features, "terminations": self.terminations}

    @property
    def extensions(self) -> list[tuple[Registry[Any], str]]:
        """The registry and name of every map builder and custom rule that comes from a registry."""
        builders = [part for _, part, _ in walk_builders(self.map_builder)]
        custom = [(MAP_BUILDERS, builder.name) for builder in builders if isinstance(builder, CustomConfig)]
        types = [(ACTIONS, action.type) for action in self.actions] + [(OBJECTS, entry.type) for entry in self.objects]
        custom += [(registry, type_) for registry, type_ in types if type_ not in registry.simulated]
        return [*custom, *((part.REGISTRY, part.type) for parts in self.parts.values() for part in parts)]

    def _names_in_settings(self) -> Iterator[Problem]:
        """Settings of custom rules that name an item, an entity, an action or a group that does not exist."""
        groups = [f"agent.{name}" for name in self.game.groups]
        known = {
            "item": self.game.inventory_item_names,
            "entity": [*self.object_types, "agent", *groups, "empty"],
            "action": [name for action in self.actions for name, _ in action.names_and_types],
            "group": list(self.game.groups),
        }
        tables: dict[str, Sequence[PartConfig | ActionConfig | ObjectConfig]] = {
            **self.parts,
            "actions": self.actions,
            "objects": self.objects,
        }
        for key, entries in tables.items():
            registry = PART_TABLES[key]
            for index, entry in enumerate(entries):
                if entry.type not in registry.simulated and (not isinstance(entry, ActionConfig) or entry.enabled):
                    for problem in unknown_names(registry, entry.type, entry.settings, known):
                        yield Problem((key, index, "settings", *problem.path), problem.message)

    @cached_property
    def rules_key(self) -> str:
        """The game rules as JSON, equal for worlds that differ only in their maps."""
        return self.model_dump_json(exclude={"game": {"width", "height"}, "map_builder": True})

    @cached_property
    def action_table(self) -> list[tuple[str, str, ActionConfig]]:
        """(name, type, config) of each action by id; an attack is followed by its attack_nearest."""
        return [(name, type_, action) for action in self.actions for name, type_ in action.names_and_types]

    @cached_property
    def spec(self) -> EnvSpec:
        """The environment spec, which determines the inputs and outputs of a policy."""
        types = {entry.type_id or 0: name for name, entry in self.object_types.items()}
        types[0] = "agent"
        return EnvSpec(
            num_agents=self.game.num_agents,
            action_names=[name for name, _, _ in self.action_table],
            max_action_args=[
                MAX_ARGUMENT[type_] if type_ == "attack_nearest" else action.largest_argument
                for _, type_, action in self.action_table
            ],
            action_enabled=[self.is_sampled(action) for _, _, action in self.action_table],
            feature_names=list(self.feature_scales),
            feature_scales=list(self.feature_scales.values()),
            object_type_names=[types.get(type_id, "") for type_id in range(max(types) + 1)],
            group_ids=[group.id for group in self.game.groups.values()],
            observation_height=self.game.observation_height,
            observation_width=self.game.observation_width,
            num_observation_tokens=self.game.num_observation_tokens,
        )

    @cached_property
    def feature_scales(self) -> dict[str, float]:
        """The divisor that normalizes each feature, in the order of feature ids: built-in ones, items, custom ones."""
        items = {f"{ITEM_PREFIX}{item}": ITEM_SCALE for item in self.game.inventory_item_names}
        custom = {feature.name: feature.options.scale for feature in self.features}
        registered = [entry.options.states for entry in self.object_types.values() if entry.options is not None]
        states = {name: scale for own in registered for name, scale in own.items()}
        return FEATURE_SCALES | items | custom | states

    def can_act(self, action: ActionConfig) -> bool:
        """Whether an action can succeed: it is enabled, and the items it needs exist in this world."""
        needed = {**(action.required_resources or {}), **action.consumed_resources}
        items = self.game.inventory_item_names
        return action.enabled and all(item in items for item, count in needed.items() if count > 0)

    def is_sampled(self, action: ActionConfig) -> bool:
        """Whether policies have an output for an action: it can succeed here, or in another world of theirs."""
        return action.reserved or self.can_act(action)

    @property
    def without_reserved(self) -> EnvConfig:
        """The world without actions that only other worlds of a policy have; itself, if no other action can succeed."""
        actions = [action for action in self.actions if not action.reserved or self.can_act(action)]
        if len(actions) == len(self.actions) or not any(map(self.can_act, actions)):
            return self
        return self.with_actions(actions)

    def with_actions(self, actions: Sequence[ActionConfig]) -> EnvConfig:
        """A copy with other actions, which are not validated."""
        copy = self.model_copy(update={"actions": list(actions)})
        for name in ("action_table", "rules_key", "spec"):
            copy.__dict__.pop(name, None)
        return copy

    def override(self, **values: Any) -> EnvConfig:
        """A copy with values replaced by key, such as `override(num_agents=8, border_width=1)`.

        A key is searched for in `[env]`, then in `[env.game]`, then in `[env.map_builder]`. A dictionary for `game` or
        `map_builder` replaces its own keys only; a config object, or a dictionary with a `type`, the whole table.
        Raises ConfigError for an unknown key or an invalid value.
        """
        data = self.model_dump(exclude_unset=True)
        given = values.get("map_builder")
        builder = type(given if isinstance(given, FrozenModel) else self.map_builder)
        problems = []
        for name, value in sorted(values.items(), key=lambda item: item[0] not in EnvConfig.model_fields):
            if name in EnvConfig.model_fields:
                if isinstance(value, FrozenModel):
                    value = dict(value)
                is_part = name in ("game", "map_builder") and isinstance(value, Mapping) and "type" not in value
                data[name] = {**data.get(name, {}), **value} if is_part else value
            elif name in GameConfig.model_fields:
                data.setdefault("game", {})[name] = value
            elif name in builder.model_fields:
                data.setdefault("map_builder", {})[name] = value
            else:
                known = [*EnvConfig.model_fields, *GameConfig.model_fields, *builder.model_fields]
                meant = OTHER_NAMES.get(name, name).rpartition(".")[-1]
                problems.append(Problem((name,), f"unknown setting{did_you_mean(meant, known)}"))
        if not problems:
            try:
                return EnvConfig.model_validate(data)
            except ValidationError as error:
                problems = problems_in(error, EnvConfig, data)
        raise ConfigError("the environment override", problems)
