"""Error messages for invalid values and unknown keys: pydantic's errors as one `Problem` for each."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from metta.config.validation.frozen_model import FrozenModel
from metta.config.validation.key_paths import KeyPath, choices, table_at, tables, tables_at, without_tags
from metta.errors import Problem, RulesError, closest_name, did_you_mean

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


@dataclass(frozen=True)
class UnknownKey(Problem):
    """A key that its table does not have."""

    suggestion: str | None = None
    """the key that was probably meant"""


def problems_in(error: ValidationError, root: type[FrozenModel], data: Any) -> list[Problem]:
    """Every problem found while validating `data` as `root`; paths are those of the data."""
    found = error.errors(include_url=False)[:MAX_PROBLEMS]
    return [problem for details in found for problem in _problems(details, root, data)]


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


def _unknown_key(root: type[FrozenModel], path: KeyPath, data: Any) -> UnknownKey:
    """The problem with an unknown key: it is misspelled, or belongs to another table or another `type` of table."""
    name = str(path[-1])
    table = table_at(root, path[:-1], data)
    known = list(table.model_fields) if table else []
    close = closest_name(name, known)
    owners = [other for other in tables_at(root, path[:-1], data) if name in other.model_fields]
    if owners:
        type_path = Problem((*path[:-1], "type"), "").key
        types = [f'{type_path} = "{choice}"' for owner in owners for choice in choices(owner, "type")]
        return UnknownKey(path, f"is used only with {' or '.join(types)}")
    elsewhere = [f'"{Problem((*place, name), "").key}"' for place, table in tables(root) if name in table.model_fields]
    if not close and elsewhere:
        return UnknownKey(path, f"unknown key; did you mean {' or '.join(elsewhere)}?")
    return UnknownKey(path, f"unknown key{did_you_mean(name, known)}", suggestion=close)


def _problems(details: ErrorDetails, root: type[FrozenModel], data: Any) -> Iterator[Problem]:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    path = without_tags(root, details["loc"], data)
    if isinstance(cause := context.get("error"), RulesError):
        yield from (Problem(path + problem.path, problem.message) for problem in cause.problems)
    elif kind == "extra_forbidden":
        yield _unknown_key(root, path, data)
    elif kind == "missing":
        table = table_at(root, path[:-1], data)
        meaning = table.model_fields[str(path[-1])].description if table else None
        yield Problem(path, f"is missing{f': {meaning}' if meaning else ''}")
    elif kind == "union_tag_invalid":
        expected = context["expected_tags"].replace("'", '"')
        yield Problem((*path, "type"), f"must be one of {expected}; got {shown(context['tag'])}")
    elif kind == "literal_error":
        allowed = context["expected"].replace("'", '"').replace(" or ", ", ")
        yield Problem(path, f"must be {'one of ' if ',' in allowed else ''}{allowed}; got {shown(value)}")
    elif kind == "string_pattern_mismatch":
        yield Problem(path, f"must be 1 to 64 letters, digits, '.', '_' or '-'; got {shown(value)}")
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
        yield Problem(path, f"must be a list; got a table: write [[{Problem(path, '').key}]]")
    elif kind == "model_type" and isinstance(value, list):
        yield Problem(path, f"must be a table; got a list: write [{Problem(path, '').key}]")
    else:
        hint = "; leave out the quotes" if _is_quoted(kind, value) else ""
        yield Problem(path, f"{TYPE_WORDS.get(kind, details['msg'])}; got {shown(value)}{hint}")


def _is_quoted(kind: str, value: Any) -> bool:
    """Whether a string was given whose content would be valid without quotes."""
    wanted = {"int_type": r"[+-]?\d+", "float_type": r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", "bool_type": "true|false"}
    return isinstance(value, str) and kind in wanted and bool(re.fullmatch(wanted[kind], value))


def _shortest(bound: float) -> float:
    """The bound as an integer where it is one: bounds of float fields are floats."""
    return int(bound) if bound == int(bound) else bound
