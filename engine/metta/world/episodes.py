"""How an episode begins: a task and a map are drawn, and everything is put in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.errors import MapError
from metta.random_streams import episode_sequence
from metta.world.maps.build import build_map
from metta.world.rules.converters import start_conversions
from metta.world.state.compiled_config import NEVER
from metta.world.state.worlds import EMPTY, IDLE, OUTSIDE, Worlds


class Streams:
    """Random numbers of every world: each episode of each world has its own, whatever the batch around it.

    They are derived from (seed, global index of the world, number of the episode), so nothing depends on how many
    worlds a batch has, which process they are in or when their neighbors end.
    """

    def __init__(self, seed: int, first_world: int):
        self.seed = seed
        self.first_world = first_world

    def draw(self, world: int, episode: int) -> tuple[np.random.Generator, int]:
        """The generator for an episode's task and map, and the key of its turn orders."""
        bits = np.random.PCG64(episode_sequence(self.seed, self.first_world + world, episode))
        return np.random.Generator(bits), int(bits.random_raw())


@dataclass(frozen=True)
class Draw:
    """What is drawn for an episode."""

    episode: int
    turn_stream: int
    task_uniform: float  # from 0 to 1, what the task is chosen by
    task: int
    cells: NDArray[np.int16]  # [rows, cols]


def draw_episode(
    configs: Sequence[EnvConfig], streams: Streams, world: int, episode: int, task_shares: NDArray[np.float64]
) -> Draw:
    """Draw an episode of a world. `task_shares [tasks]` are cumulative and end with 1."""
    generator, turn_stream = streams.draw(world, episode)
    task_uniform = generator.random() if len(configs) > 1 else 0.0
    task = choose_task(task_uniform, task_shares)
    return Draw(episode, turn_stream, task_uniform, task, build_map(configs[task], generator))


def choose_task(task_uniform: float, task_shares: NDArray[np.float64]) -> int:
    """The task that a number from 0 to 1 falls on."""
    last = len(task_shares) - 1
    return min(int(task_shares.searchsorted(task_uniform, side="right")), last) if last else 0


def begin_episodes(worlds: Worlds, places: NDArray[np.int64], draws: Sequence[Draw]) -> None:
    """Begin an episode in each of the worlds `places`, as drawn; they lose what was in them."""
    clear(worlds, places)
    tasks = np.array([draw.task for draw in draws])
    worlds.task[places] = tasks
    worlds.ruleset[places] = worlds.compiled.ruleset_of_task[tasks]
    worlds.episode[places] = [draw.episode for draw in draws]
    worlds.turn_stream[places] = [draw.turn_stream for draw in draws]
    for task in sorted(set(tasks.tolist())):
        fresh = (tasks == task).nonzero()[0]
        cells = np.stack([draws[index].cells for index in fresh.tolist()])
        _populate(worlds, int(worlds.compiled.ruleset_of_task[task]), places[fresh], cells)


CLEARED = (
    *("steps", "orientation", "color", "freeze", "inventory", "has_token", "score", "reward", "individual_rewards"),
    *("returned_rewards", "success", "last_action", "agent_counters", "tokens_written", "tokens_dropped"),
    *("converter_type", "converter_inventory", "converter_counters", "first_step"),
)
"""Arrays of Worlds that are 0 at first."""


def clear(worlds: Worlds, places: NDArray[np.int64]) -> None:
    """Empty some worlds and set back all that is counted in them."""
    for name in CLEARED:
        worlds.by_world(name)[places] = 0
    worlds.by_world("grid")[places] = OUTSIDE
    worlds.by_world("converter_cell")[places] = -1
    worlds.by_world("converter_phase")[places] = IDLE
    worlds.by_world("converter_due")[places] = NEVER
    worlds.items_changed.reshape(worlds.num_worlds, -1)[places] = True


def _populate(worlds: Worlds, ruleset: int, fresh: NDArray[np.int64], cells: NDArray[np.int16]) -> None:
    """Put everything in worlds of one task where their maps have it. `fresh [worlds]`, `cells [worlds, rows, cols]`."""
    types, pad = worlds.compiled.types, worlds.pad
    rows, cols = cells.shape[1:]
    slots = worlds.grid[: worlds.globals_start].reshape(worlds.num_worlds, worlds.slot_rows, worlds.stride)
    slots[fresh, pad : pad + rows, pad : pad + cols] = EMPTY
    place_in_slot = ((np.arange(rows) + pad)[:, None] * worlds.stride + np.arange(cols) + pad).ravel()
    filled = (cells != EMPTY).ravel().nonzero()[0]  # flat: `nonzero` of more dimensions takes 20 times as long
    world = filled // (rows * cols)
    places = worlds.slot_start[fresh[world]] + place_in_slot[filled - world * (rows * cols)]

    values = cells.ravel()[filled]
    standing = (values < 0).nonzero()[0]
    if (np.bincount(world[standing], minlength=len(fresh)) != worlds.num_agents).any():
        count = len(standing) / len(fresh)
        raise MapError(f"a map has {count:g} agents, but env.game.num_agents is {worlds.num_agents}")
    agents = (fresh[:, None] * worlds.num_agents + np.arange(worlds.num_agents)).ravel()
    worlds.cell[agents] = places[standing]
    worlds.grid[places[standing]] = worlds.first_agent + agents
    worlds.group_row[agents] = ruleset * worlds.compiled.num_groups - 1 - values[standing].astype(np.int64)

    lying = (values > 0).nonzero()[0]
    world, places, values = world[lying], places[lying], values[lying]
    worlds.grid[places] = worlds.standing_thing[ruleset, values]
    type_rows = worlds.compiled.rulesets.type_row[ruleset, values]
    counts = np.bincount(world * len(types.names) + type_rows, minlength=len(fresh) * len(types.names))
    worlds.object_counts[fresh] = counts.reshape(len(fresh), -1)

    converters = (type_rows >= types.static).nonzero()[0]
    _place_converters(worlds, fresh, world[converters], type_rows[converters], places[converters])


def _place_converters(
    worlds: Worlds,
    fresh: NDArray[np.int64],
    world: NDArray[np.int64],
    type_rows: NDArray[np.int64],
    places: NDArray[np.int64],
) -> None:
    """Converters in row-major order of their maps, filled and started. `world` is the position in `fresh` of each."""
    counts = np.bincount(world, minlength=len(fresh))
    worlds.reserve_converters(int(counts.max()))
    worlds.num_converters[fresh] = counts
    number = np.arange(len(world)) - (counts.cumsum() - counts)[world]
    converters = fresh[world] * worlds.converter_slots + number
    types = worlds.compiled.types
    worlds.grid[places] = worlds.first_converter + converters
    worlds.converter_type[converters] = type_rows
    worlds.converter_cell[converters] = places
    worlds.converter_inventory[converters] = (types.output[type_rows] > 0) * types.initial_items[type_rows][:, None]
    worlds.converter_changed[converters] = True
    start_conversions(worlds, converters)
