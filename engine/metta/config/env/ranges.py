"""Settings of map builders that may be drawn anew for every map: a number, or `{ min = 3, max = 8 }`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from metta.errors import Problem, RulesError


@dataclass(frozen=True)
class Range:
    """Every number from `min` to `max` alike; whole numbers where the setting is one."""

    min: float
    max: float


Choose = Callable[[Range], float]
"""Which number of a range it is."""


@dataclass(frozen=True)
class OrRange:
    """Beside the number of the annotated type, a `Range` of it.

    To the type checker the setting stays that number: maps are drawn by builders whose ranges became numbers
    (`BuilderTable.pinned`), and what judges a config asks for `least` and `most`.
    """

    is_whole: bool

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A number as it was, a table as a Range whose ends such numbers could be."""

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
        """Either of the two."""
        number = handler(schema)
        ends = {"min": number, "max": number}
        table = {"type": "object", "properties": ends, "required": list(ends), "additionalProperties": False}
        return {"oneOf": [number, table]}

    def _range(self, table: dict[str, Any], number: core_schema.ValidatorFunctionWrapHandler) -> Range:
        if set(table) != {"min", "max"}:
            raise RulesError([Problem((), "must be a number, or a range such as { min = 3, max = 8 }")])
        kinds: tuple[type, ...] = (int,) if self.is_whole else (int, float)
        word = "a whole number" if self.is_whole else "a number"
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


Whole = Annotated[int, OrRange(is_whole=True)]
Number = Annotated[float, OrRange(is_whole=False)]


def least(value: float) -> float:
    """The lowest that a setting can be."""
    return value.min if isinstance(value, Range) else value


def most(value: float) -> float:
    """The highest that a setting can be."""
    return value.max if isinstance(value, Range) else value


def _table(value: Range) -> dict[str, float]:
    return {"min": value.min, "max": value.max}
