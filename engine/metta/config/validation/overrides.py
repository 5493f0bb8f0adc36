"""Partial tables: keys of another table of the file with other values, such as `[policies.hunters.ppo]` of `[ppo]`."""

from __future__ import annotations

from functools import cache
from typing import Any, Generic, TypeVar, get_args

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, create_model
from pydantic_core import core_schema

from metta.config.validation.frozen_model import FrozenModel

Model = TypeVar("Model", bound=FrozenModel)


class Overrides(dict[str, Any], Generic[Model]):
    """The keys of a table that have other values than in the table itself, with these values.

    Each value is validated as in the table. Rules between keys hold for the merged table, see `merged_into`.
    """

    def merged_into(self, table: Model) -> Model:
        """The table with these values; `table` itself if there are none. Raises pydantic's ValidationError."""
        return type(table).model_validate(table.model_dump(exclude_unset=True) | self) if self else table

    def replaced(self, values: dict[str, Any]) -> Overrides[Model]:
        """A copy with other values of the keys that it has."""
        return Overrides({key: values.get(key, value) for key, value in self.items()})

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        (model,) = get_args(source)
        return core_schema.no_info_after_validator_function(
            lambda table: cls(table.model_dump(exclude_unset=True)),
            handler(_without_rules(model)),
            serialization=core_schema.plain_serializer_function_ser_schema(dict),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "object"}


@cache
def _without_rules(model: type[FrozenModel]) -> type[FrozenModel]:
    """A model with the same fields, but without the rules between them."""
    fields: dict[str, Any] = {name: (field.annotation, field) for name, field in model.model_fields.items()}
    return create_model(model.__name__, __base__=FrozenModel, **fields)
