"""Read the report of runs, experiments or a sweep from their directories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metta.report.packages import from_extra
from metta.report.report import Report
from metta.report.run_data import read_runs
from metta.report.run_groups import group_runs
from metta.report.run_report import RunReport
from metta.report.statistics import Average


def read_report(directories: Sequence[str | Path], average: Average = "mean") -> Report:
    """Read the runs in these directories, in groups of those that differ only in their seed.

    `average` is that of the runs of a group: their mean, or their interquartile mean (`iqm`).

    A SkippedFileWarning names each directory that is left out, because it is not a run directory, is damaged, or its
    run has no completed epoch. Raises UsageError if no run is left, or if the extra `report` is not installed.
    """
    for package in ("matplotlib", "scipy"):
        from_extra(package)
    return RunReport(group_runs(read_runs(directories)), average)


def write_report(
    run_dirs: Sequence[str | Path],
    out: str | Path = "report.html",
    overwrite: bool = True,
    average: Average = "mean",
) -> Path:
    """Write the page of `read_report(run_dirs, average)` to the file `out`, as `Report.write_html` does."""
    return read_report(run_dirs, average).write_html(out, overwrite)
