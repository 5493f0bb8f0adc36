"""Registries of custom rules ("parts"): rewards, observation features, terminations, actions and objects by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, Final, Generic, Literal, TypeVar, get_args

from metta.errors import UsageError
from metta.extensions import Registered, Registry

Options = TypeVar("Options")

FeatureLocation = Literal["self", "agents", "cells"]


@dataclass(frozen=True)
class NoOptions:
    """Options of parts that have none."""


@dataclass(frozen=True)
class FeatureOptions:
    """Options of an observation feature."""

    at: FeatureLocation = "self"
    """where its tokens are: "self", at the observing agent's cell, for this agent only; "agents", at the cell of every
    agent, for all that see it; "cells", at every cell of the window"""
    scale: float = 255.0
    """divisor that normalizes the values, above 0"""

    def __post_init__(self) -> None:
        if self.at not in get_args(FeatureLocation):
            raise UsageError(f'the option "at" of a feature must be "self", "agents" or "cells"; got {self.at!r}')
        if not self.scale > 0:
            raise UsageError(f'the option "scale" of a feature must be above 0; got {self.scale!r}')


class PartRegistry(Registry[Callable[..., Any]], Generic[Options]):
    """Parts of one kind by name, with their options. Parts of metta are imported when they are first used."""

    def __init__(self, group: str, kind: str, options: type[Options], built_in: Mapping[str, str], num_arguments: int):
        """`options` is a dataclass, `built_in` has `module:function` by name.

        The parameters of a part after the first `num_arguments`, such as the worlds, are its settings.
        """
        super().__init__(group, kind, tuple(built_in))
        self.num_arguments = num_arguments
        self._options_type = options
        self._built_in = {name: EntryPoint(name, value, group) for name, value in built_in.items()}
        self._options: dict[Callable[..., Any], Options] = {}

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
            self._options[part] = known  # type: ignore[index]  # any callable is a key
            if name not in self.built_in:
                return super(PartRegistry, self).register(name)(part)
            if not part.__module__.startswith("metta."):
                raise UsageError(f'metta has a {self.kind} "{name}"; choose another name')
            return part

        return decorator

    def register_missing(self, name: str, extension: Callable[..., Any], options: Any = None) -> None:
        """Register a part that another process has registered with `options`, unless this process has, too."""
        super().register_missing(name, extension)
        self._options.setdefault(extension, options)

    def find(self, name: str) -> Callable[..., Any]:
        """The part of that name, imported if necessary: see Registry."""
        if name in self._built_in and name not in self._imported:
            self._imported[name] = self._built_in[name].load()
        return super().find(name)

    def options(self, name: str) -> Options:
        """The options with which the part of that name was registered, or the defaults."""
        part = self.find(name)
        return self._options.get(part) or self._options_type()


_BUILT_IN: Final = "metta.world.parts.built_in"

REWARDS: Final = PartRegistry(
    "metta.rewards",
    "reward",
    NoOptions,
    {"distance": f"{_BUILT_IN}:distance", "exploration": f"{_BUILT_IN}:exploration"},
    num_arguments=1,
)
"""Rewards by name. `reward(worlds, **settings) -> [agents] float32`, called after every step."""

FEATURES: Final = PartRegistry("metta.features", "feature", FeatureOptions, {}, num_arguments=1)
"""Observation features by name. `feature(worlds, **settings) -> [agents] uint8`, or `[worlds, rows, cols] uint8`."""

TERMINATIONS: Final = PartRegistry(
    "metta.terminations", "termination", NoOptions, {"goal": f"{_BUILT_IN}:goal"}, num_arguments=1
)
"""Ends of episodes by name. `termination(worlds, **settings) -> [worlds] bool`, called after every step."""

PART_TABLES: Final[dict[str, PartRegistry[Any]]] = {
    "rewards": REWARDS,
    "features": FEATURES,
    "terminations": TERMINATIONS,
}
"""The registry of each list of `[env]` with parts, by its key."""

PART_REGISTRIES: Final = tuple(PART_TABLES.values())
