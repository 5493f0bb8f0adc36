"""ResetPool: the next episodes of worlds, prepared in advance and copied in when an episode ends.

To start episodes and encode their first observations takes some hundred NumPy calls, however many start together. So
several are started at once, in a small batch of their own, first for the worlds whose episodes end first: the last step
of an episode is known from its start. A prepared episode stays until its world ends, unless new task weights choose
another task for it, or worlds that end sooner need its place. At the end of an episode only arrays are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.world.episodes import EpisodeStreams, begin_episodes, choose_task, draw_episode
from metta.world.observation.observe import Observer, Window
from metta.world.state.compiled_config import NEVER
from metta.world.state.worlds import CONVERTER_ARRAYS, EMPTY, OUTSIDE, Worlds

COPIED_ARRAYS = tuple(name for name in Worlds.ARRAYS if name != "grid")

AGENTS_PER_BATCH = 256
"""Agents of the worlds that are prepared together: fewer cost more calls, more cost memory."""


class ResetPool:
    """Starts episodes in `worlds`.

    Prepared episodes follow from the random streams alone: saved states do not hold them, and results do not depend on
    when they were prepared.
    """

    def __init__(self, worlds: Worlds, streams: EpisodeStreams, window: Window):
        self._worlds = worlds
        self._streams = streams
        self._capacity = min(worlds.num_worlds, max(1, AGENTS_PER_BATCH // worlds.num_agents))
        self._ready = Worlds(worlds.compiled, self._capacity)
        self._observer = Observer(self._ready, window)
        self._observations = np.empty((self._capacity, worlds.num_agents, worlds.compiled.num_tokens, 3), np.uint8)
        self._task_uniforms = np.zeros(self._capacity)  # by pool index, see EpisodeDraw
        self._slots = (-1, -1)  # converter slots for which `_arrays` was made
        self._arrays: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._walls = self._wall_ids()
        self.forget()

    def forget(self) -> None:
        """Discard all prepared episodes, after the worlds or the streams were replaced."""
        self._pool_index: dict[int, int] = {}  # by world: where its next episode is prepared

    def begin(self, ended: Sequence[int], task_shares: NDArray[np.float64], out: NDArray[np.uint8]) -> None:
        """Start the next episode in each world of `ended` and write its first observations to the rows of `out`.

        `task_shares [tasks]` are cumulative probabilities.
        """
        ready = [world for world in ended if self._is_ready(world, task_shares)]
        others = sorted(set(ended) - set(ready))
        for world in ready:
            self._swap_in(world, out)
        for start in range(0, len(others), self._capacity):
            batch = others[start : start + self._capacity]
            self._prepare(batch, task_shares)
            for world in batch:
                self._swap_in(world, out)
        self._clear_invalid_counts(set(ended))

    def _is_ready(self, world: int, task_shares: NDArray[np.float64]) -> bool:
        """Whether the next episode of a world is prepared, with the task that `task_shares` chooses."""
        index = self._pool_index.get(world)
        return (
            index is not None and choose_task(float(self._task_uniforms[index]), task_shares) == self._ready.task[index]
        )

    def _prepare(self, wanted: Sequence[int], task_shares: NDArray[np.float64]) -> None:
        """Prepare the next episodes of the worlds `wanted` and, up to the capacity, of those that will end soonest."""
        worlds = self._worlds
        last_step = worlds.compiled.rulesets.last_step[worlds.ruleset]
        steps_left = last_step - worlds.steps
        for world in wanted:
            self._pool_index.pop(world, None)
        # if the pool is full, discard the prepared episodes of the worlds that end last
        prepared = sorted(self._pool_index, key=lambda world: int(steps_left[world]))
        for world in prepared[self._capacity - len(wanted) :]:
            del self._pool_index[world]
        ends = last_step != NEVER
        ends[[*wanted, *self._pool_index]] = False
        others = ends.nonzero()[0]
        soonest = others[steps_left[others].argsort(kind="stable")]
        free = sorted(set(range(self._capacity)) - set(self._pool_index.values()))
        chosen = np.array([*wanted, *soonest[: len(free) - len(wanted)].tolist()])
        indices = np.array(free[: len(chosen)])
        draws = [
            draw_episode(worlds.compiled.tasks, self._streams, world, episode, task_shares)
            for world, episode in zip(chosen.tolist(), (worlds.episode[chosen] + 1).tolist(), strict=True)
        ]
        begin_episodes(self._ready, indices, draws)
        rows = self._ready.rows_of_worlds(indices)
        observations = np.empty((len(rows), *self._observations.shape[2:]), np.uint8)
        self._observer.observe(rows, observations)
        self._observations[indices] = observations.reshape(len(indices), *self._observations.shape[1:])
        self._task_uniforms[indices] = [draw.task_uniform for draw in draws]
        self._pool_index |= dict(zip(chosen.tolist(), indices.tolist(), strict=True))

    def _swap_in(self, world: int, out: NDArray[np.uint8]) -> None:
        """Replace the episode of a world by its prepared one, with cells and entity ids translated to that world."""
        worlds, ready = self._worlds, self._ready
        index = self._pool_index.pop(world)
        num_converters = int(ready.num_converters[index])
        # no more slots than running episodes have needed, so that nothing depends on which other episodes are prepared
        worlds.reserve_converters(num_converters)
        ready.reserve_converters(worlds.converter_slots)
        for running, prepared in self._copies():
            running[world] = prepared[index]
        rows, first = worlds.rows_of(world), world * worlds.converter_slots
        converters = slice(first, first + num_converters)
        shift = int(worlds.slot_start[world] - ready.slot_start[index])
        worlds.cell[rows] += shift
        worlds.converter_cell[converters] += shift
        due = worlds.converter_due[converters]
        due[due != NEVER] += worlds.clock

        # entity ids of walls are translated by a table; agents and converters are written again
        worlds.by_world("grid")[world] = self._walls.take(ready.by_world("grid")[index], mode="wrap")
        worlds.grid[worlds.cell[rows]] = worlds.first_agent + worlds.all_agents[rows]
        worlds.grid[worlds.converter_cell[converters]] = worlds.first_converter + np.arange(first, converters.stop)
        worlds.items_changed[rows] = True
        worlds.converter_changed[converters] = True
        out[rows] = self._observations[index]

    def _copies(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """The (running, prepared) arrays to copy, by world and by pool index."""
        slots = self._worlds.converter_slots, self._ready.converter_slots
        if slots != self._slots:
            self._slots = slots
            self._arrays = [(self._worlds.by_world(name), self._ready.by_world(name)) for name in COPIED_ARRAYS]
            self._arrays = [
                (running, prepared if name not in CONVERTER_ARRAYS else prepared[:, : slots[0]])
                for name, (running, prepared) in zip(COPIED_ARRAYS, self._arrays, strict=True)
            ]
        return self._arrays

    def _wall_ids(self) -> NDArray[np.int32]:
        """Entity ids of walls in `worlds` by those in the pool; arbitrary for other entities."""
        worlds, ready = self._worlds, self._ready
        entities = np.full(ready.first_converter + 1, OUTSIDE, np.int32)
        entities[EMPTY] = EMPTY
        entities[ready.first_swappable : ready.first_agent] = np.arange(worlds.first_swappable, worlds.first_agent)
        entities[ready.first_plain_wall : ready.first_converter] = np.arange(
            worlds.first_plain_wall, worlds.first_converter
        )
        return entities

    def _clear_invalid_counts(self, ended: set[int]) -> None:
        """Reset the counters of invalid actions, which are no arrays."""
        worlds = self._worlds
        for key in [key for key in worlds.invalid if key[0] // worlds.num_agents in ended]:
            del worlds.invalid[key]
