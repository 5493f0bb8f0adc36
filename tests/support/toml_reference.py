"""The README's reference of the TOML file, written from the models: `python tests/support/toml_reference.py` renews it.

It stands between the two markers; `tests/config/test_readme_reference.py` fails when it is not up to date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metta.config.agent import BACKBONES, OBSERVATION_PROCESSORS
from metta.config.env.game import AgentSettings
from metta.config.env.map_generators import MAP_BUILDERS
from metta.config.loading.json_schema import config_schema
from metta.config.run import RunConfig
from metta.config.training import LOGGERS
from metta.config.validation.frozen_model import FrozenModel
from metta.config.validation.key_paths import choices, default_of, sections

README = Path(__file__).parents[2] / "README.md"
BEGIN = "<!-- reference:begin -->"
END = "<!-- reference:end -->"

WORDS = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "string"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
NONSENSE = 10**6
LONGEST_DEFAULT = 60
REGISTRIES = (BACKBONES, LOGGERS, MAP_BUILDERS, OBSERVATION_PROCESSORS)


def reference() -> str:
    """Markdown: one heading and one table of keys for each table of the file."""
    schemas = config_schema()["$defs"]
    parts = []
    first_header: dict[str, str] = {}
    for header, model in sections(RunConfig):
        title = f"### `{header}`{_when(model)}"
        if model is AgentSettings:
            keys = list(AgentSettings.model_fields)
            parts.append(
                f"{title}\n\nAny of `{keys[0]}` to `{keys[-1]}` of `[env.game]`, for the agents of this group."
            )
        elif first_header.get(model.__name__) == header:
            continue  # of another type of the table around it
        elif model.__name__ in first_header:
            parts.append(f"{title}\n\nThe keys of `{first_header[model.__name__]}`{_when(model)}.")
        else:
            first_header[model.__name__] = header
            rows = "\n".join(_rows(model, schemas[model.__name__]))
            table = f"| key | value | default | meaning |\n|---|---|---|---|\n{rows}"
            parts.append(f"{title}\n\n{schemas[model.__name__]['description']}\n\n{table}")
    return "\n\n".join(parts) + "\n"


def renewed(text: str) -> str:
    """The README's text with the reference between its markers up to date."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md needs the lines\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def _when(model: type[FrozenModel]) -> str:
    """The map builders share a header and differ by their type."""
    kinds = choices(model, "type") if "type" in model.model_fields else ()
    return f' with `type = "{kinds[0]}"`' if len(kinds) == 1 else ""


def _rows(model: type[FrozenModel], schema: dict[str, Any]) -> Iterator[str]:
    for key, field in model.model_fields.items():
        entry = schema["properties"][key]
        default = default_of(field)
        if field.is_required():
            shown = "required"
        elif default is None:
            shown = "unset"
        elif _is_table(entry):
            shown = "its own defaults"
        elif len(_toml(default)) > LONGEST_DEFAULT:
            shown = "see preset `default`"
        else:
            shown = f"`{_toml(default)}`"
        cells = [f"`{key}`", _type(entry), shown, str(field.description)]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _is_table(entry: dict[str, Any]) -> bool:
    """Whether it is a table of fixed keys, perhaps one of several."""
    return "$ref" in entry or all("$ref" in choice for choice in entry.get("oneOf", [{}]))


def _without_parts_of_ones_own(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry with the choices that metta itself has, whatever packages are installed here."""
    own = {name for registry in REGISTRIES for name in registry.names() if registry.is_own(name)}
    choices = [choice for choice in entry.get("enum", []) if choice not in own]
    return {key: value for key, value in entry.items() if key != "enum"} | ({"enum": choices} if choices else {})


def _type(entry: dict[str, Any]) -> str:
    entry = _without_parts_of_ones_own(entry)
    if "enum" in entry:
        return "one of " + ", ".join(f"`{json.dumps(choice)}`" for choice in entry["enum"])
    if "const" in entry:
        return f"`{json.dumps(entry['const'])}`"
    if _is_table(entry):
        return "table"
    if "oneOf" in entry:
        return f"{_type(entry['oneOf'][0])}, or a range"
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(_type(choice) for choice in entry["anyOf"]))
    if entry["type"] == "array":
        return f"list, each {_type(entry['items'])}"
    if entry["type"] == "object":
        inner = entry.get("additionalProperties") or next(iter(entry["patternProperties"].values()))
        return f"table, each {_type(inner)}"
    return WORDS[entry["type"]] + _range(entry)


def _range(entry: dict[str, Any]) -> str:
    """The bounds that mean something; the far ones are only there to keep nonsense out."""
    bounds = {key: value for key, value in entry.items() if key in BOUNDS and abs(value) < NONSENSE}
    if {"minimum", "maximum"} <= set(bounds):
        return f", {bounds['minimum']:g} to {bounds['maximum']:g}"
    return "".join(f", {words} {bounds[key]:g}" for key, words in BOUNDS.items() if key in bounds)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(entry)}" for key, entry in value.items()) + " }" if value else "{}"
    return json.dumps(value)


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
