"""Reference of the TOML file as data: every table and key with its type, range, default and description."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, get_args, get_origin

from metta.config.agent import BACKBONES, MEMORIES, OBSERVATION_PROCESSORS
from metta.config.env.game import AgentSettings
from metta.config.env.map_generators import MAP_BUILDERS
from metta.config.loading.json_schema import table_schemas
from metta.config.loading.renamed_keys import current_path
from metta.config.parts.registries import PART_REGISTRIES
from metta.config.run import RunConfig
from metta.config.sweep import SweepTables
from metta.config.training import LOGGERS
from metta.config.validation.frozen_model import FrozenModel
from metta.config.validation.key_paths import (
    KeyPath,
    annotation_at,
    choices,
    default_of,
    is_override,
    is_table,
    named_entry,
    sections,
)
from metta.config.validation.unknown_keys import NOTES, OTHER_NAMES
from metta.errors import UsageError, did_you_mean
from metta.extensions import Registry

REQUIRED: Final = "required"
UNSET: Final = "unset"
OWN_DEFAULTS: Final = "its own defaults"
LONG_DEFAULT: Final = "see preset default"
DEFAULT_WORDS: Final = (REQUIRED, UNSET, OWN_DEFAULTS, LONG_DEFAULT)
"""What `KeyReference.default` can be besides a TOML value."""

_LONGEST_DEFAULT = 60
_LARGEST_BOUND = 10**6
"""Bounds of at least this magnitude are not shown, since they only exclude unreasonable values."""
_REGISTRIES: Final[tuple[Registry[Any], ...]] = (
    *(BACKBONES, LOGGERS, MAP_BUILDERS, MEMORIES, OBSERVATION_PROCESSORS),
    *PART_REGISTRIES,
)
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


@dataclass(frozen=True)
class KeyReference:
    """One key of a table."""

    key: str
    type: str
    """such as `integer`, `one of "adam", "muon"`, `list of strings`"""
    range: str
    """such as `0 to 1`; empty where every value of the type is allowed"""
    default: str
    """a TOML value, or one of DEFAULT_WORDS"""
    description: str


@dataclass(frozen=True)
class TableReference:
    """One table of the file, with all of its keys, or only the requested one."""

    header: str
    """as in the file: `[env.game]`, `[[env.objects]]`, `[env.game.groups.NAME]`"""
    type: str
    """value of the key `type` that selects this table among those with the same header; empty if it is the only one"""
    description: str
    keys: tuple[KeyReference, ...]

    @property
    def name(self) -> str:
        """The header without brackets: `env.game`."""
        return self.header.strip("[]")


def config_reference(name: str | None = None, *, built_in_only: bool = False) -> list[TableReference]:
    """The tables of the TOML file, in the order of the file.

    `name` selects one table (`ppo`, `env.game`), one type of a table (`env.map_builder.Maze`) or one key (`ppo.gamma`).
    With `built_in_only`, choices are listed without those that installed packages and this program registered.
    Raises UsageError for an unknown name, with the closest ones.
    """
    tables = list(_tables(built_in_only))
    if name is None:
        return tables
    wanted = ".".join(map(str, _without_names(current_path(tuple(name.strip("[] ").split("."))))))
    found = [table for table in tables if wanted in (table.name, f"{table.name}.{table.type}")]
    found = found or [
        replace(table, keys=(key,)) for table in tables for key in table.keys if f"{table.name}.{key.key}" == wanted
    ]
    if not found:
        keys = [f"{table.name}.{key.key}" for table in tables for key in table.keys]
        namesakes = [key for key in dict.fromkeys(keys) if key.rpartition(".")[2] == name]
        known = [*(table.name for table in tables), *(f"{table.name}.{table.type}" for table in tables), *keys]
        other = OTHER_NAMES.get(name.rpartition(".")[2], "")
        quoted = " or ".join(f'"{key}"' for key in namesakes or [other] if key in known)
        note = NOTES.get(name.rpartition(".")[2])
        hint = f"; did you mean {quoted}?" if quoted else f"; {note}" if note else did_you_mean(name, known)
        raise UsageError(f'there is no table or key "{name}" in the TOML file{hint}')
    return found


def _without_names(path: KeyPath) -> KeyPath:
    """The path with `NAME` for names of tables, and without those of a list's entries or of tables that change another.

    `env.objects.cooldown` for `env.objects.altar.cooldown`, `policies.NAME.share` for `policies.hunters.share`, and
    `ppo.gamma` for `policies.hunters.ppo.gamma`.
    """
    kept: KeyPath = ()
    for part in path:
        annotation = annotation_at(RunConfig, kept)
        entry = named_entry(annotation)
        if get_origin(annotation) is dict and is_table(get_args(annotation)[1]):
            kept = (*kept, "NAME")
        elif is_override(RunConfig, (*kept, part)):
            kept = (kept[-1], part)
        elif entry is None or part in entry.model_fields:
            kept = (*kept, part)
    return kept


def _tables(built_in_only: bool) -> Iterator[TableReference]:
    custom = {name for registry in _REGISTRIES for name in registry.names() if registry.is_custom(name)}
    excluded = custom if built_in_only else set()
    seen: set[tuple[str, type[FrozenModel]]] = set()
    schemas = table_schemas(RunConfig)["$defs"] | table_schemas(SweepTables)["$defs"]
    for header, model in [*sections(RunConfig), *sections(SweepTables)]:
        if (header, model) in seen:  # listed already under another type of the enclosing table
            continue
        seen.add((header, model))
        schema = schemas[model.__name__]
        if model is AgentSettings:
            first, *_, last = AgentSettings.model_fields
            text = f"Any of the keys `{first}` to `{last}` of `[env.game]`, for the agents of this group."
            yield TableReference(header, "", text, ())
            continue
        types = choices(model, "type") if "type" in model.model_fields else ()
        keys = tuple(
            KeyReference(
                key,
                _type(entry := _without(schema["properties"][key], excluded)),
                _range(entry),
                _default(model, key),
                str(field.description),
            )
            for key, field in model.model_fields.items()
        )
        yield TableReference(header, types[0] if len(types) == 1 else "", schema["description"], keys)


def _without(entry: dict[str, Any], excluded: set[str]) -> dict[str, Any]:
    """A key's schema without the excluded choices, in lists too."""
    if "items" in entry:
        return entry | {"items": _without(entry["items"], excluded)}
    allowed = [choice for choice in entry.get("enum", []) if choice not in excluded]
    return {key: value for key, value in entry.items() if key != "enum"} | ({"enum": allowed} if allowed else {})


def _type(entry: dict[str, Any]) -> str:
    if "enum" in entry:
        return "one of " + ", ".join(map(json.dumps, entry["enum"]))
    if "const" in entry:
        return json.dumps(entry["const"])
    if _is_table(entry):
        return "table"
    if "oneOf" in entry:
        first, second = entry["oneOf"]
        return f"{_type(first)} or {'range' if 'properties' in second else _type(second)}"
    if "anyOf" in entry:
        types = list(dict.fromkeys(_type(choice) for choice in entry["anyOf"]))
        return " or ".join(name for name in types if name != "integer" or "number" not in types)
    if entry.get("items") == {}:
        return "list"
    if isinstance(entry["type"], list):
        return "value"
    if entry["type"] in ("array", "object"):
        holder, inner = "list" if entry["type"] == "array" else "table", _type(_inner(entry))
        plural = re.sub(r"\b(integer|number|boolean|string|list|table|range|value)\b", r"\1s", inner)
        return f"{holder}, each {inner}" if inner.startswith("one of") else f"{holder} of {plural}"
    return str(entry["type"])


def _range(entry: dict[str, Any]) -> str:
    """The bounds of a number, or of the numbers in a list, a table or a range."""
    if "oneOf" in entry and not _is_table(entry):
        return _range(entry["oneOf"][0])
    if entry.get("items") == {}:
        return ""
    if entry.get("type") == "array" or (entry.get("type") == "object" and not _is_table(entry)):
        return _range(_inner(entry))
    bounds = {key: value for key, value in entry.items() if key in _BOUNDS and abs(value) < _LARGEST_BOUND}
    if {"minimum", "maximum"} <= set(bounds):
        return f"{bounds['minimum']:g} to {bounds['maximum']:g}"
    return ", ".join(f"{words} {bounds[key]:g}" for key, words in _BOUNDS.items() if key in bounds)


def _inner(entry: dict[str, Any]) -> dict[str, Any]:
    """The schema of a list's entries, or of the values of a table with free keys."""
    inner = entry.get("items") or entry.get("additionalProperties") or next(iter(entry["patternProperties"].values()))
    assert isinstance(inner, dict)
    return inner


def _is_table(entry: dict[str, Any]) -> bool:
    """Whether it is a table of fixed keys, or one of several such tables."""
    return "$ref" in entry or all("$ref" in choice for choice in entry.get("oneOf", [{}]))


def _default(model: type[FrozenModel], key: str) -> str:
    field = model.model_fields[key]
    default = default_of(field)
    if field.is_required():
        return REQUIRED
    if default is None:
        return UNSET
    if isinstance(field.get_default(call_default_factory=True), FrozenModel):
        return OWN_DEFAULTS
    text = _toml(default)
    return LONG_DEFAULT if len(text) > _LONGEST_DEFAULT else text


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(entry)}" for key, entry in value.items()) + " }" if value else "{}"
    return json.dumps(value)
