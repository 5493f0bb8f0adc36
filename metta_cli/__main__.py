"""Entry point of `metta` and `python -m metta_cli`."""

from __future__ import annotations

import os

from metta_cli.interrupts import exit_on_interrupt

if "OMP_WAIT_POLICY" not in os.environ:
    # OpenMP threads of torch wait for each other in a busy loop. On cores shared with other processes, a long loop
    # takes CPU time from the threads it waits for. OpenMP reads this limit on iterations once, when torch loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

with exit_on_interrupt():
    from metta_cli.main import main

if __name__ == "__main__":
    main()
