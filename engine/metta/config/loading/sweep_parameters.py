"""Parameters of a sweep: keys and values of `[sweep.parameters]`, checked like those of a TOML file."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from metta.config.loading.overrides import put_value, read_path
from metta.config.loading.renamed_keys import current_path
from metta.config.run import RunConfig
from metta.config.validation.error_messages import problems_in, shown
from metta.config.validation.frozen_model import FrozenModel
from metta.config.validation.key_paths import KeyPath, annotation_at, is_table, table_at, takes_number, value_at
from metta.config.validation.unknown_keys import unknown_key
from metta.errors import Problem, UsageError

PARTS: Final = frozenset(("low", "high", "log", "step", "values"))
"""The keys of a parameter."""

MAX_COMBINATIONS: Final = 500
"""Combinations of values that are checked before a sweep starts; of more, as many random ones."""

EACH_RUN: Final = "cannot be swept: each run has its own"
NO_EFFECT: Final = "cannot be swept: it does not change what a run learns"
NOT_SWEPT: Final[dict[str, str]] = {
    "run.seed": "cannot be swept: a trial has one run for each of its seeds; set sweep.seeds to their number",
    "run.run_dir": EACH_RUN,
    "run.name": EACH_RUN,
    "checkpoint": NO_EFFECT,
    "simulation": NO_EFFECT,
    "logging": NO_EFFECT,
    "distributed": NO_EFFECT,
}
"""Keys and tables that cannot be swept, and why."""


@dataclass(frozen=True)
class SweptKey:
    """A setting that the sweep varies."""

    key: str
    """full TOML key, such as `optimizer.learning_rate`"""
    path: KeyPath
    is_integer: bool
    """whether numbers between low and high are integers"""
    values: tuple[Any, ...] | None = None
    """the values to choose from; None for numbers from low to high"""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def num_points(self) -> int | None:
        """Number of different values; None if there are infinitely many."""
        if self.values is not None:
            return len(self.values)
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    @property
    def points(self) -> tuple[Any, ...]:
        """All values, of which there are `num_points`."""
        if self.values is not None:
            return self.values
        assert self.step is not None
        assert self.num_points is not None
        return tuple(self.number(self.low + index * self.step) for index in range(self.num_points))

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that are checked: all of a list, and low and high."""
        return self.values if self.values is not None else (self.number(self.low), self.number(self.high))

    def number(self, value: float) -> float:
        """A number as the setting takes it."""
        return round(value) if self.is_integer else float(value)


Combination = Mapping[SweptKey, Any]
"""A value for each parameter."""


def check_parameters(
    given: Mapping[str, Any], written: Mapping[str, KeyPath], tables: dict[str, Any], sampler: Any
) -> tuple[list[SweptKey], list[Problem]]:
    """The parameters of a sweep and all problems with their keys and values, one by one.

    `given` is the table of parameters, `written` the path of each in the file, `tables` the config that they change.
    """
    found: list[SweptKey] = []
    problems: list[Problem] = []
    places: dict[KeyPath, str] = {}
    for key, table in given.items():
        place = written[key]
        try:
            path, rest = read_path(key)
        except ValueError:
            path, rest = (), key
        if not path or rest:
            problems.append(Problem(place, "is not a key such as ppo.gamma"))
            continue
        path = current_path(path)
        values = table.get("values") if isinstance(table, dict) else None
        example = values[0] if isinstance(values, list) and values else None if values else _first(table)
        if problem := _key_problem(path, place, example, tables):
            problems.append(problem)
            continue
        position = _position(path, example, tables)
        for other, name in places.items():
            if position[: len(other)] == other or other[: len(position)] == position:
                problems.append(Problem(place, f'sets the same as "{name}", which is swept too'))
        places[position] = key
        if not isinstance(table, dict) or not table.keys() <= PARTS:
            continue  # a problem of the table itself
        parameter, more = _parameter(path, place, table, tables, sampler)
        problems += more
        if parameter is not None and not more:
            found.append(parameter)
    return found, problems


def _first(table: Any) -> Any:
    return table.get("low") if isinstance(table, dict) else None


def _key_problem(path: KeyPath, place: KeyPath, example: Any, tables: dict[str, Any]) -> Problem | None:
    """The problem with a key that does not exist or cannot be swept."""
    key = Problem(path, "").key
    for prefix, reason in NOT_SWEPT.items():
        if key == prefix or key.startswith(f"{prefix}."):
            return Problem(place, reason)
    changed = deepcopy(tables)
    try:
        put_value(changed, path, example)
    except UsageError as error:
        return Problem(place, f"cannot be set in this config: {error}")
    for depth in range(1, len(path) + 1):
        if annotation_at(RunConfig, path[:depth], changed) is None:
            unknown = unknown_key(RunConfig, path[:depth], changed)
            if unknown.meant is not None:
                return Problem(place, f'is no key of the config; did you mean "{Problem(unknown.meant, "").key}"?')
            return Problem(place, f"is no key of the config: {Problem(path[:depth], '').key} {unknown.message}")
    if is_table(annotation_at(RunConfig, path, changed)):
        table = table_at(RunConfig, path, changed)
        first = next(iter(table.model_fields)) if table else ""
        return Problem(place, f"is a table; name a key in it, such as {key}.{first}")
    if path[-1] == "file":
        return Problem(place, "cannot be swept: the sweep copies maps into its directory; list them as map, not file")
    return None


def _position(path: KeyPath, example: Any, tables: dict[str, Any]) -> KeyPath:
    """Where a parameter is written: the same for `env.objects.altar` and `env.objects[2]`."""
    return put_value(deepcopy(tables), path, example)


def _parameter(
    path: KeyPath, place: KeyPath, table: dict[str, Any], tables: dict[str, Any], sampler: Any
) -> tuple[SweptKey | None, list[Problem]]:
    """A parameter whose key exists, and the problems with its values."""
    key = Problem(path, "").key
    annotation = annotation_at(RunConfig, path, tables)
    values, low, high, step = (table.get(name) for name in ("values", "low", "high", "step"))
    if isinstance(values, list):
        problems = list(_same_values(values, place))
        for index, value in enumerate(values):
            problems += _value_problems(path, value, tables, (*place, "values", index))
        return SweptKey(key, path, False, tuple(values)), problems
    numbers = {name: number for name, number in (("low", low), ("high", high), ("step", step)) if number is not None}
    if not {"low", "high"} <= numbers.keys() or any(type(number) not in (int, float) for number in numbers.values()):
        return None, []  # problems of the table itself
    takes_float = takes_number(annotation, float)
    if not takes_float and not takes_number(annotation, int):
        choices = "[true, false]" if annotation is bool else "[...]"
        return None, [Problem(place, f"takes no numbers; write values = {choices}")]
    problems = []
    for name, number in numbers.items():
        if not takes_float and number != math.floor(number):
            problems.append(Problem((*place, name), f"must be an integer, since {key} is one; got {shown(number)}"))
        elif name != "step":
            problems += _value_problems(path, number if takes_float else int(number), tables, (*place, name))
    if sampler == "grid" and step is None:
        problems.append(Problem(place, 'needs a step, or values = [...], for the sampler "grid"'))
    bounds = numbers["low"], numbers["high"]
    return SweptKey(key, path, not takes_float, None, *bounds, table.get("log", False), step), problems


def _same_values(values: Sequence[Any], place: KeyPath) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, value in enumerate(values):
        text = choice_text(value)
        if text in seen:
            yield Problem((*place, "values", index), f"is listed twice: {shown(value)}")
        seen.add(text)


def choice_text(value: Any) -> str:
    """A value as text, equal for equal values: 1e3 and 1000 are the same setting."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True, default=str)


def _value_problems(path: KeyPath, value: Any, tables: dict[str, Any], place: KeyPath) -> list[Problem]:
    """The problems with a value of a key, regardless of all other keys; rules between keys are checked later."""
    changed = deepcopy(tables)
    written = put_value(changed, path, deepcopy(value))
    depth, table = _table_around(written, changed)
    if written[-1] == "type":
        depth, table = 0, RunConfig
    holder = value_at(changed, written[:depth])
    data = holder if written[-1] == "type" else {written[depth]: holder[written[depth]]}
    end = written[depth:]
    try:
        table.model_validate(data)
    except ValidationError as error:
        problems = [problem for problem in problems_in(error, table, data) if problem.path[: len(end)] == end]
        wholes = [details for details in error.errors() if details["type"] == "int_type"]
        if wholes and isinstance(value, float) and value.is_integer():
            return []
        is_own = any(details["loc"] for details in error.errors())
        return [Problem((*place, *problem.path[len(end) :]), problem.message) for problem in problems if is_own]
    return []


def _table_around(path: KeyPath, tables: dict[str, Any]) -> tuple[int, type[FrozenModel]]:
    """The innermost table with fixed keys around a path, and the length of its path."""
    for depth in range(len(path) - 1, 0, -1):
        if table := table_at(RunConfig, path[:depth], tables):
            return depth, table
    return 0, RunConfig


def tables_with(tables: dict[str, Any], combination: Combination) -> dict[str, Any]:
    """A copy of the tables with these values of parameters."""
    changed = deepcopy(tables)
    for parameter, value in combination.items():
        put_value(changed, parameter.path, deepcopy(value))
    return changed


def combinations_to_check(parameters: Sequence[SweptKey], is_grid: bool) -> tuple[list[Combination], bool]:
    """The combinations to check before a sweep starts, at most MAX_COMBINATIONS, and whether these are all.

    Of a range they have both ends, and in a grid all points.
    """
    candidates = [parameter.points if is_grid else parameter.ends for parameter in parameters]
    if math.prod(map(len, candidates)) <= MAX_COMBINATIONS:
        return [dict(zip(parameters, values, strict=True)) for values in itertools.product(*candidates)], True
    generator = random.Random(0)
    drawn = ([generator.choice(values) for values in candidates] for _ in range(MAX_COMBINATIONS))
    return [dict(zip(parameters, values, strict=True)) for values in drawn], False


def never_valid(
    combinations: Sequence[Combination], invalid: Sequence[tuple[Combination, Problem]]
) -> list[tuple[SweptKey, tuple[str | int, ...], Any, Problem]]:
    """The values without a valid combination, where others of the parameter have one.

    For each: the parameter, the path of the value in its table, the value and the problem of its first combination.
    """
    found = []
    for parameter in combinations[0]:
        valid = {choice_text(c[parameter]) for c in combinations} - {
            text
            for text in {choice_text(c[parameter]) for c in combinations}
            if sum(choice_text(c[parameter]) == text for c, _ in invalid)
            == sum(choice_text(c[parameter]) == text for c in combinations)
        }
        if not valid and len(combinations[0]) > 1:
            continue
        for place, value in _places(parameter):
            text = choice_text(value)
            problems = [problem for c, problem in invalid if choice_text(c[parameter]) == text]
            if text not in valid and problems:
                found.append((parameter, place, value, problems[0]))
    return found


def _places(parameter: SweptKey) -> list[tuple[tuple[str | int, ...], Any]]:
    if parameter.values is not None:
        return [(("values", index), value) for index, value in enumerate(parameter.values)]
    low, high = parameter.ends
    return [(("low",), low), (("high",), high)]


def value_problem(place: KeyPath, parameter: SweptKey, value: Any, problem: Problem) -> Problem:
    """The problem of a parameter's value, whose rule may be that of another key."""
    is_own = problem.key == parameter.key
    return Problem(
        place, problem.message if is_own else f"{shown(value)} is not possible: {problem.key} {problem.message}"
    )
