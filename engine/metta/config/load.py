"""A TOML file to a `RunConfig` and back. What is wrong with the file is said all at once, line by line."""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from metta.config.diagnosis import all_problems
from metta.config.fields import KeyPath
from metta.config.overrides import Override
from metta.config.presets import find_config
from metta.config.problems import shown
from metta.config.run import RunConfig
from metta.config.toml_lines import key_lines
from metta.errors import ConfigError, Problem, UsageError

MAX_BYTES = 1 << 20
"""Configs are some kilobytes; a file beyond this is no config."""

MAX_LINE = 10_000
"""Characters in a line: the TOML parser takes quadratic time for a dotted key."""

_SYNTAX_HINTS = {
    "Invalid value": "; strings need quotes, and true and false are lower case",
    "Invalid initial character for a key part": "; a table in braces must be on one line",
    "Cannot overwrite a value": "; the same key is there twice",
}

MAX_DEPTH = 16
"""Tables and lists inside each other."""


def load_config(source: str, overrides: Sequence[str | Override] = ()) -> RunConfig:
    """The config in a TOML file, or in the preset of that name, with `section.key=value` overrides put over it.

    Raises UsageError if there is no such file or it cannot be a config, ConfigError with every problem in it.
    """
    return parse_config(_read(find_config(source), source), source, overrides)


def parse_config(text: str, source: str, overrides: Sequence[str | Override] = ()) -> RunConfig:
    """The config in a TOML text; `source` is what messages call it."""
    data = _parse(text, source)
    applied = [Override.parse(item) if isinstance(item, str) else item for item in overrides]
    for override in applied:
        override.apply(data)
    problems = _beyond_limits(data)
    if not problems:
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
    # a multi-line string would lose a carriage return, and few maps have one
    return tomli_w.dumps(data, multiline_strings="\r" not in tomli_w.dumps(data, multiline_strings=True))


def _read(path: Path, source: str) -> str:
    """The text of a file that could be a config; UsageError for anything else."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            is_run = (path / "config.toml").is_file()
            hint = f"go on with that run by `metta resume {source}`" if is_run else "name a TOML file or a preset"
            raise UsageError(f"{source} is a directory; {hint}")
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{source} is not a regular file; name a TOML file or a preset")
        if status.st_size > MAX_BYTES:
            raise UsageError(f"{source} has {status.st_size} bytes, which is no config; the limit is {MAX_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if content.startswith(b"PK\x03\x04"):
        raise UsageError(f"{source} is not a TOML file; if it is a checkpoint, try `metta eval {source}`")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{source} is UTF-16 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{source} is not a TOML file: byte 0x{content[error.start]:02x} in line {line} is not UTF-8 text"
        ) from error


def _parse(text: str, source: str) -> dict[str, Any]:
    for number, row in enumerate(text.split("\n"), 1):
        if len(row) > MAX_LINE:
            message = f"has {len(row)} characters; break it up, the limit is {MAX_LINE}"
            raise ConfigError(source, [Problem((), message, number)])
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
        reason = message[: place.start()] if place else message
        line = int(place[1]) if place and place[1] else text.count("\n") + 1
        where = f"column {place[2]}" if place and place[2] else "the end of the file"
        hint = _SYNTAX_HINTS.get(reason, "")
        reason = reason[:1].lower() + reason[1:]
        problem = Problem((), f"is not TOML at {where}: {reason}{hint}", line)
    except ValueError:  # Python reads no number of so many digits
        digits = re.search(r"[0-9_]{4000}", text)
        line = text.count("\n", 0, digits.start() if digits else 0) + 1
        problem = Problem((), "has a number of too many digits", line)
    except RecursionError:
        problem = Problem((), f"is nested too deeply; lists and tables may be {MAX_DEPTH} deep")
    raise ConfigError(source, [problem])


def _beyond_limits(data: dict[str, Any]) -> list[Problem]:
    """What no config can hold, found before any model sees it: deep nesting and endless integers."""
    problems = []
    waiting: list[tuple[KeyPath, Any]] = [((), data)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict | list):
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            if len(path) < MAX_DEPTH:
                waiting += [((*path, part), entry) for part, entry in entries]
            else:
                problems.append(Problem(path, f"is nested too deeply; lists and tables may be {MAX_DEPTH} deep"))
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            problems.append(Problem(path, f"must fit in 64 bits; got {shown(value)}"))
    return problems


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
