"""Overrides: values from the command line such as `--set section.key=value`, applied to the parsed file."""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Self

from metta.config.loading.line_numbers import read_key
from metta.config.loading.renamed_keys import current_path, renamed_text
from metta.config.loading.toml_parser import MAX_DEPTH, is_too_deep
from metta.config.run import RunConfig
from metta.config.validation.frozen_model import NamedTable
from metta.config.validation.key_paths import (
    KeyPath,
    annotation_at,
    default_of,
    index_of_name,
    is_override,
    is_text,
    named_entry,
    table_at,
    takes_none,
    takes_number,
)
from metta.errors import Problem, UsageError, did_you_mean

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}


@dataclass(frozen=True)
class Override:
    """A value from the command line: the option, the key path that it sets, and the text of the value."""

    option: str
    path: KeyPath
    text: str
    renamed: str = ""
    """message for `warn_of_renamed` if the option has the old name of a key"""
    written: KeyPath = ()
    """the path in the data to which `apply` wrote; it has the index of a list's entry that `path` names"""

    @classmethod
    def parse(cls, text: str, option: str = "--set") -> Self:
        """An override from `section.key=value`. Raises UsageError if the text has another form."""
        try:
            path, rest = read_path(text)
        except ValueError:
            path, rest = (), text
        if not 0 < len(path) <= MAX_DEPTH or not rest.startswith("="):
            raise UsageError(f'{option} takes section.key=value, such as ppo.gamma=0.99; got "{text}"')
        return cls(option, current_path(path), rest[1:].strip(), renamed_text(path))

    def apply(self, data: dict[str, Any]) -> Self:
        """Set the value in `data`, the parsed file, see `put_value`; `none` unsets a key that can be unset.

        Returns the override with `written`. Raises UsageError if the value cannot be set.
        """
        if not _is_unicode(self.text):
            raise UsageError(f"{self.option} {Problem(self.path, '').key}: the value is not UTF-8 text")
        try:
            written = put_value(data, self.path, self._value(data))
        except UsageError as error:
            raise UsageError(f"{self.option} {Problem(self.path, '').key}: {error}") from None
        return replace(self, written=written)

    def _value(self, data: dict[str, Any]) -> Any:
        """The value parsed as TOML; the plain text where the key takes a string or the text is not valid TOML.

        Besides TOML's forms it can be `none` for a key that can be unset, an integer such as 500k, a number such as .5
        and True or False.
        """
        annotation = annotation_at(RunConfig, self.path, data)
        holder = table_at(RunConfig, self.path[:-1], data)
        field = holder.model_fields.get(str(self.path[-1])) if holder else None
        can_unset = takes_none(field.annotation) or is_override(RunConfig, self.path, data) if field else False
        if self.text.casefold() in ("none", "null") and can_unset:
            return None
        try:
            parsed = tomllib.loads(f"value = {self.text}")
        except (ValueError, RecursionError):
            return _plain_value(self.text, annotation)
        takes_text = is_text(annotation)
        is_one_value = set(parsed) == {"value"} and (not takes_text or isinstance(parsed["value"], str))
        is_one_value &= not is_too_deep(parsed)
        return parsed["value"] if is_one_value else self.text


def _plain_value(text: str, annotation: Any) -> Any:
    """The value of a text that is not TOML, for a key of that type: a number, a boolean, or else the text.

    A key without a type is unknown; its value tells which key was meant.
    """
    if (annotation is None or takes_number(annotation, int)) and (number := whole_number(text)) is not None:
        return number
    if takes_number(annotation, float):
        with suppress(ValueError):
            return float(text)
    if annotation is bool and text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    return text


def whole_number(text: str) -> int | None:
    """The integer that a text such as `500_000`, `500k`, `2M`, `1.5M` or `1e6` stands for; None if it is not one.

    The suffixes are k (10^3), M (10^6) and B or G (10^9), in either case.
    """
    found = re.fullmatch(r"([+-]?[0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?)([kKmMbBgG]?)", text.strip())
    if found is None:
        return None
    value = Fraction(found[1].replace("_", "")) * _SUFFIXES[found[2].casefold()]
    return int(value) if value.denominator == 1 else None


def put_value(data: dict[str, Any], path: KeyPath, value: Any) -> KeyPath:
    """Set a value in the data of a RunConfig, or remove the key if the value is None.

    If the path leads into a list or table that `data` does not set, the other entries of its default are kept. An entry
    of a list can be given by its name, such as `env.objects.altar`, and is added if there is none. Returns the path
    with the entry's index. Raises UsageError if the path leads through a value that is not a table.
    """
    holder: Any = data
    written: KeyPath = ()
    for depth, part in enumerate(path):
        is_last = depth == len(path) - 1
        entry = named_entry(annotation_at(RunConfig, path[:depth], data))
        if entry and isinstance(holder, list) and isinstance(part, str):
            part = _index_for_name(holder, path[depth : depth + 2], entry)
        written = (*written, part)
        if isinstance(holder, dict) and isinstance(part, str):
            if is_last and value is None:
                holder.pop(part, None)
                break
            if is_last:
                holder[part] = value
            elif part not in holder:
                holder[part] = _default(path[: depth + 2], data)
            holder = holder[part]
        elif isinstance(holder, list) and isinstance(part, int) and part < len(holder):
            if is_last:
                holder[part] = value
            holder = holder[part]
        else:
            raise UsageError(f'"{Problem(path[:depth], "").key}" {_not_a_holder(holder, part)}')
    return written


def _default(path: KeyPath, data: dict[str, Any]) -> Any:
    """The default of the table or list around the last part of a path; a list of which that is a name begins empty."""
    table = table_at(RunConfig, path[:-2], data)
    field = table.model_fields.get(str(path[-2])) if table else None
    default = default_of(field) if field else None
    is_name = isinstance(path[-1], str) and field is not None and named_entry(field.annotation)
    return {} if default is None or is_name else default


def _index_for_name(entries: list[Any], path: KeyPath, entry: type[NamedTable]) -> int:
    """The index of the entry with the name with which `path` begins. An entry that the list lacks is appended.

    Raises UsageError for an action that the list lacks, since the list has all actions; setting its `type` adds it.
    """
    name = str(path[0])
    index = index_of_name(entries, name, entry)
    if index is not None:
        return index
    if entry.names({}) and path[1:] != ("type",):
        known = [table[entry.NAME_KEY] for table in entries if isinstance(table, dict) and entry.NAME_KEY in table]
        raise UsageError(f'there is no "{name}" in this file{did_you_mean(name, known)}')
    entries.append({entry.NAME_KEY: name} if entry.names({}) else entry.listed({name: {}})[0])
    return len(entries) - 1


def _not_a_holder(holder: Any, part: str | int) -> str:
    if isinstance(holder, list):
        return f"is a list of {len(holder)} entries, starting with [0]" if holder else "is an empty list"
    return "is not a table" if isinstance(part, str) else "is not a list"


def _is_unicode(text: str) -> bool:
    """Whether the text can be encoded: bytes of an argument that are not UTF-8 arrive as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def read_path(text: str) -> tuple[KeyPath, str]:
    """A key path such as `env.actions[5].enabled` at the start of a text, and the rest of the text."""
    path: KeyPath = ()
    rest = "." + text
    while rest.startswith((".", "[")):
        if index := re.match(r"\[(\d{1,6})\]\s*", rest):
            path = (*path, int(index[1]))
            rest = rest[index.end() :]
        else:
            parts, rest = read_key(rest[1:])
            path = (*path, *parts)
    return path, rest
