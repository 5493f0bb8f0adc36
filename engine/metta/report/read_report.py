"""Read the report of runs, experiments or a sweep from their directories."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from metta.config.validation.file_paths import user_path
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
    if len(directories) == 1 and is_sweep(root := user_path(directories[0])):
        results = import_module("metta.experiments.sweep.results")  # needs the extra
        return SweepReport(results.sweep_summary(root))
    return RunReport(group_runs(read_runs(directories)), average)


def write_report(
    directories: Sequence[str | Path],
    out: str | Path = "report.html",
    overwrite: bool = True,
    average: Average = "mean",
) -> Path:
    """Write the page of `read_report(directories, average)` to the file `out`, as `Report.write_html` does."""
    return read_report(directories, average).write_html(out, overwrite)
