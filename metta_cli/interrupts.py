"""Ctrl-C during imports: ends the process at once, since some packages turn KeyboardInterrupt into other errors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Within this context Ctrl-C ends the process with code 130, without an exception.

    Does nothing if Python's own handler of SIGINT has been replaced.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _exit_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    os.write(2, b"\ninterrupted while starting; nothing was done\n")
    os._exit(130)
