"""Ctrl-C while packages are imported: the process ends, since imports turn KeyboardInterrupt into other errors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the process at once, without unwinding, unless the program handles it already."""
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
