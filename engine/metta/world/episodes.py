"""Start of an episode: random streams, choice of task and map, and placing the map's entities in the world arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.errors import MapError, UsageError
from metta.random_streams import EpisodeSplit, episode_sequence, fresh_seed
from metta.world.maps.build import build_map
from metta.world.parts.outcomes import OUTCOMES, TERMINATED, TRUNCATED, WAS_TERMINATED, WAS_TRUNCATED
from metta.world.rules.converters import sampled_values, start_conversions
from metta.world.state.compiled_config import NEVER
from metta.world.state.worlds import EMPTY, IDLE, OUTSIDE, Worlds

INVERSE_GOLDEN_RATIO: Final = 0.6180339887498949
"""The first n multiples modulo 1 are spread evenly over [0, 1) for every n (Knuth, TAOCP, section 6.4)."""

NO_WORLDS = np.zeros(0, np.int64)


class EpisodeStreams:
    """Random streams of episodes, each derived from (split, seed, global world index, episode number).

    Results therefore do not depend on the number of worlds, on the process, or on when episodes of other worlds end.

    A seed that is not given is drawn from the operating system by the first `restart`. A copy continues the streams
    that it was copied with; if their seed was drawn, its next `restart` draws another one, so that copies differ.
    """

    def __init__(self, seed: int | None, first_world: int, split: EpisodeSplit = "train"):
        self.first_world = first_world
        self.split = split
        self.given_seed = None if seed is None else checked_seed(seed)
        self.seed = self.given_seed
        """the seed in use; None before the first `restart` if none was given"""
        self._draws_seed = seed is None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._draws_seed = self.given_seed is None

    def restart(self, seed: int | None) -> bool:
        """Change the seed, if one is given or has to be drawn. Returns whether it was changed."""
        if seed is not None:
            self.given_seed = self.seed = checked_seed(seed)
        elif self._draws_seed:
            self.seed = fresh_seed()
        else:
            return False
        self._draws_seed = False
        return True

    def draw(self, world: int, episode: int) -> tuple[np.random.Generator, int]:
        """The random generator for task and map of an episode, and the 64-bit key of its turn orders."""
        assert self.seed is not None
        bits = np.random.PCG64(episode_sequence(self.seed, self.first_world + world, episode, self.split))
        return np.random.Generator(bits), int(bits.random_raw())


def checked_seed(seed: int) -> int:
    """The seed as an int. Raises UsageError unless it is an integer of at least 0."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise UsageError(f"seed must be an integer of at least 0; got {seed!r}")
    return int(seed)


@dataclass(frozen=True)
class EpisodeDraw:
    """The random choices of an episode."""

    episode: int
    turn_stream: int
    task_uniform: float  # in [0, 1), maps to the task by inverse transform sampling
    task: int
    cells: NDArray[np.int16]  # [rows, cols]


def draw_episode(
    configs: Sequence[EnvConfig], streams: EpisodeStreams, world: int, episode: int, task_shares: NDArray[np.float64]
) -> EpisodeDraw:
    """Draw task and map of episode number `episode` of a world. `task_shares [tasks]`: cumulative probabilities."""
    generator, turn_stream = streams.draw(world, episode)
    task_uniform = generator.random() if len(configs) > 1 else 0.0
    task = choose_task(task_uniform, task_shares)
    return EpisodeDraw(episode, turn_stream, task_uniform, task, build_map(configs[task], generator))


def choose_task(task_uniform: float, task_shares: NDArray[np.float64]) -> int:
    """The task of a uniform random number, by inverse transform sampling of cumulative probabilities `[tasks]`."""
    last = len(task_shares) - 1
    return min(int(task_shares.searchsorted(task_uniform, side="right")), last) if last else 0


def start_episodes(worlds: Worlds, indices: NDArray[np.int64], draws: Sequence[EpisodeDraw]) -> None:
    """Replace the episodes of the worlds `indices [draws]` by those drawn."""
    clear(worlds, indices)
    tasks = np.array([draw.task for draw in draws])
    worlds.task[indices] = tasks
    worlds.ruleset[indices] = worlds.compiled.ruleset_of_task[tasks]
    worlds.episode[indices] = [draw.episode for draw in draws]
    worlds.turn_stream[indices] = [draw.turn_stream for draw in draws]
    for task in sorted(set(tasks.tolist())):
        members = (tasks == task).nonzero()[0]
        maps = np.stack([draws[index].cells for index in members.tolist()])
        _populate(worlds, int(worlds.compiled.ruleset_of_task[task]), indices[members], maps)


CLEARED = (
    *("steps", "orientation", "color", "freeze", "inventory", "has_token", "score", "reward", "individual_rewards"),
    *("returned_rewards", "success", "last_action", "agent_counters", "tokens_written", "tokens_dropped"),
    *("converter_type", "converter_inventory", "converter_counters", "converter_state", "first_step"),
)
"""Arrays of Worlds that are set to 0 at the start of an episode."""


def clear(worlds: Worlds, indices: NDArray[np.int64]) -> None:
    """Remove all entities of the worlds `indices` and set their counters to 0."""
    for name in CLEARED:
        worlds.by_world(name)[indices] = 0
    for name in worlds.part_arrays:
        worlds.part_by_world(name)[indices] = 0
    worlds.by_world("grid")[indices] = OUTSIDE
    if worlds.compiled.types.has_walkable:
        worlds.by_world("floor")[indices] = EMPTY
    worlds.by_world("converter_cell")[indices] = -1
    worlds.by_world("converter_phase")[indices] = IDLE
    worlds.by_world("converter_due")[indices] = NEVER
    worlds.items_changed.reshape(worlds.num_worlds, -1)[indices] = True


def _populate(worlds: Worlds, ruleset: int, indices: NDArray[np.int64], maps: NDArray[np.int16]) -> None:
    """Place the entities of `maps [n, rows, cols]` in the worlds `indices [n]`, which have the same task.

    Raises MapError if a map does not have `num_agents` agents.
    """
    types, pad = worlds.compiled.types, worlds.pad
    rows, cols = maps.shape[1:]
    slots = worlds.grid[: worlds.globals_start].reshape(worlds.num_worlds, worlds.slot_rows, worlds.stride)
    slots[indices, pad : pad + rows, pad : pad + cols] = EMPTY
    cell_in_slot = ((np.arange(rows) + pad)[:, None] * worlds.stride + np.arange(cols) + pad).ravel()
    filled = (maps != EMPTY).ravel().nonzero()[0]  # `nonzero` of a multi-dimensional array takes 20 times as long
    world = filled // (rows * cols)
    cells = worlds.slot_start[indices[world]] + cell_in_slot[filled - world * (rows * cols)]

    values = maps.ravel()[filled]
    is_agent = (values < 0).nonzero()[0]
    if (np.bincount(world[is_agent], minlength=len(indices)) != worlds.num_agents).any():
        count = len(is_agent) / len(indices)
        raise MapError(f"a map has {count:g} agents, but env.game.num_agents is {worlds.num_agents}")
    agents = worlds.rows_of_worlds(indices)
    worlds.cell[agents] = cells[is_agent]
    worlds.grid[cells[is_agent]] = worlds.first_agent + agents
    worlds.group_row[agents] = ruleset * worlds.compiled.num_groups - 1 - values[is_agent].astype(np.int64)

    is_object = (values > 0).nonzero()[0]
    world, cells, values = world[is_object], cells[is_object], values[is_object]
    worlds.grid[cells] = worlds.wall_entity[ruleset, values]
    type_rows = worlds.compiled.rulesets.type_row[ruleset, values]
    counts = np.bincount(world * len(types.names) + type_rows, minlength=len(indices) * len(types.names))
    worlds.object_counts[indices] = counts.reshape(len(indices), -1)

    converters = (type_rows >= types.num_walls).nonzero()[0]
    _place_converters(worlds, indices, world[converters], type_rows[converters], cells[converters])


def _place_converters(
    worlds: Worlds,
    indices: NDArray[np.int64],
    world: NDArray[np.int64],
    type_rows: NDArray[np.int64],
    cells: NDArray[np.int64],
) -> None:
    """Place converters with their initial items and start their conversions.

    `world`, `type_rows` and `cells [converters]` are in row-major order of the maps; `world` indexes `indices`.
    """
    counts = np.bincount(world, minlength=len(indices))
    worlds.reserve_converters(int(np.max(counts)))
    number = np.arange(len(world)) - (counts.cumsum() - counts)[world]
    converters = indices[world] * worlds.converter_slots + number
    types = worlds.compiled.types
    worlds.converter_type[converters] = type_rows
    worlds.converter_cell[converters] = cells
    worlds.place_converters(converters)
    initial_items = sampled_values(worlds, "initial_items", converters)
    worlds.converter_inventory[converters] = (types.output[type_rows] > 0) * initial_items[:, None]
    for kind in worlds.compiled.custom_objects:
        objects = converters[kind.has_row[type_rows]]
        worlds.converter_state[objects, : len(kind.initial)] = kind.initial
    start_conversions(worlds, converters[~types.is_custom[type_rows]])


def episode_ends(worlds: Worlds) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """(terminated, truncated, ended): flags `[worlds] bool`, and the worlds whose episode ended in this step.

    No world is both terminated and truncated. Without `auto_reset`, a flag stays true until `reset`.
    """
    rulesets = worlds.compiled.rulesets
    last_step = worlds.by_ruleset(rulesets.last_step)
    is_over = worlds.steps >= last_step
    if (outcomes := worlds.part_arrays.get(OUTCOMES)) is not None:
        return _ends_by_parts(worlds, is_over, outcomes)
    if not np.count_nonzero(is_over):
        return is_over, is_over, NO_WORLDS
    terminated = is_over & worlds.by_ruleset(rulesets.terminates)
    return terminated, is_over & ~terminated, (worlds.steps == last_step).nonzero()[0]


def _ends_by_parts(
    worlds: Worlds, is_over: NDArray[np.bool_], outcomes: NDArray[np.int8]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """`episode_ends` with the `outcomes [worlds]` of custom terminations, which end an episode only once.

    An episode that is both terminated and truncated in the same step is terminated.
    """
    rulesets = worlds.compiled.rulesets
    was_over_by_part = (outcomes == WAS_TERMINATED) | (outcomes == WAS_TRUNCATED)
    is_over &= ~was_over_by_part
    terminated = (outcomes == TERMINATED) | (outcomes == WAS_TERMINATED)
    terminated |= is_over & worlds.by_ruleset(rulesets.terminates)
    truncated = (is_over | (outcomes == TRUNCATED) | (outcomes == WAS_TRUNCATED)) & ~terminated
    was_over = was_over_by_part | (worlds.steps > worlds.by_ruleset(rulesets.last_step))
    return terminated, truncated, ((terminated | truncated) & ~was_over).nonzero()[0]


def stagger(worlds: Worlds, first_world: int) -> None:
    """Set each new episode to a different step; episodes without a last step stay at step 0."""
    last_step = worlds.compiled.rulesets.last_step[worlds.ruleset]
    fractions = (first_world + np.arange(worlds.num_worlds)) * INVERSE_GOLDEN_RATIO % 1.0
    worlds.first_step[:] = np.where(last_step == NEVER, 0, fractions * last_step)
    worlds.steps[:] = worlds.first_step
    worlds.tokens_written[:] = worlds.tokens_dropped[:] = 0  # the observations of step 0 are discarded
