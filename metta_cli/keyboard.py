"""Keyboard input: reads single key presses from the terminal, decoded by prompt_toolkit."""

from __future__ import annotations

import select
import sys
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TextIO

from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

from metta.errors import UsageError
from metta_cli import output

try:
    import termios
    import tty
except ImportError:  # on Windows
    termios = tty = None  # type: ignore[assignment]

ESCAPE_SECONDS = 0.1
"""Seconds to wait for the rest of an escape sequence; then its first byte counts as the Escape key."""

KEY_NAMES = {" ": "space", Keys.ControlI.value: "tab"}
"""prompt_toolkit's name of a key -> the name that `Keyboard.read` returns, where they differ."""


class Keyboard:
    """Context manager that turns off echo and line buffering of the terminal; `read` returns single keys."""

    def __init__(self, command: str, hint: str):
        """Raises UsageError without a terminal; its message names `command` and ends with `hint`."""
        terminal = _terminal()
        if terminal is None:
            raise UsageError(f"metta {command} needs a terminal; {hint}")
        self._input = create_input(terminal)
        self._settings: list[Any] = []
        self._keys: deque[str] = deque()
        self._is_partial = False
        """whether the bytes read so far may end within an escape sequence"""

    def __enter__(self) -> Self:
        self._settings = termios.tcgetattr(self._input.fileno())
        tty.setcbreak(self._input.fileno())  # Ctrl-C remains a signal, which also interrupts a slow step
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        termios.tcsetattr(self._input.fileno(), termios.TCSADRAIN, self._settings)

    def read(self, timeout_seconds: float | None = None) -> str | None:
        """The next key: a character, or a name such as `up`, `space`, `pageup`. None after the timeout.

        Returns `q` if the terminal was closed.
        """
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not self._keys:
            wait = None if end is None else max(0.0, end - time.monotonic())
            if self._is_partial:
                wait = ESCAPE_SECONDS if wait is None else min(wait, ESCAPE_SECONDS)
            if select.select([self._input.fileno()], [], [], wait)[0]:
                self._keys += _key_names(self._input.read_keys())
                self._is_partial = True
                if self._input.closed:
                    self._keys.append("q")
            elif self._is_partial:
                flushed = self._input.flush_keys()
                self._keys += ["escape"] if [press.key for press in flushed] == [Keys.Escape] else []
                self._is_partial = False
            else:
                return None
        return self._keys.popleft()


def _terminal() -> TextIO | None:
    """The terminal from which keys are read: stdin, or where that is a pipe, the one that controls this process."""
    if termios is None or not output.can_animate():
        return None
    if sys.stdin.isatty():
        return sys.stdin
    try:
        return open("/dev/tty", encoding="utf-8")
    except OSError:
        return None


def _key_names(presses: Sequence[KeyPress]) -> list[str]:
    """Names of the keys, without unknown escape sequences.

    prompt_toolkit reads an unknown sequence as Escape and single characters. It ends as ECMA-48 defines it: Escape and
    `[` or `O`, then digits and punctuation, then a letter or `~`; with any other character, after that one.
    """
    keys = iter(press.key.value if isinstance(press.key, Keys) else press.key for press in presses)
    names = []
    for key in keys:
        if key != "escape":
            names.append(KEY_NAMES.get(key, key))
        elif next(keys, "") in ("[", "O"):
            while " " <= next(keys, "~") < "@":
                pass
    return names
