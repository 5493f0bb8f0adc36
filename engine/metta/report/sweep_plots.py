"""Charts of a sweep as SVG: scores by trial, scores by setting, and parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from metta.config.validation.error_messages import shown
from metta.experiments.sweep.summary import SweepParameter, SweepSummary, TrialSummary
from metta.report.packages import from_extra
from metta.report.plots import BACKGROUND, COLORS, LINE, MUTED, TEXT, panel, plain_text

POINT, BEST = COLORS[0], COLORS[1]
HIGHLIGHTED_SHARE = 0.25
"""Fraction of the trials, the best ones, that parallel coordinates highlight."""
ROW_INCHES, ROW_LABELS = 0.7, 0.24
"""Height of a row of parallel coordinates, and how far above its line the label is, in rows."""


class Scored(NamedTuple):
    """A complete trial and its score."""

    trial: TrialSummary
    score: float


def scored_trials(summary: SweepSummary) -> list[Scored]:
    """The complete trials that charts show, best first: without those that did not reach a `seconds to reward`."""
    return [
        Scored(trial, trial.score)
        for trial in summary.ranked()
        if trial.score is not None and summary.is_reached(trial)
    ]


def history_svg(summary: SweepSummary) -> str:
    """Score of each trial by its number, the best so far, and the last score of pruned trials."""
    by_number = sorted(scored_trials(summary), key=lambda scored: scored.trial.number)
    pruned = [trial for trial in summary.trials if trial.state == "pruned" and trial.intermediate_scores]
    better = max if summary.direction == "maximize" else min
    best_so_far = [better(scored.score for scored in by_number[: index + 1]) for index in range(len(by_number))]

    def draw(axis: Any) -> None:
        numbers = [scored.trial.number for scored in by_number]
        axis.step(numbers, best_so_far, where="post", color=BEST, linewidth=1.6)
        axis.plot(numbers, [scored.score for scored in by_number], "o", color=POINT, markersize=4)
        last = [trial.intermediate_scores[-1][1] for trial in pruned]
        axis.plot([trial.number for trial in pruned], last, "x", color=MUTED, markersize=5)
        axis.xaxis.set_major_locator(from_extra("matplotlib.ticker").MaxNLocator(5, integer=True))

    return panel(summary.metric, draw, "trial")


def slice_svg(summary: SweepSummary, parameter: SweepParameter) -> str:
    """Score of each trial by its value of a setting; the best trial is highlighted."""
    scored = [entry for entry in scored_trials(summary) if parameter.key in entry.trial.parameters]

    def draw(axis: Any) -> None:
        values = [entry.trial.parameters[parameter.key] for entry in scored]
        if parameter.values is not None:
            labels = [value_text(value) for value in parameter.values]
            values = [labels.index(value_text(value)) for value in values]
            axis.set_xticks(range(len(labels)), [plain_text(label) for label in labels])
            axis.set_xlim(-0.5, len(labels) - 0.5)
        elif parameter.log:
            axis.set_xscale("log")
            ticker = from_extra("matplotlib.ticker")
            axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        scores = [entry.score for entry in scored]
        axis.plot(values[::-1], scores[::-1], "o", color=POINT, alpha=0.75, markersize=4)
        axis.plot(values[:1], scores[:1], "o", color=BEST, markersize=6)

    return panel(parameter.key, draw, f"{parameter.key.rpartition('.')[2]}{' (log scale)' if parameter.log else ''}")


def parallel_svg(summary: SweepSummary) -> str:
    """Parallel coordinates: a row for each setting and one for the score, with a line of each trial."""
    keys = [parameter.key for parameter in summary.parameters]
    scored = [entry for entry in scored_trials(summary) if all(key in entry.trial.parameters for key in keys)]
    scores = [entry.score for entry in scored]
    ends = [(parameter.key, *_end_labels(parameter)) for parameter in summary.parameters]
    ends.append((summary.metric, value_text(min(scores)), value_text(max(scores))))
    num_best = max(1, math.ceil(len(scored) * HIGHLIGHTED_SHARE))

    def draw(axis: Any) -> None:
        rows = [-row for row in range(len(ends))]
        for rank, (trial, score) in reversed(list(enumerate(scored))):
            places = [place(parameter, trial.parameters[parameter.key]) for parameter in summary.parameters]
            places.append(_fraction(score, min(scores), max(scores)))
            is_best = rank < num_best
            style = {"color": BEST, "linewidth": 1.6} if is_best else {"color": POINT, "linewidth": 0.8, "alpha": 0.4}
            axis.plot(places, rows, **style)
        for row, (label, low, high) in zip(rows, ends, strict=True):
            axis.axhline(row, color=LINE, linewidth=1, zorder=0)
            for x, text, side in ((0, low, "left"), (0.5, label, "center"), (1, high, "right")):
                box = {"facecolor": BACKGROUND, "edgecolor": "none", "pad": 1.5}
                axis.text(x, row + ROW_LABELS, plain_text(text), ha=side, va="center", color=TEXT, bbox=box)
        axis.grid(visible=False)
        axis.set_yticks([])
        axis.set_xticks([])
        axis.spines[:].set_visible(False)
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(rows[-1] - 0.1, 0.45)

    label = "each setting from its lowest to its highest value"
    return panel("", draw, label, inches=(4.6, ROW_INCHES * len(ends) + 0.6))


def place(parameter: SweepParameter, value: Any) -> float:
    """Where a value of a setting lies between its lowest (0) and its highest value (1)."""
    if parameter.values is not None:
        labels = [value_text(entry) for entry in parameter.values]
        return _fraction(labels.index(value_text(value)), 0, len(labels) - 1)
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.log:
        return _fraction(math.log(value), math.log(parameter.low), math.log(parameter.high))
    return _fraction(value, parameter.low, parameter.high)


def _fraction(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _end_labels(parameter: SweepParameter) -> tuple[str, str]:
    ends: Sequence[Any] = parameter.values if parameter.values is not None else (parameter.low, parameter.high)
    return value_text(ends[0]), value_text(ends[-1])


def value_text(value: Any) -> str:
    """A value of a setting, or a score, as text; numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else shown(value)
