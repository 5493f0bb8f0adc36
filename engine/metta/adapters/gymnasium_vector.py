"""GymnasiumVectorEnv: a MettaGridEnv as a `gymnasium.vector.VectorEnv`, with each agent as one sub-environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metta.adapters.vector_env_protocol import StepInfoProtocol, VectorEnvProtocol
from metta.errors import UsageError

Observations = NDArray[np.uint8]
Actions = NDArray[np.integer[Any]]


class GymnasiumVectorEnv(VectorEnv[Observations, Actions, NDArray[Any]]):
    """A vector environment with `num_envs` = worlds * agents per world sub-environments, in world-major order.

    The episodes of all agents of a world start and end together. The next episode starts in the step that ends the
    previous one (`AutoresetMode.SAME_STEP`). In such a step, as in Gymnasium's vector environments, `info` contains

        final_obs     [num_envs] object   last observation `[tokens, 3] uint8` where an episode ended, otherwise None
        final_info    dict                "episode": return "r" `[num_envs] float32` and length "l" `[num_envs] int64`
                                          in steps; "stats": counters of the world by name, each `[num_envs] float64`
        _final_obs    [num_envs] bool     where an episode ended
        _final_info   [num_envs] bool     the same

    Raises UsageError if `worlds.auto_reset` is false.
    """

    def __init__(self, worlds: VectorEnvProtocol):
        if not worlds.auto_reset:
            raise UsageError(
                "a Gymnasium vector environment resets finished episodes: create the MettaGridEnv with auto_reset=True"
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
        """Start a new episode in every world. With `seed`, restart the sequence of episodes from that seed.

        A list has one seed per sub-environment. As everywhere in Gymnasium, `seed=5` means `seed=[5, 6, 7, ...]`. Since
        the agents of a world share its random numbers, any other list is hashed into one seed for all worlds.

        `options` are ignored. Returns observations `[num_envs, tokens, 3] uint8` and an empty dictionary.
        """
        return self.worlds.reset(seed=self._one_seed(seed) if isinstance(seed, list) else seed)[0], {}

    def _one_seed(self, seeds: list[int | None]) -> int | None:
        """One seed for a list of seeds. Raises UsageError unless it has a seed for every agent, or only None."""
        numbers = [seed for seed in seeds if seed is not None]
        if len(seeds) != self.num_envs or len(numbers) not in (0, self.num_envs) or min(numbers, default=0) < 0:
            raise UsageError(
                f"a list of seeds must have one integer of at least 0 per sub-environment ({self.num_envs}), "
                f"or only None; got {len(seeds)} entries, which begin with {seeds[:8]}"
            )
        if not numbers:
            return None
        if numbers == list(range(numbers[0], numbers[0] + self.num_envs)):
            return numbers[0]
        return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def step(
        self, actions: Actions
    ) -> tuple[Observations, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Advance every world by one step. `actions [num_envs, 2]` are integers: action id and argument.

        Returns observations `[num_envs, tokens, 3] uint8`, rewards `[num_envs] float32`, terminated and truncated
        `[num_envs] bool`, and `info`, described in the class.
        """
        observations, rewards, terminated, truncated, info = self.worlds.step(actions)
        return observations, rewards, terminated, truncated, self._gymnasium_info(info) if info.episodes else {}

    def _gymnasium_info(self, info: StepInfoProtocol) -> dict[str, Any]:
        has_ended = np.zeros(self.num_envs, np.bool_)
        has_ended[info.ended_agents] = True
        final_observations = np.full(self.num_envs, None, object)
        for row, observation in zip(info.ended_agents.tolist(), info.final_observations, strict=True):
            final_observations[row] = observation
        returns, lengths = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.int64)
        stats: dict[str, NDArray[np.float64]] = {}
        for episode in info.episodes:
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
        """A text drawing of every world. `[worlds]`"""
        return tuple(self.worlds.render(world) for world in range(self.worlds.num_worlds))

    def close_extras(self, **kwargs: Any) -> None:
        """Close the MettaGridEnv."""
        self.worlds.close()
