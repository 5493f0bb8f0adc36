"""Results of `metta eval` as tables and as JSON: to add a column or a row, look here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metta import api
from metta_cli import output

SHOWN_COUNTERS = (
    r"heart\.gained",
    r".*\.gained",
    r".*\.stolen",
    r"action\.[a-z_]+\.success",
    r"action\.[a-z_]+\.failed",
)
"""Patterns of the counters that have a row in the table of a single world, in this order; JSON has all counters."""


@dataclass(frozen=True)
class EvaluationRow:
    """The evaluation in one world: a result per policy, or a match, or the reason why there is neither."""

    name: str
    """of the world"""
    results: Mapping[str, api.EvalResult] | None = None
    """by policy"""
    match: api.MatchResult | None = None
    refusal: str | None = None

    @property
    def rewards(self) -> dict[str, api.Interval]:
        """Mean reward per agent and episode, by column."""
        if self.match:
            return {
                "policy": self.match.policy_interval,
                "opponent": self.match.opponent_interval,
                "difference": self.match.difference_interval,
            }
        return {name: result.reward_interval for name, result in (self.results or {}).items()}

    def as_json(self) -> dict[str, Any]:
        """All numbers of the row."""
        values: dict[str, Any] = {"refusal": self.refusal} if self.refusal else {}
        if self.match:
            values |= {
                name: {"mean_reward": reward.mean, "reward_interval": [reward.low, reward.high]}
                for name, reward in self.rewards.items()
            }
            values["policy"]["agents"], values["opponent"]["agents"] = self.match.num_agents
            values["episodes"] = len(self.match.episodes)
        for name, result in (self.results or {}).items():
            interval = result.reward_interval
            values[name] = result.summary() | {
                "reward_interval": [interval.low, interval.high],
                "episodes": len(result.episodes),
                "stats": result.stats,
            }
        return values


def print_json(settings: Mapping[str, Any], rows: Sequence[EvaluationRow], are_tasks: bool) -> None:
    """Print one JSON object per world, or one with all tasks; settings that are None are left out."""
    given = {key: value for key, value in settings.items() if value is not None}
    if are_tasks:
        output.print_json(given | {"tasks": {row.name: row.as_json() for row in rows}})
        return
    for row in rows:
        output.print_json(given | ({"env": row.name} if "suite" in given else {}) | row.as_json())


def print_table(title: str, rows: Sequence[EvaluationRow], episodes: int, is_single: bool) -> None:
    """Print the table of a single world, with its counters, or of several worlds, one row each."""
    for row in rows:
        if row.refusal:
            output.note(f"{row.name}: {row.refusal}")
    if is_single:
        output.print_lines([title])
        output.print_columns(*_single_world(rows[0], episodes))
    else:
        output.print_lines([title, "reward per agent, with its 95 % confidence interval"])
        output.print_columns(*_several_worlds(rows, episodes))


def _several_worlds(rows: Sequence[EvaluationRow], episodes: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mean reward of each policy, and half the width of its confidence interval."""
    columns = list(dict.fromkeys(name for row in rows for name in row.rewards))
    cells = []
    for row in rows:
        rewards = [row.rewards.get(name) for name in columns]
        texts = [f"{output.number(it.mean)} +- {output.number(it.half_width)}" if it else "-" for it in rewards]
        cells.append([row.name, *texts])
    return [f"{episodes} episodes each", *columns], cells


def _single_world(row: EvaluationRow, episodes: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows: reward, episode length and counters of each policy."""

    def numbers(label: str, values: Sequence[float]) -> list[str]:
        return [label, *map(output.number, values)]

    rewards = row.rewards.values()
    cells = [
        numbers("reward per agent", [reward.mean for reward in rewards]),
        numbers("  95 % interval from", [reward.low for reward in rewards]),
        numbers("  to", [reward.high for reward in rewards]),
    ]
    if row.match:
        cells.append(["agents", *map(str, row.match.num_agents), ""])
    results = (row.results or {}).values()
    if results:
        cells += [
            numbers("  std over episodes", [result.std_reward for result in results]),
            numbers("episode length", [result.mean_length for result in results]),
            numbers("  std over episodes", [result.std_length for result in results]),
        ]
    counters = {counter for result in results for counter in result.stats if _rank(counter) < len(SHOWN_COUNTERS)}
    for counter in sorted(counters, key=lambda counter: (_rank(counter), counter)):
        cells.append(numbers(counter, [result.stats.get(counter, 0.0) for result in results]))
    return [f"{episodes} episodes", *row.rewards], cells


def _rank(counter: str) -> int:
    """Position of a counter's pattern in SHOWN_COUNTERS; their number if none matches."""
    ranks = (rank for rank, pattern in enumerate(SHOWN_COUNTERS) if re.fullmatch(pattern, counter))
    return next(ranks, len(SHOWN_COUNTERS))
