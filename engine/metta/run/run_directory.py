"""Where a run lives: `config.toml`, `metrics.jsonl`, `checkpoints/`, `replays/`, and the lock of who trains in it."""

from __future__ import annotations

import os
import platform
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Self, TextIO

from metta.checkpoint.policy_checkpoint import checkpoint_paths
from metta.checkpoint.trainer_state import training_state_paths
from metta.config.loading.load import dump_config, read_config
from metta.config.loading.overrides import Override
from metta.config.run import RunConfig
from metta.errors import CheckpointError, TrainingError, UsageError, printable
from metta.files import made_directories, remove_partial, without_waiting, write_whole
from metta.rl.self_play import OPPONENTS
from metta.run.write_permissions import MARK, check_own, claim

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind; runs there are not guarded against each other
    fcntl = None  # type: ignore[assignment]  # the stub knows only the module


CONFIG = "config.toml"
METRICS = "metrics.jsonl"
LOCK = ".lock"
MOST_OF_A_LOCK = 200
"""Characters of a lock file that are read: it says who holds it in fewer."""


class RunDirectory:
    """A run's directory, held by one process at a time: a context manager that ends the holding.

    The lock falls by itself when its process dies.
    """

    def __init__(self, root: Path, config: RunConfig, lock: TextIO, given: Mapping[str, Path]):
        self.root = root
        self.config = config
        self._lock = lock
        self._given = given

    @classmethod
    def create(cls, config: RunConfig) -> Self:
        """A new directory with its `config.toml`: `run.run_dir`, else `runs/NAME-DATE-TIME`.

        Raises UsageError if there is a run in it already or nothing can be written there.
        """
        root = Path(config.run.run_dir or _fresh_name(config.run.name))
        checkpoints = _checkpoints(root, config)
        try:
            _refuse_taken(root, checkpoints)
            outside = _outside(root, config)
            with made_directories(root, checkpoints, *outside.values()), ExitStack() as undo:
                directory = cls(root, config, _locked(root), outside)
                undo.push(directory)
                _refuse_taken(root, checkpoints)  # by a run that began and ended meanwhile
                for written in (root, checkpoints):
                    remove_partial(written)
                undo.callback(_leave_nothing, root, outside.values())
                directory.write_config()
                undo.pop_all()
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(f"{error.filename} is a file; name a directory for the run") from None
        except OSError as error:
            raise _unwritable(error, root) from None
        return directory

    @classmethod
    def open(cls, root: str | Path, overrides: Sequence[Override] = ()) -> Self:
        """The directory of a run that was begun before, with `overrides` put over its config.

        `config.toml` stays as it is until `write_config`. Raises CheckpointError where there is no run, UsageError
        where nothing can be written, or something that was not given to the run would be: see ownership.py.
        """
        root = Path(root)
        path = root / CONFIG
        if not os.path.isfile(path):  # which takes any name, however long
            what = "is not the directory of a run: it has no config.toml" if os.path.exists(root) else "does not exist"
            raise CheckpointError(f"{root} {what}")
        config = read_config(str(path), overrides)
        outside = _outside(root, config)
        given = {setting: where for setting, where in outside.items() if setting in _named(overrides)}
        check_own(root, {setting: where for setting, where in outside.items() if setting not in given})
        try:
            directory = cls(root, config, _locked(root), given)
            for written in (root, directory.checkpoints, directory.checkpoints / OPPONENTS, directory.replays):
                remove_partial(written)
        except OSError as error:
            raise _unwritable(error, root) from None
        return directory

    @property
    def checkpoints(self) -> Path:
        """Where policies and trainer states are saved."""
        return _checkpoints(self.root, self.config)

    @property
    def replays(self) -> Path:
        """Where recorded episodes go; made when there is one."""
        return replay_directory(self.root, self.config)

    @property
    def metrics(self) -> Path:
        """One line of JSON per epoch."""
        return self.root / METRICS

    @property
    def was_begun(self) -> bool:
        """Whether the run saved its first state; `metrics.jsonl` comes after it."""
        return self.metrics.exists() or bool(training_state_paths(self.checkpoints))

    def check_it_is_there(self) -> None:
        """Raise TrainingError if the directory, or the lock in it, is no longer the one that was opened."""
        try:
            is_there = os.path.samestat(os.fstat(self._lock.fileno()), (self.root / LOCK).stat())
        except FileNotFoundError:
            is_there = False
        if not is_there:
            raise TrainingError(f"{self.root} was removed or replaced by another directory under the run")

    def write_config(self) -> None:
        """Write `config.toml`: every value, itself a valid input. The directories it names become the run's.

        It lies in the run's directory and does not name it: trained again, it gets a directory of its own. Files and
        directories that it does name are written in full, for the run may go on from another one. Raises UsageError
        where nothing can be written.
        """
        config = self.config
        checkpoint_dir, replay_dir = map(_in_full, (config.checkpoint.checkpoint_dir, config.simulation.replay_dir))
        teacher = _in_full(config.kickstarting.teacher)
        policies = [_in_full(policy) for policy in config.self_play.policies]
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
            claim(self.root, self._given)
            write_whole(self.root / CONFIG, dump_config(portable).encode())
        except OSError as error:
            raise _unwritable(error, self.root) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # the disk may be gone; the lock falls anyway
            self._lock.truncate(0)
        self._lock.close()


def is_run(directory: str | Path) -> bool:
    """Whether it is the directory of a run, however short that has been."""
    return (Path(directory) / CONFIG).is_file()


def newest_checkpoint(directory: str | Path) -> Path | None:
    """The newest policy of a run, wherever it keeps them, or of a directory of checkpoints; None if there is none yet.

    Raises UsageError for a directory that is neither.
    """
    root = Path(directory)
    if is_run(root):
        found = checkpoint_paths(_checkpoints(root, read_config(str(root / CONFIG))))
        return found[0] if found else None
    if not (found := checkpoint_paths(root)):
        raise UsageError(f"{root} is not the directory of a run, and there is no policy checkpoint in it")
    return found[0]


def _refuse_taken(root: Path, checkpoints: Path) -> None:
    """Raise UsageError if a run is in these directories already; TrainingError, with its process, if it is alive."""
    if (root / CONFIG).exists():
        if holder := _holder(root):
            raise TrainingError(_held_text(root, holder))
        raise UsageError(f"{root} holds a run already; go on with it (metta resume {root}) or name another --run-dir")
    if training_state_paths(checkpoints):
        raise UsageError(f"{checkpoints} holds the checkpoints of another run; name another directory")


def _leave_nothing(root: Path, outside: Iterable[Path]) -> None:
    """Remove what was written before a run could not be begun after all."""
    with suppress(OSError):
        if not (root / CONFIG).exists():
            for path in (root / LOCK, root / MARK, *(directory / MARK for directory in outside)):
                path.unlink(missing_ok=True)


def _unwritable(error: OSError, root: Path) -> UsageError:
    return UsageError(f"{error.filename or root} cannot be written: {error.strerror}")


def _outside(root: Path, config: RunConfig) -> dict[str, Path]:
    """The directories outside of the run directory that the run writes to, by the setting that names them."""
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


def _named(overrides: Sequence[Override]) -> set[str]:
    return {".".join(map(str, override.path)) for override in overrides}


def _in_full(path: str) -> str:
    return str(Path(path).absolute()) if path else ""


def replay_directory(root: Path, config: RunConfig) -> Path:
    """Where the recorded episodes of the run in `root` are."""
    return Path(config.simulation.replay_dir or root / "replays")


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
    descriptor = without_waiting(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{root / LOCK} is not a regular file; remove it")
    lock = os.fdopen(descriptor, "a+", encoding="utf-8", errors="replace")
    if fcntl is None:
        return lock
    lock.seek(0)
    holder = lock.read(MOST_OF_A_LOCK).strip()
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_held = False
    except BlockingIOError:
        is_held = True
    except OSError:  # a network file system without locks: what is written in the file must do
        is_held = bool(holder) and not _is_dead(holder)
    if is_held:
        lock.close()
        raise TrainingError(_held_text(root, holder))
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
    lock.flush()
    return lock


def _holder(root: Path) -> str:
    """Who trains in a directory, as the lock there says it; nothing is changed. Empty if nobody does."""
    try:
        lock = os.fdopen(without_waiting(root / LOCK, os.O_RDONLY), encoding="utf-8", errors="replace")
    except OSError:
        return ""
    with lock:
        if fcntl is None or not stat.S_ISREG(os.fstat(lock.fileno()).st_mode):
            return ""
        holder = lock.read(MOST_OF_A_LOCK).strip()
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return holder or "another process"
        except OSError:
            return "" if _is_dead(holder) else holder
    return ""


def _held_text(root: Path, holder: str) -> str:
    is_elsewhere = holder and f" on {platform.node()} " not in holder
    otherwise = f", or remove {root / LOCK} if that host is down" if is_elsewhere else ""
    who = printable(holder) or "another process"
    return f"{root} is being trained by {who}; wait for it or stop it first{otherwise}"


def _is_dead(holder: str) -> bool:
    """Whether the text in a lock file names a process of this host that is no more."""
    named = re.fullmatch(r"process (\d+) on (.*) since .*", holder)
    if named is None or named[2] != platform.node():
        return False
    try:
        os.kill(int(named[1]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
