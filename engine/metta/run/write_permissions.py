"""Write permissions of a run: its directory, and directories outside of it that the user named in `train`.

A run directory may come from an untrusted source: its `config.toml` may name any directory for checkpoints, and its
symbolic links may point anywhere. Therefore `train` writes the same random id into the run directory and into each
outside directory of the config, and `resume` writes only to directories with that id.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from metta.errors import UsageError
from metta.files import write_atomically

RUN_ID_FILE = ".run"


def grant_write(root: Path, outside: Mapping[str, Path]) -> None:
    """Create the directories in `outside`, by setting, and write the id of the run in `root` into each."""
    path = root / RUN_ID_FILE
    if outside and not path.exists():
        write_atomically(path, secrets.token_hex(16).encode())
    for directory in outside.values():
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / RUN_ID_FILE, path.read_bytes())


def check_write(root: Path, outside: Mapping[str, Path]) -> None:
    """Raise UsageError if the run in `root` would write to directories outside of it without permission."""
    problems = [
        f"{path} is a symbolic link out of the run directory, to {path.resolve()}; replace it with a copy of its target"
        for path in sorted(root.rglob("*"))
        if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()) and not _is_wandb_log(path, root)
    ]
    id_file = root / RUN_ID_FILE
    run_id = id_file.read_bytes() if id_file.is_file() and not problems else None
    problems += [
        f"{setting} of this run is {directory}, outside of the run directory, and its file {RUN_ID_FILE} is missing or "
        f"does not match the run; to use it: --set {setting}={directory}"
        for setting, directory in outside.items()
        if run_id is None or not (directory / RUN_ID_FILE).is_file() or (directory / RUN_ID_FILE).read_bytes() != run_id
    ]
    if problems:
        raise UsageError("\n  ".join(problems))


def _is_wandb_log(path: Path, root: Path) -> bool:
    """Whether a link is inside of a W&B log, which contains links of its own; a resumed run does not write there."""
    first, *inside = path.relative_to(root).parts
    return first == "wandb" and len(inside) > 1
