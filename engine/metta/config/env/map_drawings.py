"""Validation of drawn maps: reachability of everything on them, and agents per group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from metta.config.env.map_builder import AsciiConfig, ChoiceConfig, MapBuilder, MirroredConfig, RoomsConfig
from metta.config.env.objects import ObjectConfig
from metta.config.validation.key_paths import KeyPath
from metta.errors import Problem
from metta.geometry import flood_fill, framed_cell, neighbor_offsets


def drawing_reach_problems(path: KeyPath, builder: AsciiConfig, types: Mapping[str, ObjectConfig]) -> Iterator[Problem]:
    """The first agent or object of a drawn map that the first agent cannot get to, if there is one."""
    names, width = builder.cell_names, builder.width
    agents = [cell for cell, name in enumerate(names) if _is_agent(name)]
    if not agents:
        return
    stride = width + 2
    framed = [framed_cell(cell, width) for cell in range(len(names))]
    is_open = bytearray(stride * (builder.height + 2))
    for cell, name in zip(framed, names, strict=True):
        is_open[cell] = name == "empty" or _is_agent(name)
    reached = set(chain.from_iterable(flood_fill(is_open, framed[agents[0]], stride)))
    offsets = neighbor_offsets(stride)
    for number, (cell, name) in enumerate(zip(framed, names, strict=True)):
        is_wall = name in types and types[name].type == "wall" and not types[name].swappable
        if name == "empty" or is_wall or cell in reached:
            continue
        if _is_agent(name) or reached.isdisjoint(cell + offset for offset in offsets):
            row, col = divmod(number, width)
            first = f"row {agents[0] // width + 1}, column {agents[0] % width + 1}"
            away = f'"{name}" in row {row + 1}, column {col + 1}'
            yield Problem((*path, "map"), f"must be connected; the agent in {first} cannot get to {away}")
            return


def group_counts(
    builder: MapBuilder,
    groups: Sequence[str],
    first_agent: int,
    dealt: int,
    path: KeyPath = (),
    problems: list[Problem] | None = None,
) -> list[int]:
    """How many agents of each group every map has.

    Agents that are not drawn are dealt to the first `dealt` groups in turn, as cards are, from number `first_agent` on.
    `problems` gets what builders of one choice do not have in common.
    """
    counts = [0] * len(groups)
    if isinstance(builder, AsciiConfig):
        for name in builder.cell_names:
            if _is_agent(name):
                counts[groups.index(name.removeprefix("agent.")) if "." in name else 0] += 1
    elif isinstance(builder, RoomsConfig):
        for number, room in enumerate(builder.each_room):
            place: KeyPath = (*path, "room") if builder.room else (*path, "rooms", number)
            inside = group_counts(room, groups, first_agent, dealt, place, problems)
            counts = [sum(pair) for pair in zip(counts, inside, strict=True)]
            first_agent += room.agents
    elif isinstance(builder, MirroredConfig):
        dealt = 1 if builder.apart else dealt
        one = group_counts(builder.builder, groups, first_agent, dealt, (*path, "builder"), problems)
        for image in range(builder.images[0] * builder.images[1]):
            for group, count in enumerate(one):
                counts[(group + image) % len(groups)] += count
    elif isinstance(builder, ChoiceConfig):
        each = []
        for number, part in enumerate(builder.builders):
            place = (*path, "builders", number)
            each.append(group_counts(part, groups, first_agent, dealt, place, problems))
            if each[-1] != each[0] and problems is not None:
                has, wanted = _told(each[-1], groups), _told(each[0], groups)
                problems.append(Problem(place, f"must have the agents of the first, {wanted}; has {has}"))
        counts = each[0]
    else:
        for group in range(dealt):
            counts[group] = len(range((group - first_agent) % dealt, builder.agents, dealt))
    return counts


def _told(counts: Sequence[int], groups: Sequence[str]) -> str:
    return ", ".join(f"{count} {group}" for group, count in zip(groups, counts, strict=True))


def _is_agent(name: str) -> bool:
    return name == "agent" or name.startswith("agent.")
