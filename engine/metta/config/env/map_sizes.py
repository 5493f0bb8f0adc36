"""Map sizes: inferring width, height and agents of the game and of nested builders, and whether everything fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from metta.config.env.game import GameConfig
from metta.config.env.glyphs import is_agent
from metta.config.env.map_builder import (
    SIZES,
    AsciiConfig,
    ChoiceConfig,
    MapBuilder,
    MirroredConfig,
    RoomsConfig,
    walk_builders,
)
from metta.config.env.map_generators import AgentCounts, CorridorsConfig, MazeConfig, ScatterConfig
from metta.config.env.ranges import RangeResolver, range_max, range_min
from metta.config.validation.frozen_model import FrozenModel
from metta.config.validation.key_paths import KeyPath
from metta.errors import Problem

MAX_SIDE = 4096
"""Largest number of rows or columns of a world."""

MAX_AGENTS = 65536
"""Largest number of agents of a world."""

GAME_NAMES = {"width": "width", "height": "height", "agents": "num_agents"}
"""Key of a map builder -> key of `[env.game]` with the same meaning."""

WORDS = {"width": "columns", "height": "rows", "agents": "agents"}


def infer_sizes(game: GameConfig, builder: MapBuilder) -> tuple[GameConfig, MapBuilder, list[Problem]]:
    """Game and map builder with their unset sizes filled in, and the problems with sizes that contradict each other.

    Random maps, mazes and the like take the sizes of the game. The game takes the sizes of drawn and nested maps where
    those are set; unset sizes of nested builders are derived from the game's.
    """
    if isinstance(builder, ScatterConfig):
        if isinstance(builder.agents, AgentCounts) and not game.is_set("num_agents"):
            game = game.with_inferred(num_agents=int(builder.agents))
        return game, *_with_sizes_of_game(game, builder)
    problems: list[Problem] = []
    for name in SIZES:
        value = _size_if_set(builder, name)
        is_open = value is None and (name == "agents" or not isinstance(builder, RoomsConfig))
        if is_open or (value is None and game.is_set(name)):
            value = getattr(game, GAME_NAMES[name])
        if value is not None:
            builder, found = _with_size(builder, name, value, ("map_builder",))
            problems += found
    wrong = {problem.path[-1] for problem in problems}
    problems += [
        problem
        for path, part, _ in walk_builders(builder, ("map_builder",))
        for problem in _choice_problems(path, part)
    ]
    sizes = {GAME_NAMES[name]: getattr(builder, name) for name in SIZES}
    arithmetic = _arithmetic(builder)
    for name, value in sizes.items():
        if name in wrong:
            continue  # reported already
        if name == "num_agents" and value < 1:
            problems.append(Problem(("map_builder",), "has no agents; a world needs at least one"))
        elif value > (MAX_SIDE if name != "num_agents" else MAX_AGENTS):
            limit = f"at most {MAX_SIDE if name != 'num_agents' else MAX_AGENTS}"
            problems.append(Problem(("map_builder",), f"makes the {name} {arithmetic[name]}; it must be {limit}"))
        elif game.is_set(name) and getattr(game, name) != value:
            message = f"must be that of the map, {arithmetic[name]}, or omitted; got {getattr(game, name)}"
            problems.append(Problem(("game", name), message))
    return game.with_inferred(**sizes), builder, problems


def without_inferred_sizes(env: FrozenModel) -> dict[str, Any]:
    """An EnvConfig as data without the sizes that are inferred from others, so that the others can be changed."""
    data = env.model_dump(exclude_none=True)
    if data["map_builder"]["type"] not in ("Rooms", "Ascii", "Mirrored", "Choice"):
        for name, game_name in GAME_NAMES.items():
            if isinstance(data["map_builder"][name], dict):
                del data["game"][game_name]
            else:
                del data["map_builder"][name]
    else:
        for name in GAME_NAMES.values():
            del data["game"][name]
    return data


def fit_problems(builder: MapBuilder) -> Iterator[Problem]:
    """Objects and agents that do not fit on the map, doors wider than rooms, and doors that `connected` needs."""
    for path, part, connected in walk_builders(builder, ("map_builder",)):
        if isinstance(part, ScatterConfig):
            yield from _floor_problems(path, part)
        if isinstance(part, RoomsConfig):
            side = min(min(room.width, room.height) for room in part.all_rooms)
            rooms = len(part.all_rooms)
            if range_max(part.door_width) > side:
                yield Problem(
                    (*path, "door_width"),
                    f"must be at most the shortest side of a room, {side}; got {range_max(part.door_width):g}",
                )
            elif connected and rooms > 1 and range_min(part.door_width) == 0:
                yield Problem((*path, "door_width"), f"must be at least 1, so that {rooms} rooms are connected; got 0")


def group_counts(
    builder: MapBuilder,
    groups: Sequence[str],
    first_agent: int,
    num_assigned: int,
    path: KeyPath = (),
    problems: list[Problem] | None = None,
) -> list[int]:
    """Number of agents of each group in every map of the builder, in the order of `groups`.

    Agents of generated maps are assigned in turn to the first `num_assigned` groups, as agent number `first_agent`,
    `first_agent` + 1, and so on. `problems` receives the builders of a Choice whose numbers differ.
    """
    counts = [0] * len(groups)
    if isinstance(builder, AsciiConfig):
        for name in builder.cell_names:
            if is_agent(name):
                counts[groups.index(name.removeprefix("agent.")) if "." in name else 0] += 1
    elif isinstance(builder, RoomsConfig):
        for number, room in enumerate(builder.all_rooms):
            place: KeyPath = (*path, "room") if builder.room else (*path, "rooms", number)
            inside = group_counts(room, groups, first_agent, num_assigned, place, problems)
            counts = [sum(pair) for pair in zip(counts, inside, strict=True)]
            first_agent += room.agents
    elif isinstance(builder, MirroredConfig):
        num_assigned = 1 if builder.apart else num_assigned
        one = group_counts(builder.builder, groups, first_agent, num_assigned, (*path, "builder"), problems)
        for image in range(builder.images[0] * builder.images[1]):
            for group, count in enumerate(one):
                counts[(group + image) % len(groups)] += count
    elif isinstance(builder, ChoiceConfig):
        each = []
        for number, part in enumerate(builder.builders):
            place = (*path, "builders", number)
            each.append(group_counts(part, groups, first_agent, num_assigned, place, problems))
            if each[-1] != each[0] and problems is not None:
                has, wanted = _counts_text(each[-1], groups), _counts_text(each[0], groups)
                problems.append(Problem(place, f"must have the same agents as the first builder, {wanted}; has {has}"))
        counts = each[0]
    elif isinstance(builder.agents, AgentCounts):
        for name, count in builder.agents.by_group.items():
            counts[groups.index(name)] += count
    else:
        for group in range(num_assigned):
            counts[group] = len(range((group - first_agent) % num_assigned, builder.agents, num_assigned))
    return counts


def _with_sizes_of_game(game: GameConfig, builder: MapBuilder) -> tuple[MapBuilder, list[Problem]]:
    problems = []
    for name, source in GAME_NAMES.items():
        own, value = getattr(builder, name), getattr(game, source)
        if builder.is_set(name) and own != value:
            message = f"must equal env.game.{source} = {value}, or be omitted; got {own}"
            problems.append(Problem(("map_builder", name), message))
        if own != value or not builder.is_set(name):
            builder = builder.with_inferred(**{name: value})
    return builder, problems


def _size_if_set(builder: MapBuilder, name: str) -> int | None:
    """The size that the builder and those nested in it determine; None if it is unset."""
    if isinstance(builder, ScatterConfig):
        return getattr(builder, name) if builder.is_set(name) else None
    if isinstance(builder, AsciiConfig):
        return int(getattr(builder, name))
    own = [_size_if_set(part, name) for _, part in builder.parts]
    known = [value for value in own if value is not None]
    if isinstance(builder, ChoiceConfig):
        return known[0] if known else None
    if isinstance(builder, MirroredConfig):
        return known[0] * _images(builder, name) + _walls(builder, name) if known else None
    lines = [[value for value in line if value is not None] for line in _lines(builder, name, own)]
    return sum(map(max, lines)) + _walls(builder, name) if all(lines) else None


def _with_size(builder: MapBuilder, name: str, value: int, path: KeyPath) -> tuple[MapBuilder, list[Problem]]:
    """The builder with the given size of its map, and the problems; nested builders without a size share the rest."""
    if isinstance(builder, ScatterConfig):
        return (builder if builder.is_set(name) else builder.with_inferred(**{name: value})), []
    if isinstance(builder, AsciiConfig):
        return builder, []
    own = [_size_if_set(part, name) for _, part in builder.parts]
    if isinstance(builder, ChoiceConfig):
        shares: list[int | None] = [value] * len(own)
    elif isinstance(builder, MirroredConfig):
        images, walls = _images(builder, name), _walls(builder, name)
        share, rest = divmod(value - walls, images)
        if own[0] is None and (rest or share < (name != "agents")):
            example = max(1, share) * images + walls
            return builder, [_cannot_share(path, name, f"{images} images", walls, example, value)]
        shares = [own[0] if own[0] is not None else share]
    else:
        lines = _lines(builder, name, own)
        shares = [None] * len(own)
        known = [max((one for one in line if one is not None), default=None) for line in lines]
        num_open = sum(one is None for one in known)
        taken = sum(one for one in known if one is not None) + _walls(builder, name)
        share, rest = divmod(value - taken, num_open) if num_open else (0, 0)
        if num_open and (rest or share < (name != "agents")):
            example = max(1, round((value - taken) / num_open)) * num_open + taken
            grid = f"{builder.rows} x {builder.cols} = {builder.rows * builder.cols} rooms"
            grid = grid if name == "agents" and not taken else f"{num_open} rooms"
            return builder, [_cannot_share(path, name, grid, taken, example, value)]
        places = _lines(builder, name, range(len(own)))
        for line, one in zip(places, known, strict=True):
            for place in line:
                if own[place] is None:
                    shares[place] = share if one is None else one
    parts, problems = [], []
    for (step, part), size, before in zip(builder.parts, shares, own, strict=True):
        wanted = size if size is not None else before
        if wanted is not None:
            part, found = _with_size(part, name, wanted, (*path, *step))
            problems += found
        parts.append(part)
    return builder.with_parts(parts), problems


def _cannot_share(path: KeyPath, name: str, parts: str, taken: int, example: int, value: int) -> Problem:
    """The problem with a size that cannot be divided evenly among nested builders."""
    if taken:
        what = "agents in the others" if name == "agents" else f"{WORDS[name]} of walls and others"
        message = f"must be {taken} {what} plus a multiple of {parts}, such as {example}; got {value}"
    else:
        message = f"must be a multiple of {parts}, such as {example}; got {value}"
    if len(path) == 1:
        return Problem(("game", GAME_NAMES[name]), message)
    return Problem(path, f"{WORDS[name]} {message}")


def _lines(builder: RoomsConfig, name: str, values: Sequence[Any]) -> list[list[Any]]:
    """`values` (one for each nested builder) grouped by column for widths, by row for heights, singly for agents."""
    each = list(values) if not builder.room else list(values) * (builder.rows * builder.cols)
    if name == "width":
        return [each[col :: builder.cols] for col in range(builder.cols)]
    if name == "height":
        return [each[row * builder.cols : (row + 1) * builder.cols] for row in range(builder.rows)]
    return [[value] for value in each]


def _walls(builder: RoomsConfig | MirroredConfig, name: str) -> int:
    """Columns or rows of walls between and around the nested maps."""
    if name == "agents":
        return 0
    if isinstance(builder, MirroredConfig):
        return 2 * builder.border_width
    return ((builder.cols if name == "width" else builder.rows) + 1) * builder.border_width


def _images(builder: MirroredConfig, name: str) -> int:
    rows, cols = builder.images
    return {"width": cols, "height": rows, "agents": rows * cols}[name]


def _choice_problems(path: KeyPath, builder: MapBuilder) -> Iterator[Problem]:
    """Builders of a Choice whose maps differ in size."""
    if isinstance(builder, ChoiceConfig):
        for index, part in enumerate(builder.builders):
            for name in SIZES:
                value, first = getattr(part, name), getattr(builder.builders[0], name)
                if value != first:
                    message = f"must have as many {WORDS[name]} as the first builder, {first}; has {value}"
                    yield Problem((*path, "builders", index), message)


def _arithmetic(builder: MapBuilder) -> dict[str, str]:
    """The arithmetic of each size of a map, for messages."""
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
            "num_agents": f"{_sum([room.agents for room in builder.all_rooms])} = {builder.agents}",
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


def _floor_problems(path: KeyPath, builder: ScatterConfig) -> Iterator[Problem]:
    """Objects and agents that do not fit on the floor, with ranges at their maximum or at their minimum."""
    highest = builder.resolve_ranges(lambda one: one.max)
    (rows, cols), border = highest.inner_shape, highest.border_width
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
    choices: list[RangeResolver] = [lambda one: one.max, lambda one: one.min]
    for choose in choices:
        floor = builder.resolve_ranges(choose).model_copy(update={"border_width": border})
        if isinstance(floor, MazeConfig) and floor.loops == 0 and objects + builder.agents > floor.min_floor_cells:
            maze = f"a maze of {floor.maze_shape[0]} x {floor.maze_shape[1]} junctions"
            yield Problem(
                (*path, "objects"), f"must fit: {entities}, but {maze} has {floor.min_floor_cells} floor cells"
            )
            return
        if isinstance(floor, CorridorsConfig):
            for name, side in (("across", floor.inner_shape[0]), ("down", floor.inner_shape[1])):
                count = getattr(floor, name)
                needed = count * (floor.corridor_width + 1) - 1
                if needed > side:
                    walls = f"{count} corridors of {floor.corridor_width} with walls between them take {needed} cells"
                    yield Problem((*path, name), f"must fit: {walls}, and the map has {side} inside its border")
                    return
            if objects + builder.agents > floor.min_floor_cells:
                message = f"must fit: {entities}, but the corridors have {floor.min_floor_cells} floor cells"
                yield Problem((*path, "objects"), message)
                return


def _counts_text(counts: Sequence[int], groups: Sequence[str]) -> str:
    return ", ".join(f"{count} {group}" for group, count in zip(groups, counts, strict=True))
