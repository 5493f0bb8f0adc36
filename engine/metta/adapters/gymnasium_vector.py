"""Worlds as a Gymnasium vector env: each agent of each world is one of its sub-environments."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metta.adapters.vector_env_protocol import BatchOfWorlds, Ended
from metta.errors import UsageError

Observations = NDArray[np.uint8]
Actions = NDArray[np.integer[Any]]


class GymnasiumVectorEnv(VectorEnv[Observations, Actions, NDArray[Any]]):
    """The agents of all worlds side by side, `num_envs` = worlds x agents, world by world.

    The agents of one world begin and end their episodes together. A new one begins in the step that ends the last
    (`AutoresetMode.SAME_STEP`); what was seen last is then in `info["final_obs"]`, `[num_envs]` objects, each an
    observation `[tokens, 3]` or None, and `info["final_info"]` has the finished `episode` of each agent: its return
    `r`, its length `l`, and the counters of its world by name. `info["_final_obs"]` and `info["_final_info"]` mark
    the agents they are about, as Gymnasium's own vector envs do.
    """

    def __init__(self, worlds: BatchOfWorlds):
        if not worlds.auto_reset:
            raise UsageError("a Gymnasium vector env begins the next episode by itself: it needs auto_reset=True")
        self.metadata = {"render_modes": ["ansi"], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = "ansi"
        self.worlds = worlds
        self.num_envs = worlds.agents
        self.single_observation_space = worlds.single_observation_space
        self.single_action_space = worlds.single_action_space
        self.observation_space = batch_space(worlds.single_observation_space, worlds.agents)
        self.action_space = batch_space(worlds.single_action_space, worlds.agents)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin a new episode in every world; with `seed`, the first one of that seed. There are no options.

        A list has a seed for each sub-environment. As everywhere in Gymnasium `seed=5` is `seed=[5, 6, 7, ...]`. Agents
        of a world share it, so that any other list is one seed for all worlds, made of all its numbers.
        """
        return self.worlds.reset(seed=self._one_seed(seed) if isinstance(seed, list) else seed)[0], {}

    def _one_seed(self, seeds: list[int | None]) -> int | None:
        """Raises UsageError if there is not one for each agent, or one for some alone."""
        numbers = [seed for seed in seeds if seed is not None]
        if len(seeds) != self.num_envs or len(numbers) not in (0, self.num_envs) or min(numbers, default=0) < 0:
            raise UsageError(
                f"a list of seeds has one of at least 0 for each of the {self.num_envs} sub-environments, or None for "
                f"all; got {len(seeds)} entries: {seeds[:8]}"
            )
        if not numbers:
            return None
        if numbers == list(range(numbers[0], numbers[0] + self.num_envs)):
            return numbers[0]
        return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def step(
        self, actions: Actions
    ) -> tuple[Observations, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """One step of every agent; `actions [num_envs, 2]`: see `MettaGridEnv.step`."""
        observations, rewards, terminated, truncated, ended = self.worlds.step(actions)
        return observations, rewards, terminated, truncated, self._info(ended) if ended.episodes else {}

    def _info(self, ended: Ended) -> dict[str, Any]:
        has_ended = np.zeros(self.num_envs, np.bool_)
        has_ended[ended.ended_agents] = True
        final_observations = np.full(self.num_envs, None, object)
        for row, observation in zip(ended.ended_agents.tolist(), ended.final_observations, strict=True):
            final_observations[row] = observation
        returns, lengths = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.int64)
        stats: dict[str, NDArray[np.float64]] = {}
        for episode in ended.episodes:
            rows = slice(episode.world * self.worlds.num_agents, (episode.world + 1) * self.worlds.num_agents)
            returns[rows], lengths[rows] = episode.rewards, episode.length
            for name, count in episode.stats.items():
                stats.setdefault(name, np.zeros(self.num_envs))[rows] = count
        final_info = {"episode": {"r": returns, "l": lengths}, "_episode": has_ended, "stats": stats}
        return {
            "final_obs": final_observations,
            "_final_obs": has_ended,
            "final_info": final_info,
            "_final_info": has_ended,
        }

    def render(self) -> tuple[str, ...]:
        """Each world as text."""
        return tuple(self.worlds.render(world) for world in range(self.worlds.num_worlds))

    def close_extras(self, **kwargs: Any) -> None:
        """End the worlds."""
        self.worlds.close()
