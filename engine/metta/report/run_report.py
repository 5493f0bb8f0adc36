"""Report of runs: groups of seeds with final scores, comparisons, metric curves, config differences and replays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from metta.report.html_page import Table, charts, legend, render
from metta.report.metric_sections import metric_sections
from metta.report.numbers import COMPARED_SCORES, Record, group_records
from metta.report.report import Report
from metta.report.run_data import RunData, RunState, config_differences
from metta.report.run_groups import (
    BEST_REWARD,
    EVALUATION,
    LAST_REWARD,
    POLICY_REWARD,
    TASK_REWARD,
    RunGroup,
    compare_groups,
    run_scores,
)
from metta.report.statistics import SCORE_RESAMPLES, Average

MAX_REPLAY_BYTES = 20_000_000
"""Maximum size of an embedded replay; for a larger one, the page shows only its path."""

AVERAGES: dict[Average, str] = {"mean": "mean", "iqm": "interquartile mean"}
SCORES = {
    LAST_REWARD: "reward, last tenth",
    BEST_REWARD: "reward, best epoch",
    EVALUATION: "evaluation, last",
}
"""Headings of final scores."""


class EmbeddedReplay(NamedTuple):
    """The newest replay of a run; `html` is its content, or None if it is larger than `MAX_REPLAY_BYTES`."""

    heading: str
    path: Path
    html: str | None


@dataclass(frozen=True)
class RunReport(Report):
    """A report of runs, in groups of those that differ only in their seed."""

    groups: list[RunGroup]
    average: Average

    @property
    def runs(self) -> list[RunData]:
        """All runs, by group."""
        return [run for group in self.groups for run in group.runs]

    def records(self) -> list[Record]:
        """The numbers of the report: groups, comparisons of two groups, and curves."""
        return list(group_records(self.groups, self.average))

    def html(self) -> str:
        """The page as HTML that loads no other file. Names and values of the runs are escaped."""
        groups, runs, average = self.groups, self.runs, self.average
        return render(
            "report.html.jinja",
            ", ".join(group.name for group in groups),
            [run.run_dir for run in runs],
            scores=_score_table(groups, average),
            comparisons=_comparison_table(groups, average),
            average=AVERAGES[average],
            resamples=SCORE_RESAMPLES,
            has_seeds=any(len(group.runs) > 1 for group in groups),
            legend=legend(groups),
            curves=[charts(section, groups, average) for section in metric_sections(runs)],
            differences_heading="Config differences" if len(groups) > 1 else "Settings that differ from the defaults",
            differences=_differences(groups),
            runs=_run_table(groups),
            replays=[replay for group in groups if (replay := embedded_replay(group))],
        )


def _score_table(groups: Sequence[RunGroup], average: Average) -> Table:
    scores = [group.scores(average) for group in groups]
    names = list(dict.fromkeys(name for found in scores for name in found))
    rows = []
    for group, found in zip(groups, scores, strict=True):
        cells = [
            with_interval(score.average, score.low, score.high) if (score := found.get(name)) else "-" for name in names
        ]
        rows.append([group.name, _progress(group), *cells])
    return Table(["group", "runs", *map(_score_heading, names)], rows)


def _score_heading(name: str) -> str:
    return SCORES.get(name) or f"{name.removeprefix(TASK_REWARD).removeprefix(POLICY_REWARD)}, last tenth"


def with_interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """`1.234 [1.100, 1.300]`, or `1.234` if the ends of the interval are NaN."""
    return f"{value:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if low == low else "")


def _progress(group: RunGroup) -> str:
    """How many runs a group has and in which states they are: `5, 1 of them in training (42 %), 1 stopped (80 %)`."""
    if len(group.runs) == 1:
        return f"1, {_state(group.runs[0])}"
    counts = Counter(run.state for run in group.runs)
    if counts["finished"] == len(group.runs):
        return f"{len(group.runs)}, finished"
    parts = [f"{counts[state]} {label}" for state, label in _STATES.items() if counts[state]]
    return f"{len(group.runs)}: {', '.join(parts)}"


_STATES: dict[RunState, str] = {"finished": "finished", "training": "in training", "stopped": "stopped"}


def _state(run: RunData) -> str:
    """State of a run, with its progress unless it is finished."""
    return _STATES[run.state] if run.state == "finished" else f"{_STATES[run.state]} at {run.progress:.0%}"


def _comparison_table(groups: Sequence[RunGroup], average: Average) -> Table:
    rows = []
    for score in COMPARED_SCORES:
        for (first, second), comparison in compare_groups(groups, score, average).items():
            value = with_interval(comparison.probability, comparison.low, comparison.high, digits=2)
            rows.append([f"{first} over {second}", SCORES[score], value, f"{comparison.p_value:.3g}"])
    return Table(["groups", "score", "probability", "p"], rows)


def _differences(groups: Sequence[RunGroup]) -> Table:
    headings = ["setting", *(group.name for group in groups), *(["default"] if len(groups) == 1 else [])]
    rows = config_differences([group.runs[0] for group in groups])
    return Table(headings, [[key, *values] for key, values in rows])


def _run_table(groups: Sequence[RunGroup]) -> Table:
    headings = ["run", "group", "seed", "state", "agent steps", "epochs", "minutes", "agent steps/s"]
    scores = [LAST_REWARD, BEST_REWARD]
    rows = []
    for group in groups:
        for run in group.runs:
            found = run_scores(run)
            rows.append(
                [
                    run.name,
                    group.name,
                    str(run.seed),
                    _state(run),
                    f"{run.agent_step:,}",
                    f"{run.epochs[-1]['epoch']:,}",
                    f"{run.seconds / 60:,.1f}",
                    f"{run.agent_step / run.seconds:,.0f}" if run.seconds else "-",
                    *(f"{found[name]:.3f}" if name in found else "-" for name in scores),
                ]
            )
    return Table([*headings, *(SCORES[name] for name in scores)], rows)


def embedded_replay(group: RunGroup) -> EmbeddedReplay | None:
    """The newest replay of the first run of a group that has one."""
    for run in group.runs:
        if path := run.newest_replay:
            is_small = path.stat().st_size <= MAX_REPLAY_BYTES
            html = path.read_text(encoding="utf-8", errors="replace") if is_small else None
            return EmbeddedReplay(f"{run.name}: {path.stem}", path, html)
    return None
