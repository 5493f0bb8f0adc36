"""Presets: the TOML files that come with metta and with installed packages, found by name from any directory.

Those of a package have the name of its entry point before their own: `mazes.tiny`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from metta.errors import UsageError
from metta.extensions import preset_packages


@dataclass(frozen=True)
class Preset:
    """A TOML file that comes with metta or with a package."""

    name: str
    path: Path

    @property
    def text(self) -> str:
        """The file as it is, comments and all."""
        return self.path.read_text(encoding="utf-8")

    @property
    def aim(self) -> str:
        """What it is for: the file's first comment line, without the preset's name."""
        first = self.text.partition("\n")[0].removeprefix("#").strip()
        return first.removeprefix(f"{self.path.stem}:").strip()


def presets() -> list[Preset]:
    """Every preset, by name: metta's own, then those of packages, as far as their directories are there."""
    return [*_own_presets(), *(preset for name in _package_names() for preset in _presets_of(name))]


def broken_preset_packages() -> list[str]:
    """A sentence about each package that is to bring presets and has none."""
    return [package.problem for package in preset_packages() if package.directory is None]


def find_preset(name: str) -> Preset:
    """The preset of that name; `/env/mettagrid/simple` is `simple`. Raises UsageError with the closest name."""
    wanted = name.rpartition("/")[2] if _is_env_path(name) else name
    by_name = _named(wanted)
    if wanted not in by_name:
        by_name = {preset.name: preset for preset in presets()}
        close = get_close_matches(wanted, by_name, n=1)
        hint = f'did you mean "{close[0]}"?' if close else f"there are: {', '.join(by_name)}"
        raise UsageError(f'no preset is called "{name}"; {hint}')
    return by_name[wanted]


def find_config(source: str) -> Path:
    """The file that a user means by a path or the name of a preset.

    A bare name means the preset before a file of that name; anything with a slash or a suffix is a path, but for
    `/env/...` where no such file exists. Raises UsageError with the closest names there are.
    """
    path = Path(source)
    if source in (by_name := _named(source)):
        return by_name[source].path
    if source and os.path.exists(source):  # which takes any name, however long
        return path
    if _is_env_path(source):
        return find_preset(source).path
    raise UsageError(_not_found(source, path, [preset.name for preset in presets()]))


def beside(source: str, directory: Path) -> str:
    """What a TOML file in `directory` calls `source`, as `find_config` is to be asked for it.

    A file there is given its path, unless a preset has that name; anything else stays as it is.
    """
    with suppress(UsageError):  # which find_config raises again
        if source not in _named(source) and os.path.isfile(directory / source):
            return str(directory / source)
    return source


def _not_found(source: str, path: Path, names: list[str]) -> str:
    if not source:
        return f'"{source}" is no file; name a TOML file or a preset: {", ".join(names)}'
    if os.path.islink(path):
        return f"{source} is a link that leads to no file"
    is_name = path.name == source and not path.suffix
    parent = path.parent if os.path.isdir(path.parent) else None
    files = get_close_matches(path.name, [file.name for file in parent.glob("*.toml")], n=1) if parent else []
    close = get_close_matches(path.stem, names, n=1)
    if files and path.stem not in names:
        hint = f'did you mean the file "{path.parent / files[0]}"?'
    elif close:
        hint = f'did you mean the preset "{close[0]}"?'
    elif parent is None:
        hint = f'there is no directory "{path.parent}"'
    else:
        hint = f"presets: {', '.join(names)}"
    return f'there is no {"preset or file" if is_name else "file"} "{source}"; {hint}'


def _is_env_path(source: str) -> bool:
    """Whether a name is one as the original metta wrote them: `/env/mettagrid/simple`."""
    return source.startswith(("/env/", "env/")) and not source.endswith((".toml", "/"))


def _named(name: str) -> dict[str, Preset]:
    """By name the presets among which one of that name must be: metta's own, or those of one package.

    Raises UsageError if the name begins with that of a package that is broken, or of several packages.
    """
    first, dot, _ = name.partition(".")
    if not dot or first not in _package_names():
        return {preset.name: preset for preset in _own_presets()}
    packages = [package for package in preset_packages() if package.name == first]
    if len(packages) > 1:
        several = " and ".join(package.package for package in packages)
        raise UsageError(f'presets of the name "{first}" come from {several}; uninstall all but one')
    if packages[0].directory is None:
        raise UsageError(packages[0].problem)
    return {preset.name: preset for preset in _presets_of(first)}


def _own_presets() -> list[Preset]:
    return [Preset(path.stem, path) for path in sorted(_directory().glob("*.toml"))]


def _package_names() -> list[str]:
    return list(dict.fromkeys(package.name for package in preset_packages()))


def _presets_of(name: str) -> list[Preset]:
    """The presets of the packages with that entry point."""
    directories = [package.directory for package in preset_packages() if package.name == name]
    paths = sorted(path for directory in directories if directory for path in directory.glob("*.toml"))
    return [Preset(f"{name}.{path.stem}", path) for path in paths]


def _directory() -> Path:
    """The directory of metta's own presets: in the installed package, or beside `engine/` in a checkout."""
    package = Path(__file__).parents[2]
    installed = package / "presets"
    return installed if installed.is_dir() else package.parents[1] / "presets"
