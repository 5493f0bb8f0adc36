"""Map files: the text of each file that a config names, put in its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metta.config.loading.toml_parser import MAX_BYTES, read_text
from metta.config.validation.key_paths import KeyPath
from metta.errors import Problem, UsageError

LARGEST_DRAWING = MAX_BYTES // 2
"""Characters of a map file at most: the config that holds them must be one that can be read again."""


def inline_map_files(data: dict[str, Any], directory: Path) -> list[Problem]:
    """Put the text of map files into the data of a config in `directory`, so that it holds all it needs.

    Only files in that directory or below it are read, whatever links there are: a config may come from a stranger.
    """
    env = data.get("env")
    builder = env.get("map_builder") if isinstance(env, dict) else None
    return list(_put_in(builder, ("env", "map_builder"), directory))


def _put_in(builder: Any, path: KeyPath, directory: Path) -> Iterator[Problem]:
    if isinstance(builder, list):
        for index, part in enumerate(builder):
            yield from _put_in(part, (*path, index), directory)
    if not isinstance(builder, dict):
        return
    for inside in ("room", "rooms", "builder", "builders"):
        yield from _put_in(builder.get(inside), (*path, inside), directory)
    name = builder.get("file")
    if builder.get("type") != "Ascii" or not isinstance(name, str) or not name:
        return
    if builder.get("map"):
        yield Problem((*path, "map"), "must be left out where file names a file with the map")
        return
    file = directory / name
    try:
        if not file.resolve().is_relative_to(directory.resolve()):
            yield Problem((*path, "file"), f'must be beside the TOML file or below; got "{name}"')
            return
        text = read_text(file, name)
    except (UsageError, ValueError, OSError) as error:
        yield Problem((*path, "file"), str(error))
        return
    if len(text) > LARGEST_DRAWING:
        yield Problem((*path, "file"), f"has {len(text)} characters; a drawn map can have {LARGEST_DRAWING}")
        return
    del builder["file"]
    builder["map"] = text.replace("\r\n", "\n")
