"""Map files: replaces `file` of drawn maps by the text of that file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metta.config.loading.toml_parser import MAX_BYTES, read_text
from metta.config.validation.key_paths import KeyPath
from metta.errors import Problem, UsageError

MAX_CHARACTERS = MAX_BYTES // 2
"""Limit of a map file, so that a dumped config that contains it can be read again."""


def inline_map_files(data: dict[str, Any], directory: Path) -> list[Problem]:
    """Replace map files by their text in the data of a config from `directory`, and return the problems.

    Only files in that directory or below it are read, after resolving links, since a config may be from a stranger.
    """
    env = data.get("env")
    builder = env.get("map_builder") if isinstance(env, dict) else None
    return list(_inline(builder, ("env", "map_builder"), directory))


def _inline(builder: Any, path: KeyPath, directory: Path) -> Iterator[Problem]:
    if isinstance(builder, list):
        for index, part in enumerate(builder):
            yield from _inline(part, (*path, index), directory)
    if not isinstance(builder, dict):
        return
    for inside in ("room", "rooms", "builder", "builders"):
        yield from _inline(builder.get(inside), (*path, inside), directory)
    name = builder.get("file")
    if builder.get("type") != "Ascii" or not isinstance(name, str) or not name:
        return
    if builder.get("map"):
        yield Problem((*path, "map"), "must be omitted where file is set")
        return
    file = directory / name
    try:
        if not file.resolve().is_relative_to(directory.resolve()):
            yield Problem((*path, "file"), f'must be in the directory of the TOML file or below; got "{name}"')
            return
        text = read_text(file, name)
    except (UsageError, ValueError, OSError) as error:
        yield Problem((*path, "file"), str(error))
        return
    if len(text) > MAX_CHARACTERS:
        yield Problem((*path, "file"), f"has {len(text)} characters; the limit is {MAX_CHARACTERS}")
        return
    del builder["file"]
    builder["map"] = text.replace("\r\n", "\n")
