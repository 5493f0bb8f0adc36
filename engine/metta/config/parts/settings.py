"""Settings of a part: the parameters of its function, with types and defaults, as a model that checks their values."""

from __future__ import annotations

import inspect
import typing
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, WithJsonSchema, create_model
from pydantic.errors import PydanticUserError

from metta.config.parts.registries import PartRegistry
from metta.config.validation.error_messages import problems_in, validate
from metta.config.validation.frozen_model import FrozenModel
from metta.errors import Problem, RulesError, UsageError, did_you_mean

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Byte = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class NameOf:
    """Marks a setting as the name of something in the world, which is checked when a file is read; empty: nothing."""

    kind: Literal["item", "entity", "action", "group"]


ItemName = Annotated[str, NameOf("item")]
"""Type of a setting: the name of an item of the world, or empty."""

EntityName = Annotated[str, NameOf("entity")]
"""Type of a setting: an object, "agent", "agent.GROUP" or "empty", as in `WorldsView.find`."""

ActionName = Annotated[str, NameOf("action")]
"""Type of a setting: the name of an action of the world, or empty."""

GroupName = Annotated[str, NameOf("group")]
"""Type of a setting: the name of a group of agents of the world, or empty."""

SettingValue = Annotated[Any, WithJsonSchema({"type": ["boolean", "number", "string", "array", "object"]})]
"""A value whose type depends on the part."""


class _Settings(FrozenModel):
    """Base class of the settings of parts, whose names are those of the parameters."""

    model_config = ConfigDict(protected_namespaces=())


def checked_settings(registry: PartRegistry[Any], name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a part with its defaults. Raises RulesError for unknown, missing and invalid settings.

    Raises UsageError if the part has a parameter whose type is unknown.
    """
    model, data = _model_of(registry, name), dict(settings)
    try:
        checked = validate(model, data)
    except ValidationError as error:
        raise RulesError(problems_in(error, model, data)) from None
    return {field: checked.__dict__[field] for field in model.model_fields}


def unknown_names(
    registry: PartRegistry[Any], name: str, settings: Mapping[str, Any], known: Mapping[str, Collection[str]]
) -> Iterator[Problem]:
    """Settings with a name that the world does not have. `known` has the names of each kind of NameOf."""
    for setting, field in _model_of(registry, name).model_fields.items():
        for kind in [mark.kind for mark in field.metadata if isinstance(mark, NameOf)]:
            if settings[setting] and settings[setting] not in known[kind]:
                hint = did_you_mean(settings[setting], known[kind])
                yield Problem((setting,), f'unknown {kind} "{settings[setting]}"{hint}')


def _model_of(registry: PartRegistry[Any], name: str) -> type[FrozenModel]:
    return _settings_model(registry.find(name), registry.num_arguments, f'the {registry.kind} "{name}"')


@cache
def _settings_model(part: Callable[..., Any], num_arguments: int, title: str) -> type[FrozenModel]:
    """The model of the parameters of a part after the first `num_arguments`."""
    try:
        parameters = list(inspect.signature(part).parameters.values())
        hints = typing.get_type_hints(part.__init__ if inspect.isclass(part) else part, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise UsageError(f"the parameters of {title} cannot be read: {error}") from None
    if len(parameters) < num_arguments:
        raise UsageError(f"{title} must have the worlds as its first parameter")
    fields: dict[str, Any] = {}
    for parameter in parameters[num_arguments:]:
        fields[parameter.name] = _field(parameter, hints, title)
    with warnings.catch_warnings():
        # a setting may have the name of one of pydantic's methods, such as `copy`
        warnings.filterwarnings("ignore", message="Field name", category=UserWarning)
        try:
            return create_model("Settings", __base__=_Settings, **fields)
        except PydanticUserError as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(f"the parameters of {title} cannot be settings of a TOML file: {reason}") from None


def _field(parameter: inspect.Parameter, hints: Mapping[str, Any], title: str) -> tuple[Any, Any]:
    """Type and default of a setting, for pydantic."""
    name, is_required = parameter.name, parameter.default is inspect.Parameter.empty
    if parameter.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
        raise UsageError(f'{title} has the parameter "{parameter}"; its settings must be parameters with a name')
    if name in hints:
        return hints[name], ... if is_required else parameter.default
    if is_required or parameter.default is None:
        raise UsageError(f'{title} has the parameter "{name}" without a type; annotate it, such as `{name}: float`')
    return type(parameter.default), parameter.default
