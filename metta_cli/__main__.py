"""Entry point of `metta` and `python -m metta_cli`."""

from __future__ import annotations

import os

from metta_cli.interrupts import exit_on_interrupt

if "OMP_WAIT_POLICY" not in os.environ:
    # Torch's threads wait for each other by spinning. On a core that another program shares, they spin away the time
    # in which that program could have run, and training stalls. OpenMP reads this once, when torch loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

with exit_on_interrupt():
    from metta_cli.main import main

if __name__ == "__main__":
    main()
