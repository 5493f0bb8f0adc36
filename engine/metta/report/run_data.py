"""What a run directory tells of its run, as a report reads it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metta.config.loading.load import read_config
from metta.config.run import RunConfig
from metta.errors import UsageError
from metta.run.metrics_file import sound_lines
from metta.run.run_directory import CONFIG, METRICS, replay_directory

Axis = Literal["agent_step", "seconds"]
"""What a curve can go along: what was experienced, or how long that took."""


@dataclass(frozen=True)
class Run:
    """A run directory that was read."""

    name: str
    """of the directory, made longer by its parents where several would have the same"""
    root: Path
    config: RunConfig
    lines: list[dict[str, Any]]
    """one for each epoch"""

    def series(self, key: str, along: Axis = "agent_step") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(agent steps, values) of a metric such as `reward` or `losses.entropy`, without the epochs that lack it.

        Or (seconds of training, values).

        Of `stats` a counter that an epoch with episodes lacks is zero: only those that are not are written.
        """
        table, _, name = key.partition(".")
        places, values = [], []
        for line in self.lines:
            value = line.get(table)
            if name:
                absent = 0.0 if table == "stats" and line.get("episodes") else None
                value = value.get(name, absent) if isinstance(value, dict) else None
            place = line.get(along)
            if isinstance(value, int | float) and isinstance(place, int | float):
                places.append(float(place))
                values.append(float(value))
        return np.array(places), np.array(values)

    def names(self, table: str) -> set[str]:
        """The metrics of a table such as `stats` that the run has."""
        return {name for line in self.lines for name in _table(line, table)}

    @property
    def newest_replay(self) -> Path | None:
        """The page of the episode that was recorded last."""
        pages = replay_directory(self.root, self.config).glob("replay_*.html")
        return max(pages, key=lambda path: (len(path.name), path.name), default=None)


def read_runs(roots: Sequence[str | Path]) -> list[Run]:
    """The runs in these directories. Raises UsageError with every directory that has none, or none with an epoch."""
    paths = [Path(root) for root in roots]
    problems = []
    for path in paths:
        if not os.path.isfile(path / CONFIG):
            problems.append(f"{path} is not a run directory: it has no {CONFIG}")
        elif not (path / METRICS).is_file():
            problems.append(f"{path} has no {METRICS} yet: the run has not ended an epoch")
    if problems:
        raise UsageError("\n  ".join(problems))
    names = _distinct_names(paths)
    runs = [
        Run(name, path, read_config(str(path / CONFIG)), _whole(sound_lines(path / METRICS)))
        for name, path in zip(names, paths, strict=True)
    ]
    if empty := [str(run.root) for run in runs if not run.lines]:
        raise UsageError(f"no epoch has ended yet in {', '.join(empty)}")
    return runs


def config_differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(key, its value in each run) where runs differ; of a single run, where it differs from the defaults.

    Where a run is kept and what it is called is no difference.
    """
    configs = [flat(run.config) for run in runs]
    against = configs if len(runs) > 1 else [*configs, flat(RunConfig())]
    keys = sorted({key for config in against for key in config} - {"run.name", "run.run_dir"})
    rows = [(key, [config.get(key, "-") for config in against]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def flat(config: RunConfig) -> dict[str, str]:
    """Each setting by its whole name; objects with what the catalogue says of them, which a file need not repeat."""
    values = config.model_dump(exclude_none=True)
    values["env"]["objects"] = [entry.model_dump(exclude_none=True) for entry in config.env.object_types.values()]
    table: dict[str, str] = {}
    _flatten(values, "", table)
    return table


def _flatten(value: Any, key: str, table: dict[str, str]) -> None:
    if isinstance(value, dict):
        for name, entry in value.items():
            _flatten(entry, f"{key}.{name}" if key else str(name), table)
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        for index, entry in enumerate(value):
            name = entry.get("name") or entry.get("key") or index
            _flatten(entry, f"{key}[{name}]", table)
    else:
        table[key] = str(value).lower() if isinstance(value, bool) else str(value)


def _table(line: dict[str, Any], name: str) -> dict[str, Any]:
    """A table of a line; empty where a stranger's line has something else there."""
    table = line.get(name)
    return table if isinstance(table, dict) else {}


def _whole(lines: Any) -> list[dict[str, Any]]:
    return [line for line in lines if type(line.get("agent_step")) is int]


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many of its last parts as tell them all apart."""
    whole = [Path(os.path.abspath(path)).parts for path in paths]
    longest = max(map(len, whole))
    for count in range(1, longest + 1):
        names = ["/".join(parts[-count:]) for parts in whole]
        if len(set(names)) == len(set(whole)):
            break
    return names
