"""Run directory: `config.toml`, `metrics.jsonl`, `checkpoints/`, `replays/`, and the lock against concurrent runs."""

from __future__ import annotations

import errno
import os
import platform
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Self

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from metta.checkpoint.policy_checkpoint import checkpoint_name, checkpoint_paths
from metta.checkpoint.trainer_state import training_state_paths
from metta.config.loading.load import dump_config, read_config
from metta.config.loading.overrides import Override
from metta.config.run import RunConfig
from metta.errors import CheckpointError, RenamedKeyWarning, TrainingError, UsageError, is_wrong_path, printable
from metta.files import created_directories, remove_temporary_files, write_atomically
from metta.rl.self_play import OPPONENTS
from metta.run.write_permissions import RUN_ID_FILE, check_write, grant_write

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
LOCK = ".lock"
SOFT_LOCK = ".lock_soft"
"""Replaces `LOCK` on network file systems without file locks; exists while a run is training."""
LOCK_HOLDER = ".lock_holder"
"""Contains process id, host and time of the process with the lock. A killed process leaves this file, but no lock."""


class RunDirectory:
    """The directory of a run, locked by one process at a time: a context manager that releases the lock."""

    def __init__(self, root: Path, config: RunConfig, lock: BaseFileLock, granted: Mapping[str, Path]):
        self.root = root
        self.config = config
        self._lock = lock
        self._lock_status = (root / LOCK).stat()
        self._granted = granted

    @classmethod
    def create(cls, config: RunConfig) -> Self:
        """Create a directory with its `config.toml`: `run.run_dir`, or by default `runs/NAME-DATE-TIME`.

        Raises UsageError if it already contains a run or policies, or cannot be written.
        """
        root = Path(config.run.run_dir or _new_name(config.run.name))
        checkpoints = _checkpoints(root, config)
        try:
            _check_unused(root, checkpoints)
            outside = _outside(root, config)
            with created_directories(root, checkpoints, *outside.values()), ExitStack() as on_error:
                directory = cls(root, config, _acquire_lock(root), outside)
                on_error.push(directory)
                _check_unused(root, checkpoints)  # another process may have created a run in the meantime
                for written in (root, checkpoints):
                    remove_temporary_files(written)
                on_error.callback(_remove_traces, root, outside.values())
                directory.write_config()
                on_error.pop_all()
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(f"{error.filename} is a file; name a directory for the run") from None
        except OSError as error:
            raise _unwritable(error, root) from None
        return directory

    @classmethod
    def open(cls, root: str | Path, overrides: Sequence[Override] = ()) -> Self:
        """Open the directory of an existing run, with `overrides` applied to its config.

        `config.toml` does not change until `write_config`. Raises CheckpointError if there is no run, UsageError if the
        directory is not writable or the run would write to directories without permission: see write_permissions.py.
        """
        root = Path(root)
        path = root / CONFIG
        if not os.path.isfile(path):  # unlike Path.is_file, accepts names of any length
            problem = "is not a run directory: it has no config.toml" if os.path.exists(root) else "does not exist"
            raise CheckpointError(f"{root} {problem}")
        config = read_config(str(path), overrides)
        outside = _outside(root, config)
        named = {".".join(map(str, override.path)) for override in overrides}
        granted = {setting: directory for setting, directory in outside.items() if setting in named}
        check_write(root, {setting: path for setting, path in outside.items() if setting not in granted})
        try:
            directory = cls(root, config, _acquire_lock(root), granted)
            for written in (root, directory.checkpoints, directory.checkpoints / OPPONENTS, directory.replays):
                remove_temporary_files(written)
        except OSError as error:
            raise _unwritable(error, root) from None
        return directory

    @property
    def checkpoints(self) -> Path:
        """Directory of policies and trainer states."""
        return _checkpoints(self.root, self.config)

    @property
    def replays(self) -> Path:
        """Directory of recorded episodes; created with the first one."""
        return replay_directory(self.root, self.config)

    @property
    def metrics(self) -> Path:
        """File with one line of JSON per epoch."""
        return self.root / METRICS

    @property
    def has_progress(self) -> bool:
        """Whether the run has metrics, a trainer state, or a policy of an epoch after 0."""
        policies = {path.name for path in checkpoint_paths(self.checkpoints)} - {checkpoint_name(0)}
        return self.metrics.exists() or bool(training_state_paths(self.checkpoints)) or bool(policies)

    def check_exists(self) -> None:
        """Raise TrainingError if the directory was removed or replaced since it was opened."""
        try:
            is_same = os.path.samestat(self._lock_status, (self.root / LOCK).stat())
        except FileNotFoundError:
            is_same = False
        if not is_same:
            raise TrainingError(f"{self.root} was removed, or replaced by another directory, during the run")

    def write_config(self) -> None:
        """Write all settings to `config.toml`, and grant write permission for outside directories.

        `metta train` accepts the file: `run.run_dir` is empty, so that a new run gets a new directory. Other paths are
        absolute, since a run may resume in another working directory. Raises UsageError if a path is not
        writable, TrainingError for other failures, such as a full disk.
        """
        config = self.config
        checkpoint_dir, replay_dir = map(_absolute, (config.checkpoint.checkpoint_dir, config.simulation.replay_dir))
        teacher = _absolute(config.kickstarting.teacher)
        policies = [_absolute(policy) for policy in config.self_play.policies]
        portable = config.model_copy(
            update={
                "run": config.run.model_copy(update={"run_dir": ""}),
                "checkpoint": config.checkpoint.model_copy(update={"checkpoint_dir": checkpoint_dir}),
                "simulation": config.simulation.model_copy(update={"replay_dir": replay_dir}),
                "kickstarting": config.kickstarting.model_copy(update={"teacher": teacher}),
                "self_play": config.self_play.model_copy(update={"policies": policies}),
            }
        )
        try:
            grant_write(self.root, self._granted)
            write_atomically(self.root / CONFIG, dump_config(portable).encode())
        except OSError as error:
            raise _unwritable(error, self.root) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # the disk may be gone
            (self.root / LOCK_HOLDER).unlink(missing_ok=True)
        self._lock.release()


def is_run(directory: str | Path) -> bool:
    """Whether a directory is a run directory: whether it contains `config.toml`."""
    return (Path(directory) / CONFIG).is_file()


def newest_checkpoint(directory: str | Path) -> Path | None:
    """Path of the newest policy of a run, or of a directory of checkpoints; None if a run has none yet.

    Raises UsageError if the directory is neither.
    """
    root = Path(directory)
    if is_run(root):
        with warnings.catch_warnings():  # the policy has the same keys, and warns when it is loaded
            warnings.simplefilter("ignore", RenamedKeyWarning)
            config = read_config(str(root / CONFIG))
        found = checkpoint_paths(_checkpoints(root, config))
        return found[0] if found else None
    if not (found := checkpoint_paths(root)):
        raise UsageError(f"{root} is not a run directory, and has no policy checkpoint")
    return found[0]


def replay_directory(root: Path, config: RunConfig) -> Path:
    """The directory of recorded episodes of the run in `root`."""
    return Path(config.simulation.replay_dir or root / "replays")


def replay_prefix(root: Path, config: RunConfig) -> str:
    """Start of the names of recorded episodes: the name of the run's directory, if they are not in that directory."""
    return f"{root.absolute().name}_" if config.simulation.replay_dir else ""


def _check_unused(root: Path, checkpoints: Path) -> None:
    """Raise UsageError if the directories contain a run, or TrainingError if that run is in training."""
    if (root / CONFIG).exists():
        _acquire_lock(root).release()
        raise UsageError(f"{root} already contains a run; resume it (metta resume {root}) or choose another --run-dir")
    if training_state_paths(checkpoints) or checkpoint_paths(checkpoints):
        raise UsageError(f"{checkpoints} contains the checkpoints of another run; choose another directory")


def _remove_traces(root: Path, outside: Iterable[Path]) -> None:
    """Remove lock and id files of a new run that failed before its `config.toml` was written."""
    with suppress(OSError):
        if not (root / CONFIG).exists():
            for path in (root / LOCK, root / RUN_ID_FILE, *(directory / RUN_ID_FILE for directory in outside)):
                path.unlink(missing_ok=True)


def _acquire_lock(root: Path) -> BaseFileLock:
    """Lock a directory for this process. Raises TrainingError, naming the other process, if it is locked already."""
    lock: BaseFileLock = FileLock(root / LOCK, timeout=0)
    try:
        try:
            lock.acquire()
        except OSError as error:
            if isinstance(error, Timeout) or error.errno != errno.ENOLCK:
                raise
            lock = SoftFileLock(root / SOFT_LOCK, timeout=0)
            lock.acquire()
    except Timeout as error:
        raise TrainingError(_locked_message(root, error.lock_file)) from None
    this_process = f"process {os.getpid()} on {platform.node()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
    with suppress(OSError):  # only needed for the error message of other processes
        write_atomically(root / LOCK_HOLDER, this_process.encode())
    return lock


def _locked_message(root: Path, lock_file: str) -> str:
    try:
        holder = printable((root / LOCK_HOLDER).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        holder = "another process"
    is_remote = " on " in holder and f" on {platform.node()} " not in holder
    otherwise = f", or remove {lock_file} if that host is down" if is_remote else ""
    return f"{root} is being trained by {holder}; wait for it or stop it first{otherwise}"


def _unwritable(error: OSError, root: Path) -> UsageError | TrainingError:
    kind = UsageError if is_wrong_path(error) else TrainingError  # a full disk is not a usage error
    return kind(f"{error.filename or root} cannot be written: {error.strerror}")


def _outside(root: Path, config: RunConfig) -> dict[str, Path]:
    """The directories outside of the run directory to which the run writes, by setting."""
    named = {
        "checkpoint.checkpoint_dir": config.checkpoint.checkpoint_dir,
        "simulation.replay_dir": config.simulation.replay_dir,
    }
    inside = root.resolve()
    return {
        setting: Path(text).absolute()
        for setting, text in named.items()
        if text and not Path(text).resolve().is_relative_to(inside)
    }


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else ""


def _checkpoints(root: Path, config: RunConfig) -> Path:
    return Path(config.checkpoint.checkpoint_dir or root / "checkpoints")


def _new_name(name: str) -> Path:
    """`runs/NAME-DATE-TIME`, with a number appended if that directory exists."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    while (path := Path("runs", stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return path
