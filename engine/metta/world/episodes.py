"""How an episode begins: a task and a map are drawn, and everything is put in its place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metta.errors import MapError
from metta.world.converters import start_conversions
from metta.world.maps import build_map
from metta.world.rules import ABSENT, NEVER
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
        sequence = np.random.SeedSequence((self.seed, self.first_world + world, episode))
        return np.random.Generator(np.random.PCG64(sequence)), int(sequence.generate_state(3, np.uint64)[2])


def begin_episodes(worlds: Worlds, streams: Streams, ended: Sequence[int], task_shares: NDArray[np.float64]) -> None:
    """Begin the next episode in each world of `ended`. `task_shares [tasks]` are cumulative and end with 1."""
    maps: list[NDArray[np.int16]] = []
    for world in ended:
        worlds.episode[world] += 1
        generator, worlds.turn_stream[world] = streams.draw(world, int(worlds.episode[world]))
        task = 0
        if len(task_shares) > 1:
            task = min(int(np.searchsorted(task_shares, generator.random(), side="right")), len(task_shares) - 1)
        worlds.ruleset[world] = task
        maps.append(build_map(worlds.rules.configs[task], generator))
    fresh = np.array(ended)
    clear(worlds, fresh)
    things = [_furnish(worlds, world, cells) for world, cells in zip(ended, maps, strict=True)]
    worlds.reserve_converters(max((len(type_rows) for type_rows, _ in things), default=0))
    started = [_place_converters(worlds, world, *found) for world, found in zip(ended, things, strict=True)]
    converters = np.concatenate(started)
    start_conversions(worlds, converters)


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


def _furnish(worlds: Worlds, world: int, cells: NDArray[np.int16]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put walls and agents where the map has them; the type rows and cells of its converters, in row-major order."""
    rules, ruleset = worlds.rules, int(worlds.ruleset[world])
    flat = cells.ravel()
    row, col = np.divmod(np.arange(flat.size), cells.shape[1])
    places = world * worlds.slot + (row + worlds.pad) * worlds.stride + col + worlds.pad
    type_rows = np.where(flat > 0, rules.rulesets.type_row[ruleset, np.maximum(flat, 0)], ABSENT)
    is_converter = type_rows >= rules.types.static
    is_wall = (type_rows != ABSENT) & ~is_converter
    worlds.grid[places] = np.where(is_wall, worlds.first_wall + type_rows, EMPTY)

    standing = np.flatnonzero(flat < 0)
    if len(standing) != worlds.num_agents:
        raise MapError(f"the map has {len(standing)} agents, but env.game.num_agents is {worlds.num_agents}")
    agents = world * worlds.num_agents + np.arange(worlds.num_agents)
    worlds.cell[agents] = places[standing]
    worlds.grid[places[standing]] = worlds.first_agent + agents
    worlds.group_row[agents] = ruleset * rules.num_groups - 1 - flat[standing].astype(np.int64)
    return type_rows[is_converter], places[is_converter]


def _place_converters(
    worlds: Worlds, world: int, type_rows: NDArray[np.int64], places: NDArray[np.int64]
) -> NDArray[np.int64]:
    types = worlds.rules.types
    converters = world * worlds.converter_slots + np.arange(len(type_rows))
    worlds.grid[places] = worlds.first_converter + converters
    worlds.converter_type[converters] = type_rows
    worlds.converter_cell[converters] = places
    worlds.converter_inventory[converters] = (types.output[type_rows] > 0) * types.initial_items[type_rows][:, None]
    worlds.converter_phase[converters] = IDLE
    worlds.converter_due[converters] = NEVER
    worlds.converter_counters[converters] = 0
    worlds.converter_changed[converters] = True
    return converters
