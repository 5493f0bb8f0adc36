"""Ctrl-C before a command runs, or during an import: ends the process at once.

Some packages turn a KeyboardInterrupt that reaches them while they are imported, or while they parse arguments, into
other errors.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

MESSAGE = "interrupted; files that were already saved are complete"
_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"


def handle_interrupts() -> None:
    """Raise KeyboardInterrupt on Ctrl-C only within the code of a command; elsewhere, exit with code 130.

    Does nothing if Python's own handler of SIGINT has been replaced.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None and frame.f_code.co_filename != _IMPORT_SYSTEM:
        is_function = frame.f_code.co_name != "<module>"
        if is_function and frame.f_globals.get("__name__", "").startswith("metta_cli.commands."):
            raise KeyboardInterrupt
        frame = frame.f_back
    os.write(2, f"\n{MESSAGE}\n".encode())
    os._exit(130)
