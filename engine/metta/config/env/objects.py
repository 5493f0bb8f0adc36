"""Object types and actions: the tables `[[env.objects]]` and `[[env.actions]]`, and the defaults of both.

Both lists can also be written as tables by name: `[env.objects.altar]`, `[env.actions.attack]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from metta.config.env.ranges import OrRange
from metta.config.parts.registries import ACTIONS, MAX_ARGUMENTS, OBJECTS, ObjectOptions, PartRegistry
from metta.config.parts.settings import SettingValue, checked_settings
from metta.config.validation.frozen_model import Name, NamedTable, RegisteredName
from metta.errors import Problem, RulesError, UsageError

Count = Annotated[int, Field(ge=0, le=255)]
"""Units of an item, limited to one byte of a token."""

DEFAULT_ITEMS = [
    "ore_red",
    "ore_blue",
    "ore_green",
    "battery_red",
    "battery_blue",
    "battery_green",
    "heart",
    "armor",
    "laser",
    "blueprint",
]


class ObjectConfig(NamedTable):
    """An object type. Unset keys come from the catalog's entry of that name, or else have general defaults.

    `[env.objects.NAME]` is another form of `[[env.objects]]` with the name in its header, in which objects of the
    catalog need no `type`. A file has either the list or tables by name.

    A range such as `cooldown = { min = 5, max = 20 }` is sampled at the start of every episode, once for all objects of
    the type.
    """

    NAME_KEY: ClassVar[str] = "name"

    type: Annotated[str, RegisteredName(OBJECTS)] = Field(
        description="mine (converts without input), generator and converter (input to output), wall, or the name of a "
        "registered object"
    )
    name: Name = Field(description="unique name, used in maps, statistics and env.map_builder.objects")
    color: int | None = Field(
        default=None, ge=0, le=255, description="color index, a token in observations; unset: the catalog's, or 0"
    )
    type_id: int | None = Field(
        default=None,
        ge=1,
        le=255,
        description="unique type id in tokens; unset: the catalog's, or the lowest free one",
    )
    input: dict[str, Count] | None = Field(
        default=None, description="items that one conversion consumes, units by name"
    )
    output: dict[str, Count] | None = Field(
        default=None, description="items that one conversion produces, units by name"
    )
    max_output: Annotated[int, Field(ge=-1, le=65535), OrRange(is_integer=True)] | None = Field(
        default=None,
        description="output units in the object at which no further conversion starts; -1: no limit; unset: 5",
    )
    conversion_ticks: Annotated[int, Field(ge=0, le=1_000_000), OrRange(is_integer=True)] | None = Field(
        default=None, description="duration of a conversion, steps; unset: 1"
    )
    cooldown: Annotated[int, Field(ge=0, le=1_000_000), OrRange(is_integer=True)] | None = Field(
        default=None, description="pause after a conversion, steps; unset: 10"
    )
    initial_items: Annotated[Count, OrRange(is_integer=True)] | None = Field(
        default=None, description="units of each output item in the object at the start of an episode; unset: 1"
    )
    swappable: bool | None = Field(default=None, description="walls only: agents can swap places with it; unset: false")
    settings: dict[str, SettingValue] = Field(
        default_factory=dict, description="settings of a registered object, by name; omitted ones have its defaults"
    )

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        self.__dict__["settings"] = part_settings(OBJECTS, self.type, self.settings)
        return self

    @property
    def options(self) -> ObjectOptions | None:
        """The options of a registered type; None for mines, generators, converters and walls."""
        return None if self.type in OBJECTS.simulated else OBJECTS.options(self.type)

    def is_faint(self, states: Sequence[int]) -> bool:
        """Whether pictures show an object of a registered type faintly: a state lets agents in, or all states are 0."""
        options = self.options
        if options is None or not options.states:
            return False
        names = list(options.states)
        if isinstance(options.walkable, str):
            return states[names.index(options.walkable)] > 0
        return not any(states[: len(names)])

    @classmethod
    def known(cls) -> list[str]:
        """The names of the catalog."""
        return list(CATALOG)

    @classmethod
    def defaults(cls, name: str) -> dict[str, Any]:
        """The type of the catalog's entry; its other values are filled in later (object_rules.py)."""
        return {"type": CATALOG[name].type} if name in CATALOG else {}


class ActionConfig(NamedTable):
    """An action. Its id is its position in the list; an `attack` adds a second action, `KEY_nearest`, after it.

    `[env.actions.KEY]` changes keys of a default action, or adds an action after the default ones. A file has either
    the list, which then has all actions, or tables by name.
    """

    NAME_KEY: ClassVar[str] = "key"

    type: Annotated[str, RegisteredName(ACTIONS)] = Field(
        description="effect of the action, or the name of a registered action"
    )
    key: Name = Field(description="unique name, used in statistics and replays")
    delta: int | None = Field(
        default=None,
        ge=-3,
        le=3,
        description="rotate only: quarter turns clockwise; unset: the argument is the new orientation",
    )
    item: str | None = Field(default=None, description="gift only: the item that is given")
    use: str | None = Field(default=None, description="use only: restricts the action to objects of this name or type")
    enabled: bool = Field(
        default=True, description="false: the action keeps its id but always fails and is never sampled"
    )
    reserved: bool = Field(
        default=False,
        description="true: policies have an output for the action even if it always fails here, since other worlds of "
        "theirs have it; set automatically in the worlds of a curriculum",
    )
    required_resources: dict[str, Count] | None = Field(
        default=None, description="items the agent must have, units by name; unset: consumed_resources"
    )
    consumed_resources: dict[str, Count] = Field(
        default_factory=dict, description="items taken from the agent, units by name, even if the action then fails"
    )
    defense_resources: dict[str, Count] = Field(
        default_factory=dict, description="attack only: a target that has these loses them instead of being frozen"
    )
    settings: dict[str, SettingValue] = Field(
        default_factory=dict, description="settings of a registered action, by name; omitted ones have its defaults"
    )

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        self.__dict__["settings"] = part_settings(ACTIONS, self.type, self.settings)
        if self.type in ACTIONS.simulated:
            return self
        if (arguments := ACTIONS.options(self.type).arguments) not in {*self.settings, *range(1, MAX_ARGUMENTS + 1)}:
            raise UsageError(
                f'the action "{self.type}" takes its number of arguments from the setting "{arguments}", which it does '
                "not have"
            )
        if not 0 <= self.largest_argument < MAX_ARGUMENTS:
            message = f"must be from 1 to {MAX_ARGUMENTS}, as the number of arguments; got {self.largest_argument + 1}"
            raise RulesError([Problem(("settings", str(ACTIONS.options(self.type).arguments)), message)])
        return self

    @classmethod
    def known(cls) -> list[str]:
        """The keys of the default actions."""
        return [action.key for action in DEFAULT_ACTIONS]

    @classmethod
    def names(cls, tables: dict[str, Any]) -> list[str]:
        """The default actions, then those that `tables` adds."""
        return list(dict.fromkeys([*cls.known(), *tables]))

    @classmethod
    def defaults(cls, name: str) -> dict[str, Any]:
        """The values of the default action."""
        return next((action.model_dump(exclude_unset=True) for action in DEFAULT_ACTIONS if action.key == name), {})

    @property
    def largest_argument(self) -> int:
        """The largest argument; arguments are numbered from 0."""
        if self.type == "rotate" and self.delta is not None:
            return 0
        if self.type in MAX_ARGUMENT:
            return MAX_ARGUMENT[self.type]
        arguments = ACTIONS.options(self.type).arguments
        return (arguments if isinstance(arguments, int) else int(self.settings[arguments])) - 1

    @property
    def names_and_types(self) -> list[tuple[str, str]]:
        """(name, type) of each action that the entry adds, in the order of their ids."""
        nearest = [(f"{self.key}_nearest", "attack_nearest")] if self.type == "attack" else []
        return [(self.key, self.type), *nearest]


def part_settings(registry: PartRegistry[Any], type_: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a registered type with its defaults. Raises RulesError if they are invalid."""
    if type_ not in registry.simulated:
        try:
            return checked_settings(registry, type_, settings)
        except RulesError as error:
            raise RulesError(
                [Problem(("settings", *problem.path), problem.message) for problem in error.problems]
            ) from None
    if settings:
        raise RulesError([Problem(("settings",), f'must be empty: the {registry.kind} "{type_}" has no settings')])
    return settings


def _converter(
    type_: Literal["mine", "generator", "converter"],
    name: str,
    type_id: int,
    input_: dict[str, int],
    output: dict[str, int],
    cooldown: int,
    color: int = 0,
) -> ObjectConfig:
    return ObjectConfig(
        type=type_,
        name=name,
        color=color,
        type_id=type_id,
        input=input_,
        output=output,
        max_output=5,
        conversion_ticks=1,
        cooldown=cooldown,
        initial_items=1,
        swappable=False,
    )


_OBJECTS = [
    ObjectConfig(type="wall", name="wall", color=0, type_id=1, swappable=False),
    ObjectConfig(type="wall", name="block", color=0, type_id=14, swappable=True),
    _converter("mine", "mine_red", 2, {}, {"ore_red": 1}, 50, 0),
    _converter("mine", "mine_blue", 3, {}, {"ore_blue": 1}, 50, 1),
    _converter("mine", "mine_green", 4, {}, {"ore_green": 1}, 50, 2),
    _converter("generator", "generator_red", 5, {"ore_red": 1}, {"battery_red": 1}, 25, 0),
    _converter("generator", "generator_blue", 6, {"ore_blue": 1}, {"battery_blue": 1}, 25, 1),
    _converter("generator", "generator_green", 7, {"ore_green": 1}, {"battery_green": 1}, 25, 2),
    _converter("converter", "altar", 8, {"battery_red": 3}, {"heart": 1}, 10),
    _converter("converter", "armory", 9, {"ore_red": 3}, {"armor": 1}, 10),
    _converter("converter", "lasery", 10, {"ore_red": 1, "battery_red": 2}, {"laser": 1}, 10),
    _converter("converter", "lab", 11, {"ore_red": 3, "battery_red": 3}, {"blueprint": 1}, 5),
    _converter(
        "converter", "factory", 12, {"blueprint": 1, "ore_red": 5, "battery_red": 5}, {"armor": 5, "laser": 5}, 5
    ),
    _converter("converter", "temple", 13, {"heart": 1, "blueprint": 1}, {"heart": 5}, 5),
]

CATALOG: dict[str, ObjectConfig] = {entry.name: entry for entry in _OBJECTS}
"""The object types of the C++ MettaGrid by name, with their recipes and durations."""

TYPE_AGENT: Final = 0
TYPE_WALL: Final = 1
TYPE_MINE_RED: Final = 2
TYPE_MINE_BLUE: Final = 3
TYPE_MINE_GREEN: Final = 4
TYPE_GENERATOR_RED: Final = 5
TYPE_GENERATOR_BLUE: Final = 6
TYPE_GENERATOR_GREEN: Final = 7
TYPE_ALTAR: Final = 8
TYPE_ARMORY: Final = 9
TYPE_LASERY: Final = 10
TYPE_LAB: Final = 11
TYPE_FACTORY: Final = 12
TYPE_TEMPLE: Final = 13
TYPE_GENERIC_CONVERTER: Final = 14
"""Type ids of the C++ MettaGrid as they appear in tokens; those of a world are in `EnvConfig.spec`."""

DEFAULT_ACTIONS = [
    ActionConfig(type="noop", key="noop"),
    ActionConfig(type="move", key="move"),
    ActionConfig(type="rotate", key="rotate"),
    ActionConfig(type="put_items", key="put_recipe_items"),
    ActionConfig(type="get_items", key="get_output"),
    ActionConfig(type="attack", key="attack", consumed_resources={"laser": 1}, defense_resources={"armor": 1}),
    ActionConfig(type="swap", key="swap"),
    ActionConfig(type="change_color", key="change_color"),
]
"""The actions of the C++ MettaGrid, in its order, so that action ids agree."""

ATTACK_RANGE: Final = 3
"""Range of attacks, cells ahead."""

ATTACK_TARGETS: Final = tuple((ahead, left) for ahead in range(1, ATTACK_RANGE + 1) for left in (1, 0, -1))
"""(cells ahead, cells to the left) of the target of `attack`, by argument from 1."""

MAX_ARGUMENT = {
    "noop": 0,
    "move": 1,
    "rotate": 3,
    "put_items": 0,
    "get_items": 0,
    "attack": len(ATTACK_TARGETS),
    "attack_nearest": 0,
    "swap": 0,
    "change_color": 3,
    "gift": 0,
    "use": 0,
}
"""Largest argument by type of action; a `rotate` with `delta` takes only 0."""
