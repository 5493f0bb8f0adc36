"""Keys as they are pressed, from a terminal."""

from __future__ import annotations

import os
import select
import sys
import time
from types import TracebackType
from typing import Any, Self

from metta.errors import UsageError

try:
    import termios
    import tty
except ImportError:  # Windows has none
    termios = tty = None  # type: ignore[assignment]

SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1bOC": "right",
    b"\x1bOD": "left",
    b"\t": "tab",
    b"\r": "enter",
    b"\n": "enter",
    b" ": "space",
    b"\x1b": "escape",
}


class Keyboard:
    """The terminal's keys, one at a time and not shown; a context manager that leaves the terminal as it was."""

    def __init__(self, command: str, instead: str):
        """Raises UsageError where there is no terminal, with the command to use `instead`."""
        if termios is None or not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError(f"metta {command} needs a terminal; {instead}")
        self._descriptor = sys.stdin.fileno()
        self._before: list[Any] = []
        self._pending = b""

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def read(self, timeout_seconds: float | None = None) -> str | None:
        """The next key, waiting for it at most so long: a character, or a name such as `up` or `space`."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not self._pending:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([self._descriptor], [], [], left)[0]:
                return None
            self._pending = os.read(self._descriptor, 64)
            if not self._pending:  # the terminal is gone
                return "q"
        for length in (3, 1):
            if name := SEQUENCES.get(self._pending[:length]):
                self._pending = self._pending[length:]
                return name
        key, self._pending = self._pending[:1], self._pending[1:]
        return key.decode("latin-1")
