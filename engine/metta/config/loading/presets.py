"""Presets: the TOML files of metta and of installed packages, found by name from any directory.

The names of a package's presets start with the name of its entry point: `mazes.tiny`.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from metta.config.validation.file_paths import user_path
from metta.errors import UsageError, closest_name, did_you_mean
from metta.extensions import preset_packages


@dataclass(frozen=True)
class Preset:
    """A TOML file of metta or of an installed package."""

    name: str
    path: Path

    @property
    def text(self) -> str:
        """The text of the file."""
        return self.path.read_text(encoding="utf-8")

    @property
    def aim(self) -> str:
        """One line about the preset: the first comment line of the file, without the preset's name."""
        first = self.text.partition("\n")[0].removeprefix("#").strip()
        return first.removeprefix(f"{self.path.stem}:").strip()

    @property
    def minutes(self) -> str:
        """Minutes of training on two CPU cores, from the second line of the file: `3`, `2 to 3`, `hours` or empty."""
        found = re.match(r"#.*\n# Minutes of training on two CPU cores: (.+)", self.text)
        return found[1].strip() if found else ""


def presets() -> list[Preset]:
    """All presets sorted by name: those of metta, then those of each package whose directory exists."""
    return [*_metta_presets(), *(preset for name in _package_names() for preset in _package_presets(name))]


def broken_preset_packages() -> list[str]:
    """A message for each installed package that declares presets but has no such directory."""
    return [package.problem for package in preset_packages() if package.directory is None]


def find_preset(name: str) -> Preset:
    """The preset of that name; `/env/mettagrid/simple` means `simple`. Raises UsageError with the closest name."""
    wanted = name.rpartition("/")[2] if _is_env_path(name) else name
    by_name = _candidates(wanted)
    if wanted not in by_name:
        raise UsageError(f'no preset is called "{name}"{did_you_mean(wanted, _preset_names())}')
    return by_name[wanted]


def find_config(source: str | os.PathLike[str]) -> Path:
    """The file of a path or of a preset's name.

    A text that names a preset means the preset, also where a file has the same name; a `Path` is always a file.
    `/env/mettagrid/NAME`, as in the C++ MettaGrid, is the preset NAME unless such a file exists. Raises UsageError with
    the closest names if nothing is found.
    """
    name = os.fspath(source)
    if isinstance(source, str) and name in (by_name := _candidates(name)):
        return by_name[name].path
    path = user_path(source)
    if name and os.path.exists(path):  # unlike Path.exists, accepts names of any length
        return path
    if _is_env_path(name):
        return find_preset(name).path
    raise UsageError(_not_found(name, path, _preset_names()))


def resolve_scene(source: str, directory: Path) -> str:
    """`source`, as written in a TOML file in `directory`, as an argument for `find_config`.

    A file in that directory becomes its path, unless a preset has that name; anything else is returned unchanged.
    """
    with suppress(UsageError):  # find_config raises it again
        if source not in _candidates(source) and os.path.isfile(path := directory / user_path(source)):
            return str(path)
    return source


def _not_found(source: str, path: Path, names: list[str]) -> str:
    if not source:
        return f'"{source}" is not a file; give a TOML file or a preset: {", ".join(names)}'
    if os.path.islink(path):
        return f"{source} is a broken symbolic link"
    is_name = path.name == source and not path.suffix
    parent = path.parent if os.path.isdir(path.parent) else None
    file = closest_name(path.name, [file.name for file in parent.glob("*.toml")]) if parent else None
    preset = closest_name(path.stem, names)
    if file and path.stem not in names:
        hint = f'did you mean the file "{path.parent / file}"?'
    elif preset:
        hint = f'did you mean the preset "{preset}"?'
    elif parent is None:
        hint = f'there is no directory "{path.parent}"'
    else:
        hint = f"presets: {', '.join(names)}"
    return f'there is no {"preset or file" if is_name else "file"} "{source}"; {hint}'


def _is_env_path(source: str) -> bool:
    """Whether a name has the form used by the C++ MettaGrid: `/env/mettagrid/simple`."""
    return source.startswith(("/env/", "env/")) and not source.endswith((".toml", "/"))


def _candidates(name: str) -> dict[str, Preset]:
    """The presets by name that `name` can refer to: those of metta, or those of the package that `name` starts with.

    Raises UsageError if that package has no directory of presets, or if several packages have that name.
    """
    first, dot, _ = name.partition(".")
    if not dot or first not in _package_names():
        return {preset.name: preset for preset in _metta_presets()}
    packages = [package for package in preset_packages() if package.name == first]
    if len(packages) > 1:
        several = " and ".join(package.package for package in packages)
        raise UsageError(f'presets named "{first}" are in several packages: {several}; uninstall all but one')
    if packages[0].directory is None:
        raise UsageError(packages[0].problem)
    return {preset.name: preset for preset in _package_presets(first)}


def _preset_names() -> list[str]:
    return [preset.name for preset in presets()]


def _metta_presets() -> list[Preset]:
    return [Preset(path.stem, path) for path in sorted(_directory().glob("*.toml"))]


def _package_names() -> list[str]:
    return list(dict.fromkeys(package.name for package in preset_packages()))


def _package_presets(name: str) -> list[Preset]:
    """The presets of the packages with an entry point of that name."""
    directories = [package.directory for package in preset_packages() if package.name == name]
    paths = sorted(path for directory in directories if directory for path in directory.glob("*.toml"))
    return [Preset(f"{name}.{path.stem}", path) for path in paths]


def _directory() -> Path:
    """The directory of metta's presets: in the installed package, or beside `engine/` in a checkout."""
    package = Path(__file__).parents[2]
    installed = package / "presets"
    return installed if installed.is_dir() else package.parents[1] / "presets"
