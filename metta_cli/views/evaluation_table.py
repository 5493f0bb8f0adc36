"""Results of `metta eval` as tables and as JSON: their columns, rows and keys."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from metta import api
from metta_cli import output

SHOWN_COUNTERS = {
    r"heart\.gained": "units",
    r".*\.gained": "units",
    r".*\.stolen": "units",
    r"action\.[a-z_]+\.success": "times",
    r"action\.[a-z_]+\.failed": "times",
}
"""Regular expression of the counters shown in the table of a single world -> unit, in this order. JSON has all."""

Kind = Literal["world", "task", "run"] | None
"""Rows of an evaluation: worlds of a suite, tasks of a curriculum, runs of an experiment; None: a single world."""


@dataclass(frozen=True)
class EvaluationRow:
    """The evaluation in one world: a result per policy, a match, or the message of the error that prevented it."""

    name: str
    """name of the world, or of the run"""
    results: Mapping[str, api.EvalResult] | None = None
    """policy name -> result"""
    match: api.MatchResult | None = None
    refusal: str | None = None
    """message of the error if the policy cannot play in the world"""

    @property
    def rewards(self) -> dict[str, api.Interval]:
        """Column -> mean reward per agent and episode, with its confidence interval."""
        if self.match:
            return {
                "policy": self.match.policy_interval,
                "opponent": self.match.opponent_interval,
                "difference": self.match.difference_interval,
            }
        return {name: result.reward_interval for name, result in (self.results or {}).items()}

    @property
    def policy_rewards(self) -> dict[str, dict[str, api.Interval]]:
        """Policy of the evaluated team -> column -> mean reward of the agents that it plays in the first one.

        Empty without a team.
        """
        results = self.results or {}
        players = next(iter(results.values())).players if results else {}
        return {
            policy: {name: api.mean_interval(result.rewards_of(agents)) for name, result in results.items()}
            for policy, agents in players.items()
            if policy and agents.any()
        }

    def as_json(self) -> dict[str, Any]:
        """All values of the row, for JSON."""
        values: dict[str, Any] = {"refusal": self.refusal} if self.refusal else {}
        if self.match:
            values |= {name: _reward_as_json(reward) for name, reward in self.rewards.items()}
            values["policy"]["agents"], values["opponent"]["agents"] = self.match.num_agents
            values["episodes"] = len(self.match.episodes)
        for name, result in (self.results or {}).items():
            policies = {policy: _reward_as_json(of[name]) for policy, of in self.policy_rewards.items()}
            values[name] = result.summary() | {
                **_reward_as_json(result.reward_interval),
                **({"policies": policies} if policies else {}),
                "episodes": len(result.episodes),
                "stats": result.stats,
                **({"reward_terms": result.reward_terms} if result.reward_terms else {}),
            }
        return values


def print_json(settings: Mapping[str, Any], rows: Sequence[EvaluationRow], kind: Kind) -> None:
    """Print one JSON object per world, or one with all tasks or runs. Settings that are None are omitted."""
    given = {key: value for key, value in settings.items() if value is not None}
    if kind == "run":
        means = {name: {"num_runs": count, **_reward_as_json(mean)} for name, (mean, count) in _over_rows(rows).items()}
        output.print_json(given | means | {"runs": {row.name: row.as_json() for row in rows}})
    elif kind == "task":
        output.print_json(given | {"tasks": {row.name: row.as_json() for row in rows}})
    else:
        for row in rows:
            output.print_json(given | ({"env": row.name} if "suite" in given else {}) | row.as_json())


def print_table(title: str, rows: Sequence[EvaluationRow], episodes: int, kind: Kind) -> None:
    """Print a row for each row of a kind; None: one world, with its counters."""
    for row in rows:
        if row.refusal:
            output.print_note(f"{row.name}: {row.refusal}")
    interval = f"{_plus_minus()} 95 % confidence interval"
    if episodes == 1:
        interval = "no confidence interval"
    if kind is None:
        output.print_lines([f"{title} in {rows[0].name}"])
        output.print_wrapped(f"{_count(episodes)}; {interval}")
        output.print_columns(*_single_world(rows[0]))
    else:
        output.print_lines([title])
        output.print_wrapped(f"reward per agent and episode, {_count(episodes)} per {kind}; {interval}")
        output.print_columns(*_several_worlds(rows, kind))


def _several_worlds(rows: Sequence[EvaluationRow], kind: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the mean reward of each policy."""
    found = [row.rewards | _policy_columns(row) for row in rows]
    columns = list(dict.fromkeys(name for each in (*(row.rewards for row in rows), *found) for name in each))
    cells = [
        [row.name, *(estimate(of[name]) if name in of else "-" for name in columns)]
        for row, of in zip(rows, found, strict=True)
    ]
    if kind == "run":
        means = _over_rows(rows)
        cells.append(["mean of runs", *(estimate(means[name][0]) if name in means else "-" for name in columns)])
    return [kind, *columns], cells


def _over_rows(rows: Sequence[EvaluationRow]) -> dict[str, tuple[api.Interval, int]]:
    """Column -> mean of the mean rewards of the rows that have it, with its interval over these, and their number."""
    found = [row.rewards | _policy_columns(row) for row in rows]
    means = {name: [of[name].mean for of in found if name in of] for name in dict.fromkeys(chain(*found))}
    return {name: (api.mean_interval(values), len(values)) for name, values in means.items()}


def _policy_columns(row: EvaluationRow) -> dict[str, api.Interval]:
    """Column -> mean reward of the agents of each policy of the evaluated team, which is in the row's first column."""
    return {f"policy {policy}": next(iter(of.values())) for policy, of in row.policy_rewards.items()}


def _single_world(row: EvaluationRow) -> tuple[list[str], list[list[str]]]:
    """Header and rows: reward, episode length and counters of each policy."""

    def numbers(label: str, values: Sequence[float]) -> list[str]:
        return [label, *map(output.format_number, values)]

    cells = [["reward per agent and episode", *map(estimate, row.rewards.values())]]
    if row.match:
        cells.append(["agents per world", *map(str, row.match.num_agents), ""])
    for policy, of in row.policy_rewards.items():
        cells.append([f"  agents of {policy}", *map(estimate, of.values())])
    results = list((row.results or {}).values())
    if results:
        has_spread = len(results[0].episodes) > 1
        cells += [
            numbers("  std over episodes", [result.std_reward if has_spread else math.nan for result in results]),
            numbers("episode length, steps", [result.mean_length for result in results]),
            numbers("  std over episodes", [result.std_length if has_spread else math.nan for result in results]),
            ["per agent and episode:", *("" for _ in results)],
        ]
    counters = {
        counter for result in results for counter in result.stats if _pattern_index(counter) < len(SHOWN_COUNTERS)
    }
    for term in dict.fromkeys(term for result in results for term in result.reward_terms):
        cells.append(numbers(f"  reward {term}", [result.reward_terms.get(term, 0.0) for result in results]))
    units = list(SHOWN_COUNTERS.values())
    for counter in sorted(counters, key=lambda counter: (_pattern_index(counter), counter)):
        label = f"  {counter}, {units[_pattern_index(counter)]}"
        cells.append(numbers(label, [result.stats.get(counter, 0.0) for result in results]))
    return ["", *row.rewards], cells


def _reward_as_json(interval: api.Interval) -> dict[str, Any]:
    return {"mean_reward": interval.mean, "reward_interval": [interval.low, interval.high]}


def estimate(interval: api.Interval) -> str:
    """A mean with the half width of its confidence interval, such as `4.76 ± 1.28`: three digits of the half width."""
    mean, half_width = interval.mean, interval.half_width
    if math.isnan(half_width):
        return output.format_number(mean)
    if not abs(mean) + half_width < 1e6:
        return f"{output.format_number(mean)} {_plus_minus()} {output.format_number(half_width)}"
    digits = min(4, max(0, 2 - math.floor(math.log10(half_width)))) if half_width > 1e-9 else 3
    return f"{mean:,.{digits}f} {_plus_minus()} {half_width:,.{digits}f}"


def _plus_minus() -> str:
    return output.encodable("±", "+-")


def _count(episodes: int) -> str:
    return "1 episode" if episodes == 1 else f"{episodes} episodes"


def _pattern_index(counter: str) -> int:
    """Index of the first pattern in SHOWN_COUNTERS that matches the counter; `len(SHOWN_COUNTERS)` if none does."""
    indices = (index for index, pattern in enumerate(SHOWN_COUNTERS) if re.fullmatch(pattern, counter))
    return next(indices, len(SHOWN_COUNTERS))
