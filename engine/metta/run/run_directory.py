"""Run directory: `config.toml`, `metrics.jsonl`, `checkpoints/`, `replays/`, and the lock against concurrent runs."""

from __future__ import annotations

import glob
import os
import re
import shlex
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Self

from metta.checkpoint.kept_policies import BEST
from metta.checkpoint.policy_file import checkpoint_name, checkpoint_paths, newest_valid
from metta.checkpoint.trainer_state import training_state_paths
from metta.config.loading.load import dump_config, read_config
from metta.config.loading.overrides import Override
from metta.config.loading.toml_parser import parse_toml, read_text
from metta.config.run import RunConfig
from metta.config.validation.file_paths import IN_RUN, from_run, policy_from_run, split_policy_name, user_path
from metta.errors import (
    CheckpointError,
    MettaError,
    RenamedKeyWarning,
    TrainingError,
    UsageError,
    is_wrong_path,
    similar_name,
)
from metta.files import created_directories, new_directory, remove_temporary_files, write_atomically
from metta.rl.frozen_policies.self_play import OPPONENTS
from metta.run.directory_lock import LOCK, DirectoryLock
from metta.run.write_permissions import (
    CONFIG,
    EXPERIMENT,
    RUN_ID_FILE,
    check_write,
    grant_write,
    is_run,
    permission,
    refusals,
    runs_inside,
)

METRICS = "metrics.jsonl"
CHECKPOINT_DIR, REPLAY_DIR = "checkpoint.checkpoint_dir", "simulation.replay_dir"


class RunDirectory:
    """The directory of a run, locked by one process at a time: a context manager that releases the lock."""

    def __init__(self, root: Path, config: RunConfig, granted: Mapping[str, Path]):
        """Lock the directory, and that of checkpoints if it is elsewhere. Raises TrainingError if it is locked."""
        self.root = root
        self.config = config
        self._granted = granted
        self._frozen_files: frozenset[str] | None = None
        is_elsewhere = _is_outside(root, self.checkpoints) and self.checkpoints.is_dir()
        with ExitStack() as locks:
            for directory in [self.checkpoints, root] if is_elsewhere else [root]:
                locks.enter_context(DirectoryLock(directory))
            self._locks = locks.pop_all()
        self._lock_status = (root / LOCK).stat()

    @classmethod
    def create(cls, config: RunConfig) -> Self:
        """Create a directory with its `config.toml`: `run.run_dir`, or by default `runs/NAME-DATE-TIME`.

        Raises UsageError if it already contains a run or policies, or cannot be written.
        """
        with new_run_directory("run", config.run.name, config.run.run_dir) as root:
            return cls._create(root, config)

    @classmethod
    def _create(cls, root: Path, config: RunConfig) -> Self:
        checkpoints = checkpoint_directory(root, config)
        _check_unused(root, checkpoints)
        outside = _outside(root, config)
        with created_directories(root, checkpoints, *outside.values()), ExitStack() as on_error:
            directory = cls(root, config, outside)
            on_error.push(directory)
            _check_unused(root, checkpoints)  # another process may have created a run in the meantime
            for written in (root, checkpoints):
                remove_temporary_files(written)
            on_error.callback(_remove_traces, root, outside.values())
            directory.write_config()
            on_error.pop_all()
        return directory

    @classmethod
    def open(cls, root: str | Path, overrides: Sequence[Override] = ()) -> Self:
        """Open the directory of an existing run, with `overrides` applied to its config.

        `config.toml` does not change until `write_config`. Raises CheckpointError if there is no run, UsageError if the
        directory is not writable or the run would write to directories without permission: see write_permissions.py.
        """
        root = user_path(root)
        if not is_run(root):
            problem = "is not a run directory: it has no config.toml" if os.path.exists(root) else "does not exist"
            raise CheckpointError(f"{root} {problem}{runs_inside(root)}")
        config = read_run_config(root, overrides)
        outside = _outside(root, config)
        granted = {setting: outside[setting] for setting in outside.keys() & set(map(_key, overrides))}
        check_write(root, outside, granted)
        try:
            directory = cls(root, config, granted)
            grant_write(root, {setting: path for setting, path in outside.items() if setting not in granted})
            of_policies = [path for path in directory.checkpoints.rglob("*") if path.is_dir()]
            for written in (root, directory.checkpoints, *of_policies, directory.replays):
                remove_temporary_files(written)
        except OSError as error:
            raise unwritable(error, root) from None
        return directory

    @property
    def checkpoints(self) -> Path:
        """Directory of policies and trainer states."""
        return checkpoint_directory(self.root, self.config)

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

        `metta train` accepts the file: `run.run_dir` is empty, so that a new run gets a new directory. Paths in the run
        directory start with `IN_RUN`; others are absolute, since a run may resume in another working directory. Raises
        UsageError if a path is not writable, TrainingError for other failures, such as a full disk.
        """
        portable = self.config.with_policies(lambda key, policy: _portable_path(self.root, policy)).with_values(
            run={"run_dir": ""},
            checkpoint={"checkpoint_dir": _portable_path(self.root, self.config.checkpoint.checkpoint_dir)},
            simulation={"replay_dir": _portable_path(self.root, self.config.simulation.replay_dir)},
        )
        try:
            grant_write(self.root, self._granted)
            write_atomically(self.root / CONFIG, dump_config(portable).encode())
        except OSError as error:
            raise unwritable(error, self.root) from None

    def remove_evicted_snapshots(self, frozen_files: Iterable[str]) -> None:
        """Remove the snapshots of self-play that are not among the `frozen_files` of this call or the previous one.

        Called with the files that the newest trainer state needs, in the directory of checkpoints, when training begins
        and after each state is written. The state before the newest is kept, too; its files are unknown at first.
        """
        needed, before = frozenset(frozen_files), self._frozen_files
        if before is not None:
            for path in self.checkpoints.glob(f"**/{OPPONENTS}/epoch_*.pt"):
                if path.relative_to(self.checkpoints).as_posix() not in needed | before:
                    path.unlink()
        self._frozen_files = needed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._locks.close()


@contextmanager
def new_run_directory(kind: str, name: str, given: str) -> Iterator[Path]:
    """Context with a directory for a run, experiment or sweep: `given`, or by default a new one, `runs/NAME-DATE-TIME`.

    If the block raises, directories that were created are removed if they are empty. Raises UsageError if the path is
    wrong, TrainingError for other failures, such as a full disk.
    """
    path = user_path(given) if given else Path("runs", f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
    created = nullcontext(path) if given else new_directory(path.parent, path.name)
    try:
        with created_directories(path if given else path.parent), created as root:
            yield root
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{error.filename} is a file; name a directory for the {kind}") from None
    except OSError as error:
        raise unwritable(error, path) from None


def newest_checkpoint(directory: str | Path) -> Path | None:
    """Path of the newest valid policy of a run, or of a directory of checkpoints; None if a run has none yet.

    A SkippedFileWarning names newer policies that are damaged. Raises UsageError if the directory is neither,
    CheckpointError if no policy is valid, or if the run is a copy whose policies are another run's.
    """
    root = user_path(directory)
    if not is_run(root):
        if found := checkpoint_paths(root) or checkpoint_paths(root / "checkpoints"):  # a run without its config
            return newest_valid(found)
        raise UsageError(f"{root} is not a run directory, and has no policy checkpoint{runs_inside(root)}")
    with warnings.catch_warnings():  # the policy has the same keys, and warns when it is loaded
        warnings.simplefilter("ignore", RenamedKeyWarning)
        config = read_run_config(root)
    directory = checkpoint_directory(root, config)
    outside = _outside(root, config)
    if CHECKPOINT_DIR in outside and permission(root, outside[CHECKPOINT_DIR]) == "taken":
        raise CheckpointError("\n  ".join(refusals(root, outside, {})))
    while found := checkpoint_paths(directory):
        try:
            return newest_valid(found)
        except CheckpointError:
            # otherwise a run in training has saved a newer policy meanwhile, and may have removed those found
            if checkpoint_paths(directory)[:1] == found[:1]:
                raise
    return None


def policy_file(path: str | Path, registered: Sequence[str] = ()) -> Path:
    """The file of a policy: `path` itself, or the `newest_checkpoint` of a run or a directory of checkpoints.

    A name that is no path stands for the newest run of that name, as in `find_runs`, and `RUN/best.pt` for the best
    policy of a run; `:NAME` at the end, which names one policy of the file, is kept. Raises UsageError if there is no
    such run, or if the directory has no such policy; the message may suggest one of the names `registered`.
    """
    found, policy = split_policy_name(path)
    if not os.path.lexists(found):
        if best := _best_policy(found):
            if not best.exists():
                raise UsageError(f"{found.parent} has no {BEST}; checkpoint.keep_best = true keeps one")
            found = best
        elif runs := find_runs([found]):
            found = runs[0]
        elif found.name == str(found) and found.suffix != ".pt":
            known = [name for run in find_runs(["runs/*"]) for name in (run.name, _run_name(run)) if name]
            hint = similar_name(str(found), [*known, *registered])
            raise UsageError(f"{found} does not exist, here or as a run in runs/{hint}")
    if (file := newest_checkpoint(found) if os.path.isdir(found) else found) is None:
        raise UsageError(f"{found} has no checkpoint yet")
    return Path(f"{file}:{policy}") if policy else file


def is_policy_of(file: str, path: str) -> bool:
    """Whether a policy file is the one that `path` means, or a policy of the run or directory that it means.

    A run has newer policies after a while than when its name was used, see `policy_file`.
    """
    (saved, policy), (named, named_policy) = split_policy_name(file), split_policy_name(path)
    found, best = saved.resolve(), _best_policy(named)
    directories = [checkpoint_directory(run, read_run_config(run)).resolve() for run in find_runs([named])]
    is_named = named.resolve() in (found, *found.parents) or found.parent in directories
    return policy == named_policy and (is_named or (best is not None and best.resolve() == found))


def _best_policy(path: Path) -> Path | None:
    """The file that `RUN/best.pt` stands for, by the directory or the name of a run; None if it is no such path."""
    runs = find_runs([path.parent]) if path.name == BEST and not os.path.lexists(path) else []
    return checkpoint_directory(runs[0], read_run_config(runs[0])) / BEST if runs else None


def find_runs(sources: Iterable[str | Path]) -> list[Path]:
    """Run directories by path, by glob pattern, or by the name of a run in `./runs`, newest first.

    The name is that of the directory or `run.name`. Sources that are none of these are left out.
    """
    found: list[Path] = []
    for source in sources:
        name, path = os.fspath(source), user_path(source)
        if is_run(path):
            found.append(path)
        elif glob.has_magic(name):
            found.extend(match for match in map(Path, glob.glob(str(path))) if is_run(match))
        elif is_run(Path("runs") / name) and name not in ("", ".", ".."):
            found.append(Path("runs") / name)
        elif name == path.name:
            found.extend(match for match in Path("runs").glob("*") if is_run(match) and _run_name(match) == name)
    distinct = {path.resolve(): path for path in reversed(found)}
    return sorted(distinct.values(), key=_begun, reverse=True)


def read_run_config(root: Path, overrides: Sequence[Override] = ()) -> RunConfig:
    """The config of the run in `root`, with `overrides` applied.

    Older versions wrote absolute paths for directories in the run. If the run has been moved or copied since, these
    mean the directories where the run is now.
    """
    config = read_config(root / CONFIG, overrides)
    config = config.with_policies(lambda key, policy: policy_from_run(policy, root))
    named = set(map(_key, overrides))
    if CHECKPOINT_DIR not in named:
        config = config.with_values(checkpoint={"checkpoint_dir": _moved(root, config.checkpoint.checkpoint_dir)})
    if REPLAY_DIR not in named:
        config = config.with_values(simulation={"replay_dir": _moved(root, config.simulation.replay_dir)})
    return config


def checkpoint_directory(root: Path, config: RunConfig) -> Path:
    """The directory of policies and trainer states of the run in `root`."""
    return from_run(config.checkpoint.checkpoint_dir or f"{IN_RUN}/checkpoints", root)


def replay_directory(root: Path, config: RunConfig) -> Path:
    """The directory of recorded episodes of the run in `root`."""
    return from_run(config.simulation.replay_dir or f"{IN_RUN}/replays", root)


def replay_prefix(root: Path, config: RunConfig) -> str:
    """Start of the names of recorded episodes: the name of the run's directory, if they are not in that directory."""
    return f"{root.absolute().name}_" if _is_outside(root, replay_directory(root, config)) else ""


def _check_unused(root: Path, checkpoints: Path) -> None:
    """Raise UsageError if the directories contain a run, or TrainingError if that run is in training."""
    if (root / CONFIG).exists() or (root / EXPERIMENT).exists():
        DirectoryLock(root).release()
        resume = f"metta resume {shlex.quote(str(root))}"
        raise UsageError(f"{root} already contains a run; resume it ({resume}) or choose another --run-dir")
    if training_state_paths(checkpoints) or checkpoint_paths(checkpoints) or (checkpoints / BEST).exists():
        raise UsageError(f"{checkpoints} contains the checkpoints of another run; choose another directory")


def _remove_traces(root: Path, outside: Iterable[Path]) -> None:
    """Remove lock and id files of a new run that failed before its `config.toml` was written."""
    with suppress(OSError):
        if not (root / CONFIG).exists():
            for directory in (root, *outside):
                for name in (LOCK, RUN_ID_FILE):
                    (directory / name).unlink(missing_ok=True)


def unwritable(error: OSError, root: Path) -> UsageError | TrainingError:
    """The error to raise for files in `root` that cannot be written."""
    kind = UsageError if is_wrong_path(error) else TrainingError  # a full disk is not a usage error
    return kind(f"{error.filename or root} cannot be written: {error.strerror}")


def _key(override: Override) -> str:
    return ".".join(map(str, override.path))


def _outside(root: Path, config: RunConfig) -> dict[str, Path]:
    """The directories outside of the run directory to which the run writes, by setting; also those behind links."""
    directories = {CHECKPOINT_DIR: checkpoint_directory(root, config), REPLAY_DIR: replay_directory(root, config)}
    return {setting: path.absolute() for setting, path in directories.items() if _is_outside(root, path)}


def _is_outside(root: Path, path: Path) -> bool:
    return not path.resolve().is_relative_to(root.resolve())


def _portable_path(root: Path, text: str) -> str:
    """A path of the config in the form for `config.toml`: absolute, or with `IN_RUN` if it is in the run directory."""
    if not text:
        return ""
    path = Path(os.path.abspath(from_run(text, root)))
    for start, written in ((Path(os.path.abspath(root)), path), (root.resolve(), path.resolve())):
        if written.is_relative_to(start):
            return str(Path(IN_RUN, written.relative_to(start)))
    return str(path)


def _moved(root: Path, text: str) -> str:
    """A setting that names a directory, with `IN_RUN` if it names one of the run in `root`.

    That is a path in the run directory, or an absolute path whose last parts name a directory in it, unless the run has
    permission to write to the path.
    """
    path = Path(text)
    if not path.is_absolute():
        return text
    if not _is_outside(root, path):
        return _portable_path(root, text)
    if permission(root, path) != "granted":
        for count in range(1, len(path.parts)):
            end = path.parts[-count:]
            if root.joinpath(*end).is_dir():
                return str(Path(IN_RUN, *end))
    return text


def _run_name(root: Path) -> str | None:
    """`run.name` of the run in `root`; None if its config cannot be read."""
    path = root / CONFIG
    try:
        run = parse_toml(read_text(path, str(path)), str(path)).get("run")
    except MettaError:
        return None
    return run.get("name") if isinstance(run, dict) else None


def _begun(root: Path) -> tuple[float, int, str]:
    """When a run began, for sorting: the time in the name of its directory, else that of its `config.toml`."""
    match = re.search(r"-(\d{8}-\d{6})(?:-(\d+))?$", root.name)
    try:
        if match:
            return datetime.strptime(match[1], "%Y%m%d-%H%M%S").timestamp(), int(match[2] or 1), root.name
        return (root / CONFIG).stat().st_mtime, 1, root.name
    except (ValueError, OSError):  # digits that are no time; a run that was removed just now
        return 0.0, 1, root.name
