"""Hypothesis strategies for TOML files, from the JSON Schema: mostly valid, with some invalid values and keys."""

from __future__ import annotations

from typing import Any

import tomli_w
from hypothesis import strategies as st

from metta.config.loading.json_schema import config_schema

SCHEMA = config_schema()
NAMES = ["agent", "red", "blue", "wall", "block", "altar", "mine_red", "generator_red", "ore_red", "heart", "armor"]
NAMES += ["move", "attack", "agent.red", "#", "@", ".", "map_builder.objects.altar", "game.max_steps", ""]
SCENES = ["simple", "quickstart", "nowhere", "fuzz.toml"]
MAPS = ["", "@", "#####\n#@.a#\n#####", "@.\n.", "@ \r\n @", "....", "@\u00e9"]
WRONG: list[Any] = [0, -1, 1.5, float("nan"), float("-inf"), 2**63, True, "3", "true", [], [1, "x"], {}, {"type": "x"}]

names = st.sampled_from(NAMES)


def value(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """A value of a schema; one in ten has a wrong type."""
    return st.integers(0, 9).flatmap(lambda dice: st.sampled_from(WRONG) if dice == 9 else valid(schema))


def valid(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """A valid value, one at a bound, or the next one beyond it."""
    if "$ref" in schema:
        return valid(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    choices = schema.get("oneOf") or schema.get("anyOf")
    if choices:
        return st.sampled_from(choices).flatmap(valid)
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    match schema["type"]:
        case "object" if "properties" in schema:
            return st.deferred(lambda: table(schema))
        case "object":
            entries = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
            return st.dictionaries(names, value(entries[0]), max_size=3)
        case "array":
            sized = [schema.get("minItems", 0), max(schema.get("minItems", 0), 3)]
            return st.lists(value(schema["items"]), min_size=sized[0], max_size=sized[1])
        case "boolean":
            return st.booleans()
        case "string":
            usual = st.just(schema.get("default", "x"))
            return usual | names | st.sampled_from(MAPS) | st.sampled_from(SCENES)
        case kind:
            return number(schema, kind == "integer")


def number(schema: dict[str, Any], is_integer: bool) -> st.SearchStrategy[Any]:
    least = schema.get("minimum", schema.get("exclusiveMinimum", -(2**63)))
    most = schema.get("maximum", schema.get("exclusiveMaximum", 2**63 - 1))
    bounds = [least - 1, least, most, most + 1]
    usual = [entry for entry in (0, 1, 2, 3, 4, 5, 8, 16, 64, 100, 1000, 4096) if least <= entry <= most] or [least]
    entries = st.sampled_from(usual) | st.sampled_from([schema.get("default", usual[0])]) | st.sampled_from(bounds)
    return entries if is_integer else entries | st.floats(0, 1) | st.floats(float(least), float(most))


@st.composite
def table(draw: st.DrawFn, schema: dict[str, Any], most: int = 4) -> dict[str, Any]:
    """A table with most required keys, some others, and sometimes a misspelled key."""
    keys = [key for key in schema.get("required", []) if draw(st.integers(0, 9)) < 9]
    if "const" in schema["properties"].get("type", {}) and draw(st.integers(0, 9)) < 9:
        keys.append("type")
    keys += draw(st.lists(st.sampled_from(sorted(schema["properties"])), max_size=most))
    found = {key: draw(value(schema["properties"][key])) for key in dict.fromkeys(keys)}
    if found and draw(st.integers(0, 15)) == 15:
        key = draw(st.sampled_from(sorted(found)))
        found[draw(st.sampled_from([key[1:], f"{key}s", key.upper(), f" {key}", f"{key}\n"]))] = found.pop(key)
    return found


def dotted(data: dict[str, Any], prefix: str = "") -> list[str]:
    """The tables as dotted keys without headers: `run.seed = 1`."""
    lines = []
    for key, entry in data.items():
        name = prefix + tomli_w.dumps({key: 0}).rpartition(" = ")[0]
        if isinstance(entry, dict) and entry:
            lines += dotted(entry, f"{name}.")
        else:
            inline = tomli_w.dumps({"x": [entry]}).partition("=")[2].strip()
            lines.append(f"{name} = {inline[1:-1].strip().rstrip(',')}")
    return lines


@st.composite
def files(draw: st.DrawFn) -> str:
    """A file with some tables, in one of several styles: headers, dotted keys, Windows line ends, comments."""
    data: dict[str, Any] = draw(table(SCHEMA, 3))
    style = draw(st.sampled_from(["headers", "lines", "dotted", "windows", "comments"]))
    text = "\n".join(dotted(data)) if style == "dotted" else tomli_w.dumps(data, multiline_strings=style == "lines")
    if style == "windows":
        text = "\ufeff" + text.replace("\n", "\r\n")
    elif style == "comments":
        text = "# a run\n\n" + "\n".join(f"{line} # = [ ' \"" if line else "# '''" for line in text.split("\n"))
    return text
