"""A world in full: `[env]` with its game, objects, actions and map builder, and the rules between them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Self

from pydantic import Field, model_validator

from metta.config.game import AgentSettings, GameConfig
from metta.config.map_builder import AsciiConfig, MapBuilder, MapBuilderConfig, RoomsConfig
from metta.config.objects import CATALOGUE, DEFAULT_ACTIONS, MAX_ARGUMENT, ActionConfig, ObjectConfig
from metta.config.spec import EnvSpec
from metta.config.table import Table
from metta.errors import ConfigError, Problem, RulesError

BASE_FEATURES = {
    "type_id": 1.0,
    "agent:group": 10.0,
    "hp": 30.0,
    "agent:frozen": 1.0,
    "agent:orientation": 1.0,
    "agent:color": 255.0,
    "converting": 1.0,
    "swappable": 1.0,
    "episode_completion_pct": 255.0,
    "last_action": 10.0,
    "last_action_arg": 10.0,
    "last_reward": 100.0,
}
"""Token features in the order of their ids, with their normalisation; `inv:ITEM` follow, each over 100."""

ITEM_SCALE = 100.0


class EnvConfig(Table):
    """A world: game mechanics, objects, actions and the map builder."""

    game: GameConfig = Field(default_factory=GameConfig, description="game mechanics")
    objects: list[ObjectConfig] = Field(
        default_factory=lambda: list(CATALOGUE.values()),
        description="object types; entries add to the catalogue or replace its entry of that name",
    )
    actions: list[ActionConfig] = Field(
        default_factory=lambda: list(DEFAULT_ACTIONS), min_length=1, description="actions, in the order of their ids"
    )
    map_builder: MapBuilder = Field(default_factory=MapBuilderConfig, description="map generation")

    @model_validator(mode="after")
    def _settle(self) -> Self:
        problems = [*self._settle_sizes(), *self._unknown_names(), *self._broken_recipes(), *self._group_problems()]
        problems += self._map_problems() if not problems else []
        if problems:
            raise RulesError(problems)
        return self

    # -- what follows from the fields ---------------------------------------------------------------------------

    @cached_property
    def object_types(self) -> dict[str, ObjectConfig]:
        """Every object type by name with nothing left open: the user's entries over the catalogue's."""
        given = {entry.name: entry for entry in self.objects}
        names = [*CATALOGUE, *(name for name in given if name not in CATALOGUE)]
        taken = {entry.type_id for entry in CATALOGUE.values()} | {entry.type_id for entry in given.values()}
        free = (type_id for type_id in range(15, 256) if type_id not in taken)
        return {name: _complete(given.get(name), CATALOGUE.get(name), free) for name in names}

    @cached_property
    def action_table(self) -> list[tuple[str, str, ActionConfig]]:
        """(name, type, config) by action id; an attack is followed by its attack_nearest."""
        table: list[tuple[str, str, ActionConfig]] = []
        for action in self.actions:
            table.append((action.key, action.type, action))
            if action.type == "attack":
                table.append((f"{action.key}_nearest", "attack_nearest", action))
        return table

    @cached_property
    def spec(self) -> EnvSpec:
        """What a policy needs to know of this world."""
        types = {entry.type_id or 0: name for name, entry in self.object_types.items()}
        types[0] = "agent"
        return EnvSpec(
            num_agents=self.game.num_agents,
            action_names=[name for name, _, _ in self.action_table],
            max_action_args=[
                0 if type_ == "rotate" and action.delta is not None else MAX_ARGUMENT[type_]
                for _, type_, action in self.action_table
            ],
            action_enabled=[self.can_act(action) for _, _, action in self.action_table],
            feature_names=[*BASE_FEATURES, *(f"inv:{item}" for item in self.game.inventory_item_names)],
            feature_scales=[*BASE_FEATURES.values(), *(ITEM_SCALE for _ in self.game.inventory_item_names)],
            object_type_names=[types.get(type_id, "") for type_id in range(max(types) + 1)],
            group_ids=[group.id for group in self.game.groups.values()],
            observation_height=self.game.observation_height,
            observation_width=self.game.observation_width,
            num_observation_tokens=self.game.num_observation_tokens,
        )

    def can_act(self, action: ActionConfig) -> bool:
        """Whether an action can ever succeed: enabled, and needing only items that exist in this world."""
        needed = {**(action.required_resources or {}), **action.consumed_resources}
        items = self.game.inventory_item_names
        return action.enabled and all(item in items for item, count in needed.items() if count > 0)

    def override(self, **values: Any) -> EnvConfig:
        """A copy with single values replaced, wherever they live: `override(num_agents=8, border_width=1)`.

        A name is looked for in the env table itself, then in game, then in the map builder.
        Raises ConfigError for a name that is in none of them or a value that does not fit.
        """
        data = self.model_dump(exclude_unset=True)
        builder = type(self.map_builder)
        problems = []
        for name, value in values.items():
            if name in EnvConfig.model_fields:
                data[name] = value
            elif name in GameConfig.model_fields:
                data.setdefault("game", {})[name] = value
            elif name in builder.model_fields:
                data.setdefault("map_builder", {})[name] = value
            else:
                known = [*EnvConfig.model_fields, *GameConfig.model_fields, *builder.model_fields]
                problems.append(Problem((name,), f"unknown setting{_did_you_mean(name, known)}"))
        if problems:
            raise ConfigError("the environment override", problems)
        return EnvConfig.model_validate(data)

    # -- rules between fields -----------------------------------------------------------------------------------

    def _settle_sizes(self) -> Iterable[Problem]:
        """Give sizes the user left open the value that follows from the others; report those that disagree."""
        builder, game = self.map_builder, self.game
        if isinstance(builder, MapBuilderConfig):
            follow = {"width": game.width, "height": game.height, "agents": game.num_agents}
            game_names = {"width": "width", "height": "height", "agents": "num_agents"}
            for name, value in follow.items():
                if builder.is_set(name) and getattr(builder, name) != value:
                    yield Problem(
                        ("map_builder", name),
                        f"is {getattr(builder, name)}, but env.game.{game_names[name]} is {value}; set only the latter",
                    )
                else:
                    builder = builder.filled(**{name: value})
        else:
            if isinstance(builder, RoomsConfig) and not builder.room.is_set("agents"):
                rooms = builder.rows * builder.cols
                share, rest = divmod(game.num_agents, rooms)
                if rest:
                    yield Problem(
                        ("map_builder", "room", "agents"),
                        f"{game.num_agents} agents cannot be split evenly among {builder.rows} x {builder.cols} = "
                        f"{rooms} rooms; make env.game.num_agents a multiple of {rooms}",
                    )
                builder = builder.filled(room=builder.room.filled(agents=share))
            made = {"width": builder.width, "height": builder.height, "num_agents": self._agents_made(builder)}
            for name, value in made.items():
                if game.is_set(name) and getattr(game, name) != value:
                    yield Problem(("game", name), f"is {getattr(game, name)}, but {_made_by(builder, name, value)}")
            game = game.filled(**made)
        self.__dict__.update(game=game, map_builder=builder)

    def _agents_made(self, builder: RoomsConfig | AsciiConfig) -> int:
        if isinstance(builder, RoomsConfig):
            return builder.rows * builder.cols * builder.room.agents
        names = (builder.cell_name(glyph) or "" for row in builder.rows for glyph in row)
        return sum(name == "agent" or name.startswith("agent.") for name in names)

    def _unknown_names(self) -> Iterable[Problem]:
        items, types, groups = self.game.inventory_item_names, self.object_types, self.game.groups
        for path, item in self._item_mentions():
            if item not in items:
                yield Problem(path, f'unknown item "{item}"{_did_you_mean(item, items)}')
        for path, name in self._object_mentions():
            if name not in types:
                yield Problem(path, f'unknown object "{name}"{_did_you_mean(name, types)}')
                continue
            for item in {**(types[name].input or {}), **(types[name].output or {})}:
                if item not in items and path[0] == "map_builder":
                    yield Problem(path, f'"{name}" needs "{item}", which is not in env.game.inventory_item_names')
        for giver, shares in self.game.reward_sharing_groups.items():
            for name in (giver, *shares):
                if name not in groups:
                    path = ("game", "reward_sharing_groups", giver)
                    yield Problem(path, f'unknown group "{name}"{_did_you_mean(name, groups)}')
            if sum(shares.values()) > 1:
                total = " + ".join(map(str, shares.values()))
                yield Problem(("game", "reward_sharing_groups", giver), f"gives away more than it has: {total} > 1")
        for table, names in (("objects", [o.name for o in self.objects]), ("actions", [a.key for a in self.actions])):
            for index, name in enumerate(names):
                if name in names[:index]:
                    field = "name" if table == "objects" else "key"
                    yield Problem((table, index, field), f'"{name}" is there twice; each {field} must be unique')
        for index, item in enumerate(items):
            if item in items[:index]:
                yield Problem(("game", "inventory_item_names", index), f'"{item}" is there twice')

    def _item_mentions(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """Every place outside the defaults where an item is named."""
        tables: list[tuple[tuple[str | int, ...], AgentSettings]] = [(("game",), self.game)]
        tables += [(("game", "groups", name, "props"), group.props) for name, group in self.game.groups.items()]
        for path, settings in tables:
            for field in ("item_max", "item_rewards", "item_reward_max"):
                yield from (((*path, field, item), item) for item in getattr(settings, field))
        for index, entry in enumerate(self.objects):
            if entry != CATALOGUE.get(entry.name):
                for field in ("input", "output"):
                    yield from ((("objects", index, field, item), item) for item in getattr(entry, field) or {})
        for index, action in enumerate(self.actions):
            if action in DEFAULT_ACTIONS:
                continue
            for field in ("required_resources", "consumed_resources", "defense_resources"):
                yield from ((("actions", index, field, item), item) for item in getattr(action, field) or {})
            if action.item is not None:
                yield ("actions", index, "item"), action.item

    def _object_mentions(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        builder = self.map_builder
        if isinstance(builder, MapBuilderConfig):
            yield from ((("map_builder", "objects", name), name) for name in builder.objects)
        elif isinstance(builder, RoomsConfig):
            yield from ((("map_builder", "room", "objects", name), name) for name in builder.room.objects)
        for index, action in enumerate(self.actions):
            if action.use is not None and action.use not in ("mine", "generator", "converter"):
                yield ("actions", index, "use"), action.use

    def _broken_recipes(self) -> Iterable[Problem]:
        seen: dict[int, str] = {}
        for name, entry in self.object_types.items():
            type_id = entry.type_id or 0
            if type_id in seen:
                yield Problem(
                    self._object_path(name, "type_id"), f'{type_id} is already the type id of "{seen[type_id]}"'
                )
            seen[type_id] = name
        for index, entry in enumerate(self.objects):
            whole = self.object_types[entry.name]
            if entry.type == "mine" and whole.input:
                yield Problem(
                    ("objects", index, "input"), 'a mine needs no input; make it a "generator" or "converter"'
                )
            if entry.type in ("mine", "generator") and not whole.output:
                yield Problem(("objects", index, "output"), f"a {entry.type} must produce something")
            if entry.type == "generator" and not whole.input:
                yield Problem(("objects", index, "input"), 'a generator needs an input; without one it is a "mine"')
            if entry.type == "wall" and (whole.input or whole.output):
                yield Problem(("objects", index, "type"), 'a wall has no input and no output; make it a "converter"')
            if entry.type != "wall" and entry.swappable:
                yield Problem(("objects", index, "swappable"), f"only walls can be swappable, not a {entry.type}")
            if _converts_for_ever(whole):
                yield Problem(
                    ("objects", index, "cooldown"),
                    "would convert for ever in one step: give it conversion_ticks, a cooldown, an input or max_output",
                )
        for index, action in enumerate(self.actions):
            required = action.required_resources or {}
            for item, count in action.consumed_resources.items():
                if item in required and required[item] < count:
                    path = ("actions", index, "required_resources", item)
                    yield Problem(path, f"requires {required[item]} but consumes {count}; require at least {count}")
            for field, owner in (("delta", "rotate"), ("item", "gift"), ("use", "use")):
                if getattr(action, field) is not None and action.type != owner:
                    yield Problem(("actions", index, field), f'only for actions of type "{owner}", not "{action.type}"')
            if action.defense_resources and action.type != "attack":
                yield Problem(("actions", index, "defense_resources"), f'only for "attack", not "{action.type}"')
            if action.type == "gift" and action.item is None:
                yield Problem(("actions", index, "item"), "a gift needs the item that is given")

    def _object_path(self, name: str, field: str) -> tuple[str | int, ...]:
        names = [entry.name for entry in self.objects]
        return ("objects", names.index(name), field) if name in names else ("objects",)

    def _group_problems(self) -> Iterable[Problem]:
        seen: dict[int, str] = {}
        for name, group in self.game.groups.items():
            if group.id in seen:
                yield Problem(
                    ("game", "groups", name, "id"), f'{group.id} is already the id of group "{seen[group.id]}"'
                )
            seen[group.id] = name

    def _map_problems(self) -> Iterable[Problem]:
        builder = self.map_builder
        if isinstance(builder, MapBuilderConfig):
            yield from _random_map_problems(("map_builder",), builder)
        elif isinstance(builder, RoomsConfig):
            yield from _random_map_problems(("map_builder", "room"), builder.room)
            if builder.door_width > min(builder.room.width, builder.room.height):
                yield Problem(("map_builder", "door_width"), f"{builder.door_width} is wider than a room")
        else:
            path = ("map_builder", "map")
            for number, row in enumerate(builder.rows, 1):
                if len(row) != builder.width:
                    yield Problem(path, f"row {number} has {len(row)} cells, the longest row {builder.width}")
                for glyph in sorted(set(row)):
                    name = builder.cell_name(glyph)
                    if name is None:
                        yield Problem(path, f'row {number}: nothing is known as "{glyph}"; add it to the legend')
                    elif name.startswith("agent."):
                        if name.removeprefix("agent.") not in self.game.groups:
                            yield Problem(path, f'row {number}: unknown group in "{name}"')
                    elif name not in ("agent", "empty") and name not in self.object_types:
                        known = self.object_types
                        yield Problem(path, f'row {number}: unknown object "{name}"{_did_you_mean(name, known)}')


def _complete(given: ObjectConfig | None, known: ObjectConfig | None, free_type_ids: Iterable[int]) -> ObjectConfig:
    """The object type with every open field filled from the catalogue entry, else with the plain default."""
    entry = given or known
    assert entry is not None
    plain: dict[str, Any] = {
        "input": {},
        "output": {},
        "max_output": 5,
        "conversion_ticks": 1,
        "cooldown": 0 if entry.type == "wall" else 10,
        "initial_items": 0 if entry.type == "wall" else 1,
        "swappable": False,
    }
    values: dict[str, Any] = {}
    for field in ("type_id", *plain):
        value = getattr(entry, field)
        if value is None and known is not None and known.type == entry.type:
            value = getattr(known, field)
        if value is None:
            value = plain[field] if field in plain else next(iter(free_type_ids))
        values[field] = value
    return entry.model_copy(update=values)


def _converts_for_ever(entry: ObjectConfig) -> bool:
    """Whether one conversion can follow another within a step without end.

    It takes no time, finds back in its output all that it consumes, and never becomes full: items of which it makes
    more than it consumes end at 255 units, the others may stay at what one conversion leaves.
    """
    if entry.type == "wall" or entry.conversion_ticks or entry.cooldown or entry.max_output is None:
        return False
    consumed, produced = entry.input or {}, entry.output or {}
    if any(produced.get(item, 0) < count for item, count in consumed.items()):
        return False
    lasting = sum(255 if count > consumed.get(item, 0) else count for item, count in produced.items())
    return entry.max_output == -1 or entry.max_output > lasting


def _random_map_problems(path: tuple[str, ...], builder: MapBuilderConfig) -> Iterable[Problem]:
    rows, cols = builder.height - 2 * builder.border_width, builder.width - 2 * builder.border_width
    arithmetic = f"{builder.width} x {builder.height} cells less a border of {builder.border_width}"
    if rows < 1 or cols < 1:
        yield Problem((*path, "border_width"), f"{arithmetic} leaves no cell inside")
        return
    objects = sum(builder.objects.values())
    if objects + builder.agents > rows * cols:
        yield Problem(
            (*path, "objects"),
            f"{objects} objects + {builder.agents} agents do not fit: {arithmetic} leaves {rows * cols}",
        )


def _made_by(builder: RoomsConfig | AsciiConfig, name: str, value: int) -> str:
    if isinstance(builder, AsciiConfig):
        return f"the map drawn in env.map_builder.map has {value}; leave it out"
    if name == "num_agents":
        return (
            f"{builder.rows} x {builder.cols} rooms of {builder.room.agents} agents make {value}; leave one of them out"
        )
    count, size = (builder.cols, builder.room.width) if name == "width" else (builder.rows, builder.room.height)
    return f"the rooms make {count} x {size} + {count + 1} x {builder.border_width} = {value}; leave it out"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = get_close_matches(name, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; known: {', '.join(known)}"
