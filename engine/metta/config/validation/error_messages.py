"""Error messages for invalid values and unknown keys: pydantic's errors as one `Problem` for each."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from metta.config.validation.frozen_model import NAME_RULE, FrozenModel
from metta.config.validation.key_paths import (
    KeyPath,
    annotation_at,
    named_entry,
    named_path,
    table_at,
    value_at,
    without_tags,
)
from metta.config.validation.unknown_keys import can_have, is_whole_float, unknown_key
from metta.errors import Problem, RulesError, similar_name

MAX_PROBLEMS = 1000
"""Maximum number of errors reported for a file, since searching for similar names takes time."""

TYPE_WORDS = {
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
}
BOUND_WORDS = {
    "greater_than_equal": ("ge", "must be at least"),
    "greater_than": ("gt", "must be more than"),
    "less_than_equal": ("le", "must be at most"),
    "less_than": ("lt", "must be less than"),
}


Model = TypeVar("Model", bound=FrozenModel)


def validate(root: type[Model], data: dict[str, Any]) -> Model:
    """The model of `data`, in which integers can be written as whole numbers such as 1e6; those become integers."""
    try:
        return root.model_validate(data)
    except ValidationError as error:
        floats = [details for details in error.errors(include_url=False) if is_whole_float(details)]
        if not floats:
            raise
    for details in floats:
        *place, last = named_path(root, without_tags(root, details["loc"], data), data)
        value_at(data, tuple(place))[last] = int(details["input"])
    return root.model_validate(data)


def problems_in(error: ValidationError, root: type[FrozenModel], data: Any) -> list[Problem]:
    """Every problem found while validating `data` as `root`; paths are those of the data."""
    found = error.errors(include_url=False)[:MAX_PROBLEMS]
    problems = [problem for details in found for problem in _problems(details, root, data)]
    return [replace(problem, path=named_path(root, problem.path, data)) for problem in problems]


def first_problem(error: ValidationError) -> str:
    """The first error as `key: message`."""
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def shown(value: Any) -> str:
    """A value as written in TOML, shortened for a message."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, int) and abs(value) >= 2**64:
        text = "a number of more than 64 bits"
    elif isinstance(value, str):
        text = json.dumps(value if len(value) <= 60 else value[:60] + "...", ensure_ascii=False)
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, list):
        text = f"a list of {len(value)}" if value else "an empty list"
    elif isinstance(value, datetime.date | datetime.time):
        text = f"the date or time {value.isoformat()}"
    else:
        text = str(value)
    return text


def _problems(details: ErrorDetails, root: type[FrozenModel], data: Any) -> Iterator[Problem]:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    path = without_tags(root, details["loc"], data)
    if isinstance(cause := context.get("error"), RulesError):
        yield from (replace(problem, path=path + problem.path) for problem in cause.problems)
    elif kind == "extra_forbidden":
        yield unknown_key(root, named_path(root, path, data), data)
    elif kind == "missing":
        yield Problem(path, f"is missing{_missing(root, named_path(root, path, data), data)}")
    elif kind == "union_tag_invalid":
        expected = context["expected_tags"].replace("'", '"')
        hint = similar_name(context["tag"], context["expected_tags"].replace("'", "").split(", "))
        yield Problem((*path, "type"), f"must be one of {expected}; got {shown(context['tag'])}{hint}")
    elif kind == "literal_error":
        allowed = context["expected"].replace("'", '"').replace(" or ", ", ")
        hint = similar_name(value, re.findall("'([^']*)'", context["expected"])) if isinstance(value, str) else ""
        yield Problem(path, f"must be {'one of ' if ',' in allowed else ''}{allowed}; got {shown(value)}{hint}")
    elif kind == "string_pattern_mismatch":
        yield Problem(path, f"must be {NAME_RULE}; got {shown(value)}")
    elif kind in BOUND_WORDS:
        name, words = BOUND_WORDS[kind]
        yield Problem(path, f"{words} {shown(_shortest(context[name]))}; got {shown(value)}")
    elif kind in ("too_short", "string_too_short"):
        yield Problem(path, "must not be empty")
    elif kind == "too_long":
        yield Problem(path, f"must have at most {context['max_length']:,} entries; got {len(value):,}")
    elif kind == "value_error":
        yield Problem(path, f"{cause}; got {shown(value)}")
    elif kind == "list_type" and isinstance(value, dict):
        is_of_tables = table_at(root, (*path, 0)) is not None
        hint = f": write [[{Problem(path, '').key}]]" if is_of_tables else ""
        yield Problem(path, f"must be a list; got a table{hint}")
    elif kind == "model_type" and get_origin(annotation_at(root, path[:-1], data)) is dict:
        table = table_at(root, path, data)
        is_key = table is not None and path[-1] in table.model_fields
        hint = f'; "{path[-1]}" is a key of [{Problem(path[:-1], "").key}.NAME]' if is_key else ""
        yield Problem(path, f"must be a table; got {shown(value)}{hint}")
    elif kind == "model_type" and isinstance(value, list):
        yield Problem(path, f"must be a table; got a list: write [{Problem(path, '').key}]")
    elif kind == "dict_type" and isinstance(value, list):
        hint = f": write [{Problem(path, '').key}.NAME]" if table_at(root, (*path, "NAME")) else ""
        yield Problem(path, f"must be a table; got {shown(value)}{hint}")
    else:
        table = table_at(root, path[:-1], data)
        hint = "; leave out the quotes" if table and _is_quoted(table, path[-1], value) else ""
        yield Problem(path, f"{TYPE_WORDS.get(kind, details['msg'])}; got {shown(value)}{hint}")


def _missing(root: type[FrozenModel], path: KeyPath, data: Any) -> str:
    """The end of the message about a missing key: its meaning, or which entry of a list an unknown name may mean."""
    table = table_at(root, path[:-1], data)
    description = table.model_fields[str(path[-1])].description if table else None
    meaning = f": {description}" if description else ""
    entry = named_entry(annotation_at(root, path[:-2], data)) if len(path) > 1 else None
    if entry is None or path[-1] != "type":
        return meaning
    name = path[-2] if isinstance(path[-2], str) else value_at(data, path[:-1]).get(entry.NAME_KEY)
    if not isinstance(name, str):
        return meaning
    if name in entry.known():
        return f'{meaning}; to change the "{name}" that exists, write [{Problem((*path[:-2], name), "").key}]'
    return f"{meaning}{similar_name(name, entry.known())}"


def _is_quoted(table: type[FrozenModel], key: str | int, value: Any) -> bool:
    """Whether a string was given for a key that could have its content without the quotes."""
    if not isinstance(value, str) or not isinstance(key, str):
        return False
    try:
        content = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return False
    return content.keys() == {"value"} and can_have(table, key, content["value"])


def _shortest(bound: float) -> float:
    """The bound as an integer where it is one: bounds of float fields are floats."""
    return int(bound) if bound == int(bound) else bound
