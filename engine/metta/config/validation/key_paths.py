"""The field that a key path leads to, read off the models: what a key may be, and what else it could have been."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from metta.config.validation.frozen_model import FrozenModel

KeyPath = tuple[str | int, ...]
"""A key path as in the parsed data: `("env", "objects", 0, "name")`."""


def annotation_at(root: type[FrozenModel], path: KeyPath, data: Any = None) -> Any:
    """The type of the value at `path`, None if no such key exists.

    `data`, the table at `root`, decides which model a map builder is.
    """
    annotation: Any = root
    for part in path:
        annotation = _step(_chosen(annotation, data), part)
        data = child(data, part)
        if annotation is None:
            return None
    return _chosen(annotation, data)


def table_at(root: type[FrozenModel], path: KeyPath, data: Any = None) -> type[FrozenModel] | None:
    """The model of the table at `path`, None if there is no table of fixed keys."""
    annotation = annotation_at(root, path, data)
    return annotation if is_table(annotation) else None


def tables_at(root: type[FrozenModel], path: KeyPath, data: Any = None) -> list[type[FrozenModel]]:
    """The models that the table at `path` could be of, whatever its `type`."""
    if not path:
        return [root]
    return alternatives(_step(annotation_at(root, path[:-1], data), path[-1]))


def is_table(annotation: Any) -> bool:
    """Whether a type is one of the models."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def choices(table: type[FrozenModel], field: str) -> tuple[Any, ...]:
    """The values that a field with fixed choices can have."""
    return get_args(table.model_fields[field].annotation)


def is_text(annotation: Any) -> bool:
    """Whether a value of this type is written as a string."""
    if get_origin(annotation) is Literal:
        return all(isinstance(choice, str) for choice in get_args(annotation))
    return annotation is str


def takes_number(annotation: Any, kind: type) -> bool:
    """Whether a value of this type can be a number of that kind, int or float."""
    plain = _plain(annotation)
    if get_origin(plain) in (Union, types.UnionType):
        return any(takes_number(choice, kind) for choice in get_args(plain))
    return plain is kind


def tables(root: type[FrozenModel], path: KeyPath = ()) -> Iterator[tuple[KeyPath, type[FrozenModel]]]:
    """Every table of fixed keys below `root` that is there exactly once, outermost first."""
    yield path, root
    for name, field in root.model_fields.items():
        annotation = _chosen(field.annotation, None)
        if is_table(annotation):
            yield from tables(annotation, (*path, name))


def sections(
    root: type[FrozenModel], key: str = "", around: frozenset[type[FrozenModel]] = frozenset()
) -> Iterator[tuple[str, type[FrozenModel]]]:
    """Every table a file can have, by its header: `[env.game]`, `[[env.objects]]`, `[env.game.groups.NAME]`.

    A union of tables is there once for each of them, and not once more inside of them.
    """
    for name, field in root.model_fields.items():
        inner, annotation = f"{key}.{name}" if key else name, _plain(field.annotation)
        header = f"[{inner}]"
        if get_origin(annotation) is list:
            annotation, header = get_args(annotation)[0], f"[[{inner}]]"
        elif get_origin(annotation) is dict:
            inner += ".NAME"
            annotation, header = get_args(annotation)[1], f"[{inner}]"
        found = alternatives(annotation)
        for table in found if not around.intersection(found) else []:
            yield header, table
            yield from sections(table, inner, around.union(found))


def default_of(field: FieldInfo) -> Any:
    """A field's default as parsed TOML: an empty table for a table, None where there is no default."""
    if field.is_required():
        return None
    default = field.get_default(call_default_factory=True)
    if isinstance(default, FrozenModel):
        return _as_data(default)
    if isinstance(default, list):
        return [_as_data(entry) for entry in default]
    if isinstance(default, dict):
        return {name: _as_data(entry) for name, entry in default.items()}
    return default


def alternatives(annotation: Any) -> list[type[FrozenModel]]:
    """The models a union of tables consists of; the model itself where there is just one."""
    plain = _plain(annotation)
    if get_origin(plain) in (Union, types.UnionType):
        return [table for choice in get_args(plain) for table in alternatives(choice)]
    return [plain] if is_table(plain) else []


def without_tags(root: type[FrozenModel], location: KeyPath, data: Any) -> KeyPath:
    """A location in pydantic's error as a key path: without the names it adds behind a union of tables or a key."""
    annotation: Any = root
    path: KeyPath = ()
    parts = iter(location)
    for part in parts:
        if part == "[key]":
            break  # what is wrong is the key itself, not the value there
        path = (*path, part)
        annotation = _step(_chosen(annotation, data), part)
        data = child(data, part)
        if len(alternatives(annotation)) > 1:
            next(parts, None)
    return path


def _plain(annotation: Any) -> Any:
    """A type without its annotations and without `| None`."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        choices = [choice for choice in get_args(annotation) if choice is not type(None)]
        if len(choices) == 1:
            return _plain(choices[0])
    return annotation


def _chosen(annotation: Any, data: Any) -> Any:
    """The plain type; of several tables the one whose `type` the data names, else the first."""
    tables = alternatives(annotation)
    if len(tables) > 1:
        wanted = data.get("type") if isinstance(data, dict) else None
        named = [table for table in tables if wanted in get_args(table.model_fields["type"].annotation)]
        return (named or tables)[0]
    return _plain(annotation)


def _step(annotation: Any, part: str | int) -> Any:
    if is_table(annotation):
        field = annotation.model_fields.get(part) if isinstance(part, str) else None
        return field.annotation if field else None
    if get_origin(annotation) is list and isinstance(part, int):
        return get_args(annotation)[0]
    if get_origin(annotation) is dict and isinstance(part, str):
        return get_args(annotation)[1]
    return None


def child(data: Any, part: str | int) -> Any:
    """One step down into parsed TOML; None where there is nothing."""
    if isinstance(data, dict):
        return data.get(part)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return None


def _as_data(entry: Any) -> Any:
    return entry.model_dump(exclude_unset=True) if isinstance(entry, FrozenModel) else entry
