"""Validation of drawn maps (`type = "Ascii"`): row lengths, characters, and reachability with `connected`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import chain

from metta.config.env.glyphs import is_agent
from metta.config.env.map_builder import AsciiConfig
from metta.config.env.objects import ObjectConfig
from metta.config.validation.key_paths import KeyPath
from metta.errors import Problem, did_you_mean
from metta.geometry import flood_fill, framed_cell, neighbor_offsets


def reachability_problems(path: KeyPath, builder: AsciiConfig, types: Mapping[str, ObjectConfig]) -> Iterator[Problem]:
    """The first agent or object that the first agent of a drawn map cannot reach, if there is one."""
    names, width = builder.cell_names, builder.width
    agents = [cell for cell, name in enumerate(names) if is_agent(name)]
    if not agents:
        return
    stride = width + 2
    framed = [framed_cell(cell, width) for cell in range(len(names))]
    is_open = bytearray(stride * (builder.height + 2))
    for cell, name in zip(framed, names, strict=True):
        is_open[cell] = name == "empty" or is_agent(name)
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


def drawing_problems(
    path: KeyPath, builder: AsciiConfig, groups: Collection[str], types: Collection[str]
) -> Iterator[Problem]:
    """Invalid entries of the legend, rows of a drawn map that differ in length, and characters without a meaning."""
    for character, name in builder.legend.items():
        entry = (*path, "legend", character)
        if len(character) != 1:
            yield Problem(entry, f'must be a single character; got "{character}"')
        elif name.startswith("agent."):
            if (group := name.removeprefix("agent.")) not in groups:
                yield Problem(entry, f'unknown group "{group}"{did_you_mean(group, groups)}')
        elif name not in ("agent", "empty", *types):
            yield Problem(entry, f'unknown object "{name}"{did_you_mean(name, types)}')
    width = builder.width  # computed from all rows
    for number, row in enumerate(builder.rows, 1):
        if len(row) != width:
            lengths = f"row {number} has {len(row)} cells, the longest {width}"
            yield Problem((*path, "map"), f"must have rows of equal length; {lengths}")
        for character in sorted(set(row)):
            if builder.cell_name(character) is None:
                message = f'row {number} has "{character}", which has no meaning; add it to the legend'
                yield Problem((*path, "map"), message)
