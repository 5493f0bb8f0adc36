"""Renamed keys of the TOML file: old names in files, overrides and checkpoints are accepted with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Final

from metta.config.validation.key_paths import KeyPath
from metta.errors import ConfigError, Problem, RenamedKeyWarning

RENAMED_KEYS: Final[dict[KeyPath, KeyPath]] = {
    ("normalisation",): ("normalization",),
    ("prioritised_sampling",): ("prioritized_sampling",),
    ("agent", "own_frame"): ("agent", "egocentric"),
    ("distributed", "patience_seconds"): ("distributed", "timeout_seconds"),
}
"""Old path -> new path, in the same table."""

RENAMED_MAP_BUILDERS: Final[dict[str, str]] = {"Own": "Custom"}
"""Old value -> new value of `type` in `[env.map_builder]` and in builders nested in it."""


def rename_keys(data: dict[str, Any], source: str) -> None:
    """Rename old keys in `data`, the parsed file, in place, with one RenamedKeyWarning that lists all of them.

    Raises ConfigError if a file has both the old and the new name of a key.
    """
    warn_of_renamed(source, apply_renames(data, source))


def apply_renames(data: dict[str, Any], source: str) -> list[str]:
    """Like `rename_keys`, but returns the messages for `warn_of_renamed` instead of warning."""
    renamed, problems = [], []
    for old, new in RENAMED_KEYS.items():
        table = _table_at(data, old[:-1])
        if table is None or old[-1] not in table:
            continue
        if new[-1] in table:
            message = f"is the old name of {Problem(new, '').key}, which is set too; remove the old one"
            problems.append(Problem(old, message))
            continue
        table[new[-1]] = table.pop(old[-1])
        renamed.append(renamed_text(old))
    if problems:
        raise ConfigError(source, problems)
    env = data.get("env")
    for builder in _tables(env.get("map_builder") if isinstance(env, dict) else None):
        if isinstance(old_type := builder.get("type"), str) and old_type in RENAMED_MAP_BUILDERS:
            builder["type"] = RENAMED_MAP_BUILDERS[old_type]
            renamed.append(f'map builder type "{old_type}" is now "{builder["type"]}"')
    return renamed


def warn_of_renamed(source: str, renamed: Iterable[str]) -> None:
    """Issue one RenamedKeyWarning with all messages, if there are any."""
    if texts := "; ".join(dict.fromkeys(renamed)):
        warnings.warn(f"{source}: {texts}. The old names still work.", RenamedKeyWarning, stacklevel=2)


def renamed_text(path: KeyPath) -> str:
    """`agent.own_frame is now agent.egocentric`; empty for a path without a renamed key."""
    new = current_path(path)
    return f"{Problem(path, '').key} is now {Problem(new, '').key}" if new != path else ""


def current_path(path: KeyPath) -> KeyPath:
    """The path with renamed keys replaced by their new names."""
    for old, new in RENAMED_KEYS.items():
        if path[: len(old)] == old:
            return new + path[len(old) :]
    return path


def _table_at(data: Any, path: KeyPath) -> dict[Any, Any] | None:
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else None


def _tables(data: Any) -> Iterator[dict[Any, Any]]:
    """Every table in nested tables and lists."""
    if isinstance(data, dict):
        yield data
    for inner in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _tables(inner)
