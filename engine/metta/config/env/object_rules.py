"""Completion of object types from the catalog, and validation of recipes, type ids and the keys of actions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from metta.config.env.objects import CATALOG, ActionConfig, ObjectConfig
from metta.config.env.ranges import range_max, range_min
from metta.errors import Problem


def complete_types(objects: Sequence[ObjectConfig]) -> dict[str, ObjectConfig]:
    """All object types by name with every value set; the user's entries take precedence over the catalog."""
    given = {entry.name: entry for entry in objects}
    names = [*CATALOG, *(name for name in given if name not in CATALOG)]
    taken = {entry.type_id for entry in CATALOG.values()} | {entry.type_id for entry in given.values()}
    free = (type_id for type_id in range(15, 256) if type_id not in taken)
    return {name: _complete(given.get(name), CATALOG.get(name), free) for name in names}


def recipe_problems(objects: Sequence[ObjectConfig], types: Mapping[str, ObjectConfig]) -> Iterator[Problem]:
    """Type ids that are used twice, and recipes that do not fit the object's type."""
    yield from _type_id_problems(objects, types)
    for index, entry in enumerate(objects):
        whole = types[entry.name]
        consumed, produced = whole.input, whole.output
        if entry.type == "mine" and consumed:
            yield Problem(("objects", index, "input"), 'a mine has no input; make it a "generator" or "converter"')
        if entry.type in ("mine", "generator") and not produced:
            yield Problem(("objects", index, "output"), f"a {entry.type} must have an output")
        if entry.type == "generator" and not consumed:
            yield Problem(("objects", index, "input"), 'a generator must have an input; without one, make it a "mine"')
        if entry.type == "wall" and (consumed or produced):
            yield Problem(("objects", index, "type"), 'a wall has no input or output; make it a "converter"')
        for field in _CONVERTER_KEYS if entry.options is not None else ():
            if getattr(entry, field) is not None:
                message = f'is only for mines, generators and converters; a "{entry.type}" has settings'
                yield Problem(("objects", index, field), message)
        if entry.type != "wall" and entry.swappable:
            yield Problem(
                ("objects", index, "swappable"), f"must be false for a {entry.type}; only walls can be swappable"
            )
        if _converts_endlessly(whole):
            yield Problem(
                ("objects", index, "cooldown"),
                "would convert endlessly within one step; set cooldown, conversion_ticks, input or max_output",
            )


_CONVERTER_KEYS = ("input", "output", "max_output", "conversion_ticks", "cooldown", "initial_items")


def state_problems(
    objects: Sequence[ObjectConfig], features: Collection[str], custom_features: Collection[str]
) -> Iterator[Problem]:
    """States of registered objects with the name of another feature, or with different scales.

    `features` are the built-in ones and those of items.
    """
    scales: dict[str, float] = {}
    for index, entry in enumerate(objects):
        for name, scale in entry.options.states.items() if entry.options is not None else ():
            if name in features or name in custom_features:
                message = f'has the state "{name}", which is also the name of a feature; rename one of them'
                yield Problem(("objects", index, "type"), message)
            if scales.setdefault(name, scale) != scale:
                message = f'has the state "{name}" with the scale {scale:g}; another object has {scales[name]:g}'
                yield Problem(("objects", index, "type"), message)


def action_problems(actions: Sequence[ActionConfig]) -> Iterator[Problem]:
    """Keys that do not fit the action's type, and required items that are fewer than the consumed ones."""
    for index, action in enumerate(actions):
        required = action.required_resources or {}
        for item, count in action.consumed_resources.items():
            if item in required and required[item] < count:
                path = ("actions", index, "required_resources", item)
                yield Problem(path, f"must be at least the {count} that the action consumes; got {required[item]}")
        for field, owner in (("delta", "rotate"), ("item", "gift"), ("use", "use")):
            if getattr(action, field) is not None and action.type != owner:
                yield _misplaced(index, action, field, owner)
        if action.defense_resources and action.type != "attack":
            yield _misplaced(index, action, "defense_resources", "attack")
        if action.type == "gift" and action.item is None:
            yield Problem(("actions", index, "item"), "is missing: the item that a gift gives")


def _misplaced(index: int, action: ActionConfig, field: str, owner: str) -> Problem:
    return Problem(("actions", index, field), f'is used only by actions of type "{owner}"; this one is "{action.type}"')


def _type_id_problems(objects: Sequence[ObjectConfig], types: Mapping[str, ObjectConfig]) -> Iterator[Problem]:
    places = {entry.name: index for index, entry in enumerate(objects)}
    owners: dict[int | None, str] = {}
    for name, entry in types.items():
        owner = owners.setdefault(entry.type_id, name)
        if owner != name:
            # report the entry that sets the id, rather than one of the catalog
            reported = next((n for n in (name, owner) if n in places and objects[places[n]] != CATALOG.get(n)), name)
            other = owner if reported == name else name
            path = ("objects", places[reported], "type_id") if reported in places else ("objects",)
            yield Problem(path, f'must be unique; {entry.type_id} is also the type id of "{other}"')


def _complete(given: ObjectConfig | None, known: ObjectConfig | None, free_type_ids: Iterator[int]) -> ObjectConfig:
    """The object type with every unset value from the catalog's entry, or else the general default."""
    entry = given or known
    assert entry is not None
    has_recipe = entry.type != "wall" and entry.options is None
    defaults: dict[str, Any] = {
        "color": 0,
        "input": {},
        "output": {},
        "max_output": 5,
        "conversion_ticks": 1,
        "cooldown": 10 if has_recipe else 0,
        "initial_items": 1 if has_recipe else 0,
        "swappable": False,
    }
    values: dict[str, Any] = {}
    for field in ("type_id", *defaults):
        value = getattr(entry, field)
        if value is None and known is not None and known.type == entry.type:
            value = getattr(known, field)
        if value is None:
            value = defaults[field] if field in defaults else next(free_type_ids)
        values[field] = value
    return entry.model_copy(update=values)


def _converts_endlessly(entry: ObjectConfig) -> bool:
    """Whether conversions can follow each other endlessly within a step.

    A conversion takes no time, its output contains all of its input, and the output never reaches max_output: items
    that increase stay at 255 units, the others at what one conversion produces.
    """
    if entry.type == "wall" or entry.options is not None or entry.max_output is None:
        return False
    if range_min(entry.conversion_ticks or 0) > 0 or range_min(entry.cooldown or 0) > 0:
        return False
    consumed, produced = entry.input or {}, entry.output or {}
    if any(produced.get(item, 0) < count for item, count in consumed.items()):
        return False
    most_output = sum(255 if count > consumed.get(item, 0) else count for item, count in produced.items())
    return range_min(entry.max_output) == -1 or range_max(entry.max_output) > most_output
