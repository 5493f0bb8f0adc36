"""Metrics file: `metrics.jsonl` with one line of JSON per epoch, each epoch once, also after a run was killed."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from metta.errors import UsageError
from metta.files import nonblocking_opener, write_atomically

MAX_LINE_LENGTH = 1 << 24
"""Characters; a longer line is not read as one."""


class MetricsFile:
    """The metrics of a run, appended epoch by epoch."""

    def __init__(self, path: Path, epochs_done: int = 0):
        """Append after `epochs_done` epochs; lines of later epochs, which will be trained again, are removed."""
        self.path = path
        if path.exists():
            kept = [line for line in valid_lines(path) if line["epoch"] <= epochs_done]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")

    def append(self, values: Mapping[str, Any]) -> None:
        """Write the line of one epoch."""
        self._file.write(json_line(values) + "\n")
        self._file.flush()

    def lines(self) -> Iterator[dict[str, Any]]:
        """The metrics in the file, epoch by epoch."""
        return valid_lines(self.path)

    def sync(self) -> None:
        """Sync the file to the disk; called before each checkpoint."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def valid_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file as dictionaries, without those that a crash cut short or that are no metrics.

    Raises UsageError for anything but a regular file.
    """
    with open(path, encoding="utf-8", errors="replace", opener=nonblocking_opener) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UsageError(f"{path} is not a regular file")
        while text := file.readline(MAX_LINE_LENGTH):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):  # no JSON, a number with thousands of digits, deeply nested lists
                continue
            if isinstance(line, dict) and _is_epoch(line.get("epoch")) and _is_plain(line):
                yield line


def _is_epoch(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_plain(value: Any, depth: int = 4) -> bool:
    """Whether a value consists of numbers, text and tables of them."""
    if isinstance(value, dict):
        return depth > 0 and all(_is_plain(entry, depth - 1) for entry in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(entry, depth - 1) for entry in value)
    return value is None or isinstance(value, str | float) or abs(value) < 2**63


def json_line(values: Mapping[str, Any]) -> str:
    """One line of JSON. Numbers that are not finite, which JSON does not have, become null."""
    return json.dumps(_finite(values), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
