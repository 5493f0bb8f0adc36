"""What stands in a world in full: object types with nothing left open, and the rules for recipes and actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metta.config.env.objects import CATALOGUE, ActionConfig, ObjectConfig
from metta.errors import Problem


def complete_types(objects: Sequence[ObjectConfig]) -> dict[str, ObjectConfig]:
    """Every object type by name with nothing left open: the user's entries over the catalogue's."""
    given = {entry.name: entry for entry in objects}
    names = [*CATALOGUE, *(name for name in given if name not in CATALOGUE)]
    taken = {entry.type_id for entry in CATALOGUE.values()} | {entry.type_id for entry in given.values()}
    free = (type_id for type_id in range(15, 256) if type_id not in taken)
    return {name: _complete(given.get(name), CATALOGUE.get(name), free) for name in names}


def recipe_problems(objects: Sequence[ObjectConfig], types: Mapping[str, ObjectConfig]) -> Iterator[Problem]:
    """Type ids that collide and recipes that do not go with the type of the object."""
    yield from _type_id_problems(objects, types)
    for index, entry in enumerate(objects):
        whole = types[entry.name]
        consumed, produced = whole.input, whole.output
        if entry.type == "mine" and consumed:
            yield Problem(("objects", index, "input"), 'a mine needs no input; make it a "generator" or "converter"')
        if entry.type in ("mine", "generator") and not produced:
            yield Problem(("objects", index, "output"), f"a {entry.type} must produce something")
        if entry.type == "generator" and not consumed:
            yield Problem(("objects", index, "input"), 'a generator needs an input; without one it is a "mine"')
        if entry.type == "wall" and (consumed or produced):
            yield Problem(("objects", index, "type"), 'a wall has no input and no output; make it a "converter"')
        if entry.type != "wall" and entry.swappable:
            yield Problem(("objects", index, "swappable"), f"only walls can be swappable, not a {entry.type}")
        if _converts_for_ever(whole):
            yield Problem(
                ("objects", index, "cooldown"),
                "would convert for ever in one step: give it conversion_ticks, a cooldown, an input or max_output",
            )


def action_problems(actions: Sequence[ActionConfig]) -> Iterator[Problem]:
    """Settings that do not go with the type of the action, and actions that cannot pay what they cost."""
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
            yield Problem(("actions", index, "item"), "is missing: a gift needs the item that is handed over")


def _misplaced(index: int, action: ActionConfig, field: str, owner: str) -> Problem:
    return Problem(("actions", index, field), f'is for actions of type "{owner}"; this one is "{action.type}"')


def _type_id_problems(objects: Sequence[ObjectConfig], types: Mapping[str, ObjectConfig]) -> Iterator[Problem]:
    places = {entry.name: index for index, entry in enumerate(objects)}
    owners: dict[int | None, str] = {}
    for name, entry in types.items():
        owner = owners.setdefault(entry.type_id, name)
        if owner != name:
            # the entry that says the number is the one to change, not the catalogue's
            said = next((n for n in (name, owner) if n in places and objects[places[n]] != CATALOGUE.get(n)), name)
            other = owner if said == name else name
            path = ("objects", places[said], "type_id") if said in places else ("objects",)
            yield Problem(path, f'must be unique; {entry.type_id} is the type id of "{other}" too')


def _complete(given: ObjectConfig | None, known: ObjectConfig | None, free_type_ids: Iterator[int]) -> ObjectConfig:
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
            value = plain[field] if field in plain else next(free_type_ids)
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
