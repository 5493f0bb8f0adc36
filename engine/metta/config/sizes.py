"""Sizes that follow from each other: the game's, the map's, the rooms', and whether everything fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metta.config.game import GameConfig
from metta.config.layouts import CavesConfig, DungeonConfig, MazeConfig, ScatterTable, TerrainConfig
from metta.config.map_builder import AsciiConfig, MapBuilder, MapBuilderConfig, RoomsConfig
from metta.config.table import Table
from metta.errors import Problem

Scatter = MapBuilderConfig | MazeConfig | CavesConfig | DungeonConfig | TerrainConfig

LONGEST_SIDE = 4096
"""Rows or columns of a world at most."""

MOST_AGENTS = 65536
"""Agents of a world at most."""


def settle(game: GameConfig, builder: MapBuilder) -> tuple[GameConfig, MapBuilder, list[Problem]]:
    """Game and map builder with the sizes that were left open filled in, and the problems with those that disagree.

    A scattered map follows the game; the game follows rooms and drawn maps.
    """
    if isinstance(builder, ScatterTable):
        return game, *_follow_game(game, builder)
    problems: list[Problem] = []
    if isinstance(builder, RoomsConfig):
        builder, problems = _agents_per_room(game, builder)
    made = {"width": builder.width, "height": builder.height, "num_agents": _agents(builder)}
    arithmetic = _arithmetic(builder)
    for name, value in made.items():
        path = ("game", name)
        if name == "num_agents" and problems:
            continue  # said already
        if name == "num_agents" and value < 1:
            problems.append(Problem(("map_builder",), "makes a world without agents; it needs at least one"))
        elif value > (LONGEST_SIDE if name != "num_agents" else MOST_AGENTS):
            most = f"at most {LONGEST_SIDE if name != 'num_agents' else MOST_AGENTS}"
            problems.append(Problem(("map_builder",), f"makes the {name} {arithmetic[name]}; it can be {most}"))
        elif game.is_set(name) and getattr(game, name) != value:
            message = f"must be what the map makes, {arithmetic[name]}, or left out; got {getattr(game, name)}"
            problems.append(Problem(path, message))
    return game.filled(**made), builder, problems


def without_followed_sizes(env: Table) -> dict[str, Any]:
    """An EnvConfig as data with every value but the sizes that follow from others, so that those may change."""
    data = env.model_dump(exclude_none=True)
    if data["map_builder"]["type"] not in ("Rooms", "Ascii"):
        for name in ("width", "height", "agents"):
            del data["map_builder"][name]
    else:
        for name in ("width", "height", "num_agents"):
            del data["game"][name]
    return data


def room_problems(builder: MapBuilder) -> Iterator[Problem]:
    """Things that do not fit into the cells there are."""
    if isinstance(builder, ScatterTable):
        yield from _crowding(("map_builder",), builder)
    elif isinstance(builder, RoomsConfig):
        yield from _crowding(("map_builder", "room"), builder.room)
        side = min(builder.room.width, builder.room.height)
        if builder.door_width > side:
            message = f"must be at most the room's shorter side, {side}; got {builder.door_width}"
            yield Problem(("map_builder", "door_width"), message)


def _follow_game(game: GameConfig, builder: Scatter) -> tuple[Scatter, list[Problem]]:
    problems = []
    for name, source in (("width", "width"), ("height", "height"), ("agents", "num_agents")):
        own, value = getattr(builder, name), getattr(game, source)
        if builder.is_set(name) and own != value:
            message = f"must be the same as env.game.{source} = {value}, or left out; got {own}"
            problems.append(Problem(("map_builder", name), message))
        builder = builder.filled(**{name: value})
    return builder, problems


def _agents_per_room(game: GameConfig, builder: RoomsConfig) -> tuple[RoomsConfig, list[Problem]]:
    """The rooms with the game's agents split among them, where nothing else is said."""
    if builder.room.is_set("agents"):
        return builder, []
    rooms = builder.rows * builder.cols
    share, rest = divmod(game.num_agents, rooms)
    problems = []
    if rest:
        several = f"{builder.rows} x {builder.cols} = {rooms} rooms"
        nearest = max(1, round(game.num_agents / rooms)) * rooms
        message = f"must be a multiple of {several}, such as {nearest}; got {game.num_agents}"
        problems.append(Problem(("game", "num_agents"), message))
    return builder.filled(room=builder.room.filled(agents=share)), problems


def _agents(builder: RoomsConfig | AsciiConfig) -> int:
    if isinstance(builder, RoomsConfig):
        return builder.rows * builder.cols * builder.room.agents
    names = (builder.cell_name(glyph) or "" for row in builder.rows for glyph in row)
    return sum(name == "agent" or name.startswith("agent.") for name in names)


def _arithmetic(builder: RoomsConfig | AsciiConfig) -> dict[str, str]:
    """How each size of a map comes about."""
    if isinstance(builder, AsciiConfig):
        return {"width": f"{builder.width}", "height": f"{builder.height}", "num_agents": f"{_agents(builder)}"}
    rows, cols, wall, room = builder.rows, builder.cols, builder.border_width, builder.room
    return {
        "width": f"{cols} x {room.width} + {cols + 1} x {wall} = {builder.width}",
        "height": f"{rows} x {room.height} + {rows + 1} x {wall} = {builder.height}",
        "num_agents": f"{rows} x {cols} rooms x {room.agents} = {_agents(builder)}",
    }


def _crowding(path: tuple[str, ...], builder: ScatterTable) -> Iterator[Problem]:
    rows, cols = builder.height - 2 * builder.border_width, builder.width - 2 * builder.border_width
    arithmetic = f"{builder.width} x {builder.height} cells less a border of {builder.border_width}"
    if rows < 1 or cols < 1:
        yield Problem((*path, "border_width"), f"must leave cells inside: {arithmetic} leaves none")
        return
    objects = sum(builder.objects.values())
    if objects + builder.agents > rows * cols:
        things = f"{objects} objects + {builder.agents} agents = {objects + builder.agents}"
        message = f"must leave room for the agents: {things}, but {arithmetic} leaves {rows * cols}"
        yield Problem((*path, "objects"), message)
    elif isinstance(builder, MazeConfig) and builder.loops == 0 and objects + builder.agents > builder.least_floor:
        things = f"{objects} objects + {builder.agents} agents = {objects + builder.agents}"
        places = f"a maze of {builder.crossings[0]} x {builder.crossings[1]} places"
        yield Problem((*path, "objects"), f"must fit: {things}, but {places} has {builder.least_floor} cells of floor")
