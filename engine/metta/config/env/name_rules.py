"""Rules for names in `[env]`: unique definitions, and references to items, objects and groups that exist."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from metta.config.env.game import ITEM_FIELDS, AgentSettings, GameConfig
from metta.config.env.map_builder import AsciiConfig, MapBuilder, walk_builders
from metta.config.env.map_drawings import drawing_problems, reachability_problems
from metta.config.env.map_generators import AgentCounts, ScatterConfig
from metta.config.env.objects import CATALOG, DEFAULT_ACTIONS, ActionConfig, ObjectConfig
from metta.config.validation.key_paths import KeyPath
from metta.errors import Problem, closest_name, did_you_mean


def name_problems(
    game: GameConfig,
    objects: Sequence[ObjectConfig],
    actions: Sequence[ActionConfig],
    builder: MapBuilder,
    types: Mapping[str, ObjectConfig],
) -> Iterator[Problem]:
    """Names that are reserved, used twice or unknown."""
    for index, entry in enumerate(objects):
        if entry.name in ("agent", "empty") or entry.name.startswith("agent."):
            message = f'must not be "{entry.name}", which has another meaning in maps; choose another name'
            yield Problem(("objects", index, "name"), message)
    items = game.inventory_item_names
    yield from _duplicates((("objects", index, "name"), entry.name) for index, entry in enumerate(objects))
    yield from _duplicates(
        (("actions", index, "key"), name) for index, action in enumerate(actions) for name, _ in action.names_and_types
    )
    yield from _duplicates((("game", "inventory_item_names", index), item) for index, item in enumerate(items))
    yield from _duplicates((("game", "groups", name, "id"), group.id) for name, group in game.groups.items())
    yield from _item_problems(game, objects, actions)
    yield from _object_problems(builder, objects, actions, types, items)
    yield from _sharing_problems(game)
    for place, part, connected in walk_builders(builder, ("map_builder",)):
        if isinstance(part, ScatterConfig) and isinstance(part.agents, AgentCounts):
            for name in part.agents.by_group:
                if name not in game.groups:
                    yield Problem((*place, "agents", name), f'unknown group "{name}"{did_you_mean(name, game.groups)}')
        if isinstance(part, AsciiConfig):
            found = list(drawing_problems(place, part, game.groups, types))
            yield from found or (reachability_problems(place, part, types) if connected else [])


def _duplicates(names: Iterable[tuple[KeyPath, str | int]]) -> Iterator[Problem]:
    seen = set()
    for path, name in names:
        if name in seen:
            yield Problem(path, f"must be unique; {_quoted(name)} is used twice")
        seen.add(name)


def _item_problems(
    game: GameConfig, objects: Sequence[ObjectConfig], actions: Sequence[ActionConfig]
) -> Iterator[Problem]:
    """Items that are not in the inventory, or that are set in a table although they have a dedicated key."""
    for path, settings in _agent_settings(game):
        for item, fields in ITEM_FIELDS.items():
            for table, field in fields.items():
                if item in getattr(settings, table):
                    yield Problem((*path, table, item), f"has its own key; use {field} instead")
                value, default = getattr(settings, field), AgentSettings.model_fields[field].default
                if settings.is_set(field) and value != default and item not in game.inventory_item_names:
                    message = f'is for the item "{item}", which is not in env.game.inventory_item_names; got {value:g}'
                    yield Problem((*path, field), message)
    for path, item, own in _item_mentions(game, objects, actions):
        if item not in game.inventory_item_names:
            possible = [name for name in game.inventory_item_names if name not in own]
            yield _unknown("item", path, item, possible)


def _object_problems(
    builder: MapBuilder,
    objects: Sequence[ObjectConfig],
    actions: Sequence[ActionConfig],
    types: Mapping[str, ObjectConfig],
    items: Collection[str],
) -> Iterator[Problem]:
    """Objects that do not exist, or whose recipe needs items that are not in the inventory."""
    for index, action in enumerate(actions):
        if action.use is not None and action.use not in ("mine", "generator", "converter", *types):
            yield Problem(("actions", index, "use"), f'unknown object "{action.use}"{did_you_mean(action.use, types)}')
    recipes = {name: {**(entry.input or {}), **(entry.output or {})} for name, entry in types.items()}
    # their unknown items are reported where the file names them
    reported = {objects[index].name for index, _, item in _recipe_items(objects) if item not in items}
    for path, name in _placed_objects(builder, types):
        if name not in types:
            possible = [other for other in types if other in reported or all(item in items for item in recipes[other])]
            yield _unknown("object", path, name, possible)
        elif name not in reported:
            for item in recipes[name]:
                if item not in items:
                    message = f'"{name}" needs the item "{item}", which is not in env.game.inventory_item_names'
                    yield Problem(path, message)


def _sharing_problems(game: GameConfig) -> Iterator[Problem]:
    """Reward shares of unknown groups, and groups whose shares sum to more than 1."""
    for giver, shares in game.reward_sharing_groups.items():
        path = ("game", "reward_sharing_groups", giver)
        for name, place in [(giver, path), *((taker, (*path, taker)) for taker in shares)]:
            if name not in game.groups:
                yield _unknown("group", place, name, game.groups)
        if sum(shares.values()) > 1:
            total = " + ".join(f"{share:g}" for share in shares.values())
            yield Problem(path, f"must sum to at most 1; got {total} = {sum(shares.values()):g}")


def _agent_settings(game: GameConfig) -> Iterator[tuple[KeyPath, AgentSettings]]:
    yield ("game",), game
    yield from ((("game", "groups", name, "props"), group.props) for name, group in game.groups.items())


def _item_mentions(
    game: GameConfig, objects: Sequence[ObjectConfig], actions: Sequence[ActionConfig]
) -> Iterator[tuple[KeyPath, str, Collection[str]]]:
    """(path, item, items with their own key) of every reference to an item outside of the defaults."""
    for path, settings in _agent_settings(game):
        for field in ("item_max", "item_rewards", "item_reward_max"):
            own = {item for item, fields in ITEM_FIELDS.items() if field in fields}
            table = getattr(settings, field)
            yield from (((*path, field, item), item, own) for item in table if item not in own)
    for index, field, item in _recipe_items(objects):
        yield ("objects", index, field, item), item, ()
    for index, action in enumerate(actions):
        if action not in DEFAULT_ACTIONS:
            for field in ("required_resources", "consumed_resources", "defense_resources"):
                table = getattr(action, field) or {}
                yield from ((("actions", index, field, item), item, ()) for item in table)
            if action.item is not None:
                yield ("actions", index, "item"), action.item, ()


def _recipe_items(objects: Sequence[ObjectConfig]) -> Iterator[tuple[int, str, str]]:
    """(index of the object, field, item) of every item in a recipe that is not the catalog's."""
    for index, entry in enumerate(objects):
        if entry != CATALOG.get(entry.name):
            for field in ("input", "output"):
                yield from ((index, field, item) for item in getattr(entry, field) or {})


def _placed_objects(builder: MapBuilder, types: Collection[str]) -> Iterator[tuple[KeyPath, str]]:
    for path, part, _ in walk_builders(builder, ("map_builder",)):
        if isinstance(part, ScatterConfig):
            yield from (((*path, "objects", name), name) for name in part.objects)
        elif isinstance(part, AsciiConfig):
            drawn = set(part.cell_names)
            yield from (((*path, "map"), name) for name in types if name in drawn)


def _unknown(kind: str, path: KeyPath, name: str, known: Iterable[str]) -> Problem:
    names = list(known)
    return Problem(path, f'unknown {kind} "{name}"{did_you_mean(name, names)}', similar=closest_name(name, names))


def _quoted(name: str | int) -> str:
    return f'"{name}"' if isinstance(name, str) else str(name)
