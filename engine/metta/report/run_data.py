"""Data of a report: read configs, metrics and replays of run directories, and compare the configs."""

from __future__ import annotations

import os
import re
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metta.config.run import RunConfig
from metta.config.validation.file_paths import IN_RUN, user_path
from metta.errors import MettaError, SkippedFileWarning, UsageError
from metta.experiments.seeds import experiment_runs, is_experiment
from metta.experiments.sweep.summary import is_sweep
from metta.run.directory_lock import is_locked
from metta.run.metrics_file import valid_lines
from metta.run.run_directory import METRICS, read_run_config, replay_directory, replay_prefix
from metta.run.write_permissions import CONFIG, is_run

_REPLAY_NAME = re.compile(r"replay_(\d+)(?:_(\d+))?")
"""Name of a recorded episode: its epoch, and the number of this episode if there are several of an epoch."""

XAxis = Literal["agent_step", "seconds"]
"""Metric on the horizontal axis of a curve: agent steps, or seconds of training."""

RunState = Literal["finished", "training", "stopped"]
"""`finished`: the run has `run.total_timesteps`; `training`: a process trains it now; `stopped`: it can be resumed."""

SUCCESS_RATE, ATTEMPTS = "success_rate", "attempts"
"""Metrics of each action that are computed from its statistics `success` and `failed`."""

SEED = "run.seed"
NOT_COMPARED = {"run.name", "run.run_dir", "checkpoint.checkpoint_dir", "simulation.replay_dir"}
"""Settings in which runs may differ without being different experiments."""


@dataclass(frozen=True)
class RunData:
    """Config and metrics of one run, as read from its directory."""

    name: str
    """name of the directory, with as many parent directories as distinguish it from the other runs"""
    run_dir: Path
    config: RunConfig
    epochs: list[dict[str, Any]]
    """metrics of each epoch, as in the metrics file"""
    state: RunState

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.config.run.seed

    @property
    def agent_step(self) -> int:
        """Agent steps done."""
        return int(self.epochs[-1]["agent_step"])

    @property
    def seconds(self) -> float:
        """Seconds of training, 0 if they are not recorded."""
        _, seconds = self.series("seconds")
        return float(seconds[-1]) if len(seconds) else 0.0

    @property
    def progress(self) -> float:
        """Fraction of `run.total_timesteps` that is done, at most 1."""
        return min(1.0, self.agent_step / self.config.run.total_timesteps)

    def series(self, metric: str, x_axis: XAxis = "agent_step") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(x, values) of a metric such as `reward`, `reward/hunters` or `losses.entropy`, each `[epochs] float64`.

        x is the number of agent steps, or the seconds of training, as `x_axis` says.

        Epochs without the metric are left out. The metrics file omits statistics (`stats`) that are zero, so a missing
        statistic counts as 0 in epochs in which at least one episode ended. `attempts.ACTION` is the number of times
        that an action succeeded or failed, `success_rate.ACTION` the fraction that succeeded.
        """
        key, _, name = metric.partition(".")
        if key in (SUCCESS_RATE, ATTEMPTS):
            x_of_successes, successes = self.series(f"stats.action.{name}.success", x_axis)
            x_of_failures, failures = self.series(f"stats.action.{name}.failed", x_axis)
            steps, first, second = np.intersect1d(x_of_successes, x_of_failures, return_indices=True)
            attempts = successes[first] + failures[second]
            if key == ATTEMPTS:
                return steps, attempts
            return steps[attempts > 0], successes[first][attempts > 0] / attempts[attempts > 0]
        x, values = [], []
        for epoch in self.epochs:
            value = epoch.get(metric)
            if name and metric not in epoch:
                value = epoch.get(key)
                default = 0.0 if key == "stats" and epoch.get("episodes") else None
                value = value.get(name, default) if isinstance(value, dict) else None
            x_value = epoch.get(x_axis)
            if isinstance(value, int | float) and isinstance(x_value, int | float):
                x.append(float(x_value))
                values.append(float(value))
        return np.array(x), np.array(values)

    def metric_names(self, key: str) -> set[str]:
        """Names of the metrics under a key such as `stats`, in at least one epoch."""
        return {name for epoch in self.epochs if isinstance(epoch.get(key), dict) for name in epoch[key]}

    @property
    def policies(self) -> list[str]:
        """Names of the policies of a run with `[policies]`, in at least one epoch."""
        names = (key.removeprefix("reward/") for epoch in self.epochs for key in epoch if key.startswith("reward/"))
        return list(dict.fromkeys(names))

    @property
    def newest_replay(self) -> Path | None:
        """HTML file of the last recorded episode; None if no episode was recorded."""
        prefix = replay_prefix(self.run_dir, self.config)
        pages = {}
        for path in filter(os.path.isfile, replay_directory(self.run_dir, self.config).glob("*.html")):
            if found := _REPLAY_NAME.fullmatch(path.stem.removeprefix(prefix)):
                pages[path.name.startswith(prefix), int(found[1]), int(found[2] or 1)] = path
        return pages[max(pages)] if pages else None


def read_runs(directories: Sequence[str | Path]) -> list[RunData]:
    """Read the runs in these directories, of runs or of experiments.

    Directories that are not run directories, are damaged or whose run has no completed epoch are left out, with a
    SkippedFileWarning for each. Raises UsageError that lists them if no run is left.
    """
    found: dict[Path, tuple[RunConfig, list[dict[str, Any]], RunState]] = {}
    problems: list[str] = []
    unread = [user_path(directory) for directory in reversed(directories)]
    while unread:
        path = unread.pop()
        try:
            if is_experiment(path):
                unread += reversed(_experiment_runs(path))
            elif path not in found:
                found[path] = _read_run(path)
        except MettaError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{error.filename or path} cannot be read: {error.strerror}")
    problems = list(dict.fromkeys(problems))
    if not found:
        raise UsageError("\n  ".join(problems))
    for problem in problems:
        warnings.warn("left out: " + " ".join(problem.split()), SkippedFileWarning, stacklevel=2)
    names = _distinct_names(list(found))
    return [RunData(name, path, *found[path]) for name, path in zip(names, found, strict=True)]


def _experiment_runs(path: Path) -> list[Path]:
    """The runs of an experiment. Raises UsageError if none has begun."""
    if not (runs := experiment_runs(path)):
        raise UsageError(f"{path} is an experiment of which no run has begun")
    return runs


def _read_run(path: Path) -> tuple[RunConfig, list[dict[str, Any]], RunState]:
    """Config, metrics and state of a run. Raises MettaError or OSError if it cannot be part of a report."""
    if is_sweep(path):
        raise UsageError(f"{path} is a sweep, whose report shows nothing else: metta report {shlex.quote(str(path))}")
    if not is_run(path):
        raise UsageError(f"{path} is not a run directory: it has no {CONFIG}")
    metrics = path / METRICS
    lines = valid_lines(metrics) if os.path.lexists(metrics) else []
    epochs = [epoch for epoch in lines if type(epoch.get("agent_step")) is int]
    if not epochs:
        raise UsageError(f"{path} has no completed epoch yet")
    config = read_run_config(path)
    if epochs[-1]["agent_step"] >= config.run.total_timesteps:
        return config, epochs, "finished"
    return config, epochs, "training" if is_locked(path) else "stopped"


def config_differences(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    """The settings that differ between the runs, as (key, [value of each run]); "-" for a setting that a run lacks.

    For a single run, the settings that differ from the defaults, as (key, [value, default]). Seeds and the settings in
    `NOT_COMPARED` are not compared.
    """
    configs = [settings_without_seed(run) for run in runs]
    compared = configs if len(runs) > 1 else [*configs, _flat_config(RunConfig())]
    keys = sorted({key for config in compared for key in config} - NOT_COMPARED - {SEED})
    rows = [(key, [config.get(key, "-") for config in compared]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def settings_without_seed(run: RunData) -> dict[str, str]:
    """Value of each setting of a run as text, by its full key, without its seed and the settings in `NOT_COMPARED`.

    Policies in the run directory are named relative to it.
    """
    root = f"{run.run_dir}{os.sep}"
    config = run.config.with_policies(
        lambda key, path: f"{IN_RUN}/{path.removeprefix(root)}" if path.startswith(root) else path
    )
    return {key: value for key, value in _flat_config(config).items() if key not in NOT_COMPARED and key != SEED}


def _flat_config(config: RunConfig) -> dict[str, str]:
    """Value of each setting as text, by its full key; `env.objects` lists every object type with defaults filled in."""
    values = config.model_dump(exclude_none=True)
    values["env"]["objects"] = [entry.model_dump(exclude_none=True) for entry in config.env.object_types.values()]
    settings: dict[str, str] = {}
    _flatten(values, "", settings)
    return settings


def _flatten(value: Any, key: str, settings: dict[str, str]) -> None:
    if isinstance(value, dict):
        for name, entry in value.items():
            _flatten(entry, f"{key}.{name}" if key else str(name), settings)
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        for index, entry in enumerate(value):
            name = entry.get("name") or entry.get("key") or index
            _flatten(entry, f"{key}[{name}]", settings)
    else:
        settings[key] = str(value).lower() if isinstance(value, bool) else str(value)


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    """The last component of each path, preceded by as many parent directories as make all names distinct."""
    all_parts = [Path(os.path.abspath(path)).parts for path in paths]
    for count in range(1, max(map(len, all_parts)) + 1):
        names = ["/".join(parts[-count:]) for parts in all_parts]
        if len(set(names)) == len(set(all_parts)):
            break
    return names
