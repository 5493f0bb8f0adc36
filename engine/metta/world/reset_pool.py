"""ResetPool: prepares the next episodes of worlds in advance, and copies one into a world when its episode ends.

Starting episodes and encoding their first observations takes some hundred NumPy calls, regardless of their number. The
pool therefore starts several at once in a small batch of worlds, beginning with the worlds whose episodes end first
(the last step of an episode is known from its start). When an episode ends, only arrays are copied. A prepared episode
is discarded if new task weights select another task for it, or if the pool is full and worlds that end sooner need it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metta.world.episodes import EpisodeStreams, choose_task, draw_episode, start_episodes
from metta.world.observation.observe import Observer, Window
from metta.world.observation.packed import Observations, PackedObservations, write_parts
from metta.world.parts.run_parts import PartRunner
from metta.world.state.compiled_config import NEVER
from metta.world.state.copied_worlds import copy_worlds
from metta.world.state.worlds import Worlds

AGENTS_PER_BATCH = 256
"""Number of agents in the worlds of the pool: fewer take more NumPy calls per episode, more take memory."""


class ResetPool:
    """Starts episodes in `worlds`.

    Prepared episodes depend only on the random streams. They are therefore not saved, and results do not depend on when
    they are prepared.
    """

    def __init__(self, worlds: Worlds, streams: EpisodeStreams, window: Window):
        self._worlds = worlds
        self._streams = streams
        self._capacity = min(worlds.num_worlds, max(1, AGENTS_PER_BATCH // worlds.num_agents))
        self._pool = Worlds(worlds.compiled, self._capacity)
        self._parts = PartRunner(self._pool) if worlds.compiled.parts else None
        self._observer = Observer(self._pool, window)
        self._observations: dict[int, PackedObservations] = {}  # by pool index: the first observations of the episode
        self._task_uniforms = np.zeros(self._capacity)  # by pool index, see EpisodeDraw
        self._walls = worlds.wall_ids_of(self._pool)
        self.discard_all()

    def discard_all(self) -> None:
        """Discard all prepared episodes. Required after the seed or the episode numbers have changed."""
        self._pool_index: dict[int, int] = {}  # by world: index in the pool of its prepared episode

    def start_episodes(self, ended: Sequence[int], task_shares: NDArray[np.float64], out: Observations) -> None:
        """Start the next episode in each world of `ended`, and write the first observations of its agents to `out`.

        `task_shares [tasks]` are cumulative probabilities; `out` is `[agents, tokens, 3] uint8` or packed.
        """
        prepared = [world for world in ended if self._is_prepared(world, task_shares)]
        first_observations = self._swap_in(prepared) if prepared else {}
        others = sorted(set(ended) - set(prepared))
        for start in range(0, len(others), self._capacity):
            batch = others[start : start + self._capacity]
            self._prepare(batch, task_shares)
            first_observations |= self._swap_in(batch)
        write_parts(out, first_observations)

    def _is_prepared(self, world: int, task_shares: NDArray[np.float64]) -> bool:
        """Whether the next episode of a world is prepared, with the task that `task_shares` selects."""
        index = self._pool_index.get(world)
        return (
            index is not None and choose_task(float(self._task_uniforms[index]), task_shares) == self._pool.task[index]
        )

    def _prepare(self, required: Sequence[int], task_shares: NDArray[np.float64]) -> None:
        """Prepare the next episodes of the worlds `required` and, up to the capacity, of those that end soonest."""
        worlds = self._worlds
        last_step = worlds.compiled.rulesets.last_step[worlds.ruleset]
        steps_left = last_step - worlds.steps
        for world in required:
            self._pool_index.pop(world, None)
        # if the pool is full, discard the prepared episodes of the worlds that end last
        prepared = sorted(self._pool_index, key=lambda world: int(steps_left[world]))
        for world in prepared[self._capacity - len(required) :]:
            del self._pool_index[world]
        ends = last_step != NEVER
        ends[[*required, *self._pool_index]] = False
        others = ends.nonzero()[0]
        soonest = others[steps_left[others].argsort(kind="stable")]
        free = sorted(set(range(self._capacity)) - set(self._pool_index.values()))
        chosen = np.array([*required, *soonest[: len(free) - len(required)].tolist()])
        indices = np.array(free[: len(chosen)])
        draws = [
            draw_episode(worlds.compiled.tasks, self._streams, world, episode, task_shares)
            for world, episode in zip(chosen.tolist(), (worlds.episode[chosen] + 1).tolist(), strict=True)
        ]
        start_episodes(self._pool, indices, draws)
        if self._parts is not None:
            self._parts.start(np.sort(indices))
        rows = self._pool.rows_of_worlds(indices)
        observations = PackedObservations(len(rows), worlds.compiled.num_tokens)
        self._observer.observe(rows, observations)
        for first, index in zip(range(0, len(rows), worlds.num_agents), indices.tolist(), strict=True):
            self._observations[index] = observations.part(first, first + worlds.num_agents)
        self._task_uniforms[indices] = [draw.task_uniform for draw in draws]
        self._pool_index |= dict(zip(chosen.tolist(), indices.tolist(), strict=True))

    def _swap_in(self, ended: Sequence[int]) -> dict[int, PackedObservations]:
        """Copy the prepared episodes of the worlds `ended` into them.

        Returns the first observations of each world's agents, by the first of these agents.
        """
        worlds, pool = self._worlds, self._pool
        indices = np.array([self._pool_index.pop(world) for world in ended])
        # only as many slots as running episodes need, so that the state does not depend on other prepared episodes
        num_converters = np.count_nonzero(pool.by_world("converter_cell")[indices] >= 0, axis=1)
        worlds.reserve_converters(int(num_converters.max()))
        copy_worlds(pool, indices, worlds, np.array(ended), self._walls)
        return {
            world * worlds.num_agents: self._observations[index]
            for world, index in zip(ended, indices.tolist(), strict=True)
        }
