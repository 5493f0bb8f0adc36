"""Settings in which a config differs from an earlier one, such as that with which a run began."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import tomli_w

from metta.config.loading.overrides import Override
from metta.config.run import RunConfig
from metta.config.validation.error_messages import shown
from metta.config.validation.key_paths import KeyPath
from metta.errors import Problem

_LONGEST_PATH = 300


@dataclass(frozen=True)
class Change:
    """A setting with another value than before; None stands for a key that is not set."""

    path: KeyPath
    before: Any
    now: Any

    @property
    def key(self) -> str:
        """The path as a TOML user writes it."""
        return Problem(self.path, "").key

    def override(self, option: str) -> Override:
        """An override that makes the change; `option` names the place of the new value in messages."""
        text = "none" if self.now is None else tomli_w.dumps({"value": self.now}).removeprefix("value = ").strip()
        return Override(option, self.path, text)


def config_changes(before: RunConfig, now: RunConfig) -> list[Change]:
    """The settings with another value in `now` than in `before`; a table of another `type` counts as one, its type.

    Objects are compared by name, with the defaults of those that a config does not list.
    """
    listed = [entry.name for entry in now.env.objects]
    changes = _changes((), _by_name(before), _by_name(now))
    return [replace(change, path=_with_index(change.path, listed)) for change in changes]


def _by_name(config: RunConfig) -> dict[str, Any]:
    data = config.model_dump(exclude_none=True)
    data["env"]["objects"] = {
        name: entry.model_dump(exclude_none=True) for name, entry in config.env.object_types.items()
    }
    return data


def _with_index(path: KeyPath, listed: list[str]) -> KeyPath:
    """The path of a setting of an object with the object's index in `[[env.objects]]`, if it is listed there."""
    if path[:2] == ("env", "objects") and path[2] in listed:
        return (*path[:2], listed.index(str(path[2])), *path[3:])
    return path


def value_text(value: Any) -> str:
    """A value of a setting for a message."""
    if value is None:
        return "not set"
    if isinstance(value, str) and len(value) <= _LONGEST_PATH and value.isprintable():
        return json.dumps(value, ensure_ascii=False)  # whole, so that a path can be written back
    if (
        isinstance(value, list)
        and not _holds_tables(value)
        and len(text := json.dumps(value, ensure_ascii=False)) <= 60
    ):
        return text
    return shown(value)


def _changes(path: KeyPath, before: Any, now: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(now, dict):
        is_same_type = before.get("type") == now.get("type")
        for key in dict.fromkeys([*before, *now]) if is_same_type else ["type"]:
            yield from _changes((*path, key), before.get(key), now.get(key))
    elif _holds_tables(before) and _holds_tables(now) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _changes((*path, index), old, new)
    elif before != now:
        yield Change(path, before, now)


def _holds_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)
