"""`metrics.jsonl`: one line of JSON per epoch, without a gap or a double line however often a run is killed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from metta.files import write_whole


class MetricsFile:
    """The metrics of a run, appended epoch by epoch."""

    def __init__(self, path: Path, epochs_done: int = 0):
        """Go on after `epochs_done` epochs: lines of later ones, which will be trained again, are taken off."""
        self.path = path
        if path.exists():
            kept = [line for line in sound_lines(path) if line["epoch"] <= epochs_done]
            write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")

    def append(self, values: Mapping[str, Any]) -> None:
        """Write one epoch's line."""
        self._file.write(json_line(values) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Make every line so far survive a power cut; a checkpoint counts on the lines before it."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def sound_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file as dictionaries; one that a crash cut short is left out."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and isinstance(line.get("epoch"), int):
                yield line


def json_line(values: Mapping[str, Any]) -> str:
    """One line of JSON; numbers that are not finite, which JSON lacks, become null."""
    return json.dumps(_finite(values), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
