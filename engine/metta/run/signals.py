"""Signals as wishes: the first Ctrl-C, SIGTERM or SIGHUP asks a run to save and stop, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self


class Interrupted(BaseException):
    """Raised by a signal in the middle of work that may be left unfinished. No error: it must not be caught as one."""


class Interruption:
    """Whether a signal asked to stop, while inside its `with`.

    A second signal raises KeyboardInterrupt; by then the handlers from before are back, so that a third one cannot be
    held up. Outside the main thread, where Python takes no signals, it never asks. A SIGHUP that is ignored (`nohup`)
    stays ignored.
    """

    def __init__(self, asked: Callable[[str], None]):
        """`asked` is called with the signal's name inside the handler of the first one."""
        self.requested = False
        self._asked = asked
        self._may_break_off = False
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    @contextmanager
    def may_break_off(self) -> Iterator[None]:
        """Inside, the first signal raises Interrupted at once; one that came before raises it at the beginning.

        For work that leaves nothing behind on the disk and whose outcome will be thrown away.
        """
        self._may_break_off = True
        try:
            if self.requested:
                raise Interrupted
            yield
        finally:
            self._may_break_off = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            hang_up = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none
            numbers = {signal.SIGINT, signal.SIGTERM}
            if signal.getsignal(hang_up) is not signal.SIG_IGN:
                numbers.add(hang_up)
            for number in numbers:
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
        if self._may_break_off:
            raise Interrupted

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}
