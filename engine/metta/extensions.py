"""Parts of one's own by name: those a program registers, and those of installed packages, by their entry points.

A TOML file names a part; it never names a class or a module. A package says in its `pyproject.toml` what it brings:

    [project.entry-points."metta.backbones"]
    sums = "my_package.networks:Sums"

Nothing is imported before its name is asked for, and nothing but what was installed or registered ever is: a file from
a stranger can name a part, not bring one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from metta.errors import MettaError, UsageError

Part = TypeVar("Part")
Given = TypeVar("Given")

PRESETS: Final = "metta.presets"
"""The group of packages that bring presets: `mazes = "my_package.worlds"`, a directory of TOML files."""

FAILS_TO_IMPORT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MettaError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What somebody else's module may raise while it is imported."""


class Registry(Generic[Part]):
    """Parts of one kind by name: metta's own, those registered in code, those of installed packages.

    Metta's own names stay its own, whatever a package calls its parts.
    """

    def __init__(self, group: str, kind: str, built_in: Sequence[str] = ()):
        """`group` of entry points, `kind` of part in words; `built_in` are the names that metta registers itself."""
        self.group = group
        self.kind = kind
        self.built_in = tuple(built_in)
        self._parts: dict[str, Part] = {}
        self._imported: dict[str, Part] = {}

    def register(self, name: str) -> Callable[[Given], Given]:
        """A decorator that registers a part under `name`; a name can be given once."""

        def registered(part: Given) -> Given:
            if name in self._parts:
                raise UsageError(f'{self.group} has the {self.kind} "{name}" already; take another name')
            self._parts[name] = part  # type: ignore[assignment]  # what it must be, its room checks where it is used
            return part

        return registered

    def names(self) -> list[str]:
        """Every name that can be asked for, metta's own first."""
        return list(dict.fromkeys([*self.built_in, *self._parts, *(entry.name for entry in self._entries())]))

    def __contains__(self, name: str) -> bool:
        return name in self.built_in or name in self._parts or any(entry.name == name for entry in self._entries())

    def is_own(self, name: str) -> bool:
        """Whether a part is somebody's own rather than metta's."""
        return name not in self.built_in

    def must_be(self, name: str) -> str:
        """What is wrong with a name that is not there, as the end of a sentence that begins with its setting."""
        names = self.names()
        close = get_close_matches(name, names, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        if not names:
            return f"must be the name of an installed or registered {self.kind}, and there is none; got {_quoted(name)}"
        return f"must be {'one of ' if names[1:] else ''}{', '.join(map(_quoted, names))}; got {_quoted(name)}{hint}"

    def find(self, name: str) -> Part:
        """The part of that name, imported if need be. Raises UsageError with the known names."""
        if name in self._parts:
            return self._parts[name]
        if name in self._imported:
            return self._imported[name]
        entries = [entry for entry in self._entries() if entry.name == name]
        if not entries:
            raise UsageError(f"the {self.kind} {self.must_be(name)}")
        if len(entries) > 1:
            packages = " and ".join(map(package_of, entries))
            raise UsageError(f'the {self.kind} "{name}" is in several packages: {packages}; uninstall all but one')
        self._imported[name] = _imported(entries[0], self.kind)
        return self._imported[name]

    def _entries(self) -> list[EntryPoint]:
        return _entries(self.group)


@dataclass(frozen=True)
class PresetPackage:
    """A package that brings presets."""

    name: str
    """of the entry point"""
    package: str
    """what is installed, in words"""
    module: str
    """the directory of TOML files, as Python names it"""

    @property
    def directory(self) -> Path | None:
        """Where the TOML files are; None if that is nowhere. No module of the package is imported for it."""
        top, *below = self.module.split(".")
        try:
            spec = find_spec(top)
        except ValueError:  # what is imported under that name came from no file
            return None
        places = (spec.submodule_search_locations or ()) if spec else ()
        return next((path for place in places if (path := Path(place, *below)).is_dir()), None)

    @property
    def problem(self) -> str:
        """What to say where there is no directory."""
        return f'{self.package} is to have presets in "{self.module}", which is no directory; repair or uninstall it'


def preset_packages() -> list[PresetPackage]:
    """The packages that bring presets, by name."""
    return [PresetPackage(entry.name, package_of(entry), entry.value) for entry in _entries(PRESETS)]


def package_of(entry: EntryPoint) -> str:
    """The package that an entry point is of, in words."""
    return f"the package {entry.dist.name} {entry.dist.version}" if entry.dist else f"the package of {entry.value}"


def _entries(group: str) -> list[EntryPoint]:
    return sorted(entry_points(group=group), key=lambda entry: (entry.name, package_of(entry)))


def _imported(entry: EntryPoint, kind: str) -> Any:
    try:
        return entry.load()
    except FAILS_TO_IMPORT as error:
        what = str(error).partition("\n")[0]
        raise UsageError(
            f'the {kind} "{entry.name}" of {package_of(entry)} cannot be imported from {entry.value}: '
            f"{type(error).__name__}: {what}"
        ) from error


def _quoted(name: str) -> str:
    return f'"{name}"'
