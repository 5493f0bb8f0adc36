"""Validation of drawn maps: reachability of everything on them, and agents per group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from metta.config.env.map_builder import AsciiConfig, ChoiceConfig, MapBuilder, MirroredConfig, RoomsConfig
from metta.config.env.objects import ObjectConfig
from metta.config.validation.key_paths import KeyPath
from metta.errors import Problem


def drawing_reach_problems(path: KeyPath, builder: AsciiConfig, types: Mapping[str, ObjectConfig]) -> Iterator[Problem]:
    """Agents and objects of a drawn map that the first agent cannot get to."""
    cells, width = builder.cell_names, builder.width
    agents = [place for place, name in enumerate(cells) if _is_agent(name)]
    is_open = [name == "empty" or _is_agent(name) for name in cells]
    seen = set(agents[:1])
    edge = agents[:1]
    for place in edge:  # grows while it is walked through
        for other in _beside(place, width, len(cells)):
            if is_open[other] and other not in seen:
                seen.add(other)
                edge.append(other)
    away = [place for place in agents if place not in seen]
    for place, name in enumerate(cells):
        is_wall = name in types and types[name].type == "wall" and not types[name].swappable
        if not is_open[place] and not is_wall and seen.isdisjoint(_beside(place, width, len(cells))):
            away.append(place)
    if agents and away:
        row, col = divmod(min(away), width)
        what = f'"{cells[min(away)]}" in row {row + 1}, column {col + 1}'
        first = f"row {agents[0] // width + 1}, column {agents[0] % width + 1}"
        yield Problem((*path, "map"), f"must be connected; the agent in {first} cannot get to {what}")


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


def _beside(place: int, width: int, size: int) -> Iterator[int]:
    """The places above, below, left and right that are on the map."""
    if place >= width:
        yield place - width
    if place + width < size:
        yield place + width
    if place % width:
        yield place - 1
    if place % width < width - 1:
        yield place + 1
