"""The JSON Schema accepts and refuses the same files as the models."""

import json
import tomllib
from typing import Any

import pytest
from bad_configs import bad_configs

from metta.config.loading.json_schema import config_schema
from metta.config.loading.presets import presets
from metta.config.run import RunConfig
from metta.config.validation.key_paths import default_of, sections

SCHEMA = config_schema()
MODELS = {model.__name__: model for _, model in sections(RunConfig)}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "any": (object,),
}
BAD = {case.name: case.toml for case in bad_configs()}


def mistakes(value: Any, schema: dict[str, Any]) -> list[str]:
    """What in `value` the schema forbids: as much of JSON Schema as ours uses, and no keyword unknown to it."""
    if "$ref" in schema:
        return mistakes(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    if "oneOf" in schema:
        fitting = [choice for choice in schema["oneOf"] if not mistakes(value, choice)]
        return [] if len(fitting) == 1 else [f"fits {len(fitting)} of {len(schema['oneOf'])} tables"]
    if "anyOf" in schema:
        return [] if any(not mistakes(value, choice) for choice in schema["anyOf"]) else ["fits no choice"]
    names = schema.get("type", "any")
    types = tuple(type_ for name in ([names] if isinstance(names, str) else names) for type_ in TYPES[name])
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types and object not in types):
        return [f"is no {schema['type']}"]
    found = []
    for keyword, limit in schema.items():
        match keyword:
            case "title" | "description" | "default" | "$schema" | "$defs" | "type":
                pass
            case "enum":
                found += [] if value in limit else ["is none of the choices"]
            case "const":
                found += [] if value == limit else ["is not the constant"]
            case "minimum":
                found += [] if value >= limit else ["too small"]
            case "exclusiveMinimum":
                found += [] if value > limit else ["too small"]
            case "maximum":
                found += [] if value <= limit else ["too large"]
            case "exclusiveMaximum":
                found += [] if value < limit else ["too large"]
            case "minItems" | "minLength" | "minProperties":
                found += [] if len(value) >= limit else ["too short"]
            case "maxItems" | "maxProperties":
                found += [] if len(value) <= limit else ["too long"]
            case "items":
                found += [mistake for entry in value for mistake in mistakes(entry, limit)]
            case "required":
                found += [f"{key} is missing" for key in limit if key not in value]
            case "properties":
                found += [m for key, entry in value.items() if key in limit for m in mistakes(entry, limit[key])]
            case "additionalProperties":
                others = [entry for key, entry in value.items() if key not in schema.get("properties", {})]
                if limit is False:
                    found += ["has an unknown key" for _ in others]
                else:
                    found += [mistake for entry in others for mistake in mistakes(entry, limit)]
            case "examples" | "pattern" | "patternProperties" | "propertyNames":
                pass  # names are judged in the tests of bad files
            case _:
                raise AssertionError(f"the schema uses {keyword}")
    return found


def test_it_is_json_with_a_title_and_a_dialect() -> None:
    again = json.loads(json.dumps(SCHEMA))
    assert again == SCHEMA
    assert again["$schema"].endswith("2020-12/schema")
    assert set(again["properties"]) == set(RunConfig.model_fields)


@pytest.mark.parametrize("name", SCHEMA["$defs"])
def test_every_table_is_closed_and_every_key_explained(name: str) -> None:
    table = SCHEMA["$defs"][name]
    assert table["additionalProperties"] is False
    assert table["description"]
    model = MODELS[name.removesuffix("ByName")]
    is_by_name = name.endswith("ByName")
    assert set(table["properties"]) == set(model.model_fields) - ({model.NAME_KEY} if is_by_name else set())
    for key, entry in table["properties"].items():
        assert entry["description"], key
        assert "null" not in json.dumps(entry), key
        default = default_of(model.model_fields[key])
        assert entry.get("default") == default, key
        if default is not None:
            assert mistakes(default, entry) == [], key


@pytest.mark.parametrize("name", SCHEMA["$defs"])
def test_every_integer_has_a_bound(name: str) -> None:
    """No array is ever as long as TOML's integers reach."""
    for key, entry in SCHEMA["$defs"][name]["properties"].items():
        for part in (entry, entry.get("items", {}), entry.get("additionalProperties", {})):
            if part.get("type") == "integer":
                assert {"maximum", "exclusiveMaximum", "enum"} & set(part), key


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)
def test_presets_are_valid(preset: Any) -> None:
    assert mistakes(tomllib.loads(preset.text), SCHEMA) == []


REFUSED = [
    "unknown_table",
    "unknown_key",
    "unknown_key_at_the_top",
    "key_of_another_table",
    "key_of_another_map_builder",
    "string_for_an_integer",
    "boolean_for_an_integer",
    "string_for_a_number",
    "number_for_a_string",
    "number_for_a_boolean",
    "value_for_a_table",
    "value_for_a_list",
    "list_for_a_table",
    "table_for_a_value",
    "out_of_range",
    "beyond_64_bits",
    "unknown_choice",
    "even_window",
    "window_too_large",
    "unknown_map_builder",
    "negative_count",
    "too_much_of_an_item",
    "object_without_a_name",
    "unknown_object_type",
    "unknown_action",
    "no_actions",
    "no_groups",
    "brackets",
]


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_tables_are_refused(name: str) -> None:
    assert mistakes(tomllib.loads(BAD[name]), SCHEMA)
