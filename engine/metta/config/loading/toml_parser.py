"""Reading and parsing of TOML files, with limits on their size and error messages for invalid syntax."""

from __future__ import annotations

import re
import stat
import sys
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from metta.errors import ConfigError, Problem, UsageError
from metta.job_environment import job_size

STDIN = "-"
"""Stands for standard input where the name of a TOML file is expected."""

MAX_BYTES = 1 << 20
"""Largest size of a config file; typical ones have a few kilobytes."""

MAX_LINE = 10_000
"""Largest number of characters in a line, since the TOML parser takes quadratic time for dotted keys."""

MAX_DEPTH = 16
"""Largest depth of nested tables and lists."""

_SYNTAX_HINTS = {
    "Invalid value": "; strings need quotes, and true and false are lower case",
    "Invalid statement": "; write [table] or key = value",
    "Illegal character '\\n'": "; a string must end on its line",
    "Unclosed array": "; a [ has no ]",
    "Invalid initial character for a key part": "; a table in braces must be on one line",
    "Cannot overwrite a value": "; the key is defined twice",
}


def read_text(path: Path, source: str) -> str:
    """The text of a file. Raises UsageError if it is not a regular UTF-8 text file of at most MAX_BYTES."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            is_run = (path / "config.toml").is_file()
            run_hint = f"its settings are in {path / 'config.toml'}; `metta resume {source}` resumes the run"
            hint = run_hint if is_run else "name a TOML file or a preset"
            raise UsageError(f"{source} is a directory; {hint}")
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{source} is not a regular file; name a TOML file or a preset")
        if status.st_size > MAX_BYTES:
            raise UsageError(f"{source} has {status.st_size} bytes; the limit is {MAX_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {(error.strerror or str(error)).lower()}") from error
    return _decoded(content, source)


def read_source(source: str, path: Path) -> tuple[str, str]:
    """The text of the file `path`, or of standard input if `source` is `-`, and the name of the text in messages."""
    return (_read_stdin(), "<stdin>") if source == STDIN else (read_text(path, source), source)


def _read_stdin() -> str:
    """The text of standard input. Raises UsageError if there is none, or for the reasons of `read_text`."""
    if job_size() > 1:
        raise UsageError("the processes of a job cannot share standard input; name a TOML file instead of -")
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("standard input is closed; name a TOML file or a preset instead of -")
    content = _content(sys.stdin.buffer)
    if not content.strip():
        raise UsageError("standard input is empty; - stands for a TOML file that another command writes to it")
    if len(content) > MAX_BYTES:
        raise UsageError(f"<stdin> has more than {MAX_BYTES} bytes, the limit")
    return _decoded(content, "<stdin>")


@lru_cache(maxsize=1)
def _content(stream: BinaryIO) -> bytes:
    """The bytes of a stream, which can be read only once."""
    return stream.read(MAX_BYTES + 1)


def _decoded(content: bytes, source: str) -> str:
    """The text of a file's content. Raises UsageError if it is not UTF-8."""
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


YAML = re.compile(r"(?:#.*\n|\s*\n)*[A-Za-z_][\w.]*:(?:\s|$)")
"""The beginning of a YAML file: a key in the first column of its first line that is no comment."""


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The parsed tables of a TOML text. Raises ConfigError with the line of a syntax error."""
    for number, row in enumerate(text.split("\n"), 1):
        if len(row) > MAX_LINE:
            message = f"has {len(row)} characters; the limit is {MAX_LINE}; split the line"
            raise ConfigError(source, [Problem((), message, number)])
    too_deep = Problem((), f"is nested too deeply; the limit is {MAX_DEPTH} tables and lists")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem = _syntax_problem(str(error), text)
    except ValueError:  # Python refuses integers of more than 4300 digits
        digits = re.search(r"[0-9_]{4000}", text)
        line = text.count("\n", 0, digits.start() if digits else 0) + 1
        problem = Problem((), "has a number with too many digits", line)
    except RecursionError:
        problem = too_deep
    else:
        if is_too_deep(data):
            problem = too_deep
        elif data or not _is_drawn_map(text):  # the rows of a map are comments in TOML
            return data
    if YAML.match(text):
        problem = Problem((), "is YAML, not TOML; `metta presets show quickstart` prints an example of a TOML file", 1)
    elif _is_drawn_map(text):
        message = (
            'is a drawn map, not TOML; write a TOML file with type = "Ascii" and file = "FILE" in [env.map_builder]'
        )
        problem = Problem((), message, 1)
    raise ConfigError(source, [problem])


def _is_drawn_map(text: str) -> bool:
    """Whether the text up to the first empty line is a rectangle with walls at the left and right."""
    rows = text.replace("\r", "").strip("\n").partition("\n\n")[0].split("\n")
    return len(rows) > 2 and all(len(row) == len(rows[0]) and row[:1] == row[-1:] == "#" for row in rows)


def _syntax_problem(message: str, text: str) -> Problem:
    """The parser's message with its line and a hint at the most common cause."""
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    reason = message[: place.start()] if place else message
    line = int(place[1]) if place and place[1] else text.count("\n") + 1
    where = f"column {place[2]}" if place and place[2] else "the end of the file"
    if twice := re.fullmatch(r"Cannot declare \((.+?),?\) twice", reason):
        name = ".".join(re.findall(r"'([^']*)'", twice[1]))
        reason = f"the table [{name}] is defined twice"
    reason += _SYNTAX_HINTS.get(reason, "")
    return Problem((), f"is not TOML at {where}: {reason[:1].lower()}{reason[1:]}", line)


def is_too_deep(data: dict[str, Any]) -> bool:
    """Whether tables and lists are nested deeper than MAX_DEPTH."""
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH + 1):
        inside: list[Any] = []
        for value in level:
            entries = value.values() if isinstance(value, dict) else value
            inside += [entry for entry in entries if isinstance(entry, dict | list)]
        level = inside
    return bool(level)
