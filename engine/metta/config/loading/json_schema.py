"""The JSON Schema of the TOML file, for editors."""

from __future__ import annotations

from typing import Any

from metta.config.run import RunConfig
from metta.config.validation.key_paths import default_of, sections


def config_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a metta TOML file: every key with its type, default and meaning."""
    schema = RunConfig.model_json_schema(mode="validation")
    models = {model.__name__: model for _, model in sections(RunConfig)}
    for name, table in schema["$defs"].items():
        for key, entry in table["properties"].items():
            _leave_out_null(entry)
            default = default_of(models[name].model_fields[key])
            if default is not None:
                entry["default"] = default
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "metta",
        "description": "A training run of metta. Every key is optional; what is left out keeps its default.",
    }


def _leave_out_null(entry: dict[str, Any]) -> None:
    """TOML has no null: a key that may be unset is just left out."""
    if "anyOf" in entry:
        choices = [choice for choice in entry.pop("anyOf") if choice != {"type": "null"}]
        assert len(choices) == 1
        entry.update(choices[0])
        del entry["default"]
