"""Values from the command line over those of the file: `--set section.key=value`, typed by the models."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any, Self

from metta.config.loading.line_numbers import read_key
from metta.config.loading.renamed_keys import current_path
from metta.config.loading.toml_parser import MAX_DEPTH, is_too_deep
from metta.config.run import RunConfig
from metta.config.validation.key_paths import KeyPath, annotation_at, default_of, is_text, table_at
from metta.errors import Problem, UsageError


@dataclass(frozen=True)
class Override:
    """One value from the command line: the option it came from, the key it replaces, the text of the value."""

    option: str
    path: KeyPath
    text: str

    @classmethod
    def parse(cls, text: str, option: str = "--set") -> Self:
        """From `section.key=value`. Raises UsageError if it is not of that form."""
        try:
            path, rest = read_path(text)
        except ValueError:
            path, rest = (), text
        if not 0 < len(path) <= MAX_DEPTH or not rest.startswith("="):
            raise UsageError(f'{option} takes section.key=value, such as ppo.gamma=0.99; got "{text}"')
        return cls(option, current_path(path), rest[1:].strip())

    def apply(self, data: dict[str, Any]) -> None:
        """Put the value into `data`, the parsed file.

        Where it is an entry of a list or of a table of free keys that the file leaves at its default, the default's
        other entries stay.
        """
        if not _is_unicode(self.text):
            raise UsageError(f"{self.option} {Problem(self.path, '').key}: the value is not UTF-8 text")
        try:
            put_value(data, self.path, self._value(data))
        except UsageError as error:
            raise UsageError(f"{self.option} {Problem(self.path, '').key}: {error}") from None

    def _value(self, data: dict[str, Any]) -> Any:
        """The value as TOML; as plain text where the key takes text or the value is not TOML at all."""
        try:
            parsed = tomllib.loads(f"value = {self.text}")
        except (ValueError, RecursionError):
            return self.text
        takes_text = is_text(annotation_at(RunConfig, self.path, data))
        is_whole = set(parsed) == {"value"} and (not takes_text or isinstance(parsed["value"], str))
        is_whole &= not is_too_deep(parsed)
        return parsed["value"] if is_whole else self.text


def put_value(data: dict[str, Any], path: KeyPath, value: Any) -> None:
    """Put a value into the data of a RunConfig. Raises UsageError where the path leads into what is no table or list.

    Where it is an entry of a list or of a table of free keys that `data` leaves at its default, the default's other
    entries stay.
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
            reason = "is no table" if isinstance(part, str) else "is no list"
            if isinstance(holder, list):
                reason = f"is a list of {len(holder)} entries, from [0]" if holder else "is a list of no entries"
            raise UsageError(f'"{Problem(path[:depth], "").key}" {reason}')


def _is_unicode(text: str) -> bool:
    """Whether it can be written down; bytes of an argument that are not UTF-8 come as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def read_path(text: str) -> tuple[KeyPath, str]:
    """A key path such as `env.actions[5].enabled`, and what follows it."""
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
