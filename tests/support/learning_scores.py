"""Scores of trained presets (`tests/benchmarks/learning_PRESET.json`): goals, layout, tables of the documentation.

A file has a column for each way of training, by its label: `reward alone`, `teacher`, or an experiment's own label.

    {"preset": "hearts", "columns": {"reward alone": {
        "set": ["ppo.gamma=0.99"], "settings_sha256": "...", "minutes": null, "machine": "...", "episodes": 40,
        "worlds": {"hearts": {"scripted": [8.85, 0.2], "random": [0.42, 0.1]}},
        "seeds": {"0": {"rewards": {"hearts": [7.48, 0.3]}, "agent_steps": ..., "seconds": ..., "curve": [...]}}}}}

Rewards are [mean per agent and episode, half of its 95 % confidence interval (null: not recorded)]. Beside the worlds,
a preset with several policies has an entry `PRESET:POLICY` for each: rewards of the agents of its groups, while the
scripted policy plays all others.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from metta.config.loading.load import load_config
from metta.config.loading.presets import Preset, presets

FOLDER: Final = Path(__file__).parents[1] / "benchmarks"
ALONE, TEACHER = "reward alone", "teacher"
NOT_TRAINED: Final = ("default", "hearts_easy", "hearts_quick", "hearts_supply", "simple_supply", "arena_easy")
"""Presets without a score: all defaults, and scenes in which other presets train."""


@dataclass(frozen=True)
class Goal:
    """What a preset's policies are to reach: shares of the scripted policy's reward, in each of its worlds."""

    share: float
    minutes: float
    """training time at most, on two cores"""
    share_alone: float | None = None
    """from reward alone; None: no goal apart from `share`, which either column may reach"""
    early: tuple[float, float] | None = None
    """(minutes, share): another goal after a shorter time"""
    reward: float | None = None
    """the goal of a world that the scripted policy cannot play: a mean reward instead of a share"""
    worlds: tuple[str, ...] = ()
    """worlds in which the policy is evaluated; empty: the preset's own"""


SCENES: Final = ("navigation", "object_use", "navigation_sequence")
GOALS: Final = {
    "quickstart": Goal(1.2, 3, early=(1, 1.0)),
    "hearts": Goal(1.1, 30),
    "simple": Goal(1.0, 60, 0.8),
    "arena": Goal(1.0, 60, 0.6),
    "navigation": Goal(1.0, 10),
    "memory": Goal(1.05, 10),
    "cooperation": Goal(1.05, 10),
    "foraging": Goal(1.05, 10),
    "navigation_sequence": Goal(1.05, 20, 0.9),
    "object_use": Goal(1.05, 20, 0.9),
    "arena_small": Goal(1.05, 20, 0.9),
    "predator_prey": Goal(1.05, 20, 0.9),
    "arena_teams": Goal(1.05, 20, 0.9),
    "curriculum": Goal(0.95, 30, worlds=SCENES),
    "keys_and_doors": Goal(0, 10, reward=1.3),
    "harvest": Goal(0, 10, reward=2.0),
    "signals": Goal(0, 10, reward=0.8),
}


def places(preset: str) -> dict[str, tuple[str, ...]]:
    """Where the policies of a preset are evaluated -> groups that the evaluated policy plays; empty: all of them.

    These are its worlds, and `PRESET:POLICY` for each policy of a preset with several.
    """
    worlds = (GOALS[preset].worlds if preset in GOALS else ()) or (preset,)
    policies = load_config(preset).policies
    return dict.fromkeys(worlds, ()) | {f"{preset}:{name}": tuple(each.groups) for name, each in policies.items()}


def path_of(preset: str) -> Path:
    """The file of a preset's scores."""
    return FOLDER / f"learning_{preset}.json"


def read_scores(preset: str) -> dict[str, Any]:
    """The content of the file of a preset; without columns if there is none."""
    path = path_of(preset)
    return json.loads(path.read_text()) if path.exists() else {"preset": preset, "columns": {}}


def is_scripted(world: str) -> bool:
    """Whether the scripted policy can play a world, or at another one of the `places`."""
    goal = GOALS.get(world.partition(":")[0])
    return goal is None or goal.reward is None


def shares(column: dict[str, Any], seeds: Iterable[str]) -> dict[str, float]:
    """World -> mean reward over the seeds, divided by that of the scripted policy."""
    return {
        world: mean_reward(column, world, seeds)[0] / column["worlds"][world]["scripted"][0]
        for world in column["worlds"]
    }


def mean_reward(column: dict[str, Any], world: str, seeds: Iterable[str]) -> tuple[float, float | None]:
    """Mean reward over the seeds, and half of its 95 % confidence interval over maps; None if it was not recorded."""
    rewards = [column["seeds"][seed]["rewards"][world] for seed in seeds]
    halves = [half for _, half in rewards]
    mean = sum(reward for reward, _ in rewards) / len(rewards)
    return mean, None if None in halves else math.sqrt(sum(half**2 for half in halves)) / len(halves)


def missed_goals(preset: str, label: str, column: dict[str, Any], seeds: list[str]) -> list[str]:
    """Sentences about the goals that the seeds of a column miss; empty if there is none, or no goal for the preset."""
    goal, minutes = GOALS.get(preset), column["minutes"]
    if goal is None:
        return []
    required = goal.share_alone if label == ALONE and goal.share_alone else goal.share
    if goal.early and minutes and minutes <= goal.early[0]:
        required = goal.early[1]
    if goal.reward is None:
        missed = [
            f"{world}: {share:.0%} of the scripted policy; the goal is {required:.0%}"
            for world, share in shares(column, seeds).items()
            if round(share, 2) < required
        ]
    else:
        means = {world: mean_reward(column, world, seeds)[0] for world in column["worlds"]}
        missed = [
            f"{world}: {mean:.2f}; the goal is {goal.reward}" for world, mean in means.items() if mean < goal.reward
        ]
    longest = max(column["seeds"][seed]["seconds"] for seed in seeds) / 60
    too_long = [f"training took {longest:.1f} minutes; the goal is {goal.minutes:g}"] if longest > goal.minutes else []
    return missed + too_long


def score_table() -> str:
    """A row for each world of each trained preset, with both ways of training."""
    head = "| preset | random | scripted | trained from reward alone | trained with a teacher |\n|---|---|---|---|---|"
    return _table(head, lambda name, _, *cells: [name, *cells], with_policies=True)


def short_score_table() -> str:
    """The rows of the worlds with the task of each preset, trained with a teacher if that was measured."""
    head = "| preset | task | random | scripted | trained |\n|---|---|---|---|---|"

    def cells(name: str, aim: str, random: str, scripted: str, alone: str, taught: str) -> list[str]:
        return [name, aim, random, scripted, taught or alone]

    return _table(head, cells, with_policies=False)


def _table(head: str, cells: Callable[..., list[str]], with_policies: bool) -> str:
    trained = [preset for preset in presets() if preset.name not in NOT_TRAINED]
    rows = [cells(*row) for preset in trained for row in _rows(preset, with_policies)]
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)])


def _rows(preset: Preset, with_policies: bool) -> list[list[str]]:
    """[name, aim, random, scripted, from reward alone, with a teacher] for each world, or also policy, of a preset."""
    columns = read_scores(preset.name)["columns"]
    known = [columns[label] for label in (ALONE, TEACHER) if label in columns]
    if not known:
        return [[f"`{preset.name}`", preset.aim, "", "", "not measured", ""]]
    rows = []
    for place, baselines in known[-1]["worlds"].items():
        world, _, played = place.partition(":")
        if played and not with_policies:
            continue
        detail = f", policy `{played}`" if played else f" in `{world}`" if world != preset.name else ""
        name = f"`{preset.name}`{detail}"
        trained = [
            _cell(columns[label], place, baselines["scripted"][0])
            if label in columns and place in columns[label]["worlds"]
            else ""
            for label in (ALONE, TEACHER)
        ]
        scripted = _reward(*baselines["scripted"]) if is_scripted(place) else "none"
        rows.append([name, preset.aim, _reward(*baselines["random"]), scripted, *trained])
    return rows


def _cell(column: dict[str, Any], world: str, scripted: float) -> str:
    """`7.50 ± 0.12 (85 %), 3 seeds, 17 min`; `scripted` is the reward of the scripted policy."""
    seeds = list(column["seeds"])
    count = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    mean, half = mean_reward(column, world, seeds)
    share = f" ({100 * mean / scripted:.0f} %)" if is_scripted(world) else ""
    return f"{_reward(mean, half)}{share}, {count}, {training_minutes(column):.0f} min"


def training_minutes(column: dict[str, Any]) -> float:
    """The median training time of the seeds of a column, in minutes: other load may have slowed one of them."""
    return statistics.median(run["seconds"] for run in column["seeds"].values()) / 60


def _reward(mean: float, half: float | None) -> str:
    return f"{mean:.2f}" + ("" if half is None else f" ± {half:.2f}")
