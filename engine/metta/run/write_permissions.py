"""Write permissions of a run: its directory, and directories outside of it that the user named.

A run directory may come from an untrusted source: its `config.toml` may name any directory for checkpoints, and its
symbolic links may point anywhere. It may also be a copy of another run. Therefore `train` writes the same random id
into the run directory and into each outside directory of the config, there with the path of the run directory, and
`resume` writes only to directories with that id, unless another run with that id is at that path.
"""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from metta.errors import UsageError
from metta.files import write_atomically

CONFIG = "config.toml"
"""File name of a run's config, which makes a directory a run directory."""
EXPERIMENT = "experiment.toml"
"""File name that makes a directory an experiment, which contains the directories of its runs."""
RUN_ID_FILE = ".run"
MAX_RUNS_LISTED = 10
"""Runs in a directory that an error message lists, at most."""


def is_run(directory: Path) -> bool:
    """Whether a directory is a run directory: whether it contains `config.toml`."""
    return os.path.isfile(directory / CONFIG)  # unlike Path.is_file, accepts names of any length


def runs_inside(directory: Path) -> str:
    """The end of an error message about a directory that is no run: the runs of an experiment, or of trials, in it."""
    runs = [str(path) for pattern in ("*", "*/*") for path in sorted(directory.glob(pattern)) if is_run(path)]
    more = f" and {len(runs) - MAX_RUNS_LISTED} more" if len(runs) > MAX_RUNS_LISTED else ""
    return f"; name one of the runs in it: {', '.join(runs[:MAX_RUNS_LISTED])}{more}" if runs else ""


def grant_write(root: Path, outside: Mapping[str, Path]) -> None:
    """Create the directories in `outside`, by setting, and write id and path of the run in `root` into each."""
    path = root / RUN_ID_FILE
    if outside and not path.exists():
        write_atomically(path, secrets.token_hex(16).encode())
    for directory in outside.values():
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / RUN_ID_FILE, path.read_bytes() + b"\n" + os.fsencode(root.resolve()))


def permission(root: Path, directory: Path) -> Literal["granted", "missing", "taken"]:
    """Whether the run in `root` may write to `directory`, which is outside of it; `taken` if it is another run's.

    Files of older versions contain no path of a run directory; a run with their id has the permission.
    """
    run_id, _, path = _content(directory / RUN_ID_FILE).partition(b"\n")
    owner = Path(os.fsdecode(path))
    if run_id and path and _content(owner / RUN_ID_FILE) == run_id and not os.path.samefile(owner, root):
        return "taken"
    if run_id and run_id == _content(root / RUN_ID_FILE):
        return "granted"
    is_in_run = any(is_run(parent) for parent in (directory.resolve(), *directory.resolve().parents))
    return "taken" if is_in_run else "missing"


def check_write(root: Path, outside: Mapping[str, Path], named: Mapping[str, Path]) -> None:
    """Raise UsageError if the run in `root` would write to directories outside of it without permission.

    `outside` are the directories by setting; those in `named` were named by the user, who thereby permits them.
    """
    problems = [
        f"{path} is a symbolic link out of the run directory, to {path.resolve()}; replace it with a copy of its target"
        for path in sorted(root.rglob("*"))
        if path.is_symlink()
        and not path.resolve().is_relative_to(root.resolve())
        and not _is_wandb_log(path, root)
        and not any(directory.is_relative_to(path.absolute()) for directory in outside.values())
    ]
    problems += refusals(root, outside, named)
    if problems:
        raise UsageError("\n  ".join(problems))


def refusals(root: Path, outside: Mapping[str, Path], named: Mapping[str, Path]) -> list[str]:
    """A message for each outside directory without permission, then the command that continues the run."""
    problems, before = [], []
    command = ["metta", "resume", str(root)]
    for setting, directory in outside.items():
        is_link = directory.is_relative_to(root.absolute())
        place = f"{setting} of this run is {directory}, outside of the run directory"
        if is_link:
            place = f"{directory} is a symbolic link out of the run directory, to {directory.resolve()}"
        found = "named" if setting in named else permission(root, directory)
        if found == "missing":
            problems.append(f"{place}, and its file {RUN_ID_FILE} is missing or does not match the run")
        if found in ("missing", "named"):
            command += ["--set", f"{setting}={directory}"]
        elif found == "taken":
            problems.append(f"{place}, and belongs to another run, of which this one may be a copy")
            inside = shlex.quote(str(directory if is_link else root / "checkpoints"))
            before += [f"rm {inside}"] if is_link else []
            if setting.startswith("checkpoint."):
                before.append(f"cp -r {shlex.quote(str(directory.resolve()))}/. {inside}")
            command += [] if is_link else ["--set", f"{setting}="]
    if problems:
        does = "to continue with a copy of it" if before else "to use it"
        problems[-1] += f"; {does}: {' && '.join([*before, shlex.join(command)])}"
    return problems


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _is_wandb_log(path: Path, root: Path) -> bool:
    """Whether a link is inside of a W&B log, which contains links of its own; a resumed run does not write there."""
    first, *inside = path.relative_to(root).parts
    return first == "wandb" and len(inside) > 1
