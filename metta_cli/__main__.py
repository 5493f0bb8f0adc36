"""`metta` and `python -m metta_cli`. Importing torch takes seconds, in which Ctrl-C is no traceback either."""

from __future__ import annotations

import os
import signal
from types import FrameType


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process on the spot: half-imported modules turn a KeyboardInterrupt into errors of all kinds."""
    os.write(2, b"\ninterrupted before anything began\n")
    os._exit(130)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)

if "OMP_WAIT_POLICY" not in os.environ:
    # torch's threads wait for each other by spinning; where another program has one of their cores, each spins away
    # the time in which the other could have run, and training stands still. Read once, when torch loads its OpenMP.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from metta_cli.main import main  # noqa: E402  # from here on Ctrl-C is answered

if signal.getsignal(signal.SIGINT) is _leave:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if __name__ == "__main__":
    main()
