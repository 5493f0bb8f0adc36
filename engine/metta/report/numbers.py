"""The numbers of a report as records, for JSON lines and CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

from metta.experiments.sweep.summary import SweepSummary
from metta.report.metric_sections import metric_sections
from metta.report.run_data import RunData, XAxis
from metta.report.run_groups import EVALUATION, LAST_REWARD, RunGroup, compare_groups, run_scores
from metta.report.statistics import Average

Record = dict[str, Any]

COMPARED_SCORES = (LAST_REWARD, EVALUATION)
"""Final scores by which groups are compared."""
X_AXES: tuple[XAxis, ...] = ("agent_step", "seconds")


def group_records(groups: Sequence[RunGroup], average: Average) -> Iterator[Record]:
    """Each group with runs and final scores, each comparison of two groups, and each curve.

    `low` and `high` are the ends of 95 % intervals, NaN where there is only one run. Curves are not smoothed; they
    have a point for each recorded x, or 500 evenly spaced ones if these are more.
    """
    for group in groups:
        yield {
            "kind": "group",
            "group": group.name,
            "average": average,
            "scores": {
                name: {"value": score.average, "low": score.low, "high": score.high, "num_runs": len(score.values)}
                for name, score in group.scores(average).items()
            },
            "runs": [_run_record(run) for run in group.runs],
        }
    for score in COMPARED_SCORES:
        for (first, second), comparison in compare_groups(groups, score, average).items():
            ends = {"value": comparison.probability, "low": comparison.low, "high": comparison.high}
            names = {"group": first, "other_group": second, "metric": score}
            yield {"kind": "probability_of_improvement", **names, **ends, "p_value": comparison.p_value}
    metrics = [
        metric
        for section in metric_sections([run for group in groups for run in group.runs])
        for metric in section.metrics
    ]
    for group, metric, x_axis in product(groups, metrics, X_AXES):
        x, estimate, num_runs = group.curve(metric, average, x_axis)
        if len(x):
            yield {
                "kind": "curve",
                "group": group.name,
                "metric": metric,
                "x_axis": x_axis,
                "x": x.tolist(),
                "value": estimate.average.tolist(),
                "low": estimate.low.tolist(),
                "high": estimate.high.tolist(),
                "num_runs": num_runs.tolist(),
            }


def _run_record(run: RunData) -> Record:
    return {
        "run_dir": str(run.run_dir),
        "seed": run.seed,
        "state": run.state,
        "agent_step": run.agent_step,
        "seconds": run.seconds,
        "scores": run_scores(run),
    }


def sweep_records(summary: SweepSummary) -> Iterator[Record]:
    """The sweep, then each trial."""
    best = summary.ranked()[:1]
    yield {
        "kind": "sweep",
        "sweep_dir": str(summary.sweep_dir),
        "metric": summary.metric,
        "direction": summary.direction,
        "num_trials": summary.num_trials,
        "best_trial": best[0].number if best else None,
        "importances": dict(summary.importances),
    }
    for trial in summary.trials:
        yield {
            "kind": "trial",
            "trial": trial.number,
            "state": trial.state,
            "score": trial.score,
            "is_reached": summary.is_reached(trial),
            "parameters": dict(trial.parameters),
            "intermediate_scores": [list(pair) for pair in trial.intermediate_scores],
            "seconds": trial.seconds,
            "run_dirs": [str(path) for path in trial.run_dirs],
            "reason": trial.reason,
        }


def csv_text(records: Iterable[Record]) -> str:
    """The records as a CSV table. `kind` says what a line is; what it does not have is empty, as is NaN.

    `run`: a final score of a run; `score`: a final score of a group; `probability_of_improvement`: of `group` over
    `other_group`; `curve`: a point of the curve of a group; `trial`: a trial of a sweep, with a column for each
    parameter.
    """
    rows = [row for record in records for row in _csv_rows(record)]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)
    return file.getvalue()


def _csv_rows(record: Record) -> Iterator[Record]:
    kind = record["kind"]
    if kind == "group":
        for run in record["runs"]:
            place = {key: run[key] for key in ("run_dir", "seed", "state", "agent_step", "seconds")}
            for metric, value in run["scores"].items():
                yield {"kind": "run", "group": record["group"], "metric": metric, "value": value, **place}
        for metric, score in record["scores"].items():
            yield {"kind": "score", "group": record["group"], "metric": metric, **score}
    elif kind == "curve":
        same = {key: record[key] for key in ("kind", "group", "metric", "x_axis")}
        columns = [record[key] for key in ("x", "value", "low", "high", "num_runs")]
        for x, value, low, high, num_runs in zip(*columns, strict=True):
            yield {**same, "x": x, "value": value, "low": low, "high": high, "num_runs": num_runs}
    elif kind == "trial":
        plain = {key: record[key] for key in ("kind", "trial", "state", "score", "seconds", "reason")}
        yield {**plain, **record["parameters"]}
    elif kind == "probability_of_improvement":
        yield record
