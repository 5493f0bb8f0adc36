"""GymnasiumVectorEnv: worlds as a Gymnasium vector environment, where each agent is one sub-environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metta.adapters.vector_env_protocol import Ended, VectorWorlds
from metta.errors import UsageError

Observations = NDArray[np.uint8]
Actions = NDArray[np.integer[Any]]


class GymnasiumVectorEnv(VectorEnv[Observations, Actions, NDArray[Any]]):
    """The agents of all worlds as sub-environments, world by world: `num_envs` = worlds x agents.

    The episodes of the agents of one world start and end together. A new episode starts in the step that ends the last
    one (`AutoresetMode.SAME_STEP`). In such a step `info["final_obs"]` holds `[num_envs]` objects, the last observation
    `[tokens, 3]` of each agent or None. `info["final_info"]` holds the finished `episode` of each agent (return `r`,
    length `l`), and `stats`, the counters of its world by name. `info["_final_obs"]` and `info["_final_info"]` are
    masks of the agents whose episode ended, as in Gymnasium's own vector environments.

    Raises UsageError for worlds without `auto_reset`.
    """

    def __init__(self, worlds: VectorWorlds):
        if not worlds.auto_reset:
            raise UsageError(
                "a Gymnasium vector environment resets finished episodes: make the worlds with auto_reset=True"
            )
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
        """Start a new episode in every world; with `seed`, the first episode of that seed. `options` are ignored.

        A list has one seed per sub-environment. As in all of Gymnasium, `seed=5` is the same as `seed=[5, 6, 7, ...]`.
        The agents of a world cannot have different seeds, so any other list is hashed into one seed for all worlds.
        """
        return self.worlds.reset(seed=self._one_seed(seed) if isinstance(seed, list) else seed)[0], {}

    def _one_seed(self, seeds: list[int | None]) -> int | None:
        """The seed that a list stands for. Raises UsageError unless it has one seed, or None, for every agent."""
        numbers = [seed for seed in seeds if seed is not None]
        if len(seeds) != self.num_envs or len(numbers) not in (0, self.num_envs) or min(numbers, default=0) < 0:
            raise UsageError(
                f"a list of seeds must have one integer of at least 0 per sub-environment ({self.num_envs}), or only "
                f"None; "
                f"got {len(seeds)} entries: {seeds[:8]}"
            )
        if not numbers:
            return None
        if numbers == list(range(numbers[0], numbers[0] + self.num_envs)):
            return numbers[0]
        return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def step(
        self, actions: Actions
    ) -> tuple[Observations, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Advance every world by one step. `actions [num_envs, 2]`: see `MettaGridEnv.step`."""
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
        """Every world as text."""
        return tuple(self.worlds.render(world) for world in range(self.worlds.num_worlds))

    def close_extras(self, **kwargs: Any) -> None:
        """Close the worlds."""
        self.worlds.close()
