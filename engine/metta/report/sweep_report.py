"""Report of a sweep: history of scores, importance of settings, slices, parallel coordinates, best trials."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from metta.errors import MettaError, SkippedFileWarning
from metta.experiments.sweep.summary import SweepSummary, TrialSummary
from metta.report.html_page import Table, charts, legend, render
from metta.report.metric_sections import metric_sections
from metta.report.numbers import Record, sweep_records
from metta.report.report import Report
from metta.report.run_data import read_runs
from metta.report.run_groups import RunGroup
from metta.report.sweep_plots import history_svg, parallel_svg, scored_trials, slice_svg, value_text

NUM_CURVES = 5
"""Number of trials, the best ones, whose curves are shown."""


class Importance(NamedTuple):
    """A setting with its importance, if it is known, and its value in the best trial."""

    key: str
    fraction: float | None
    best_value: str


@dataclass(frozen=True)
class SweepReport(Report):
    """A report of a sweep, finished or not."""

    summary: SweepSummary

    def records(self) -> list[Record]:
        """The numbers of the report: the sweep, then its trials."""
        return list(sweep_records(self.summary))

    def html(self) -> str:
        """The page as HTML that loads no other file. Names and values of the sweep are escaped."""
        summary = self.summary
        ranked = summary.ranked()
        running = [trial for trial in summary.trials if trial.state == "running"]
        groups = _groups([*ranked, *running])
        sections = metric_sections([run for group in groups for run in group.runs])
        has_scores = bool(scored_trials(summary))
        return render(
            "sweep.html.jinja",
            f"sweep {summary.sweep_dir.absolute().name}",
            [summary.sweep_dir],
            summary=summary,
            progress=summary.progress,
            best=ranked[0] if ranked else None,
            best_score=_score(summary, ranked[0]) if ranked else "",
            importances=_importances(summary),
            history=history_svg(summary) if has_scores else "",
            slices=[slice_svg(summary, parameter) for parameter in summary.parameters] if has_scores else [],
            parallel=parallel_svg(summary) if has_scores and len(summary.parameters) > 1 else "",
            legend=legend(groups),
            curves=[
                charts(section._replace(heading="Curves of the best trials"), groups, "mean")
                for section in sections
                if section.heading == "Learning"
            ],
            trials=_trial_table(summary),
            reasons=Table(
                ["trial", "state", "reason"],
                [[str(trial.number), trial.state, trial.reason] for trial in summary.trials if trial.reason],
            ),
        )


def _groups(trials: Sequence[TrialSummary]) -> list[RunGroup]:
    """The runs of the first trials that have completed an epoch; at most `NUM_CURVES` trials."""
    groups: list[RunGroup] = []
    for trial in trials:
        if len(groups) == NUM_CURVES:
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkippedFileWarning)  # runs that have just begun
            try:
                groups.append(RunGroup(f"trial {trial.number}", tuple(read_runs(trial.run_dirs))))
            except MettaError:  # no run has completed an epoch yet
                continue
    return groups


def _score(summary: SweepSummary, trial: TrialSummary) -> str:
    if trial.score is None:
        return "-"
    return f"{trial.score:,.3f}" if summary.is_reached(trial) else "not reached"


def _importances(summary: SweepSummary) -> list[Importance]:
    """The settings, the most important one first."""
    best = summary.ranked()[:1]
    values = best[0].parameters if best else {}
    rows = [
        Importance(
            parameter.key,
            summary.importances.get(parameter.key),
            value_text(values[parameter.key]) if parameter.key in values else "-",
        )
        for parameter in summary.parameters
    ]
    return sorted(rows, key=lambda row: -(row.fraction or 0.0))


def _trial_table(summary: SweepSummary) -> Table:
    """The trials: complete ones from the best to the worst, then all others by number."""
    ranked = summary.ranked()
    others = [trial for trial in summary.trials if trial not in ranked]
    keys = [parameter.key for parameter in summary.parameters]
    rows = [
        [
            str(trial.number),
            trial.state,
            _score(summary, trial),
            *(value_text(trial.parameters[key]) if key in trial.parameters else "-" for key in keys),
            f"{trial.seconds / 60:,.1f}",
        ]
        for trial in [*ranked, *others]
    ]
    return Table(["trial", "state", summary.metric, *summary.short_keys, "minutes"], rows)
