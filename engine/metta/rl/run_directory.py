"""Where a run lives: `config.toml`, `metrics.jsonl`, `checkpoints/`, `replays/`, and the lock of who trains in it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Self, TextIO

from metta.config.load import dump_config, load_config
from metta.config.overrides import Override
from metta.config.run import RunConfig
from metta.errors import CheckpointError, TrainingError, UsageError
from metta.files import remove_partial, write_whole
from metta.rl.training_state import training_state_paths

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind; runs there are not guarded against each other
    fcntl = None  # type: ignore[assignment]  # the stub knows only the module


CONFIG = "config.toml"


class RunDirectory:
    """A run's directory, held by one process at a time: a context manager that ends the holding.

    The lock falls by itself when its process dies.
    """

    def __init__(self, root: Path, config: RunConfig, lock: TextIO):
        self.root = root
        self.config = config
        self._lock = lock

    @classmethod
    def create(cls, config: RunConfig) -> Self:
        """A new directory with its `config.toml`: `run.run_dir`, else `runs/NAME-DATE-TIME`.

        Raises UsageError if there is a run in it already or nothing can be written there.
        """
        root = Path(config.run.run_dir or _fresh_name(config.run.name))
        if (root / CONFIG).exists():
            raise UsageError(
                f"{root} holds a run already; go on with it (metta resume {root}) or name another --run-dir"
            )
        if training_state_paths(_checkpoints(root, config)):
            raise UsageError(
                f"{_checkpoints(root, config)} holds the checkpoints of another run; name another directory"
            )
        try:
            root.mkdir(parents=True, exist_ok=True)
            directory = cls(root, config, _locked(root))
            directory.checkpoints.mkdir(parents=True, exist_ok=True)
            directory.write_config()
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(f"{error.filename} is a file; name a directory for the run") from None
        except OSError as error:
            raise UsageError(f"{error.filename or root} cannot be written: {error.strerror}") from None
        return directory

    @classmethod
    def open(cls, root: str | Path, overrides: Sequence[Override] = ()) -> Self:
        """The directory of a run that was begun before, with `overrides` put over its config.

        `config.toml` stays as it is until `write_config`. Raises CheckpointError where there is no run, UsageError
        where nothing can be written.
        """
        root = Path(root)
        path = root / CONFIG
        if not path.is_file():
            what = "is not the directory of a run: it has no config.toml" if root.exists() else "does not exist"
            raise CheckpointError(f"{root} {what}")
        config = load_config(str(path), overrides)
        try:
            directory = cls(root, config, _locked(root))
            remove_partial(root)
            remove_partial(directory.checkpoints)
        except OSError as error:
            raise UsageError(f"{error.filename or root} cannot be written: {error.strerror}") from None
        return directory

    @property
    def checkpoints(self) -> Path:
        """Where policies and trainer states are saved."""
        return _checkpoints(self.root, self.config)

    @property
    def replays(self) -> Path:
        """Where recorded episodes go; made when there is one."""
        return Path(self.config.simulation.replay_dir or self.root / "replays")

    @property
    def metrics(self) -> Path:
        """One line of JSON per epoch."""
        return self.root / "metrics.jsonl"

    def write_config(self) -> None:
        """Write `config.toml`: every value, itself a valid input.

        It lies in the run's directory and does not name it: trained again, it gets a directory of its own. Directories
        that it does name are written in full, for the run may go on from another one.
        """
        config = self.config
        checkpoint_dir, replay_dir = map(_in_full, (config.checkpoint.checkpoint_dir, config.simulation.replay_dir))
        portable = config.model_copy(
            update={
                "run": config.run.model_copy(update={"run_dir": ""}),
                "checkpoint": config.checkpoint.model_copy(update={"checkpoint_dir": checkpoint_dir}),
                "simulation": config.simulation.model_copy(update={"replay_dir": replay_dir}),
            }
        )
        write_whole(self.root / CONFIG, dump_config(portable).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()


def _in_full(directory: str) -> str:
    return str(Path(directory).absolute()) if directory else ""


def _checkpoints(root: Path, config: RunConfig) -> Path:
    return Path(config.checkpoint.checkpoint_dir or root / "checkpoints")


def _fresh_name(name: str) -> Path:
    """`runs/NAME-DATE-TIME`, with a number where two runs start in one second."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    taken = 1
    while (path := Path("runs", stem if taken == 1 else f"{stem}-{taken}")).exists():
        taken += 1
    return path


def _locked(root: Path) -> TextIO:
    """The lock file of a directory, open and locked. Raises TrainingError, naming the holder, if another has it."""
    lock = (root / ".lock").open("a+", encoding="utf-8")
    if fcntl is None:
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise TrainingError(f"{root} is being trained by {holder}; wait for it or stop it first") from None
    except OSError:  # a network file system without locks
        return lock
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
    lock.flush()
    return lock
