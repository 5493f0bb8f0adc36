"""Signals as wishes: the first Ctrl-C or SIGTERM asks a run to save and stop, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self


class Interruption:
    """Whether a signal asked to stop, while inside its `with`.

    A second signal raises KeyboardInterrupt; by then the handlers from before are back, so that a third one cannot be
    held up. Outside the main thread, where Python takes no signals, it never asks.
    """

    def __init__(self, asked: Callable[[str], None]):
        """`asked` is called with the signal's name inside the handler of the first one."""
        self.requested = False
        self._asked = asked
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self._restore()
            raise KeyboardInterrupt
        self.requested = True
        self._asked(signal.Signals(number).name)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}
