"""Entry point of `metta` and `python -m metta_cli`: answers Ctrl-C while the program is imported, then runs it."""

from __future__ import annotations

import os
import signal
from types import FrameType


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    """Exit without unwinding: a KeyboardInterrupt inside an import turns into other errors."""
    os.write(2, b"\ninterrupted while starting; nothing was done\n")
    os._exit(130)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _exit_at_once)

if "OMP_WAIT_POLICY" not in os.environ:
    # Torch's threads wait for each other by spinning. On a core that another program shares, they spin away the time
    # in which that program could have run, and training stalls. OpenMP reads this once, when torch loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from metta_cli.main import main  # noqa: E402  # after the handler above is installed

if signal.getsignal(signal.SIGINT) is _exit_at_once:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if __name__ == "__main__":
    main()
