"""Ranges: settings of map builders and objects that are sampled for every episode, such as `{ min = 3, max = 8 }`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from metta.errors import Problem, RulesError


@dataclass(frozen=True)
class Range:
    """Uniform distribution from `min` to `max`, both included; only integers if the setting is an integer."""

    min: float
    max: float


RangeResolver = Callable[[Range], float]
"""A function from a range to one of its numbers, such as a random one or the largest."""


@dataclass(frozen=True)
class OrRange:
    """Marks a number field that also accepts a `Range`.

    For the type checker the field remains a number: maps are built after `BaseBuilderConfig.resolve_ranges`, compiled
    object types have lowest values and spans, and validation uses `range_min` and `range_max`.
    """

    is_integer: bool

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate a number by the field's own rules, and a table as a Range whose ends obey the same rules."""

        def read(value: Any, number: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if isinstance(value, Range):
                value = _table(value)
            return self._range(value, number) if isinstance(value, dict) else number(value)

        return core_schema.no_info_wrap_validator_function(
            read,
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: _table(value) if isinstance(value, Range) else value
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Either the number or a table of min and max."""
        number = handler(schema)
        ends = {"min": number, "max": number}
        table = {"type": "object", "properties": ends, "required": list(ends), "additionalProperties": False}
        return {"oneOf": [number, table]}

    def _range(self, table: dict[str, Any], number: core_schema.ValidatorFunctionWrapHandler) -> Range:
        if set(table) != {"min", "max"}:
            raise RulesError([Problem((), "must be a number, or a range such as { min = 3, max = 8 }")])
        if self.is_integer:
            table = {end: int(value) if _is_whole(value) else value for end, value in table.items()}
        kinds: tuple[type, ...] = (int,) if self.is_integer else (int, float)
        word = "an integer" if self.is_integer else "a number"
        problems = [
            Problem((end,), f"must be {word}; got {value!r}")
            for end, value in table.items()
            if isinstance(value, bool) or not isinstance(value, kinds)
        ]
        if problems:
            raise RulesError(problems)
        low, high = number(table["min"]), number(table["max"])
        if low > high:
            raise RulesError([Problem(("min",), f"must be at most max = {high:g}; got {low:g}")])
        return Range(low, high)


IntOrRange = Annotated[int, OrRange(is_integer=True)]
FloatOrRange = Annotated[float, OrRange(is_integer=False)]


def range_min(value: float) -> float:
    """The minimum of a range, or the number itself."""
    return value.min if isinstance(value, Range) else value


def range_max(value: float) -> float:
    """The maximum of a range, or the number itself."""
    return value.max if isinstance(value, Range) else value


def _table(value: Range) -> dict[str, float]:
    return {"min": value.min, "max": value.max}


def _is_whole(value: Any) -> bool:
    """Whether it is a float without a fraction, such as 1e3."""
    return isinstance(value, float) and value.is_integer()
