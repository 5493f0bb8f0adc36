"""Metrics file `metrics.jsonl`: one line of JSON per epoch, without duplicate epochs after a run resumes."""

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
"""Characters; longer lines are read in pieces, which are skipped as invalid."""


class MetricsFile:
    """The metrics of a run, appended epoch by epoch."""

    def __init__(self, path: Path, epochs_done: int = 0):
        """Open to append after `epochs_done` epochs. Removes lines of later epochs, since these are trained again."""
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
        """Flush the file to disk (fsync); called before each checkpoint."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def valid_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file as dictionaries. Skips lines that are truncated or are not metrics.

    Raises UsageError if the path is not a regular file.
    """
    with open(path, encoding="utf-8", errors="replace", opener=nonblocking_opener) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UsageError(f"{path} is not a regular file")
        while text := file.readline(MAX_LINE_LENGTH):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):  # invalid JSON, a number with thousands of digits, deeply nested lists
                continue
            if isinstance(line, dict) and _is_epoch(line.get("epoch")) and _is_plain(line):
                yield line


def _is_epoch(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_plain(value: Any, depth: int = 4) -> bool:
    """Whether a value consists of numbers and text, nested at most `depth` levels deep in lists and dictionaries."""
    if isinstance(value, dict):
        return depth > 0 and all(_is_plain(entry, depth - 1) for entry in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(entry, depth - 1) for entry in value)
    return value is None or isinstance(value, str | float) or abs(value) < 2**63


def json_line(values: Mapping[str, Any]) -> str:
    """One line of JSON. NaN and infinities become null, since JSON has none."""
    return json.dumps(_finite(values), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
