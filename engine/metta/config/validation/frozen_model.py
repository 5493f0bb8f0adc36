"""Base class of all config tables (frozen, strictly typed, no unknown keys) and types of names and paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from metta.errors import Problem, RulesError
from metta.extensions import Registry

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A name that is safe in file paths and metric names: 1 to 64 letters, digits, '.', '_' and '-'."""


def _checked_path(path: str) -> str:
    if any(ord(character) < 32 for character in path):
        raise RulesError([Problem((), "must be a path without control characters")])
    if len(path.encode(errors="surrogatepass")) > 4000 or any(len(part.encode()) > 255 for part in path.split("/")):
        raise RulesError([Problem((), "must be a path of at most 4000 bytes, each part of it at most 255 bytes")])
    return path


FilePath = Annotated[str, AfterValidator(_checked_path)]
"""A path of a file or directory that operating systems accept; it need not exist."""


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
