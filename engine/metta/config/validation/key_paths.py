"""Lookup of models, fields and defaults by key path: which table or type belongs to `env.objects[0].name`."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from metta.config.validation.frozen_model import FrozenModel

KeyPath = tuple[str | int, ...]
"""A path in parsed TOML: `("env", "objects", 0, "name")`."""


def annotation_at(root: type[FrozenModel], path: KeyPath, data: Any = None) -> Any:
    """The type annotation of the value at `path`; None if there is no such key.

    `data` is the parsed table at `root`; its `type` keys select among the models of a union, such as map builders.
    """
    annotation: Any = root
    for part in path:
        annotation = _step(_selected(annotation, data), part)
        data = child(data, part)
        if annotation is None:
            return None
    return _selected(annotation, data)


def table_at(root: type[FrozenModel], path: KeyPath, data: Any = None) -> type[FrozenModel] | None:
    """The model of the table at `path`; None if there is no table with fixed keys."""
    annotation = annotation_at(root, path, data)
    return annotation if is_table(annotation) else None


def tables_at(root: type[FrozenModel], path: KeyPath, data: Any = None) -> list[type[FrozenModel]]:
    """The models of the table at `path`, one for each value of its `type`."""
    if not path:
        return [root]
    return alternatives(_step(annotation_at(root, path[:-1], data), path[-1]))


def is_table(annotation: Any) -> bool:
    """Whether a type annotation is a model."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def choices(table: type[FrozenModel], field: str) -> tuple[Any, ...]:
    """The values of a `Literal` field."""
    return get_args(table.model_fields[field].annotation)


def is_text(annotation: Any) -> bool:
    """Whether values of this type are strings in TOML."""
    if get_origin(annotation) is Literal:
        return all(isinstance(choice, str) for choice in get_args(annotation))
    return annotation is str


def takes_number(annotation: Any, kind: type) -> bool:
    """Whether values of this type can be numbers of `kind`, int or float."""
    plain = _plain(annotation)
    if get_origin(plain) in (Union, types.UnionType):
        return any(takes_number(choice, kind) for choice in get_args(plain))
    return plain is kind


def tables(root: type[FrozenModel], path: KeyPath = ()) -> Iterator[tuple[KeyPath, type[FrozenModel]]]:
    """Every table with fixed keys that exists exactly once, with its path, parents before children."""
    yield path, root
    for name, field in root.model_fields.items():
        annotation = _selected(field.annotation, None)
        if is_table(annotation):
            yield from tables(annotation, (*path, name))


def sections(
    root: type[FrozenModel], key: str = "", around: frozenset[type[FrozenModel]] = frozenset()
) -> Iterator[tuple[str, type[FrozenModel]]]:
    """Every table that a file can have, with its header: `[env.game]`, `[[env.objects]]`, `[env.game.groups.NAME]`.

    A union of tables is listed once for each of its models, but not again inside of them.
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
    """A field's default as parsed TOML: an empty table for a table, None for a field without a default."""
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
    """The models of a union of tables; the model itself if it is just one."""
    plain = _plain(annotation)
    if get_origin(plain) in (Union, types.UnionType):
        return [table for choice in get_args(plain) for table in alternatives(choice)]
    return [plain] if is_table(plain) else []


def without_tags(root: type[FrozenModel], location: KeyPath, data: Any) -> KeyPath:
    """The location of a pydantic error as a key path, without the tags that pydantic adds after unions and keys."""
    annotation: Any = root
    path: KeyPath = ()
    parts = iter(location)
    for part in parts:
        if part == "[key]":
            break  # the key is invalid, not its value
        path = (*path, part)
        annotation = _step(_selected(annotation, data), part)
        data = child(data, part)
        if len(alternatives(annotation)) > 1:
            next(parts, None)
    return path


def _plain(annotation: Any) -> Any:
    """A type without `Annotated` and without `| None`."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        choices = [choice for choice in get_args(annotation) if choice is not type(None)]
        if len(choices) == 1:
            return _plain(choices[0])
    return annotation


def _selected(annotation: Any, data: Any) -> Any:
    """The plain type; of a union of tables, the one that the data's `type` selects, else the first."""
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
    """The value of a key or the entry of a list in parsed TOML; None if it does not exist."""
    if isinstance(data, dict):
        return data.get(part)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return None


def _as_data(entry: Any) -> Any:
    return entry.model_dump(exclude_unset=True) if isinstance(entry, FrozenModel) else entry
