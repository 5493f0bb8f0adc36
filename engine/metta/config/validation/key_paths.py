"""Lookup of models, fields and defaults by key path: which table or type belongs to `env.objects[0].name`."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from metta.config.validation.frozen_model import FrozenModel, NamedTable
from metta.config.validation.overrides import Overrides

KeyPath = tuple[str | int, ...]
"""A path in parsed TOML: `("env", "objects", 0, "name")`."""


def annotation_at(root: type[FrozenModel], path: KeyPath, data: Any = None) -> Any:
    """The type annotation of the value at `path`; None if there is no such key.

    `data` is the parsed table at `root`; its `type` keys select among the models of a union, such as map builders.
    """
    annotation: Any = root
    for part in path:
        holder = _selected(annotation, data)
        annotation, data = _step(holder, part), child(data, part, holder)
        if annotation is None:
            return None
    return _selected(annotation, data)


def is_override(root: type[FrozenModel], path: KeyPath, data: Any = None) -> bool:
    """Whether the key at `path` is one of `Overrides`, which has the value of another table if it is not set."""
    holder = table_at(root, path[:-2], data)
    field = holder.model_fields.get(str(path[-2])) if holder and len(path) > 1 else None
    return field is not None and get_origin(field.annotation) is Overrides


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


def takes_table(annotation: Any) -> bool:
    """Whether values of this type can be tables, which includes lists of entries that can be tables by name."""
    return bool(alternatives(annotation) or named_entry(annotation)) or get_origin(_plain(annotation)) is dict


def takes_none(annotation: Any) -> bool:
    """Whether a key of this type can be unset."""
    return get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation)


def takes_number(annotation: Any, kind: type) -> bool:
    """Whether values of this type can be numbers of `kind`, int or float."""
    plain = _plain(annotation)
    if get_origin(plain) in (Union, types.UnionType):
        return any(takes_number(choice, kind) for choice in get_args(plain))
    return plain is kind


def tables(
    root: type[FrozenModel], data: Any = None, path: KeyPath = ()
) -> Iterator[tuple[KeyPath, type[FrozenModel]]]:
    """Every table with fixed keys that exists exactly once, with its path, parents before children.

    `data` is the parsed table at `root`, see `annotation_at`.
    """
    yield path, root
    for name, field in root.model_fields.items():
        annotation = _selected(field.annotation, child(data, name))
        if is_table(annotation):
            yield from tables(annotation, child(data, name), (*path, name))


def sections(
    root: type[FrozenModel], key: str = "", around: frozenset[type[FrozenModel]] = frozenset()
) -> Iterator[tuple[str, type[FrozenModel]]]:
    """Every table that a file can have, with its header: `[env.game]`, `[[env.objects]]`, `[env.game.groups.NAME]`.

    A union of tables is listed once for each of its models, but not again inside of them, nor inside of the tables
    beside it. `Overrides` of a table are not listed.
    """
    beside = around.union(*(alternatives(field.annotation) for field in root.model_fields.values()))
    for name, field in root.model_fields.items():
        if get_origin(field.annotation) is Overrides:
            continue
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
            yield from sections(table, inner, beside.union(found))


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
        holder = _selected(annotation, data)
        annotation, data = _step(holder, part), child(data, part, holder)
        if len(alternatives(annotation)) > 1:
            next(parts, None)
    return path


def named_path(root: type[FrozenModel], path: KeyPath, data: Any) -> KeyPath:
    """The path as written in `data`, where an entry of a list may be a table by name: `env.objects.altar`."""
    annotation: Any = root
    written: KeyPath = ()
    for part in path:
        holder = _selected(annotation, data)
        entry = named_entry(holder)
        if entry and isinstance(part, int) and isinstance(data, dict):
            part = entry.names(data)[part]
        written = (*written, part)
        annotation, data = _step(holder, part), child(data, part, holder)
    return written


def named_entry(annotation: Any) -> type[NamedTable] | None:
    """The model of a list's entries, if they can also be tables by name."""
    plain = _plain(annotation)
    entry = get_args(plain)[0] if get_origin(plain) is list else None
    return entry if isinstance(entry, type) and issubclass(entry, NamedTable) else None


def index_of_name(entries: list[Any], name: str, entry: type[NamedTable]) -> int | None:
    """The index of the entry of that name in a list of tables; None if there is none."""
    names = [table.get(entry.NAME_KEY) if isinstance(table, dict) else None for table in entries]
    return names.index(name) if name in names else None


def _plain(annotation: Any) -> Any:
    """A type without `Annotated` and without `| None`; the model of the table that `Overrides` change."""
    while get_origin(annotation) in (Annotated, Overrides):
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
    if get_origin(annotation) is list and (isinstance(part, int) or named_entry(annotation)):
        return get_args(annotation)[0]
    if get_origin(annotation) is dict and isinstance(part, str):
        return get_args(annotation)[1]
    return None


def child(data: Any, part: str | int, annotation: Any = None) -> Any:
    """The value of a key or the entry of a list in parsed TOML; None if it does not exist.

    With the `annotation` of the data, an entry of a list can be given by its name, and of tables by name by its index.
    """
    entry = named_entry(annotation)
    if entry and isinstance(data, dict) and isinstance(part, int):
        data = entry.listed(data)
    if entry and isinstance(data, list) and isinstance(part, str):
        index = index_of_name(data, part, entry)
        return None if index is None else data[index]
    if isinstance(data, dict):
        return data.get(part)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return None


def value_at(data: Any, path: KeyPath) -> Any:
    """The value at a path in parsed TOML; None if it does not exist."""
    for part in path:
        data = child(data, part)
    return data


def _as_data(entry: Any) -> Any:
    return entry.model_dump(exclude_unset=True) if isinstance(entry, FrozenModel) else entry
