"""Base class of all config tables (frozen, strictly typed, no unknown keys) and types of names."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from metta.errors import Problem, RulesError
from metta.extensions import Registry

MAX_NAME = 64
NAME_PATTERN = rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}"
Name = Annotated[str, Field(pattern=rf"^{NAME_PATTERN}$")]
"""A name that is safe in file paths and metric names: see `NAME_RULE`."""
NAME_RULE = f"1 to {MAX_NAME} letters, digits, '.', '_' or '-', the first one a letter or digit"
"""What a name consists of, in messages."""


@dataclass(frozen=True)
class RegisteredName:
    """Marks a string field whose value must be a name in a registry of extensions (extensions.py)."""

    registry: Registry[Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        names = self.registry.names()
        return handler(schema) | ({"enum": names} if names else {})

    def _known(self, name: str) -> str:
        if name not in self.registry:
            raise RulesError([Problem((), self.registry.unknown_name(name))])
        return name


@dataclass(frozen=True)
class IntegerOrAuto:
    """Marks a field of type `int | Literal["auto"]`: an integer of at most `maximum` and at least 0, or "auto"."""

    maximum: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        integer = core_schema.int_schema(ge=0, le=self.maximum)
        as_given = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        return core_schema.no_info_wrap_validator_function(self._read, integer, serialization=as_given)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"oneOf": [handler(schema), {"const": "auto"}]}

    def _read(self, value: Any, integer: core_schema.ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, str) and value != "auto":
            hint = "; leave out the quotes" if value.isdecimal() else ""
            raise RulesError([Problem((), f'must be an integer or "auto"; got "{value}"{hint}')])
        return value if value == "auto" else integer(value)


class FrozenModel(BaseModel):
    """One table of the TOML file. A value of a wrong type is an error; nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def with_inferred(self, **values: Any) -> Self:
        """A copy with `values` that do not count as set by the user (see `is_set`)."""
        copy = self.model_copy(update=values)
        copy.__pydantic_fields_set__.clear()
        copy.__pydantic_fields_set__.update(self.model_fields_set)
        return copy

    def is_set(self, field: str) -> bool:
        """Whether the user set this field, rather than leaving its default."""
        return field in self.model_fields_set


class NamedTable(FrozenModel):
    """A table of a list that has a unique name, so that a file can have `[env.objects.NAME]` instead of the list."""

    NAME_KEY: ClassVar[str]
    """key of the name"""

    @classmethod
    @abstractmethod
    def known(cls) -> list[str]:
        """The names of the entries that have defaults."""

    @classmethod
    def names(cls, tables: dict[str, Any]) -> list[str]:
        """The names of the entries of the list that tables by name stand for, in order."""
        return list(tables)

    @classmethod
    @abstractmethod
    def defaults(cls, name: str) -> dict[str, Any]:
        """The values that the table of that name has unless it sets another `type`; empty for a new name."""

    @classmethod
    def listed(cls, value: Any) -> Any:
        """The list, if `value` has tables by name; otherwise `value`."""
        if not isinstance(value, dict) or not isinstance(value.get(cls.NAME_KEY, {}), dict):
            return value
        return [cls._entry(name, value.get(name, {})) for name in cls.names(value)]

    @classmethod
    def _entry(cls, name: str, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        if table.get(cls.NAME_KEY, name) != name:
            message = f'must be "{name}", as in the header, or left out; got "{table[cls.NAME_KEY]}"'
            raise RulesError([Problem((name, cls.NAME_KEY), message)])
        known = cls.defaults(name)
        return {cls.NAME_KEY: name, **(known if table.get("type") in (None, known.get("type")) else {}), **table}
