"""The next episodes of a batch, begun ahead of time and moved in when a world ends.

**What bounds it.** To begin episodes and to draw their first observations takes some hundred calls, however many begin
together: one alone costs as much as several steps of a small batch. So episodes are begun several at once, in a small
batch of their own, those first whose worlds end first: when an episode ends is known from its start. None is begun
twice: what is ready stays so until its world ends, however long that takes, unless weights of tasks have changed so
that it is to be another task's, or its place is needed for worlds that end sooner. What is left for the moment in which
worlds end is to copy their arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.world.episodes import Streams, begin_episodes, choose_task, draw_episode
from metta.world.observation.observe import Observer, Window
from metta.world.state.compiled_config import NEVER
from metta.world.state.worlds import CONVERTER_ARRAYS, EMPTY, OUTSIDE, Worlds

COPIED = tuple(name for name in Worlds.ARRAYS if name != "grid")

AT_ONCE = 256
"""Agents of the worlds begun together: fewer pay for calls, more for memory."""


class ResetPool:
    """Begins episodes in `worlds`.

    What was begun ahead follows from the streams alone, so no saved state holds it, and nothing but time depends on it.
    """

    def __init__(self, worlds: Worlds, streams: Streams, window: Window):
        self._worlds = worlds
        self._streams = streams
        self._room = min(worlds.num_worlds, max(1, AT_ONCE // worlds.num_agents))
        self._ready = Worlds(worlds.compiled, self._room)
        self._observer = Observer(self._ready, window)
        self._observations = np.empty((self._room, worlds.num_agents, worlds.compiled.num_tokens, 3), np.uint8)
        self._luck = np.zeros(self._room)  # by place, see Draw
        self._slots = (-1, -1)  # of converters, as of when _arrays were looked up
        self._arrays: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._walls = self._walls_of_worlds()
        self.forget()

    def forget(self) -> None:
        """Begin nothing that was prepared: the worlds or the streams are others now."""
        self._place: dict[int, int] = {}  # where each world's next episode is ready

    def begin(self, ended: Sequence[int], task_shares: NDArray[np.float64], out: NDArray[np.uint8]) -> None:
        """Begin the next episode in each world of `ended` and write its first observations to their rows of `out`.

        `task_shares [tasks]` are cumulative and end with 1.
        """
        ready = [world for world in ended if self._is_ready(world, task_shares)]
        others = sorted(set(ended) - set(ready))
        for world in ready:
            self._swap_in(world, out)
        for start in range(0, len(others), self._room):
            batch = others[start : start + self._room]
            self._prepare(batch, task_shares)
            for world in batch:
                self._swap_in(world, out)
        self._forget_invalid(set(ended))

    def _is_ready(self, world: int, task_shares: NDArray[np.float64]) -> bool:
        """Whether the world's next episode has begun, and of the task that it is to have by now."""
        place = self._place.get(world)
        return place is not None and choose_task(float(self._luck[place]), task_shares) == self._ready.task[place]

    def _prepare(self, wanted: Sequence[int], task_shares: NDArray[np.float64]) -> None:
        """Begin the next episodes of the worlds `wanted`, and as there is room of those that will end soonest."""
        worlds = self._worlds
        last_step = worlds.compiled.rulesets.last_step[worlds.ruleset]
        steps_left = last_step - worlds.steps
        for world in wanted:
            self._place.pop(world, None)
        # of those that are ready, the last to end make room
        lasting = sorted(self._place, key=lambda world: int(steps_left[world]))
        for world in lasting[self._room - len(wanted) :]:
            del self._place[world]
        ends = last_step != NEVER
        ends[[*wanted, *self._place]] = False
        others = ends.nonzero()[0]
        soonest = others[steps_left[others].argsort(kind="stable")]
        free = sorted(set(range(self._room)) - set(self._place.values()))
        chosen = np.array([*wanted, *soonest[: len(free) - len(wanted)].tolist()])
        places = np.array(free[: len(chosen)])
        draws = [
            draw_episode(worlds.compiled.tasks, self._streams, world, episode, task_shares)
            for world, episode in zip(chosen.tolist(), (worlds.episode[chosen] + 1).tolist(), strict=True)
        ]
        begin_episodes(self._ready, places, draws)
        rows = rows_of(places, worlds.num_agents)
        drawn = np.empty((len(rows), *self._observations.shape[2:]), np.uint8)
        self._observer.observe(rows, drawn)
        self._observations[places] = drawn.reshape(len(places), *self._observations.shape[1:])
        self._luck[places] = [draw.task_uniform for draw in draws]
        self._place |= dict(zip(chosen.tolist(), places.tolist(), strict=True))

    def _swap_in(self, world: int, out: NDArray[np.uint8]) -> None:
        """Make the episode that is ready the one that runs, with places and things in the terms of its world."""
        worlds, ready = self._worlds, self._ready
        place = self._place.pop(world)
        num_converters = int(ready.num_converters[place])
        # no more slots than the episodes that run ever needed, so that nothing depends on which others are ready
        worlds.reserve_converters(num_converters)
        ready.reserve_converters(worlds.converter_slots)
        for running, prepared in self._copies():
            running[world] = prepared[place]
        rows, first = worlds.rows_of(world), world * worlds.converter_slots
        converters = slice(first, first + num_converters)
        shift = int(worlds.slot_start[world] - ready.slot_start[place])
        worlds.cell[rows] += shift
        worlds.converter_cell[converters] += shift
        due = worlds.converter_due[converters]
        due[due != NEVER] += worlds.clock

        # walls by a table; who has a number of its own is written anew
        worlds.by_world("grid")[world] = self._walls.take(ready.by_world("grid")[place], mode="wrap")
        worlds.grid[worlds.cell[rows]] = worlds.first_agent + worlds.everyone[rows]
        worlds.grid[worlds.converter_cell[converters]] = worlds.first_converter + np.arange(first, converters.stop)
        worlds.items_changed[rows] = True
        worlds.converter_changed[converters] = True
        out[rows] = self._observations[place]

    def _copies(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """By world and by place, each of the arrays that are copied as they are."""
        slots = self._worlds.converter_slots, self._ready.converter_slots
        if slots != self._slots:
            self._slots = slots
            self._arrays = [(self._worlds.by_world(name), self._ready.by_world(name)) for name in COPIED]
            self._arrays = [
                (running, prepared if name not in CONVERTER_ARRAYS else prepared[:, : slots[0]])
                for name, (running, prepared) in zip(COPIED, self._arrays, strict=True)
            ]
        return self._arrays

    def _walls_of_worlds(self) -> NDArray[np.int32]:
        """Walls of the worlds by those of the batch that is made ready; of no meaning for anything else."""
        worlds, ready = self._worlds, self._ready
        entities = np.full(ready.first_converter + 1, OUTSIDE, np.int32)
        entities[EMPTY] = EMPTY
        entities[ready.first_swappable : ready.first_agent] = np.arange(worlds.first_swappable, worlds.first_agent)
        entities[ready.first_plain : ready.first_converter] = np.arange(worlds.first_plain, worlds.first_converter)
        return entities

    def _forget_invalid(self, ended: set[int]) -> None:
        """Set back the counters that are not arrays."""
        worlds = self._worlds
        for key in [key for key in worlds.invalid if key[0] // worlds.num_agents in ended]:
            del worlds.invalid[key]


def rows_of(worlds: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Where the agents of some worlds are, if each world has so many."""
    rows: NDArray[np.int64] = (worlds[:, None] * size + np.arange(size)).ravel()
    return rows
