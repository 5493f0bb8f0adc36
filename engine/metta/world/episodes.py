"""How an episode begins: a task and a map are drawn, and everything is put in its place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metta.errors import MapError
from metta.world.converters import start_conversions
from metta.world.maps import build_map
from metta.world.rules import NEVER
from metta.world.state import EMPTY, IDLE, OUTSIDE, Worlds


class Streams:
    """Random numbers of every world: each episode of each world has its own, whatever the batch around it.

    They are derived from (seed, global index of the world, number of the episode), so nothing depends on how many
    worlds a batch has, which process they are in or when their neighbours end.
    """

    def __init__(self, seed: int, first_world: int):
        self.seed = seed
        self.first_world = first_world

    def draw(self, world: int, episode: int) -> tuple[np.random.Generator, int]:
        """The generator for an episode's task and map, and the key of its turn orders."""
        bits = np.random.PCG64(np.random.SeedSequence((self.seed, self.first_world + world, episode)))
        return np.random.Generator(bits), int(bits.random_raw())


def begin_episodes(worlds: Worlds, streams: Streams, ended: Sequence[int], task_shares: NDArray[np.float64]) -> None:
    """Begin the next episode in each world of `ended`. `task_shares [tasks]` are cumulative and end with 1."""
    maps: dict[int, list[tuple[int, NDArray[np.int16]]]] = {}  # by task
    for world in ended:
        worlds.episode[world] += 1
        generator, worlds.turn_stream[world] = streams.draw(world, int(worlds.episode[world]))
        task = 0
        if len(task_shares) > 1:
            task = min(int(task_shares.searchsorted(generator.random(), side="right")), len(task_shares) - 1)
        maps.setdefault(task, []).append((world, build_map(worlds.rules.configs[task], generator)))
    clear(worlds, np.array(ended))
    for task, drawn in maps.items():
        fresh = np.array([world for world, _ in drawn])
        worlds.ruleset[fresh] = task
        _furnish(worlds, task, fresh, np.stack([cells for _, cells in drawn]))


def clear(worlds: Worlds, fresh: NDArray[np.int64]) -> None:
    """Empty the worlds `fresh` and set back all that is counted in them."""
    worlds.steps[fresh] = 0
    worlds.grid[: worlds.globals_start].reshape(worlds.num_worlds, -1)[fresh] = OUTSIDE
    for array in (
        worlds.orientation,
        worlds.color,
        worlds.freeze,
        worlds.inventory,
        worlds.listed,
        worlds.score,
        worlds.reward,
        worlds.individual_rewards,
        worlds.returned_rewards,
        worlds.success,
        worlds.last_action,
        worlds.agent_counters,
        worlds.tokens_written,
        worlds.tokens_dropped,
    ):
        array.reshape(worlds.num_worlds, worlds.num_agents, *array.shape[1:])[fresh] = 0
    worlds.items_changed.reshape(worlds.num_worlds, -1)[fresh] = True
    if worlds.converter_slots:
        slots = (fresh[:, None] * worlds.converter_slots + np.arange(worlds.converter_slots)).ravel()
        worlds.converter_cell[slots] = -1
        worlds.converter_due[slots] = NEVER
        worlds.converter_changed[slots] = False
    if worlds.invalid:
        gone = set(fresh.tolist())
        for key in [key for key in worlds.invalid if key[0] // worlds.num_agents in gone]:
            del worlds.invalid[key]


def _furnish(worlds: Worlds, task: int, fresh: NDArray[np.int64], cells: NDArray[np.int16]) -> None:
    """Put everything in worlds of one task where their maps have it. `fresh [worlds]`, `cells [worlds, rows, cols]`."""
    types, pad = worlds.rules.types, worlds.pad
    slots = worlds.grid[: worlds.globals_start].reshape(worlds.num_worlds, worlds.slot_rows, worlds.stride)
    slots[fresh, pad : pad + cells.shape[1], pad : pad + cells.shape[2]] = EMPTY
    filled = cells.nonzero()
    world, row, col = filled
    places = worlds.slot_start[fresh[world]] + (row + pad) * worlds.stride + col + pad

    values = cells[filled]
    standing = (values < 0).nonzero()[0]
    if (np.bincount(world[standing], minlength=len(fresh)) != worlds.num_agents).any():
        count = len(standing) / len(fresh)
        raise MapError(f"a map has {count:g} agents, but env.game.num_agents is {worlds.num_agents}")
    agents = (fresh[:, None] * worlds.num_agents + np.arange(worlds.num_agents)).ravel()
    worlds.cell[agents] = places[standing]
    worlds.grid[places[standing]] = worlds.first_agent + agents
    worlds.group_row[agents] = task * worlds.rules.num_groups - 1 - values[standing].astype(np.int64)

    lying = (values > 0).nonzero()[0]
    world, places, values = world[lying], places[lying], values[lying]
    worlds.grid[places] = worlds.standing_thing[task, values]
    type_rows = worlds.rules.rulesets.type_row[task, values]
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
    number = np.arange(len(world)) - (counts.cumsum() - counts)[world]
    converters = fresh[world] * worlds.converter_slots + number
    types = worlds.rules.types
    worlds.grid[places] = worlds.first_converter + converters
    worlds.converter_type[converters] = type_rows
    worlds.converter_cell[converters] = places
    worlds.converter_inventory[converters] = (types.output[type_rows] > 0) * types.initial_items[type_rows][:, None]
    worlds.converter_phase[converters] = IDLE
    worlds.converter_counters[converters] = 0
    worlds.converter_changed[converters] = True
    start_conversions(worlds, converters)
