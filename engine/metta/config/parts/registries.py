"""Registries of custom rules ("parts"): rewards, observation features, terminations, actions and objects by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any, Final, Generic, Literal, TypeVar, get_args

from metta.errors import UsageError
from metta.extensions import Registered, Registry

Options = TypeVar("Options")

MAX_ARGUMENTS: Final = 256
"""Largest number of arguments of an action: an argument is one byte of a token."""

FeatureLocation = Literal["self", "offset", "agents", "cells"]


@dataclass(frozen=True)
class NoOptions:
    """Options of parts that have none."""


@dataclass(frozen=True)
class FeatureOptions:
    """Options of an observation feature."""

    at: FeatureLocation = "self"
    """where its tokens are: "self", at the observing agent's cell, for this agent only; "offset", at another cell of
    its window, for this agent only; "agents", at the cell of every agent, for all that see it; "cells", at every cell
    of the window"""
    scale: float = 255.0
    """divisor that normalizes the values, above 0"""

    def __post_init__(self) -> None:
        if self.at not in get_args(FeatureLocation):
            places = ", ".join(f'"{place}"' for place in get_args(FeatureLocation))
            raise UsageError(f'the option "at" of a feature must be one of {places}; got {self.at!r}')
        if not self.scale > 0:
            raise UsageError(f'the option "scale" of a feature must be above 0; got {self.scale!r}')


@dataclass(frozen=True)
class ActionOptions:
    """Options of an action."""

    arguments: int | str = 1
    """number of arguments, which are numbered from 0, or the name of the setting that is this number"""
    touches: Literal["self", "ahead"] | Callable[..., Any] = "ahead"
    """the cells that the action reads or changes, besides that of the agent: "self", none; "ahead", the one that the
    agent faces; or a function with the parameters of the action that returns the (row, col) of a cell for each agent,
    `[n, 2]`, or of several, `[n, k, 2]`"""
    moves_others: bool = False
    """whether the action moves or turns other agents"""
    possible: Callable[..., Any] | None = None
    """function for action masks, with the parameters of the action: whether it may succeed, `[agents] bool`"""

    def __post_init__(self) -> None:
        if self.touches not in ("self", "ahead") and not callable(self.touches):
            raise UsageError(
                f'the option "touches" of an action must be "self", "ahead" or a function; got {self.touches!r}'
            )
        if self.moves_others and self.touches == "self":
            raise UsageError('an action whose option "touches" is "self" must not have the option "moves_others"')
        if isinstance(self.arguments, int) and not 1 <= self.arguments <= MAX_ARGUMENTS:
            raise UsageError(
                f'the option "arguments" of an action must be from 1 to {MAX_ARGUMENTS}; got {self.arguments}'
            )


@dataclass(frozen=True)
class ObjectOptions:
    """Options of an object."""

    states: Mapping[str, float] = field(default_factory=dict)
    """scale of each state, by name: a state is a number from 0 to 255 of every object, and a feature of observations"""
    initial: Mapping[str, int] = field(default_factory=dict)
    """value of states at the start of an episode, by name, if not 0"""
    walkable: bool | str = False
    """whether agents can enter the cell of the object; or the name of a state: they can where it is not 0"""

    def __post_init__(self) -> None:
        if isinstance(self.walkable, str) and self.walkable not in self.states:
            raise UsageError(
                f'the option "walkable" of an object must be true, false or one of its states; got "{self.walkable}"'
            )
        for name, value in self.initial.items():
            if name not in self.states or not 0 <= value <= 255:
                raise UsageError(
                    'the option "initial" of an object must have values from 0 to 255 of its states; '
                    f'got "{name}" {value}'
                )
        if bad := [name for name, scale in self.states.items() if not scale > 0]:
            raise UsageError(f'the scale of the state "{bad[0]}" of an object must be above 0')


class PartRegistry(Registry[Callable[..., Any]], Generic[Options]):
    """Parts of one kind by name, with their options. Parts of metta are imported when they are first used."""

    def __init__(
        self,
        group: str,
        kind: str,
        options: type[Options],
        built_in: Mapping[str, str],
        num_arguments: int,
        simulated: Sequence[str] = (),
    ):
        """`options` is a dataclass, `built_in` has `module:function` by name.

        The parameters of a part after the first `num_arguments`, such as the worlds, are its settings. `simulated` are
        the names of what the simulator itself has, which are no parts.
        """
        super().__init__(group, kind, (*simulated, *built_in))
        self.simulated = frozenset(simulated)
        self.num_arguments = num_arguments
        self._options_type = options
        self._built_in = {name: EntryPoint(name, value, group) for name, value in built_in.items()}
        self._options: dict[Callable[..., Any], dict[str, Options]] = {}

    def register(self, name: str, **options: Any) -> Callable[[Registered], Registered]:
        """Decorator that registers a part under `name` with options of its kind.

        Raises UsageError if the name is registered already, or if there is no such option.
        """
        try:
            known = self._options_type(**options)
        except TypeError as error:
            reason = str(error).partition("() ")[2]
            raise UsageError(f'the {self.kind} "{name}" cannot be registered: {reason}') from None

        def decorator(part: Registered) -> Registered:
            if name not in self.built_in:
                super(PartRegistry, self).register(name)(part)
            elif not part.__module__.startswith("metta."):
                raise UsageError(f'"{name}" is a built-in {self.kind} of metta; choose another name')
            self._options.setdefault(part, {})[name] = known  # type: ignore[arg-type]  # any callable is a key
            return part

        return decorator

    def register_missing(self, name: str, extension: Callable[..., Any], options: Any = None) -> None:
        """Register a part that another process has registered with `options`, unless this process has, too."""
        super().register_missing(name, extension)
        self._options.setdefault(extension, {}).setdefault(name, options)

    def find(self, name: str) -> Callable[..., Any]:
        """The part of that name, imported if necessary: see Registry."""
        if name in self._built_in and name not in self._imported:
            self._imported[name] = self._built_in[name].load()
        return super().find(name)

    def options(self, name: str) -> Options:
        """The options with which the part of that name was registered, or the defaults.

        An entry point may have another name than the one under which its part was registered.
        """
        by_name = self._options.get(self.find(name), {})
        return by_name.get(name) or next(iter(by_name.values()), None) or self._options_type()


_BUILT_IN: Final = "metta.world.parts.built_in"

REWARDS: Final = PartRegistry(
    "metta.rewards",
    "reward",
    NoOptions,
    {name: f"{_BUILT_IN}:{name}" for name in ("distance", "exploration", "supply")},
    num_arguments=1,
)
"""Rewards by name. `reward(worlds, **settings) -> [agents] float32`, called after every step."""

FEATURES: Final = PartRegistry(
    "metta.features",
    "feature",
    FeatureOptions,
    {"signal": "metta.world.parts.signals:shown_signal", "nearest_seen": "metta.world.parts.seen:nearest_seen"},
    num_arguments=1,
)
"""Observation features by name.

`feature(worlds, **settings) -> [agents] uint8`, `[agents, 3] int16` with offsets, or `[worlds, rows, cols] uint8`.
"""

TERMINATIONS: Final = PartRegistry(
    "metta.terminations", "termination", NoOptions, {"goal": f"{_BUILT_IN}:goal"}, num_arguments=1
)
"""Ends of episodes by name. `termination(worlds, **settings) -> [worlds] bool`, called after every step."""

ACTION_TYPES: Final = (
    *("noop", "move", "rotate", "put_items", "get_items", "attack", "swap", "change_color", "gift", "use"),
)
"""The types of actions that the simulator itself has."""

ACTIONS: Final = PartRegistry(
    "metta.actions",
    "action",
    ActionOptions,
    {"signal": "metta.world.parts.signals:signal"},
    num_arguments=3,
    simulated=ACTION_TYPES,
)
"""Actions by name. `action(worlds, agents, arguments, **settings) -> [agents] bool`, whether each agent succeeded."""

OBJECT_TYPES: Final = ("mine", "generator", "converter", "wall")
"""The types of objects that the simulator itself has."""

OBJECTS: Final = PartRegistry(
    "metta.objects",
    "object",
    ObjectOptions,
    {"door": "metta.world.parts.doors:Door", "field": "metta.world.parts.fields:RegrowingField"},
    num_arguments=0,
    simulated=OBJECT_TYPES,
)
"""Objects by name: classes with methods `use(worlds, agents, objects) -> [agents] bool` and `step(worlds, objects)`."""

PART_TABLES: Final[dict[str, PartRegistry[Any]]] = {
    "rewards": REWARDS,
    "features": FEATURES,
    "terminations": TERMINATIONS,
    "actions": ACTIONS,
    "objects": OBJECTS,
}
"""The registry of each list of `[env]` with parts, by its key."""

PART_REGISTRIES: Final = tuple(PART_TABLES.values())
