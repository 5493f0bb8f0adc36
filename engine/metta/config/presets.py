"""Presets: the TOML files that come with metta, found by name from any directory."""

from __future__ import annotations

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
    if path.name and _exists(path):
        return path
    if _is_env_path(source):
        return find_preset(source).path
    raise UsageError(_not_found(source, path, list(by_name)))


def _not_found(source: str, path: Path, names: list[str]) -> str:
    if not path.name:
        return f'"{source}" is no file; name a TOML file or a preset: {", ".join(names)}'
    is_name = path.name == source and not path.suffix
    beside = [entry.name for entry in path.parent.glob("*.toml")] if path.parent.is_dir() else []
    hints = [f'the file "{path.parent / close}"' for close in get_close_matches(path.name, beside, n=1)]
    hints += [f'the preset "{close}"' for close in get_close_matches(path.stem, names, n=1)]
    if hints:
        hint = f"did you mean {' or '.join(hints)}?"
    elif not path.parent.is_dir():
        hint = f'there is no directory "{path.parent}"'
    else:
        hint = f"presets: {', '.join(names)}"
    return f'there is no {"preset or file" if is_name else "file"} "{source}"; {hint}'


def _is_env_path(source: str) -> bool:
    """Whether a name is one as the original metta wrote them: `/env/mettagrid/simple`."""
    return source.startswith(("/env/", "env/")) and not source.endswith((".toml", "/"))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name no file system takes: too long, a zero byte
        return False


def _directory() -> Path:
    """The directory of presets: in the installed package, or beside `engine/` in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "presets"
    return installed if installed.is_dir() else package.parents[1] / "presets"
