"""What a run may write to: its own directory, and those outside that its user gave it.

A run directory can come from a stranger. Its `config.toml` may keep checkpoints anywhere, and links in it may lead
anywhere; going on with it must not touch what it was never given. So `train` leaves the same random mark in the run
directory and in each directory outside that the user's own file names, and `resume` writes only where it finds it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from metta.errors import UsageError
from metta.files import write_whole

MARK = ".run"


def claim(root: Path, outside: Mapping[str, Path]) -> None:
    """Mark the directories that were given to the run in `root`, by the setting that names them."""
    path = root / MARK
    if outside and not path.exists():
        write_whole(path, secrets.token_hex(16).encode())
    for directory in outside.values():
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(directory / MARK, path.read_bytes())


def check_own(root: Path, outside: Mapping[str, Path]) -> None:
    """Raise UsageError, before anything is written, with all that leads out of the run directory and is not its own."""
    problems = [
        f"{path} is a link out of the run directory, to {path.resolve()}; put there what it leads to"
        for path in sorted(root.rglob("*"))
        if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()) and not _is_past(path, root)
    ]
    mark = root / MARK
    known = mark.read_bytes() if mark.is_file() and not problems else None
    problems += [
        f"{setting} of this run is {directory}, outside of the run directory, and nothing there says that it was given "
        f"to the run; if it is yours: --set {setting}={directory}"
        for setting, directory in outside.items()
        if known is None or not (directory / MARK).is_file() or (directory / MARK).read_bytes() != known
    ]
    if problems:
        raise UsageError("\n  ".join(problems))


def _is_past(path: Path, root: Path) -> bool:
    """Whether nothing writes there again: in what W&B kept of earlier processes, with links to logs of its own."""
    first, *inside = path.relative_to(root).parts
    return first == "wandb" and len(inside) > 1
