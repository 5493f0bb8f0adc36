"""What is told of episodes: summaries of those that ended, and the counters of those that run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.world.render import converter_rows, view_converters
from metta.world.state.counters import invalid_counts, mean_counts, named_counts
from metta.world.state.worlds import Worlds


@dataclass(frozen=True)
class EpisodeSummary:
    """One world's episode, when it has ended."""

    world: int
    task: int
    length: int  # steps played: fewer than its last step's number where it began part way (`reset(staggered=True)`)
    terminated: bool  # its lifetime was over; else truncated by max_steps
    rewards: NDArray[np.float32]
    """`[agents]`, the sum of what `step` returned."""
    individual_rewards: NDArray[np.float32]
    """`[agents]`, the sum of rewards before sharing and bonus."""
    stats: dict[str, float]
    """Counters that are not zero: those of agents as a mean over agents, and those of the game."""


@dataclass(frozen=True)
class StepInfo:
    """What happened in a step beyond the arrays: the episodes that ended."""

    ended_agents: NDArray[np.int64]
    """`[ended]`, rows of the agents whose episode ended in this step."""
    final_observations: NDArray[np.uint8]
    """`[ended, tokens, 3]`, the last observations of those agents."""
    episodes: tuple[EpisodeSummary, ...]


def summarize(worlds: Worlds, ended: NDArray[np.int64], terminated: NDArray[np.bool_]) -> tuple[EpisodeSummary, ...]:
    """The episodes of the worlds `ended` as they stand. `terminated [worlds]`

    World by world: slices and a few names are done with sooner than arrays of all names for all that ended.
    """
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
        )
        for world, rows in ((world, worlds.rows_of(world)) for world in ended.tolist())
    )


def episode_stats(worlds: Worlds, world: int) -> dict[str, Any]:
    """The counters of a world's running episode by the names of SEMANTICS section 11; those that are 0 left out."""
    rows = worlds.rows_of(world)
    agents = [
        _as_floats(named_counts(worlds.agent_columns.names(int(worlds.group_row[row])), worlds.agent_counters[row]))
        for row in range(rows.start, rows.stop)
    ]
    converters = []
    placed = view_converters(worlds, world)
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
    """What stands in a world, and what became of the tokens of its observations."""
    rows = worlds.rows_of(world)
    written, dropped = int(worlds.tokens_written[rows].sum()), int(worlds.tokens_dropped[rows].sum())
    room = worlds.num_agents * (_steps_played(worlds, world) + 1) * worlds.compiled.num_tokens
    tokens = {"tokens_written": written, "tokens_dropped": dropped, "tokens_free_space": room - written}
    objects = zip(worlds.compiled.types.names, worlds.object_counts[world].tolist(), strict=True)
    return _as_floats(tokens | {f"objects.{name}": count for name, count in objects if count})


def _steps_played(worlds: Worlds, world: int) -> int:
    return int(worlds.steps[world] - worlds.first_step[world])


def _as_floats(counts: dict[str, int]) -> dict[str, float]:
    return {name: float(count) for name, count in counts.items()}
