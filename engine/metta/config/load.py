"""A TOML file to a `RunConfig` and back. What is wrong with the file is said all at once, line by line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import tomli_w
from pydantic import ValidationError

from metta.config.diagnosis import all_problems
from metta.config.fields import KeyPath
from metta.config.overrides import Override
from metta.config.presets import find_config
from metta.config.run import RunConfig
from metta.config.toml_lines import key_lines
from metta.config.toml_text import parse_toml, read_text
from metta.errors import ConfigError, Problem


def load_config(source: str, overrides: Sequence[str | Override] = ()) -> RunConfig:
    """The config in a TOML file, or in the preset of that name, with `section.key=value` overrides put over it.

    Raises UsageError if there is no such file or it cannot be a config, ConfigError with every problem in it.
    """
    return parse_config(read_text(find_config(source), source), source, overrides)


def parse_config(text: str, source: str, overrides: Sequence[str | Override] = ()) -> RunConfig:
    """The config in a TOML text; `source` is what messages call it."""
    data = parse_toml(text, source)
    applied = [Override.parse(item) if isinstance(item, str) else item for item in overrides]
    for override in applied:
        override.apply(data)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        problems = all_problems(error, data)
    places = _Places(key_lines(text), applied)
    located = [places.located(problem) for problem in problems]
    raise ConfigError("the command line" if all(problem.option for problem in located) else source, located)


def dump_config(config: RunConfig) -> str:
    """The config as TOML with every value, defaults included; loading it gives an equal config."""
    data = config.model_dump(exclude_none=True)
    plain = tomli_w.dumps(data)
    # a drawn map reads better over several lines; but those would lose a carriage return before a newline
    return plain if "\\r" in plain else tomli_w.dumps(data, multiline_strings=True)


class _Places:
    """Where the value at a key path was written: a line of the file or an option of the command line."""

    def __init__(self, lines: dict[KeyPath, int], overrides: Sequence[Override]):
        self.lines = lines
        self.overrides = list(reversed(overrides))

    def located(self, problem: Problem) -> Problem:
        """The problem with its line or option; of a key that was not written, those of the table around it."""
        for depth in range(len(problem.path), 0, -1):
            path = problem.path[:depth]
            for override in self.overrides:
                if override.path == path:
                    return replace(problem, option=override.option)
            if path in self.lines:
                return replace(problem, line=self.lines[path])
            for override in self.overrides:
                if override.path[:depth] == path:
                    return replace(problem, option=override.option)
        return problem
