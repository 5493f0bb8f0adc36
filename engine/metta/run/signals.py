"""Signals that stop a run: the first of `STOP_SIGNALS` requests a stop, the second ends the process at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

from metta.job_environment import STOP_SIGNALS, job_size

SPREAD_SECONDS = 2.0
"""Seconds within which a signal to all processes of a job reaches each of them; torchrun sends it to them again."""


class Interrupted(BaseException):
    """Raised by a signal inside `StopSignals.interruptible`. Not an Exception, so that no error handler catches it."""


class StopSignals:
    """Context manager that installs signal handlers; `requested` records whether a stop was requested.

    A second signal restores the previous handlers and raises KeyboardInterrupt; in a job of several processes, only
    after `SPREAD_SECONDS`. Outside of the main thread, where Python receives no signals, a stop is never requested. A
    signal that is ignored stays ignored, as SIGHUP with `nohup`; the program's own handlers of other signals than
    SIGINT and SIGTERM stay installed.
    """

    def __init__(self, on_request: Callable[[str], None]):
        """`on_request` is called with the name of the first signal, inside its handler."""
        self.requested = False
        self._requested_at = 0.0
        self._on_request = on_request
        self._is_interruptible = False
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Context in which the first signal raises Interrupted at once; if it came earlier, raises on entry.

        For work that writes no files and whose result can be discarded.
        """
        self._is_interruptible = True
        try:
            if self.requested:
                raise Interrupted
            yield
        finally:
            self._is_interruptible = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.Signals[name] for name in STOP_SIGNALS if name in signal.Signals.__members__):
                if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) == signal.SIG_DFL:
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested:
            if job_size() > 1 and now - self._requested_at < SPREAD_SECONDS:
                return
            self._restore()
            raise KeyboardInterrupt
        self.requested, self._requested_at = True, now
        self._on_request(signal.Signals(number).name)
        if self._is_interruptible:
            raise Interrupted

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}
