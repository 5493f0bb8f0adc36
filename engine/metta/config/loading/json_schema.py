"""JSON Schema of the TOML file, for completion and validation in editors."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from metta.config.run import RunConfig
from metta.config.validation.frozen_model import FrozenModel, NamedTable
from metta.config.validation.key_paths import default_of, named_entry, sections
from metta.config.validation.overrides import Overrides


def config_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the TOML file: every key with its type, default and description."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **table_schemas(RunConfig),
        "title": "metta",
        "description": "A training run of metta. Keys that are omitted keep their defaults.",
    }


def table_schemas(root: type[FrozenModel]) -> dict[str, Any]:
    """JSON Schema of a model whose fields are tables; `$defs` has that of each table, by the name of its model."""
    schema = root.model_json_schema(mode="validation")
    models = {model.__name__: model for _, model in sections(root)}
    for name, table in schema["$defs"].items():
        for key, entry in table["properties"].items():
            _remove_null(entry)
            default = default_of(models[name].model_fields[key])
            if default is not None:
                entry["default"] = default
    for name, model in models.items():
        for key, field in model.model_fields.items():
            if get_origin(field.annotation) is Overrides:
                (table,) = get_args(field.annotation)
                entry = schema["$defs"][name]["properties"][key]
                entry["$ref"] = f"#/$defs/{table.__name__}"
                del entry["type"]
            if named := named_entry(field.annotation):
                _accept_names(schema["$defs"], schema["$defs"][name]["properties"][key], named)
    return schema


def _accept_names(definitions: dict[str, Any], entry: dict[str, Any], model: type[NamedTable]) -> None:
    """Let a list of tables also be tables by name, which have no name inside and need no other key."""
    table, name = definitions[model.__name__], f"{model.__name__}ByName"
    properties = {key: value for key, value in table["properties"].items() if key != model.NAME_KEY}
    definitions[name] = dict(table, properties=properties)
    del definitions[name]["required"]
    length: dict[str, Any] = {key: entry.pop(key) for key in ("minItems", "maxItems") if key in entry}
    entries: dict[str, Any] = {"type": entry.pop("type"), "items": entry.pop("items"), **length}
    entry["anyOf"] = [entries, {"type": "object", "additionalProperties": {"$ref": f"#/$defs/{name}"}}]


def _remove_null(entry: dict[str, Any]) -> None:
    """Remove null from the types of a key: TOML has no null, and an optional key is simply omitted."""
    if "anyOf" in entry:
        choices = [choice for choice in entry.pop("anyOf") if choice != {"type": "null"}]
        assert len(choices) == 1
        entry.update(choices[0])
        del entry["default"]
