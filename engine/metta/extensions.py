"""Registries of named extensions: built in, registered with a decorator, or from entry points of installed packages.

A TOML file names an extension (a backbone, an observation processor, a logger, a map builder), never a class or a
module. A package declares what it provides in its `pyproject.toml`:

    [project.entry-points."metta.backbones"]
    sums = "my_package.networks:Sums"

An extension is imported when it is first used. A TOML file from an untrusted source can select an extension that is
installed or registered, but cannot add one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from metta.errors import UsageError, similar_name

Extension = TypeVar("Extension")
Registered = TypeVar("Registered")

PRESETS: Final = "metta.presets"
"""Entry point group of packages with presets: `mazes = "my_package.worlds"`, a directory of TOML files."""


class Registry(Generic[Extension]):
    """Extensions of one kind by name. A package cannot replace a built-in one."""

    def __init__(self, group: str, kind: str, built_in: Sequence[str] = ()):
        """`group` is the entry point group, `kind` a noun for messages, `built_in` the names metta itself registers."""
        self.group = group
        self.kind = kind
        self.built_in = tuple(built_in)
        self._registered: dict[str, Extension] = {}
        self._imported: dict[str, Extension] = {}

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Decorator that registers an extension under `name`. Raises UsageError if the name is registered already."""

        def decorator(extension: Registered) -> Registered:
            if name in self._registered:
                raise UsageError(f'{self.group} already has the {self.kind} "{name}"; choose another name')
            self._registered[name] = extension  # type: ignore[assignment]  # checked where it is used
            return extension

        return decorator

    def registered(self, name: str) -> Extension | None:
        """The extension that this program registered under `name`; None if it comes from a package, or is unknown."""
        return self._registered.get(name)

    def options(self, name: str) -> Any:
        """The options with which the extension of that name was registered; None in registries without options."""
        return None

    def register_missing(self, name: str, extension: Extension, options: Any = None) -> None:
        """Register an extension that another process has registered with `options`, unless this one has, too."""
        self._registered.setdefault(name, extension)

    def names(self) -> list[str]:
        """Every available name, the built-in ones first."""
        return list(dict.fromkeys([*self.built_in, *self._registered, *(entry.name for entry in self._entries())]))

    def __contains__(self, name: str) -> bool:
        return name in self.built_in or name in self._registered or any(e.name == name for e in self._entries())

    def is_custom(self, name: str) -> bool:
        """Whether the extension of that name comes from a program or a package rather than from metta."""
        return name not in self.built_in

    def unknown_name(self, name: str) -> str:
        """The error message for an unknown name, without its subject: `must be one of ...; got ...`."""
        names = self.names()
        if not names:
            missing = (
                f"must be the name of an installed or registered {self.kind}, but none exists; got {_quoted(name)}"
            )
            return f"{missing}: {self._how_to_get}"
        known = f"{'one of ' if names[1:] else ''}{', '.join(map(_quoted, names))}"
        return f"must be {known}; got {_quoted(name)}{similar_name(name, names) or f': {self._how_to_get}'}"

    @property
    def _how_to_get(self) -> str:
        return f"install the package that provides this {self.kind}, or register it in the program"

    def find(self, name: str) -> Extension:
        """The extension of that name, imported if necessary.

        Raises UsageError if no package provides it, if several packages do, or if it cannot be imported.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._imported:
            return self._imported[name]
        entries = [entry for entry in self._entries() if entry.name == name]
        if not entries:
            raise UsageError(f"the {self.kind} {self.unknown_name(name)}")
        if len(entries) > 1:
            packages = " and ".join(map(package_of, entries))
            raise UsageError(
                f'the {self.kind} "{name}" is provided by several packages: {packages}; uninstall all but one'
            )
        self._imported[name] = _imported(entries[0], self.kind)
        return self._imported[name]

    def _entries(self) -> list[EntryPoint]:
        return _entries(self.group)


@dataclass(frozen=True)
class PresetPackage:
    """An installed package with presets."""

    name: str
    """name of the entry point, which prefixes the names of the presets"""
    package: str
    """name and version of the distribution, for messages"""
    module: str
    """dotted name of the directory of TOML files"""

    @property
    def directory(self) -> Path | None:
        """The directory of the TOML files, found without importing the package; None if it does not exist."""
        top, *below = self.module.split(".")
        try:
            spec = find_spec(top)
        except ValueError:  # the imported module of that name has no spec, such as `__main__` of a script
            return None
        parents = (spec.submodule_search_locations or ()) if spec else ()
        return next((path for parent in parents if (path := Path(parent, *below)).is_dir()), None)

    @property
    def problem(self) -> str:
        """The error message if `directory` is None."""
        return f'{self.package} declares presets in "{self.module}", which is not a directory; repair or uninstall it'


def preset_packages() -> list[PresetPackage]:
    """The installed packages with presets, sorted by name."""
    return [PresetPackage(entry.name, package_of(entry), entry.value) for entry in _entries(PRESETS)]


def package_of(entry: EntryPoint) -> str:
    """The package of an entry point, for messages: `the package NAME VERSION`."""
    return f"the package {entry.dist.name} {entry.dist.version}" if entry.dist else f"the package of {entry.value}"


def _entries(group: str) -> list[EntryPoint]:
    return sorted(entry_points(group=group), key=lambda entry: (entry.name, package_of(entry)))


def _imported(entry: EntryPoint, kind: str) -> Any:
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:  # no such module or attribute; bugs inside it keep their traceback
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f'the {kind} "{entry.name}" of {package_of(entry)} cannot be imported from {entry.value}: '
            f"{type(error).__name__}: {reason}"
        ) from error


def _quoted(name: str) -> str:
    return f'"{name}"'
