"""Read the report of runs, experiments or a sweep from their directories."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from metta.config.validation.file_paths import user_path
from metta.errors import SkippedFileWarning, UsageError
from metta.experiments.seeds import experiment_runs, is_experiment
from metta.experiments.sweep.summary import is_sweep
from metta.report.packages import from_extra
from metta.report.report import Report
from metta.report.run_data import read_runs
from metta.report.run_groups import group_runs
from metta.report.run_report import RunReport
from metta.report.statistics import Average
from metta.report.sweep_report import SweepReport


def read_report(directories: Sequence[str | Path], average: Average = "mean") -> Report:
    """Read the runs in these directories, in groups of those that differ only in their seed, or read a sweep.

    A directory is that of a run or of an experiment, which stands for its runs; or it is the only one, of a sweep.
    `average` is that of the runs of a group: their mean, or their interquartile mean (`iqm`).

    A SkippedFileWarning names each directory that is left out, because it is not a run directory, is damaged, is a
    sweep beside others, or its run has no completed epoch. Raises UsageError if no run is left, or if a package is not
    installed: those of the extra `report`, and of the extra `sweep` for a sweep.
    """
    for package in ("matplotlib", "scipy"):
        from_extra(package)
    paths = [user_path(directory) for directory in directories]
    sweeps = [path for path in paths if is_sweep(path)]
    if sweeps == paths and len(sweeps) == 1:
        results = import_module("metta.experiments.sweep.results")  # needs the extra
        return SweepReport(results.sweep_summary(sweeps[0]))
    alone = [f"{path} is a sweep; its report is a page without other runs: metta report {path}" for path in sweeps]
    if sweeps == paths:
        raise UsageError("\n  ".join(alone))
    for problem in alone:
        warnings.warn(f"left out: {problem}", SkippedFileWarning, stacklevel=2)
    runs = [run for path in paths if path not in sweeps for run in _runs_in(path)]
    return RunReport(group_runs(read_runs(runs)), average)


def _runs_in(path: Path) -> list[Path]:
    """The runs of an experiment, or else the directory itself. Raises UsageError if the experiment has none yet."""
    if not is_experiment(path):
        return [path]
    if not (runs := experiment_runs(path)):
        raise UsageError(f"{path} is an experiment without runs so far")
    return runs


def write_report(
    directories: Sequence[str | Path],
    out: str | Path = "report.html",
    overwrite: bool = True,
    average: Average = "mean",
) -> Path:
    """Write the page of `read_report(directories, average)` to the file `out`, as `Report.write_html` does."""
    return read_report(directories, average).write_html(out, overwrite)
