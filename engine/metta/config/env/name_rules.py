"""Names that must mean something: items, objects, groups and glyphs, wherever a config mentions them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from metta.config.env.game import ITEM_FIELDS, AgentSettings, GameConfig
from metta.config.env.map_builder import AsciiConfig, MapBuilder, walk
from metta.config.env.map_drawings import drawing_reach_problems
from metta.config.env.map_generators import ScatterTable
from metta.config.env.objects import CATALOGUE, DEFAULT_ACTIONS, ActionConfig, ObjectConfig
from metta.config.validation.key_paths import KeyPath
from metta.errors import Problem, did_you_mean


def name_problems(
    game: GameConfig,
    objects: Sequence[ObjectConfig],
    actions: Sequence[ActionConfig],
    builder: MapBuilder,
    types: Mapping[str, ObjectConfig],
) -> Iterator[Problem]:
    """Names that are there twice, and names of things that are not there."""
    for index, entry in enumerate(objects):
        if entry.name in ("agent", "empty") or entry.name.startswith("agent."):
            message = f'must be another name; "{entry.name}" means something else in maps'
            yield Problem(("objects", index, "name"), message)
    items = game.inventory_item_names
    yield from _twice((("objects", index, "name"), entry.name) for index, entry in enumerate(objects))
    yield from _twice(
        (("actions", index, "key"), name) for index, action in enumerate(actions) for name, _ in action.names_and_types
    )
    yield from _twice((("game", "inventory_item_names", index), item) for index, item in enumerate(items))
    yield from _twice((("game", "groups", name, "id"), group.id) for name, group in game.groups.items())
    yield from _item_problems(game, objects, actions)
    yield from _object_problems(builder, actions, types, items)
    yield from _sharing_problems(game)
    for place, part, connected in walk(builder, ("map_builder",)):
        if isinstance(part, AsciiConfig):
            found = list(_drawing_problems(place, part, game.groups, types))
            yield from found or (drawing_reach_problems(place, part, types) if connected else [])


def _twice(names: Iterable[tuple[KeyPath, str | int]]) -> Iterator[Problem]:
    seen = set()
    for path, name in names:
        if name in seen:
            yield Problem(path, f"must be unique; {_quoted(name)} is there twice")
        seen.add(name)


def _item_problems(
    game: GameConfig, objects: Sequence[ObjectConfig], actions: Sequence[ActionConfig]
) -> Iterator[Problem]:
    """Items that are named but not in the inventory, or in the wrong place."""
    for path, settings in _agent_settings(game):
        for item, fields in ITEM_FIELDS.items():
            for table, field in fields.items():
                if item in getattr(settings, table):
                    yield Problem((*path, table, item), f"has a setting of its own, {field}; use that")
                value, default = getattr(settings, field), AgentSettings.model_fields[field].default
                if settings.is_set(field) and value != default and item not in game.inventory_item_names:
                    message = f'is about an item that env.game.inventory_item_names lacks, "{item}"; got {value:g}'
                    yield Problem((*path, field), message)
    for path, item in _item_mentions(game, objects, actions):
        if item not in game.inventory_item_names:
            yield Problem(path, f'unknown item "{item}"{did_you_mean(item, game.inventory_item_names)}')


def _object_problems(
    builder: MapBuilder, actions: Sequence[ActionConfig], types: Mapping[str, ObjectConfig], items: Collection[str]
) -> Iterator[Problem]:
    """Objects that are named but do not exist, or whose recipe needs items that the world does not have."""
    for index, action in enumerate(actions):
        if action.use is not None and action.use not in ("mine", "generator", "converter", *types):
            yield Problem(("actions", index, "use"), f'unknown object "{action.use}"{did_you_mean(action.use, types)}')
    for path, name in _placed_objects(builder, types):
        if name not in types:
            yield Problem(path, f'unknown object "{name}"{did_you_mean(name, types)}')
        else:
            recipe = {**(types[name].input or {}), **(types[name].output or {})}
            for item in recipe:
                if item not in items:
                    message = f'"{name}" needs the item "{item}", which env.game.inventory_item_names lacks'
                    yield Problem(path, message)


def _drawing_problems(
    place: KeyPath, builder: AsciiConfig, groups: Collection[str], types: Collection[str]
) -> Iterator[Problem]:
    """Rows of a drawn map that are not equally long, and glyphs that stand for nothing."""
    for glyph, name in builder.legend.items():
        path: KeyPath = (*place, "legend", glyph)
        if len(glyph) != 1:
            yield Problem(path, f"must be a single character; got {_quoted(glyph)}")
        elif name.startswith("agent."):
            if (group := name.removeprefix("agent.")) not in groups:
                yield Problem(path, f'unknown group "{group}"{did_you_mean(group, groups)}')
        elif name not in ("agent", "empty", *types):
            yield Problem(path, f'unknown object "{name}"{did_you_mean(name, types)}')
    path, width = (*place, "map"), builder.width
    for number, row in enumerate(builder.rows, 1):
        if len(row) != width:
            lengths = f"row {number} has {len(row)} cells, the longest {width}"
            yield Problem(path, f"must have rows of equal length; {lengths}")
        for glyph in sorted(set(row)):
            if builder.cell_name(glyph) is None:
                yield Problem(
                    path, f"row {number} has {_quoted(glyph)}, which stands for nothing; add it to the legend"
                )


def _sharing_problems(game: GameConfig) -> Iterator[Problem]:
    """Reward shares of groups that do not exist, or that give away more than there is."""
    for giver, shares in game.reward_sharing_groups.items():
        path = ("game", "reward_sharing_groups", giver)
        for name, place in [(giver, path), *((taker, (*path, taker)) for taker in shares)]:
            if name not in game.groups:
                yield Problem(place, f'unknown group "{name}"{did_you_mean(name, game.groups)}')
        if sum(shares.values()) > 1:
            total = " + ".join(f"{share:g}" for share in shares.values())
            yield Problem(path, f"must give away at most 1 in all; got {total} = {sum(shares.values()):g}")


def _agent_settings(game: GameConfig) -> Iterator[tuple[KeyPath, AgentSettings]]:
    yield ("game",), game
    yield from ((("game", "groups", name, "props"), group.props) for name, group in game.groups.items())


def _item_mentions(
    game: GameConfig, objects: Sequence[ObjectConfig], actions: Sequence[ActionConfig]
) -> Iterator[tuple[KeyPath, str]]:
    """Every place outside the defaults where an item is named."""
    for path, settings in _agent_settings(game):
        for field in ("item_max", "item_rewards", "item_reward_max"):
            own = {item for item, fields in ITEM_FIELDS.items() if field in fields}
            yield from (((*path, field, item), item) for item in getattr(settings, field) if item not in own)
    for index, entry in enumerate(objects):
        if entry != CATALOGUE.get(entry.name):
            for field in ("input", "output"):
                yield from ((("objects", index, field, item), item) for item in getattr(entry, field) or {})
    for index, action in enumerate(actions):
        if action not in DEFAULT_ACTIONS:
            for field in ("required_resources", "consumed_resources", "defense_resources"):
                yield from ((("actions", index, field, item), item) for item in getattr(action, field) or {})
            if action.item is not None:
                yield ("actions", index, "item"), action.item


def _placed_objects(builder: MapBuilder, types: Collection[str]) -> Iterator[tuple[KeyPath, str]]:
    for path, part, _ in walk(builder, ("map_builder",)):
        if isinstance(part, ScatterTable):
            yield from (((*path, "objects", name), name) for name in part.objects)
        elif isinstance(part, AsciiConfig):
            drawn = set(part.cell_names)
            yield from (((*path, "map"), name) for name in types if name in drawn)


def _quoted(name: str | int) -> str:
    return f'"{name}"' if isinstance(name, str) else str(name)
