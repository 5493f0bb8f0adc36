"""Validation of drawn maps (`type = "Ascii"`): row lengths, characters, and reachability with `connected`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import chain

from metta.config.env.glyphs import METTAGRID_GLYPHS, glyph_list, is_agent, legend_entry
from metta.config.env.map_builder import AsciiConfig
from metta.config.env.objects import ObjectConfig
from metta.config.validation.key_paths import KeyPath
from metta.errors import Problem, did_you_mean
from metta.geometry import flood_fill, framed_cell, neighbor_offsets


def reachability_problems(path: KeyPath, builder: AsciiConfig, types: Mapping[str, ObjectConfig]) -> Iterator[Problem]:
    """The first agent or object that the first agent of a drawn map cannot reach, if there is one."""
    names, width = builder.cell_names, builder.drawing_width
    agents = [cell for cell, name in enumerate(names) if is_agent(name)]
    if not agents:
        return
    stride = width + 2
    framed = [framed_cell(cell, width) for cell in range(len(names))]
    is_open = bytearray(stride * (len(builder.rows) + 2))
    for cell, name in zip(framed, names, strict=True):
        is_open[cell] = name == "empty" or is_agent(name) or _may_be_walked_on(name, types)
    reached = set(chain.from_iterable(flood_fill(is_open, framed[agents[0]], stride)))
    offsets = neighbor_offsets(stride)
    for number, (cell, name) in enumerate(zip(framed, names, strict=True)):
        is_wall = name in types and types[name].type == "wall" and not types[name].swappable
        if name == "empty" or is_wall or cell in reached:
            continue
        if is_agent(name) or reached.isdisjoint(cell + offset for offset in offsets):
            row, col = divmod(number, width)
            first = f"row {agents[0] // width + 1}, column {agents[0] % width + 1}"
            away = f'"{name}" in row {row + 1}, column {col + 1}'
            yield Problem((*path, "map"), f"must be connected; the agent in {first} cannot reach {away}")
            return


def _may_be_walked_on(name: str, types: Mapping[str, ObjectConfig]) -> bool:
    """Whether agents can enter the cell of an object, at least in some state."""
    return name in types and (options := types[name].options) is not None and options.walkable is not False


def drawing_problems(
    path: KeyPath, builder: AsciiConfig, groups: Collection[str], types: Collection[str]
) -> Iterator[Problem]:
    """Invalid legends, rows of a drawn map that differ in length, and characters without a meaning."""
    own = builder.legend if isinstance(builder.legend, dict) else {}
    for character, name in own.items():
        entry = (*path, "legend", character)
        if len(character) != 1:
            yield Problem(entry, f'must be a single character; got "{character}"')
        elif message := _name_problem(name, groups, types):
            yield Problem(entry, message)
    for line in builder.text_legend:
        if legend_entry(line) is None:
            message = f'must be a character and its meaning, such as "r mine_red"; got "{line}"'
            yield Problem((*path, "map"), f"the lines below the empty line are the legend; each {message}")
            return
    width = builder.drawing_width  # computed from all rows
    first_row: dict[str, int] = {}
    for number, row in enumerate(builder.rows, 1):
        if len(row) != width:
            lengths = f"row {number} has {len(row)} cells, the longest {width}"
            yield Problem((*path, "map"), f"must have rows of equal length; {lengths}")
        for character in sorted(set(row) - set(first_row)):
            first_row[character] = number
    meanings = builder.meanings
    for character, number in first_row.items():
        is_given = character in meanings and character not in own
        if is_given and (message := _name_problem(meanings[character], groups, types)):
            yield Problem((*path, "map"), f'row {number} has "{character}": {message}')
    if unknown := {character: number for character, number in first_row.items() if character not in meanings}:
        yield Problem((*path, "map"), _unknown_message(unknown, meanings))


def _name_problem(name: str, groups: Collection[str], types: Collection[str]) -> str:
    """What is wrong with the meaning of a character; empty if nothing is."""
    if name.startswith("agent."):
        group = name.removeprefix("agent.")
        return "" if group in groups else f'unknown group "{group}"{did_you_mean(group, groups)}'
    return "" if name in ("agent", "empty", *types) else f'unknown object "{name}"{did_you_mean(name, types)}'


def _unknown_message(unknown: Mapping[str, int], meanings: Mapping[str, str]) -> str:
    """The message about characters without a meaning: character -> first row."""
    places = ", ".join(f'"{character}" (row {number})' for character, number in unknown.items())
    have, them = ("has", "it") if len(unknown) == 1 else ("have", "them")
    hint = (
        ', or set legend = "mettagrid" if it is a map of MettaGrid' if METTAGRID_GLYPHS.keys() >= unknown.keys() else ""
    )
    return f"{places} {have} no meaning; add {them} to the legend{hint}. Known: {glyph_list(meanings)}"
