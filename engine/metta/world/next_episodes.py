"""The next episodes of a batch, begun ahead of time and moved in when a world ends.

**What bounds it.** To begin episodes and to draw their first observations takes some hundred calls, however many begin
together: one alone costs as much as several steps of a small batch. So episodes are begun several at once, in a small
batch of their own, and which ones is no guess: a world's end is known from the start. What is left for the moment in
which a world ends is to copy its arrays, a slice each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.world.episodes import Streams, begin_episodes, choose_task, draw_episode
from metta.world.observe import Observer, Window
from metta.world.rules import NEVER
from metta.world.state import EMPTY, OUTSIDE, Worlds

AT_ONCE = 256
"""Agents of the worlds begun together: fewer pay for calls, more for memory."""


class NextEpisodes:
    """Begins episodes in `worlds`.

    What was begun ahead follows from the streams alone, so no saved state holds it, and nothing but time depends on it.
    """

    def __init__(self, worlds: Worlds, streams: Streams, window: Window):
        self._worlds = worlds
        self._streams = streams
        self._room = min(worlds.num_worlds, max(1, AT_ONCE // worlds.num_agents))
        self._ready = Worlds(worlds.rules, self._room)
        self._observer = Observer(self._ready, window)
        self._observations = np.empty((self._ready.agents, worlds.rules.num_tokens, 3), np.uint8)
        self._luck: list[float] = []  # by place, see Draw
        self._copies: list[tuple[NDArray[Any], NDArray[Any]]] = []  # by world and by place, each array of ARRAYS
        self.forget()

    def forget(self) -> None:
        """Begin nothing that was prepared: the worlds or the streams are others now."""
        self._place: dict[int, int] = {}  # where each world's next episode is ready

    def begin(self, ended: Sequence[int], task_shares: NDArray[np.float64], out: NDArray[np.uint8]) -> None:
        """Begin the next episode in each world of `ended` and write its first observations to their rows of `out`.

        `task_shares [tasks]` are cumulative and end with 1.
        """
        for start in range(0, len(ended), self._room):
            batch = ended[start : start + self._room]
            if not all(self._is_ready(world, task_shares) for world in batch):
                self._prepare(batch, task_shares)
            for world in batch:
                self._move_in(world, out)
        self._forget_invalid(set(ended))

    def _is_ready(self, world: int, task_shares: NDArray[np.float64]) -> bool:
        """Whether the world's next episode has begun, and of the task that it is to have by now."""
        place = self._place.get(world)
        return place is not None and choose_task(self._luck[place], task_shares) == self._ready.task[place]

    def _prepare(self, wanted: Sequence[int], task_shares: NDArray[np.float64]) -> None:
        """Begin the next episodes of the worlds `wanted`, and as there is room of those that will end soonest."""
        worlds = self._worlds
        last_step = worlds.rules.rulesets.last_step[worlds.ruleset]
        ends = last_step != NEVER
        ends[wanted] = False
        others = ends.nonzero()[0]
        soonest = others[(last_step - worlds.steps)[others].argsort(kind="stable")]
        chosen = np.array([*wanted, *soonest[: self._room - len(wanted)].tolist()])
        draws = [
            draw_episode(worlds.rules.tasks, self._streams, world, episode, task_shares)
            for world, episode in zip(chosen.tolist(), (worlds.episode[chosen] + 1).tolist(), strict=True)
        ]
        begin_episodes(self._ready, draws)
        agents = len(chosen) * worlds.num_agents
        self._observer.observe(worlds.everyone[:agents], self._observations[:agents])
        self._luck = [draw.luck for draw in draws]
        self._place = {world: place for place, world in enumerate(chosen.tolist())}
        self._translate(chosen)

    def _translate(self, chosen: NDArray[np.int64]) -> None:
        """Put places and things in the terms of the worlds `chosen`; from here on the arrays are there to be copied."""
        worlds, ready = self._worlds, self._ready
        slots = max(worlds.converter_slots, ready.converter_slots)
        worlds.reserve_converters(slots)
        ready.reserve_converters(slots)

        home = np.zeros(self._room, np.int64)
        home[: len(chosen)] = chosen
        things = np.empty(ready.num_things + 1, np.int32)
        things[OUTSIDE] = OUTSIDE
        things[EMPTY] = EMPTY
        things[ready.first_swappable : ready.first_agent] = np.arange(worlds.first_swappable, worlds.first_agent)
        things[ready.first_plain : ready.first_converter] = np.arange(worlds.first_plain, worlds.first_converter)
        for ours, theirs, count in (
            (ready.first_agent, worlds.first_agent, worlds.num_agents),
            (ready.first_converter, worlds.first_converter, slots),
        ):
            things[ours : ours + self._room * count] = (theirs + home[:, None] * count + np.arange(count)).ravel()
        cells = ready.grid[: ready.globals_start]
        things.take(cells, out=cells, mode="wrap")

        shift = worlds.slot_start[home] - ready.slot_start
        ready.cell += shift.repeat(worlds.num_agents)
        ready.converter_cell[ready.converter_cell >= 0] += shift.repeat(slots)[ready.converter_cell >= 0]
        self._copies = [(worlds.by_world(name), ready.by_world(name)) for name in Worlds.ARRAYS]

    def _move_in(self, world: int, out: NDArray[np.uint8]) -> None:
        """Make the episode that is ready the one that runs."""
        worlds, place = self._worlds, self._place.pop(world)
        for running, ready in self._copies:
            running[world] = ready[place]
        slots = slice(world * worlds.converter_slots, (world + 1) * worlds.converter_slots)
        due = worlds.converter_due[slots]
        due[due != NEVER] += worlds.clock
        worlds.converter_changed[slots] = worlds.converter_cell[slots] >= 0
        rows, own = worlds.rows_of(world), worlds.rows_of(place)
        worlds.items_changed[rows] = True
        out[rows] = self._observations[own]

    def _forget_invalid(self, ended: set[int]) -> None:
        """Set back the counters that are not arrays."""
        worlds = self._worlds
        for key in [key for key in worlds.invalid if key[0] // worlds.num_agents in ended]:
            del worlds.invalid[key]
