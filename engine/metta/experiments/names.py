"""Experiments and sweeps by name: the newest one of that name in `./runs`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from metta.experiments.sweep.summary import is_sweep
from metta.run.write_permissions import EXPERIMENT


def find_experiment(name: str) -> Path | None:
    """The experiment or sweep in `./runs` of this name, or the newest of those called `NAME-DATE-TIME`.

    None if there is none.
    """
    if not name or os.path.basename(name) != name or name in (".", ".."):
        return None
    named = re.compile(re.escape(name) + r"(?:-(\d{8}-\d{6})(?:-(\d+))?)?")
    found = []
    for path in Path("runs").glob("*"):
        if (match := named.fullmatch(path.name)) and (is_sweep(path) or os.path.isfile(path / EXPERIMENT)):
            found.append((match[1] is None, match[1] or "", int(match[2] or 1), path))
    return max(found)[-1] if found else None
