"""PettingZooEnv: one world as a PettingZoo parallel environment; needs the extra `pettingzoo`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metta.adapters.vector_env_protocol import VectorWorlds
from metta.errors import UsageError
from metta.spaces import ActionSpace, ObservationSpace

try:
    from pettingzoo import ParallelEnv

    HAS_PETTINGZOO = True
except ImportError:  # an optional dependency
    ParallelEnv = object
    HAS_PETTINGZOO = False


class PettingZooEnv(ParallelEnv):  # type: ignore[misc]  # PettingZoo leaves its base class untyped
    """One world with agents named `agent_0`, `agent_1`, ...; all of them act until the episode ends.

    Raises UsageError without PettingZoo, or for more than one world.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "metta", "render_modes": ["ansi"], "is_parallelizable": True}
    render_mode = "ansi"

    def __init__(self, world: VectorWorlds):
        if not HAS_PETTINGZOO:
            raise UsageError("to_pettingzoo() needs PettingZoo: pip install 'metta-gridworlds[pettingzoo]'")
        if world.num_worlds != 1:
            raise UsageError(f"a PettingZoo environment has one world; got {world.num_worlds} worlds")
        self.world = world
        self.possible_agents = [f"agent_{index}" for index in range(world.num_agents)]
        self.agents: list[str] = []
        env_config = world.single_observation_space.env_config
        self.observation_spaces = {name: ObservationSpace(env_config) for name in self.possible_agents}
        self.action_spaces = {name: ActionSpace(env_config) for name in self.possible_agents}
        self._next_observations: NDArray[np.uint8] | None = None
        """first observations of the next episode, which the world starts when the last one ends"""

    def observation_space(self, agent: str) -> ObservationSpace:
        """The observation space of an agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> ActionSpace:
        """The action space of an agent."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.uint8]], dict[str, dict[str, Any]]]:
        """Start a new episode; with `seed`, the first episode of that seed. `options` are ignored."""
        observations = self._next_observations
        if observations is None or seed is not None:
            observations = self.world.reset(seed=seed)[0]
        self._next_observations = None
        self.agents = list(self.possible_agents)
        return self._by_name(observations), {name: {} for name in self.agents}

    def step(
        self, actions: dict[str, NDArray[np.integer[Any]]]
    ) -> tuple[
        dict[str, NDArray[np.uint8]],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Advance the world by one step. `actions` has an array `[2]` (action id, argument) for every agent.

        When the episode ends, the info of each agent has its `episode`: return `r` and length `l`, as in Gymnasium.
        """
        if set(actions) != set(self.agents) or not actions:
            raise UsageError(
                f"actions must have an action for each of {self.agents}; got {sorted(actions)}"
                if self.agents
                else "the episode has ended: call reset()"
            )
        rows = np.array([actions[name] for name in self.possible_agents])
        observations, rewards, terminated, truncated, ended = self.world.step(rows)
        infos: dict[str, dict[str, Any]] = {name: {} for name in self.agents}
        if ended.episodes:
            (episode,) = ended.episodes
            for name, reward in zip(self.possible_agents, episode.rewards, strict=True):
                infos[name]["episode"] = {"r": float(reward), "l": episode.length}
            if self.world.auto_reset:
                self._next_observations, observations = observations, ended.final_observations
            self.agents = []
        return (
            self._by_name(observations),
            dict(zip(self.possible_agents, map(float, rewards), strict=True)),
            dict(zip(self.possible_agents, map(bool, terminated), strict=True)),
            dict(zip(self.possible_agents, map(bool, truncated), strict=True)),
            infos,
        )

    def render(self) -> str:
        """The world as text."""
        return self.world.render()

    def close(self) -> None:
        """Close the world."""
        self.world.close()

    def _by_name(self, observations: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
        return dict(zip(self.possible_agents, observations, strict=True))
