"""EpisodeSummary and StepInfo: rewards, length and statistics of finished episodes; statistics of running episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.world.parts.run_parts import REWARD_TERMS
from metta.world.render import converter_rows, view_converters
from metta.world.state.counters import invalid_counts, mean_counts, named_counts
from metta.world.state.worlds import Worlds


@dataclass(frozen=True)
class EpisodeSummary:
    """A finished episode of one world."""

    world: int
    """index of the world in its environment"""
    task: int
    """index of the config in `MettaGridEnv.configs`"""
    length: int
    """number of steps, counted from the step at which the episode started (see `reset(staggered=True)`)"""
    terminated: bool
    """ended by `episode_lifetime` or a custom termination; otherwise truncated by `max_steps` or a custom one"""
    rewards: NDArray[np.float32]
    """`[agents of a world] float32`: sum of the rewards that `step` returned"""
    individual_rewards: NDArray[np.float32]
    """`[agents of a world] float32`: sum of the rewards before sharing and before the diversity bonus"""
    stats: dict[str, float]
    """counters by name, without those that are 0: means over agents of agent counters, and counters of the world"""
    reward_terms: dict[str, float] = field(default_factory=dict)
    """sum of each custom reward by name, times its weight: means over agents"""


@dataclass(frozen=True)
class StepInfo:
    """The episodes that ended in a step."""

    ended_agents: NDArray[np.int64]
    """`[ended] int64`: rows of the agents whose episode ended"""
    final_observations: NDArray[np.uint8]
    """`[ended, tokens, 3] uint8`: last observations of these agents"""
    episodes: tuple[EpisodeSummary, ...]
    """by ascending world index"""


def summarize(worlds: Worlds, ended: NDArray[np.int64], terminated: NDArray[np.bool_]) -> tuple[EpisodeSummary, ...]:
    """Summaries of the current episodes of the worlds `ended [episodes]`. `terminated [worlds] bool`"""
    # a loop over worlds is faster than arrays of all worlds and counters, since few counters are not 0
    invalid: dict[int, dict[str, float]] = {}
    for (row, what, action, argument), times in worlds.invalid.items():
        own = invalid.setdefault(row // worlds.num_agents, {})
        name = f"action.{what}.{action}.{argument}"
        own[name] = own.get(name, 0.0) + times / worlds.num_agents
    return tuple(
        EpisodeSummary(
            world=world,
            task=int(worlds.task[world]),
            length=_steps_played(worlds, world),
            terminated=bool(terminated[world]),
            rewards=worlds.returned_rewards[rows].copy(),
            individual_rewards=worlds.individual_rewards[rows].copy(),
            stats=mean_counts(worlds.agent_columns, worlds.group_row[rows], worlds.agent_counters[rows])
            | invalid.get(world, {})
            | game_counts(worlds, world),
            reward_terms=_reward_terms(worlds, rows),
        )
        for world, rows in ((world, worlds.rows_of(world)) for world in ended.tolist())
    )


def _reward_terms(worlds: Worlds, rows: slice) -> dict[str, float]:
    if not (terms := worlds.compiled.parts.terms):
        return {}
    sums = worlds.part_arrays[REWARD_TERMS][rows].mean(axis=0, dtype=np.float64)
    return dict(zip(terms, sums.tolist(), strict=True))


def episode_stats(worlds: Worlds, world: int) -> dict[str, Any]:
    """The statistics of the running episode of a world: see `MettaGridEnv.episode_stats`."""
    placed, rows = view_converters(worlds, world), worlds.rows_of(world)
    agents = [
        _as_floats(named_counts(worlds.agent_columns.names(int(worlds.group_row[row])), worlds.agent_counters[row]))
        for row in range(rows.start, rows.stop)
    ]
    converters = []
    for index, row in enumerate(converter_rows(worlds, world).tolist()):
        names = worlds.converter_columns.names(int(worlds.converter_type[row]))
        counts = _as_floats(named_counts(names, worlds.converter_counters[row]))
        counts["type_id"] = float(placed["type_id"][index])
        counts["location.r"], counts["location.c"] = map(float, placed["position"][index])
        converters.append(counts)
    return {
        "game": game_counts(worlds, world),
        "agent": [own | more for own, more in zip(agents, invalid_counts(worlds.invalid, rows), strict=True)],
        "converter": converters,
    }


def game_counts(worlds: Worlds, world: int) -> dict[str, float]:
    """Counters of a world: objects of each type, and tokens that its observations contained, dropped and left free."""
    rows = worlds.rows_of(world)
    written, dropped = int(worlds.tokens_written[rows].sum()), int(worlds.tokens_dropped[rows].sum())
    capacity = worlds.num_agents * (_steps_played(worlds, world) + 1) * worlds.compiled.num_tokens
    tokens = {"tokens_written": written, "tokens_dropped": dropped, "tokens_free_space": capacity - written}
    objects = zip(worlds.compiled.types.names, worlds.object_counts[world].tolist(), strict=True)
    return _as_floats(tokens | {f"objects.{name}": count for name, count in objects if count})


def _steps_played(worlds: Worlds, world: int) -> int:
    return int(worlds.steps[world] - worlds.first_step[world])


def _as_floats(counts: dict[str, int]) -> dict[str, float]:
    return {name: float(count) for name, count in counts.items()}
