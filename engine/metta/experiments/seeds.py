"""Experiments: a directory with the runs of one configuration for several seeds, which a pool of jobs trains."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import tomli_w

from metta.checkpoint.file_format import files_by_epoch
from metta.checkpoint.policy_file import checkpoint_name
from metta.config.loading.load import dump_config, load_tasks, read_config, with_worlds
from metta.config.loading.overrides import Override
from metta.config.loading.toml_parser import parse_toml, read_text
from metta.config.run import RunConfig
from metta.config.validation.file_paths import IN_RUN, user_path
from metta.errors import CheckpointError, UsageError
from metta.experiments.job_pool import Job, JobEnded, JobEvent, JobPool
from metta.files import write_atomically
from metta.job_environment import job_size
from metta.run.device import find_device, gpu_memory
from metta.run.directory_lock import DirectoryLock
from metta.run.epoch_metrics import EpochMetrics
from metta.run.events import Notice, RunEnded, StopRequested
from metta.run.learners.policy_files import with_policy_files
from metta.run.loggers import check_loggers
from metta.run.memory_check import check_memory
from metta.run.metrics_file import valid_lines
from metta.run.resume.changed_settings import changes_since, check_changeable
from metta.run.run_directory import (
    METRICS,
    checkpoint_directory,
    new_run_directory,
    read_run_config,
    unwritable,
)
from metta.run.write_permissions import EXPERIMENT, is_run

SETTINGS: Final = "settings.toml"
"""All settings of the runs, except seed and directory; `metta train` accepts the file."""
MAX_SEED: Final = 2**63 - 1


@dataclass(frozen=True)
class ExperimentBegan:
    """The runs of an experiment begin or continue; the first event."""

    directory: Path
    config: RunConfig
    """settings of all runs"""
    seeds: dict[str, int]
    """name of each run, which is that of its directory -> seed"""
    jobs: int
    """runs that train at once"""
    threads: int
    """threads of each run; 0: as many as the run has alone"""


@dataclass(frozen=True)
class ExperimentEnded:
    """The result of an experiment; the last event."""

    reason: Literal["finished", "interrupted", "failed"]
    """interrupted: a stop was requested; failed: all runs ended, some with an error"""
    directory: Path
    runs: dict[str, JobEnded]
    """how each run ended, by name; runs that had not begun are missing"""


ExperimentEvent = ExperimentBegan | JobEvent | JobEnded | Notice | StopRequested | ExperimentEnded
"""What the listener of an experiment can receive."""

ExperimentListener = Callable[[ExperimentEvent], None]


@dataclass(frozen=True)
class Experiment:
    """The contents of the files of an experiment."""

    root: Path
    config: RunConfig
    seeds: tuple[int, ...]
    jobs: int
    threads: int
    """threads of each run; 0: as many as the run has alone"""

    @classmethod
    def read(cls, root: Path, overrides: Sequence[Override] = ()) -> Self:
        """The experiment in `root`, with `overrides` of its settings. Raises ConfigError or UsageError if damaged."""
        path = root / EXPERIMENT
        data: dict[str, Any] = parse_toml(read_text(path, str(path)), str(path))
        seeds, jobs, threads = (data.get(name) for name in ("seeds", "jobs", "threads"))
        if isinstance(seeds, list) and isinstance(jobs, int) and isinstance(threads, int) and jobs > 0 and threads >= 0:
            return cls(root, read_config(root / SETTINGS, overrides), check_seeds(seeds), jobs, threads)
        raise UsageError(f"{path} is damaged: it needs seeds, jobs and threads")

    def write(self) -> None:
        """Write both files, `experiment.toml` last. Raises UsageError or TrainingError if they cannot be written."""
        heading = f"# Runs of {SETTINGS} with these seeds: `metta resume` continues, `metta report` compares them.\n"
        values = {"seeds": list(self.seeds), "jobs": self.jobs, "threads": self.threads}
        try:
            write_atomically(self.root / SETTINGS, dump_config(self.config).encode())
            write_atomically(self.root / EXPERIMENT, (heading + tomli_w.dumps(values)).encode())
        except OSError as error:
            raise unwritable(error, self.root) from None

    @property
    def runs(self) -> dict[str, int]:
        """Name of each run, which is that of its directory -> seed."""
        return {f"seed_{seed}": seed for seed in self.seeds}

    def run_config(self, name: str) -> RunConfig:
        """The config of a run, with its seed and its directories."""
        return self.config.with_values(
            run={"seed": self.runs[name], "run_dir": str(self.root / name)},
            checkpoint={"checkpoint_dir": _of_run(self.config.checkpoint.checkpoint_dir, name)},
            simulation={"replay_dir": _of_run(self.config.simulation.replay_dir, name)},
        )


def train_runs(
    config: RunConfig, seeds: Sequence[int], listener: ExperimentListener, jobs: int = 1, or_resume: bool = False
) -> ExperimentEnded:
    """Train a run of `config` for each seed in child processes, `jobs` at once, in a new experiment directory.

    The directory is `run.run_dir`, by default `runs/NAME-DATE-TIME`. Each run is that of `train_run` with this
    `run.seed`, and has a directory `seed_SEED` there. With one job, results are bit-identical to those of `train_run`;
    with several, to those of a process with as many threads (`OMP_NUM_THREADS`). A run that fails does not stop the
    others. With `or_resume`, an experiment that the directory already holds is continued with the settings of `config`.

    Raises UsageError if the seeds or jobs are not valid, or if the directory contains something else.
    """
    _check_jobs(jobs)
    seeds = check_seeds(seeds)
    root = user_path(config.run.run_dir)
    if or_resume and not config.run.run_dir:
        raise UsageError(
            "--or-resume needs a directory, in which the repeated command finds the experiment; add --run-dir DIRECTORY"
        )
    if or_resume and is_experiment(root):
        before = Experiment.read(root)
        if sorted(before.seeds) != sorted(seeds):
            given = ",".join(map(str, before.seeds))
            raise UsageError(f"the experiment in {root} has the seeds {given}; to resume it: --seeds {given}")
        overrides = changes_since(before.config, _shared_settings(config, before.seeds), root, listener)
        return resume_runs(root, listener, overrides, jobs)
    check_loggers(config.logging)
    policies = with_policy_files(config).with_policies(lambda key, path: os.path.abspath(path))
    portable = _shared_settings(with_worlds(policies), seeds)
    at_once = min(jobs, len(seeds))
    _check_memory(portable, at_once, listener)
    with JobPool(at_once, lambda name: listener(StopRequested(name))) as pool, ExitStack() as stack:
        with new_run_directory("experiment", config.run.name, config.run.run_dir) as root:
            _check_unused(root)
            stack.enter_context(DirectoryLock(root))
            experiment = Experiment(root, portable, seeds, jobs, pool.threads)
            experiment.write()
        return _train(experiment, pool, listener)


def resume_runs(
    root: str | Path, listener: ExperimentListener, overrides: Sequence[Override] = (), jobs: int | None = None
) -> ExperimentEnded:
    """Continue the runs of an experiment that are not finished, each from its newest valid trainer state.

    `overrides` may change `CHANGEABLE` keys of all runs. `jobs` is by default that of before, with the same number of
    threads; another number divides the cores again. Raises CheckpointError if the directory is no experiment.
    """
    _check_jobs(1 if jobs is None else jobs)
    check_changeable(overrides)
    root = user_path(root)
    if not is_experiment(root):
        raise CheckpointError(f"{root} is not an experiment: it has no {EXPERIMENT}")
    with DirectoryLock(root):
        before = Experiment.read(root, overrides)
        jobs = before.jobs if jobs is None else jobs
        threads = before.threads if jobs == before.jobs else 0
        at_once = min(jobs, len(before.seeds))
        check_loggers(before.config.logging)
        _check_memory(before.config, at_once, listener)
        with JobPool(at_once, lambda name: listener(StopRequested(name)), threads) as pool:
            experiment = replace(before, jobs=jobs, threads=pool.threads)
            experiment.write()
            return _train(experiment, pool, listener)


def is_experiment(directory: str | Path) -> bool:
    """Whether a directory is an experiment: whether it contains `experiment.toml`."""
    return os.path.isfile(user_path(directory) / EXPERIMENT)  # unlike Path.is_file, accepts names of any length


def experiment_runs(directory: str | Path) -> list[Path]:
    """The run directories of an experiment that have begun, in the order of its seeds."""
    experiment = Experiment.read(user_path(directory))
    return [experiment.root / name for name in experiment.runs if is_run(experiment.root / name)]


def check_seeds(seeds: Sequence[Any]) -> tuple[int, ...]:
    """The seeds, if they are different whole numbers from 0 to 2^63 - 1. Raises UsageError if they are not."""
    if not seeds:
        raise UsageError("--seeds needs at least one seed, such as 5 (the seeds 0 to 4) or 0,1,2")
    for seed in seeds:
        if type(seed) is not int or not 0 <= seed <= MAX_SEED:
            raise UsageError(f"--seeds: a seed must be a whole number from 0 to 2^63 - 1; got {seed}")
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise UsageError(f"--seeds: each seed can be trained once; listed twice: {', '.join(map(str, twice))}")
    return tuple(seeds)


def _check_jobs(jobs: int) -> None:
    if jobs < 1:
        raise UsageError(f"--jobs must be at least 1; got {jobs}")
    if job_size() > 1:
        raise UsageError(
            "several seeds are trained by one command, which starts a process for each; leave out torchrun (or unset "
            "WORLD_SIZE), and use --jobs for the number of runs at once"
        )


def _train(experiment: Experiment, pool: JobPool, listener: ExperimentListener) -> ExperimentEnded:
    """Train the runs that are not finished."""
    root, ended = experiment.root, dict[str, JobEnded]()
    listener(ExperimentBegan(root, experiment.config, experiment.runs, pool.max_jobs, pool.threads))
    for name in experiment.runs:
        if finished := _finished_run(root / name, experiment.config.run.total_timesteps):
            ended[name] = JobEnded(name, finished)
            listener(ended[name])
        else:
            pool.submit(Job(name, experiment.run_config(name)))
    for event in pool.events():
        listener(event)
        if isinstance(event, JobEnded):
            ended[event.name] = event
    reasons = {run.run.reason if run.run else "failed" for run in ended.values()}
    reason: Literal["finished", "interrupted", "failed"] = "failed" if "failed" in reasons else "finished"
    if pool.is_stopping or "interrupted" in reasons:
        reason = "interrupted"
    result = ExperimentEnded(reason, root, ended)
    listener(result)
    return result


def _finished_run(root: Path, total_timesteps: int) -> RunEnded | None:
    """How a run ended that has trained for `total_timesteps`; None if it has not, or if its files do not say."""
    if not is_run(root):
        return None
    checkpoints = checkpoint_directory(root, read_run_config(root))
    states = files_by_epoch(checkpoints, "trainer_state")
    if not states or not (root / METRICS).exists():
        return None
    epoch = next(iter(states.values()))
    try:
        lines = [line for line in valid_lines(root / METRICS) if line["epoch"] <= epoch]
        epochs = [EpochMetrics.from_line(line) for line in lines]
    except TypeError:  # values are missing; the run says what is wrong with its files
        return None
    if not epochs or epochs[-1].epoch != epoch or epochs[-1].agent_step < total_timesteps:
        return None
    ended = [metrics for metrics in epochs if metrics.episodes]
    first, last = (ended[0], ended[-1]) if ended else (None, None)
    path, agent_step, seconds = checkpoints / checkpoint_name(epoch), epochs[-1].agent_step, epochs[-1].seconds
    return RunEnded("finished", root, path, epoch, agent_step, seconds, first, last)


def _check_memory(config: RunConfig, runs: int, listener: ExperimentListener) -> None:
    """Notice if `runs` runs at once may not fit into memory; raises if they certainly do not."""
    if runs > 1:  # a single run checks for itself
        device, worlds = find_device(config.run.device), load_tasks(config).env_configs
        if warning := check_memory(config, worlds, device.type, gpu_bytes=gpu_memory(device), runs=runs):
            listener(Notice(warning))


def _shared_settings(config: RunConfig, seeds: Sequence[int]) -> RunConfig:
    """The settings of all runs, with absolute directories, since they may resume in another working directory."""

    def absolute(path: str) -> str:
        return path if not path or path.startswith(IN_RUN) else os.path.abspath(user_path(path))

    return config.with_values(
        run={"seed": seeds[0], "run_dir": ""},
        checkpoint={"checkpoint_dir": absolute(config.checkpoint.checkpoint_dir)},
        simulation={"replay_dir": absolute(config.simulation.replay_dir)},
    )


def _of_run(directory: str, name: str) -> str:
    """The directory of one run where the settings name one for all runs."""
    return directory if not directory or directory.startswith(IN_RUN) else os.path.join(directory, name)


def _check_unused(root: Path) -> None:
    """Raise UsageError if a directory contains an experiment, a run or anything else."""
    resume = f"resume it (metta resume {shlex.quote(str(root))}) or choose another --run-dir"
    if is_experiment(root):
        raise UsageError(f"{root} already contains an experiment; {resume}")
    if is_run(root):
        raise UsageError(f"{root} already contains a run; {resume}")
    others = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith(".")) if root.is_dir() else []
    if others:
        raise UsageError(f"{root} is not empty (it contains {others[0]}); choose another --run-dir for the experiment")
