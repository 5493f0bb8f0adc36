"""Spans: named intervals of wall-clock time that parts of training take, by thread, for measurements and traces.

The names: `collect` is a rollout, in which `simulate` steps worlds, `wait` waits for that and `infer` computes actions;
`learn` is an update of the policy. In both, on a GPU, `transfer` starts copies to it, and `device` waits for results.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self


@dataclass(frozen=True)
class Span:
    """A finished span. Times are those of `time.perf_counter`, in seconds."""

    name: str
    thread: str
    """name of the thread or process that it ran in"""
    begin: float
    end: float


_recordings: Final[list[list[Span]]] = []


class span:  # noqa: N801  # used like a function: `with span("infer"):`
    """Context manager that measures a span, and adds it to the recordings of `record_spans` that are in progress."""

    def __init__(self, name: str):
        self.name = name
        self.seconds = 0.0
        """its length, once it has ended"""

    def __enter__(self) -> Self:
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *exception: Any) -> None:
        end = time.perf_counter()
        self.seconds = end - self._begin
        if _recordings:
            add_span(Span(self.name, threading.current_thread().name, self._begin, end))


def add_span(finished: Span) -> None:
    """Add a span to the recordings in progress, such as one that another process measured."""
    for recording in _recordings:
        recording.append(finished)


@contextmanager
def record_spans() -> Iterator[list[Span]]:
    """Context manager that gives a list to which all spans that end within it are added, from all threads."""
    recording: list[Span] = []
    _recordings.append(recording)
    try:
        yield recording
    finally:
        _recordings[:] = [each for each in _recordings if each is not recording]
