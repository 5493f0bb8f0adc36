"""Drawn maps in the data of a config: reads map files and YAML, warns of maps that may be in MettaGrid's legend."""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metta.config.env.glyphs import GLYPHS, METTAGRID_GLYPHS, map_text, split_map_text
from metta.config.loading.toml_parser import MAX_BYTES, YAML, read_text
from metta.config.validation.file_paths import user_path
from metta.config.validation.key_paths import KeyPath
from metta.errors import ConfigWarning, Problem, UsageError

MAX_CHARACTERS = MAX_BYTES // 2
"""Limit of a map file, so that a dumped config that contains it can be read again."""

YAML_MAP = re.compile(r"^map_data: *[|][-+]? *\n((?:[ \t]+.*\n|\n)*)", re.MULTILINE)
"""The map in a YAML file of MettaGrid."""

YAML_LEGEND = re.compile(r"^char_to_(?:map_)?name: *\n((?:[ \t]+.*\n|\n)*)", re.MULTILINE)
YAML_ENTRY = re.compile(r"""^\s+(["']?)(\S)\1: *(["']?)([\w.]+)\3 *(?:#.*)?$""", re.MULTILINE)


def inline_map_files(data: dict[str, Any], directory: Path) -> list[Problem]:
    """Replace map files by their text in the data of a config from `directory`, and return the problems.

    Only files in that directory or below it are read, after resolving links, since a config may be from a stranger.
    """
    return list(_inline(_map_builder(data), ("env", "map_builder"), directory))


def warn_of_ambiguous_maps(data: dict[str, Any], source: str) -> None:
    """Issue a ConfigWarning for each drawn map without a legend that means something else in MettaGrid."""
    for path, text in _unlabeled_maps(_map_builder(data), ("env", "map_builder")):
        if differing := _differing_glyphs(text):
            meanings = ", ".join(
                f'"{glyph}", read as {GLYPHS[glyph]} (in MettaGrid: {METTAGRID_GLYPHS[glyph]})' for glyph in differing
            )
            key = Problem((*path, "legend"), "").key
            choice = f'set {key} = "mettagrid" if it is a map of MettaGrid, else "metta"'
            warnings.warn(f"{source}: the map has {meanings}; {choice}", ConfigWarning, stacklevel=2)


def _map_builder(data: dict[str, Any]) -> Any:
    env = data.get("env")
    return env.get("map_builder") if isinstance(env, dict) else None


def _inline(builder: Any, path: KeyPath, directory: Path) -> Iterator[Problem]:
    for place, part in _drawn_maps(builder, path):
        key, name = "map", "the map"
        if file := part.get("file"):
            key, name = "file", str(file)
            yield from _read(part, place, directory)
        text = part.get("map")
        if isinstance(text, str) and (name.endswith((".yaml", ".yml")) or YAML.match(text)):
            if map_ := _map_in_yaml(text):
                part["map"] = map_
            else:
                message = "is YAML without a block map_data: |; draw the map as rows of characters, without indentation"
                yield Problem((*place, key), message)


def _read(part: dict[str, Any], path: KeyPath, directory: Path) -> Iterator[Problem]:
    """Replace the `file` of a drawn map by its text."""
    name = part["file"]
    if not isinstance(name, str):
        return
    if part.get("map"):
        yield Problem((*path, "map"), "must be omitted where file is set")
        return
    try:
        file = directory / user_path(name)
        if not file.resolve().is_relative_to(directory.resolve()):
            yield Problem((*path, "file"), f'must be in the directory of the TOML file or below; got "{name}"')
            return
        text = read_text(file, str(file))
    except (UsageError, ValueError, OSError) as error:
        yield Problem((*path, "file"), str(error))
        return
    if len(text) > MAX_CHARACTERS:
        yield Problem((*path, "file"), f"has {len(text)} characters; the limit is {MAX_CHARACTERS}")
        return
    del part["file"]
    part["map"] = text.replace("\r\n", "\n")


def _drawn_maps(builder: Any, path: KeyPath) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Yield each table of `type = "Ascii"` among nested map builders, with its path."""
    if isinstance(builder, list):
        for index, part in enumerate(builder):
            yield from _drawn_maps(part, (*path, index))
    if not isinstance(builder, dict):
        return
    for inside in ("room", "rooms", "builder", "builders"):
        yield from _drawn_maps(builder.get(inside), (*path, inside))
    if builder.get("type") == "Ascii":
        yield path, builder


def _unlabeled_maps(builder: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Yield the rows of each drawn map that has no legend, with its path."""
    for place, part in _drawn_maps(builder, path):
        text = part.get("map")
        if isinstance(text, str) and "legend" not in part:
            rows, legend = split_map_text(text)
            if not legend:
                yield place, "".join(rows)


def _differing_glyphs(drawing: str) -> list[str]:
    """The characters that mean something else in MettaGrid; none if the map has one that MettaGrid does not know."""
    glyphs = set(drawing)
    if not glyphs <= METTAGRID_GLYPHS.keys():
        return []
    return sorted(glyph for glyph in glyphs & GLYPHS.keys() if GLYPHS[glyph] != METTAGRID_GLYPHS[glyph])


def _map_in_yaml(text: str) -> str | None:
    """The map in a YAML file of MettaGrid with the legend in it, as the text of a drawn map; None if it has none."""
    text += "\n"
    block, legend = YAML_MAP.search(text), YAML_LEGEND.search(text)
    if not block:
        return None
    rows = textwrap.dedent(block[1]).strip("\n").split("\n")
    entries = {entry[2]: entry[4] for entry in YAML_ENTRY.finditer(legend[1])} if legend else {}
    return map_text(rows, entries)
