"""Write permissions of a run: its own directory, and the directories outside of it that its user named.

A run directory may come from somebody else. Its `config.toml` could name any directory for checkpoints, and its
symbolic links could lead anywhere; resuming it must not write there. Therefore `train` writes the same random id into
the run directory and into each directory outside that the user's own file names, and `resume` writes only where it
finds that id.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from metta.errors import UsageError
from metta.files import write_atomically

RUN_ID_FILE = ".run"


def grant_write(root: Path, outside: Mapping[str, Path]) -> None:
    """Make the directories outside that the user named, by setting, and write the id of the run in `root` into each."""
    path = root / RUN_ID_FILE
    if outside and not path.exists():
        write_atomically(path, secrets.token_hex(16).encode())
    for directory in outside.values():
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / RUN_ID_FILE, path.read_bytes())


def check_write(root: Path, outside: Mapping[str, Path]) -> None:
    """Raise UsageError where the run in `root` would write to places outside that were not granted to it."""
    problems = [
        f"{path} is a symbolic link out of the run directory, to {path.resolve()}; replace it by what it points to"
        for path in sorted(root.rglob("*"))
        if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()) and not _is_wandb_log(path, root)
    ]
    id_file = root / RUN_ID_FILE
    run_id = id_file.read_bytes() if id_file.is_file() and not problems else None
    problems += [
        f"{setting} of this run is {directory}, outside of the run directory, and no file there shows that it belongs "
        f"to the run; to use it: --set {setting}={directory}"
        for setting, directory in outside.items()
        if run_id is None or not (directory / RUN_ID_FILE).is_file() or (directory / RUN_ID_FILE).read_bytes() != run_id
    ]
    if problems:
        raise UsageError("\n  ".join(problems))


def _is_wandb_log(path: Path, root: Path) -> bool:
    """Whether a link lies in a log of W&B, which links to files of its own; no run writes there again."""
    first, *inside = path.relative_to(root).parts
    return first == "wandb" and len(inside) > 1
