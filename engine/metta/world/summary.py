"""What is told of episodes: summaries of those that ended, and the counters of those that run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.world.state import Worlds
from metta.world.stats import invalid_counts, mean_counts, named_counts
from metta.world.views import converter_rows, view_converters


@dataclass(frozen=True)
class EpisodeSummary:
    """One world's episode, when it has ended."""

    world: int
    task: int
    length: int
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


def summarise(worlds: Worlds, ended: NDArray[np.int64], terminated: NDArray[np.bool_]) -> tuple[EpisodeSummary, ...]:
    """The episodes of the worlds `ended` as they stand. `terminated [worlds]`"""

    def of_ended(array: NDArray[Any]) -> NDArray[Any]:
        return array.reshape(worlds.num_worlds, worlds.num_agents, *array.shape[1:])[ended]

    stats = mean_counts(worlds.agent_columns, of_ended(worlds.group_row), of_ended(worlds.agent_counters))
    place = {world: index for index, world in enumerate(ended.tolist())}
    for (row, what, action, argument), times in worlds.invalid.items():
        own = stats[place[row // worlds.num_agents]] if row // worlds.num_agents in place else {}
        name = f"action.{what}.{action}.{argument}"
        own[name] = own.get(name, 0.0) + times / worlds.num_agents
    rewards, individual_rewards = of_ended(worlds.returned_rewards), of_ended(worlds.individual_rewards)
    return tuple(
        EpisodeSummary(
            world=world,
            task=int(worlds.task[world]),
            length=int(worlds.steps[world]),
            terminated=bool(terminated[world]),
            rewards=rewards[index],
            individual_rewards=individual_rewards[index],
            stats=stats[index] | game,
        )
        for (world, index), game in zip(place.items(), game_counts(worlds, ended), strict=True)
    )


def episode_stats(worlds: Worlds, world: int) -> dict[str, Any]:
    """The counters of a world's running episode by the names of SEMANTICS section 11; those that are 0 left out."""
    rows = worlds.rows_of(world)
    agents = [
        named_counts(worlds.agent_columns.names(int(worlds.group_row[row])), worlds.agent_counters[row])
        for row in range(rows.start, rows.stop)
    ]
    converters = []
    placed = view_converters(worlds, world)
    for index, row in enumerate(converter_rows(worlds, world).tolist()):
        names = worlds.converter_columns.names(int(worlds.converter_type[row]))
        counts = named_counts(names, worlds.converter_counters[row])
        counts["type_id"] = float(placed["type_id"][index])
        counts["location.r"], counts["location.c"] = map(float, placed["position"][index])
        converters.append(counts)
    return {
        "game": game_counts(worlds, np.array([world]))[0],
        "agent": [own | more for own, more in zip(agents, invalid_counts(worlds.invalid, rows), strict=True)],
        "converter": converters,
    }


def game_counts(worlds: Worlds, asked: NDArray[np.int64]) -> list[dict[str, float]]:
    """For each of the worlds `asked` what stands in it, and what became of the tokens of its observations."""
    by_agent = worlds.num_worlds, worlds.num_agents
    written = worlds.tokens_written.reshape(by_agent)[asked].sum(axis=1)
    dropped = worlds.tokens_dropped.reshape(by_agent)[asked].sum(axis=1)
    free = worlds.num_agents * (worlds.steps[asked] + 1) * worlds.rules.num_tokens - written
    counts = [
        {"tokens_written": float(own[0]), "tokens_dropped": float(own[1]), "tokens_free_space": float(own[2])}
        for own in zip(written.tolist(), dropped.tolist(), free.tolist(), strict=True)
    ]
    names, objects = worlds.rules.types.names, worlds.object_counts[asked]
    index, type_row = objects.nonzero()
    for own, name, count in zip(index.tolist(), type_row.tolist(), objects[index, type_row].tolist(), strict=True):
        counts[own][f"objects.{names[name]}"] = float(count)
    return counts
