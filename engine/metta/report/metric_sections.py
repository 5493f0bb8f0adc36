"""Which metrics a report shows, in sections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from metta.report.run_data import ATTEMPTS, SUCCESS_RATE, RunData

MAX_CHARTS = 30
"""Maximum number of charts in each of the sections on tasks, items and actions."""

MAX_POLICIES = 8
"""Maximum number of policies whose losses are shown."""
LOSSES = ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "explained_variance", "grad_norm")
TIMED_PARTS = ("simulate", "infer", "learn")
PREFIXES = ("stats.", "losses.", "task_rewards.", f"{SUCCESS_RATE}.", f"{ATTEMPTS}.")
"""First parts of metrics that the heading of their section says."""


class MetricSection(NamedTuple):
    """Metrics under a heading, with a sentence about them."""

    heading: str
    metrics: list[str]
    note: str = ""


def metric_sections(runs: Sequence[RunData]) -> list[MetricSection]:
    """The sections; metrics that no run has recorded are left out, and sections without metrics."""
    tasks = sorted({name for run in runs for name in run.metric_names("task_rewards")})
    policies = list(dict.fromkeys(name for run in runs for name in run.policies))
    actions = _actions(runs)
    rates = [f"{SUCCESS_RATE}.{action}" for action in actions]
    items = {f"stats.{name}" for run in runs for name in run.metric_names("stats") if name.endswith(".gained")}
    sections = [
        MetricSection("Learning", ["reward", "evaluation.mean_reward", "episode_length"]),
        MetricSection(
            "Reward by policy",
            [metric for name in policies for metric in (f"reward/{name}", f"evaluation.{name}/mean_reward")][
                :MAX_CHARTS
            ],
        ),
        MetricSection("Reward by task", [f"task_rewards.{name}" for name in tasks[:MAX_CHARTS]]),
        MetricSection("Items: gained per agent and episode", _by_total(runs, items)[:MAX_CHARTS]),
        MetricSection(
            "Success rate of actions",
            [rate for rate in rates if any(np.any(run.series(rate)[1] < 1) for run in runs)][:MAX_CHARTS],
            "Fraction of attempts that succeeded. Actions that never failed are left out.",
        ),
        MetricSection(
            "Attempts per agent and episode",
            [f"{ATTEMPTS}.{action}" for action in actions[:MAX_CHARTS]],
            "How often an agent chose each action in an episode, with or without success.",
        ),
        MetricSection("Losses", [f"losses.{name}" for name in LOSSES]),
        *(
            MetricSection(f"Losses of {policy}", [f"losses.{policy}/{name}" for name in LOSSES])
            for policy in policies[:MAX_POLICIES]
        ),
        MetricSection("Throughput", ["steps_per_second", *(f"seconds_{part}" for part in TIMED_PARTS)]),
    ]
    recorded = [
        section._replace(metrics=[metric for metric in section.metrics if _is_recorded(runs, metric)])
        for section in sections
    ]
    return [section for section in recorded if section.metrics]


def short_name(metric: str) -> str:
    """The name of a metric without the part that the heading of its section says."""
    for prefix in PREFIXES:
        metric = metric.removeprefix(prefix)
    return metric


def _is_recorded(runs: Sequence[RunData], metric: str) -> bool:
    return any(len(run.series(metric)[1]) for run in runs)


def _actions(runs: Sequence[RunData]) -> list[str]:
    """Names of the actions that agents tried, by decreasing number of attempts."""
    counters = {tuple(name.split(".")) for run in runs for name in run.metric_names("stats")}
    names = {f"{ATTEMPTS}.{parts[1]}" for parts in counters if len(parts) == 3 and _is_outcome(*parts)}
    return [metric.removeprefix(f"{ATTEMPTS}.") for metric in _by_total(runs, names)]


def _is_outcome(kind: str, action: str, outcome: str) -> bool:
    return kind == "action" and outcome in ("success", "failed")


def _by_total(runs: Sequence[RunData], metrics: Iterable[str]) -> list[str]:
    """The metrics by decreasing total over the epochs of a run."""
    totals = {metric: max(float(np.sum(run.series(metric)[1])) for run in runs) for metric in sorted(metrics)}
    return sorted(totals, key=lambda metric: -totals[metric])
