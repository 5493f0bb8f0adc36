"""Presets: the TOML files that come with metta, found by name from any directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from metta.errors import UsageError


@dataclass(frozen=True)
class Preset:
    """A TOML file that comes with metta."""

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
        return first.removeprefix(f"{self.name}:").strip()


def presets() -> list[Preset]:
    """Every preset, by name."""
    return [Preset(path.stem, path) for path in sorted(_directory().glob("*.toml"))]


def find_preset(name: str) -> Preset:
    """The preset of that name; `/env/mettagrid/simple` is `simple`. Raises UsageError with the closest name."""
    wanted = name.rpartition("/")[2] if _is_env_path(name) else name
    by_name = {preset.name: preset for preset in presets()}
    if wanted not in by_name:
        close = get_close_matches(wanted, by_name, n=1)
        hint = f'did you mean "{close[0]}"?' if close else f"there are: {', '.join(by_name)}"
        raise UsageError(f'no preset is called "{name}"; {hint}')
    return by_name[wanted]


def find_config(source: str) -> Path:
    """The file that a user means by a path or the name of a preset.

    A bare name means the preset before a file of that name; anything with a slash or a suffix is a path, but for
    `/env/...` where no such file exists. Raises UsageError with the closest names there are.
    """
    by_name = {preset.name: preset for preset in presets()}
    path = Path(source)
    if source in by_name:
        return by_name[source].path
    if source and os.path.exists(source):  # which takes any name, however long
        return path
    if _is_env_path(source):
        return find_preset(source).path
    raise UsageError(_not_found(source, path, list(by_name)))


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


def _directory() -> Path:
    """The directory of presets: in the installed package, or beside `engine/` in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "presets"
    return installed if installed.is_dir() else package.parents[1] / "presets"
