"""Overrides: values from the command line such as `--set section.key=value`, applied to the parsed file."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any, Self

from metta.config.loading.line_numbers import read_key
from metta.config.loading.renamed_keys import current_path, renamed_text
from metta.config.loading.toml_parser import MAX_DEPTH, is_too_deep
from metta.config.run import RunConfig
from metta.config.validation.key_paths import KeyPath, annotation_at, default_of, is_text, table_at
from metta.errors import Problem, UsageError


@dataclass(frozen=True)
class Override:
    """A value from the command line: the option, the key path that it sets, and the text of the value."""

    option: str
    path: KeyPath
    text: str
    renamed: str = ""
    """message for `warn_of_renamed` if the option has the old name of a key"""

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

    def apply(self, data: dict[str, Any]) -> None:
        """Set the value in `data`, the parsed file, see `put_value`. Raises UsageError if that is not possible."""
        if not _is_unicode(self.text):
            raise UsageError(f"{self.option} {Problem(self.path, '').key}: the value is not UTF-8 text")
        try:
            put_value(data, self.path, self._value(data))
        except UsageError as error:
            raise UsageError(f"{self.option} {Problem(self.path, '').key}: {error}") from None

    def _value(self, data: dict[str, Any]) -> Any:
        """The value parsed as TOML; the plain text where the key takes a string or the text is not valid TOML."""
        try:
            parsed = tomllib.loads(f"value = {self.text}")
        except (ValueError, RecursionError):
            return self.text
        takes_text = is_text(annotation_at(RunConfig, self.path, data))
        is_one_value = set(parsed) == {"value"} and (not takes_text or isinstance(parsed["value"], str))
        is_one_value &= not is_too_deep(parsed)
        return parsed["value"] if is_one_value else self.text


def put_value(data: dict[str, Any], path: KeyPath, value: Any) -> None:
    """Set a value in the data of a RunConfig. Raises UsageError if the path leads through a value that is not a table.

    If the path leads into a list or table that `data` does not set, the other entries of its default are kept.
    """
    holder: Any = data
    for depth, part in enumerate(path):
        is_last = depth == len(path) - 1
        if isinstance(holder, dict) and isinstance(part, str):
            if is_last:
                holder[part] = value
            elif part not in holder:
                table = table_at(RunConfig, path[:depth], data)
                field = table.model_fields.get(part) if table else None
                default = default_of(field) if field else None
                holder[part] = {} if default is None else default
            holder = holder[part]
        elif isinstance(holder, list) and isinstance(part, int) and part < len(holder):
            if is_last:
                holder[part] = value
            holder = holder[part]
        else:
            reason = "is not a table" if isinstance(part, str) else "is not a list"
            if isinstance(holder, list):
                reason = f"is a list of {len(holder)} entries, starting with [0]" if holder else "is an empty list"
            raise UsageError(f'"{Problem(path[:depth], "").key}" {reason}')


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
