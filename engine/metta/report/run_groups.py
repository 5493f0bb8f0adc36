"""Groups of runs that differ only in their seed: names, curves with intervals, final scores, comparisons."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metta.report.run_data import RunData, XAxis, config_differences, settings_without_seed
from metta.report.statistics import (
    SCORE_RESAMPLES,
    Average,
    Comparison,
    Estimate,
    compare_scores,
    estimate_average,
)

RESULT_SHARE = 0.1
"""Fraction of a run's epochs, the last ones, over which a final score averages."""
SMOOTHED_SHARE = 0.05
"""Window of the running mean, as a fraction of the run's epochs."""

LAST_REWARD, BEST_REWARD, EVALUATION = "reward_last_tenth", "reward_best_epoch", "evaluation_last"
TASK_REWARD, POLICY_REWARD = "task_reward_last_tenth.", "policy_reward_last_tenth."
"""Names of final scores; the last two are followed by the name of a task or policy."""
MAX_NAME_DIFFERENCES = 3
"""Maximum number of settings in the name of a group."""


class Curve(NamedTuple):
    """A metric over training, averaged over the runs of a group."""

    x: NDArray[np.float64]
    """agent steps or seconds `[points]`"""
    estimate: Estimate
    num_runs: NDArray[np.int64]
    """number of runs that have reached each x `[points]`; these are averaged"""


class Score(NamedTuple):
    """Final score of a group, with its 95 % interval (NaN for a single run)."""

    average: float
    low: float
    high: float
    values: tuple[float, ...]
    """score of each run"""


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in their seed."""

    name: str
    runs: tuple[RunData, ...]
    """by seed"""

    @property
    def scored_runs(self) -> tuple[RunData, ...]:
        """The finished runs; if there are none, all runs as they are now."""
        return tuple(run for run in self.runs if run.state == "finished") or self.runs

    @property
    def is_finished(self) -> bool:
        """Whether all runs are finished."""
        return all(run.state == "finished" for run in self.runs)

    def scores(self, average: Average) -> dict[str, Score]:
        """Final scores of the `scored_runs`, by name; those that not all of them have are left out."""
        by_run = [run_scores(run) for run in self.scored_runs]
        names = [name for name in by_run[0] if all(name in scores for scores in by_run)]
        if not names:
            return {}
        values = np.array([[scores[name] for name in names] for scores in by_run])
        estimate = estimate_average(values, average, SCORE_RESAMPLES)
        return {
            name: Score(float(value), float(low), float(high), tuple(column.tolist()))
            for name, column, value, low, high in zip(names, values.T, *estimate, strict=True)
        }

    def curve(
        self,
        metric: str,
        average: Average,
        x_axis: XAxis = "agent_step",
        max_points: int = 500,
        is_smooth: bool = False,
    ) -> Curve:
        """The metric at each x that a run has recorded, or at `max_points` evenly spaced ones if these are more.

        Values of a run between its epochs are interpolated. With `is_smooth`, each run is replaced by its running mean
        over `SMOOTHED_SHARE` of its epochs.
        """
        series = [found for run in self.runs if len((found := run.series(metric, x_axis))[0])]
        if not series:
            return Curve(np.empty(0), Estimate(*np.empty((3, 0))), np.empty(0, np.int64))
        x = np.unique(np.concatenate([run_x for run_x, _ in series]))
        if len(x) > max_points:
            x = np.linspace(x[0], x[-1], max_points)
        values = np.stack(
            [
                np.interp(x, run_x, smooth(run_values) if is_smooth else run_values, np.nan, np.nan)
                for run_x, run_values in series
            ]
        )
        return Curve(x, estimate_average(values, average), np.isfinite(values).sum(0))


def run_scores(run: RunData) -> dict[str, float]:
    """Final scores of a run, by name; those without values are left out."""
    _, rewards = run.series("reward")
    _, evaluations = run.series("evaluation.mean_reward")
    scores: dict[str, float] = {}
    if len(rewards):
        scores |= {LAST_REWARD: last_tenth(rewards), BEST_REWARD: float(rewards.max())}
    if len(evaluations):
        scores[EVALUATION] = float(evaluations[-1])
    for policy in run.policies:
        if len(values := run.series(f"reward/{policy}")[1]):
            scores[POLICY_REWARD + policy] = last_tenth(values)
    for task in sorted(run.metric_names("task_rewards")):
        if len(values := run.series(f"task_rewards.{task}")[1]):
            scores[TASK_REWARD + task] = last_tenth(values)
    return scores


def last_tenth(values: NDArray[np.float64]) -> float:
    """Mean of the last tenth of the values, of at least one."""
    return float(values[-max(1, round(len(values) * RESULT_SHARE)) :].mean())


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running mean over `SMOOTHED_SHARE` of the values: of each value and those before it. `[epochs]`"""
    width = max(1, round(len(values) * SMOOTHED_SHARE))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def compare_groups(groups: Sequence[RunGroup], score: str, average: Average) -> dict[tuple[str, str], Comparison]:
    """Comparison of each pair of groups with this score that have at least two scored runs, by their names."""
    values = {}
    for group in groups:
        scores = group.scores(average)
        if score in scores and len(scores[score].values) > 1:
            values[group.name] = scores[score].values
    return {(first, second): compare_scores(values[first], values[second]) for first, second in combinations(values, 2)}


def group_runs(runs: Sequence[RunData]) -> list[RunGroup]:
    """The runs in groups with equal settings apart from seed, names and directories, in order of their first run."""
    found: dict[frozenset[tuple[str, str]], list[RunData]] = {}
    for run in runs:
        found.setdefault(frozenset(settings_without_seed(run).items()), []).append(run)
    members = [tuple(sorted(group, key=lambda run: run.seed)) for group in found.values()]
    return [RunGroup(name, group) for name, group in zip(_group_names(members), members, strict=True)]


def _group_names(groups: Sequence[Sequence[RunData]]) -> list[str]:
    """A distinct name for each group: what its directories have in common, or `run.name`, and settings if need be."""
    names = [group[0].name if len(group) == 1 else _common_name(group, groups) for group in groups]
    differences = config_differences([group[0] for group in groups]) if len(groups) > 1 else []
    distinct = []
    for index, name in enumerate(names):
        same = [other for other, other_name in enumerate(names) if other_name == name]
        settings = [
            f"{key.rpartition('.')[2]} {values[index]}"
            for key, values in differences
            if len({values[other] for other in same}) > 1
        ]
        distinct.append(f"{name} ({', '.join(settings[:MAX_NAME_DIFFERENCES])})" if settings else name)
    counts, seen = Counter(distinct), Counter[str]()
    for index, name in enumerate(distinct):
        seen[name] += 1
        if counts[name] > 1:
            distinct[index] = f"{name} [{seen[name]}]"
    return distinct


def _common_name(group: Sequence[RunData], groups: Sequence[Sequence[RunData]]) -> str:
    """What the paths of the runs of a group begin with, if no other run begins with it; else `run.name`.

    `runs/fast/seed_0` and `runs/fast/seed_1` give `fast`, as do `runs/fast-0` and `runs/fast-1`.
    """
    paths = [os.path.abspath(run.run_dir) for run in group]
    first, last = min(paths), max(paths)  # what these have in common, all have
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    start = re.sub(r"\d*$", "", first[:length])
    start = re.sub(r"[-_./ ]*((?<![a-z])(seed|s))?[-_./= ]*$", "", start, flags=re.IGNORECASE)
    rests = [
        path.removeprefix(start)
        for other in groups
        if other is not group
        for path in (os.path.abspath(run.run_dir) for run in other)
        if path.startswith(start)
    ]
    if name := os.path.basename(start) if all(rest[:1].isalpha() for rest in rests) else "":
        return name
    return group[0].config.run.name
