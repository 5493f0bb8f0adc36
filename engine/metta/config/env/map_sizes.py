"""Sizes that follow from each other: the game's, the map's, those of its parts, and whether everything fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from metta.config.env.game import GameConfig
from metta.config.env.map_builder import (
    SIZES,
    AsciiConfig,
    ChoiceConfig,
    MapBuilder,
    MirroredConfig,
    Path,
    RoomsConfig,
    walk,
)
from metta.config.env.map_generators import CorridorsConfig, MazeConfig, ScatterTable
from metta.config.env.ranges import Choose, least, most
from metta.config.validation.frozen_model import FrozenModel
from metta.errors import Problem

LONGEST_SIDE = 4096
"""Rows or columns of a world at most."""

MOST_AGENTS = 65536
"""Agents of a world at most."""

GAME_NAMES = {"width": "width", "height": "height", "agents": "num_agents"}
"""A map's sizes as the game has them."""

WORDS = {"width": "columns", "height": "rows", "agents": "agents"}


def infer_sizes(game: GameConfig, builder: MapBuilder) -> tuple[GameConfig, MapBuilder, list[Problem]]:
    """Game and map builder with the sizes that were left open filled in, and the problems with those that disagree.

    A scattered map follows the game. The game follows maps that are drawn or made of others, as far as these say how
    large they are; what is open in their parts follows the game.
    """
    if isinstance(builder, ScatterTable):
        return game, *_follow_game(game, builder)
    problems: list[Problem] = []
    for name in SIZES:
        value = _own(builder, name)
        is_open = value is None and (name == "agents" or not isinstance(builder, RoomsConfig))
        if is_open or (value is None and game.is_set(name)):
            value = getattr(game, GAME_NAMES[name])
        if value is not None:
            builder, found = _fitted(builder, name, value, ("map_builder",))
            problems += found
    wrong = {problem.path[-1] for problem in problems}
    problems += [problem for path, part, _ in walk(builder, ("map_builder",)) for problem in _unlike(path, part)]
    made = {GAME_NAMES[name]: getattr(builder, name) for name in SIZES}
    arithmetic = _arithmetic(builder)
    for name, value in made.items():
        if name in wrong:
            continue  # said already
        if name == "num_agents" and value < 1:
            problems.append(Problem(("map_builder",), "makes a world without agents; it needs at least one"))
        elif value > (LONGEST_SIDE if name != "num_agents" else MOST_AGENTS):
            limit = f"at most {LONGEST_SIDE if name != 'num_agents' else MOST_AGENTS}"
            problems.append(Problem(("map_builder",), f"makes the {name} {arithmetic[name]}; it can be {limit}"))
        elif game.is_set(name) and getattr(game, name) != value:
            message = f"must be what the map makes, {arithmetic[name]}, or left out; got {getattr(game, name)}"
            problems.append(Problem(("game", name), message))
    return game.filled(**made), builder, problems


def without_followed_sizes(env: FrozenModel) -> dict[str, Any]:
    """An EnvConfig as data with every value but the sizes that follow from others, so that those may change."""
    data = env.model_dump(exclude_none=True)
    if data["map_builder"]["type"] not in ("Rooms", "Ascii", "Mirrored", "Choice"):
        for name in SIZES:
            del data["map_builder"][name]
    else:
        for name in GAME_NAMES.values():
            del data["game"][name]
    return data


def room_problems(builder: MapBuilder) -> Iterator[Problem]:
    """Things that do not fit into the cells there are, and doors that do not fit, or that are missing."""
    for path, part, connected in walk(builder, ("map_builder",)):
        if isinstance(part, ScatterTable):
            yield from _crowding(path, part)
        if isinstance(part, RoomsConfig):
            side = min(min(room.width, room.height) for room in part.each_room)
            rooms = len(part.each_room)
            if most(part.door_width) > side:
                yield Problem(
                    (*path, "door_width"),
                    f"must be at most the room's shorter side, {side}; got {most(part.door_width):g}",
                )
            elif connected and rooms > 1 and least(part.door_width) == 0:
                yield Problem((*path, "door_width"), f"must be at least 1, so that {rooms} rooms are connected; got 0")


def _follow_game(game: GameConfig, builder: MapBuilder) -> tuple[MapBuilder, list[Problem]]:
    problems = []
    for name, source in GAME_NAMES.items():
        own, value = getattr(builder, name), getattr(game, source)
        if builder.is_set(name) and own != value:
            message = f"must be the same as env.game.{source} = {value}, or left out; got {own}"
            problems.append(Problem(("map_builder", name), message))
        builder = builder.filled(**{name: value})
    return builder, problems


def _own(builder: MapBuilder, name: str) -> int | None:
    """A size that a builder has by itself; None where that is left open."""
    if isinstance(builder, ScatterTable):
        return getattr(builder, name) if builder.is_set(name) else None
    if isinstance(builder, AsciiConfig):
        return int(getattr(builder, name))
    own = [_own(part, name) for _, part in builder.parts]
    known = [value for value in own if value is not None]
    if isinstance(builder, ChoiceConfig):
        return known[0] if known else None
    if isinstance(builder, MirroredConfig):
        return known[0] * _images(builder, name) + _walls(builder, name) if known else None
    lines = [[value for value in line if value is not None] for line in _lines(builder, name, own)]
    return sum(map(max, lines)) + _walls(builder, name) if all(lines) else None


def _fitted(builder: MapBuilder, name: str, value: int, path: Path) -> tuple[MapBuilder, list[Problem]]:
    """The builder with a size of its map; what is left open inside shares what there is."""
    if isinstance(builder, ScatterTable):
        return (builder if builder.is_set(name) else builder.filled(**{name: value})), []
    if isinstance(builder, AsciiConfig):
        return builder, []
    own = [_own(part, name) for _, part in builder.parts]
    if isinstance(builder, ChoiceConfig):
        shares: list[int | None] = [value] * len(own)
    elif isinstance(builder, MirroredConfig):
        images, walls = _images(builder, name), _walls(builder, name)
        share, rest = divmod(value - walls, images)
        if own[0] is None and (rest or share < (name != "agents")):
            such = max(1, share) * images + walls
            return builder, [_cannot_share(path, name, f"{images} images", walls, such, value)]
        shares = [own[0] if own[0] is not None else share]
    else:
        lines = _lines(builder, name, own)
        shares = [None] * len(own)
        known = [max((one for one in line if one is not None), default=None) for line in lines]
        num_open = sum(one is None for one in known)
        taken = sum(one for one in known if one is not None) + _walls(builder, name)
        share, rest = divmod(value - taken, num_open) if num_open else (0, 0)
        if num_open and (rest or share < (name != "agents")):
            such = max(1, round((value - taken) / num_open)) * num_open + taken
            grid = f"{builder.rows} x {builder.cols} = {builder.rows * builder.cols} rooms"
            grid = grid if name == "agents" and not taken else f"{num_open} rooms"
            return builder, [_cannot_share(path, name, grid, taken, such, value)]
        places = _lines(builder, name, range(len(own)))
        for line, one in zip(places, known, strict=True):
            for place in line:
                if own[place] is None:
                    shares[place] = share if one is None else one
    parts, problems = [], []
    for (step, part), size, before in zip(builder.parts, shares, own, strict=True):
        wanted = size if size is not None else before
        if wanted is not None:
            part, found = _fitted(part, name, wanted, (*path, *step))
            problems += found
        parts.append(part)
    return builder.with_parts(parts), problems


def _cannot_share(path: Path, name: str, parts: str, taken: int, such: int, value: int) -> Problem:
    """A size that does not come out even."""
    if taken:
        what = "agents in the others" if name == "agents" else f"{WORDS[name]} of walls and others"
        message = f"must be {taken} {what} and as many in each of {parts}, such as {such}; got {value}"
    else:
        message = f"must be a multiple of {parts}, such as {such}; got {value}"
    if len(path) == 1:
        return Problem(("game", GAME_NAMES[name]), message)
    return Problem(path, f"{WORDS[name]} {message}")


def _lines(builder: RoomsConfig, name: str, values: Sequence[Any]) -> list[list[Any]]:
    """What rooms have side by side: by columns for widths, by rows for heights; of agents each room alone.

    `values` is one for each of the builder's parts.
    """
    each = list(values) if not builder.room else list(values) * (builder.rows * builder.cols)
    if name == "width":
        return [each[col :: builder.cols] for col in range(builder.cols)]
    if name == "height":
        return [each[row * builder.cols : (row + 1) * builder.cols] for row in range(builder.rows)]
    return [[value] for value in each]


def _walls(builder: RoomsConfig | MirroredConfig, name: str) -> int:
    """Columns or rows of walls around parts and between them."""
    if name == "agents":
        return 0
    if isinstance(builder, MirroredConfig):
        return 2 * builder.border_width
    return ((builder.cols if name == "width" else builder.rows) + 1) * builder.border_width


def _images(builder: MirroredConfig, name: str) -> int:
    rows, cols = builder.images
    return {"width": cols, "height": rows, "agents": rows * cols}[name]


def _unlike(path: Path, builder: MapBuilder) -> Iterator[Problem]:
    """Maps of one choice that are not of one size."""
    if isinstance(builder, ChoiceConfig):
        for index, part in enumerate(builder.builders):
            for name in SIZES:
                value, first = getattr(part, name), getattr(builder.builders[0], name)
                if value != first:
                    message = f"must make as many {WORDS[name]} as the first, {first}; makes {value}"
                    yield Problem((*path, "builders", index), message)


def _arithmetic(builder: MapBuilder) -> dict[str, str]:
    """How each size of a map comes about."""
    if isinstance(builder, RoomsConfig) and builder.room:
        rows, cols, wall, room = builder.rows, builder.cols, builder.border_width, builder.room
        return {
            "width": f"{cols} x {room.width} + {cols + 1} x {wall} = {builder.width}",
            "height": f"{rows} x {room.height} + {rows + 1} x {wall} = {builder.height}",
            "num_agents": f"{rows} x {cols} rooms x {room.agents} = {builder.agents}",
        }
    if isinstance(builder, RoomsConfig):
        wall = builder.border_width
        return {
            "width": f"{_sum(builder.col_widths)} + {builder.cols + 1} x {wall} = {builder.width}",
            "height": f"{_sum(builder.row_heights)} + {builder.rows + 1} x {wall} = {builder.height}",
            "num_agents": f"{_sum([room.agents for room in builder.each_room])} = {builder.agents}",
        }
    if isinstance(builder, MirroredConfig):
        (rows, cols), wall, one = builder.images, builder.border_width, builder.builder
        return {
            "width": f"{cols} x {one.width} + 2 x {wall} = {builder.width}",
            "height": f"{rows} x {one.height} + 2 x {wall} = {builder.height}",
            "num_agents": f"{rows * cols} images x {one.agents} = {builder.agents}",
        }
    return {game_name: f"{getattr(builder, name)}" for name, game_name in GAME_NAMES.items()}


def _sum(values: Sequence[int]) -> str:
    return " + ".join(map(str, values)) if len(values) <= 8 else f"{len(values)} of {min(values)} to {max(values)}"


def _crowding(path: Path, builder: ScatterTable) -> Iterator[Problem]:
    """Fixed settings alone decide whether everything fits; of ranges both ends are judged."""
    highest = builder.pinned(lambda one: one.max)
    (rows, cols), border = highest.inside, highest.border_width
    arithmetic = f"{builder.width} x {builder.height} cells less a border of {border}"
    if rows < 1 or cols < 1:
        yield Problem((*path, "border_width"), f"must leave cells inside: {arithmetic} leaves none")
        return
    objects = sum(highest.objects.values())
    entities = f"{objects} objects + {builder.agents} agents = {objects + builder.agents}"
    if objects + builder.agents > rows * cols:
        message = f"must leave room for the agents: {entities}, but {arithmetic} leaves {rows * cols}"
        yield Problem((*path, "objects"), message)
        return
    choices: list[Choose] = [lambda one: one.max, lambda one: one.min]
    for choose in choices:
        floor = builder.pinned(choose).model_copy(update={"border_width": border})
        if isinstance(floor, MazeConfig) and floor.loops == 0 and objects + builder.agents > floor.least_floor:
            places = f"a maze of {floor.crossings[0]} x {floor.crossings[1]} places"
            yield Problem(
                (*path, "objects"), f"must fit: {entities}, but {places} has {floor.least_floor} cells of floor"
            )
            return
        if isinstance(floor, CorridorsConfig):
            for name, side in (("across", floor.inside[0]), ("down", floor.inside[1])):
                count = getattr(floor, name)
                needed = count * (floor.corridor_width + 1) - 1
                if needed > side:
                    walls = f"{count} corridors of {floor.corridor_width} with walls between them take {needed} cells"
                    yield Problem((*path, name), f"must fit: {walls}, and the map has {side} inside its border")
                    return
            if objects + builder.agents > floor.least_floor:
                message = f"must fit: {entities}, but the corridors have {floor.least_floor} cells of floor"
                yield Problem((*path, "objects"), message)
                return
