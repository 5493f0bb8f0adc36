"""A world as a PettingZoo parallel env, for those who have the extra `pettingzoo`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metta.adapters.vector_env_protocol import BatchOfWorlds
from metta.errors import UsageError
from metta.spaces import ActionSpace, ObservationSpace

try:
    from pettingzoo import ParallelEnv

    HAS_PETTINGZOO = True
except ImportError:  # an extra: whoever does not ask for it does not miss it
    ParallelEnv = object
    HAS_PETTINGZOO = False


class PettingZooEnv(ParallelEnv):  # type: ignore[misc]  # PettingZoo leaves its base class untyped
    """The agents of one world by name, `agent_0` and so on; all of them live until the episode ends."""

    metadata: ClassVar[dict[str, Any]] = {"name": "metta", "render_modes": ["ansi"], "is_parallelizable": True}
    render_mode = "ansi"

    def __init__(self, world: BatchOfWorlds):
        if not HAS_PETTINGZOO:
            raise UsageError("to_pettingzoo() needs PettingZoo: pip install 'metta-gridworlds[pettingzoo]'")
        if world.num_worlds != 1:
            raise UsageError(f"a PettingZoo env is one world; got {world.num_worlds} worlds")
        self.world = world
        self.possible_agents = [f"agent_{index}" for index in range(world.num_agents)]
        self.agents: list[str] = []
        env_config = world.single_observation_space.env_config
        self.observation_spaces = {name: ObservationSpace(env_config) for name in self.possible_agents}
        self.action_spaces = {name: ActionSpace(env_config) for name in self.possible_agents}
        self._begun: NDArray[np.uint8] | None = None
        """first observations of the episode that the world began by itself when the last one ended"""

    def observation_space(self, agent: str) -> ObservationSpace:
        """What that agent sees."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> ActionSpace:
        """What that agent can do."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.uint8]], dict[str, dict[str, Any]]]:
        """Begin a new episode; with `seed`, the first one of that seed. There are no options."""
        observations = self.world.reset(seed=seed)[0] if self._begun is None or seed is not None else self._begun
        self._begun = None
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
        """One step; an action `[2]` (action id, argument) for every agent.

        Where the episode ends, each agent's info has its `episode` as Gymnasium names it: return `r`, length `l`.
        """
        if set(actions) != set(self.agents) or not actions:
            raise UsageError(
                f"an action is needed for each of {self.agents}; got {sorted(actions)}"
                if self.agents
                else "the episode is over: call reset()"
            )
        rows = np.array([actions[name] for name in self.possible_agents])
        observations, rewards, terminated, truncated, ended = self.world.step(rows)
        infos: dict[str, dict[str, Any]] = {name: {} for name in self.agents}
        if ended.episodes:
            (episode,) = ended.episodes
            for name, reward in zip(self.possible_agents, episode.rewards, strict=True):
                infos[name]["episode"] = {"r": float(reward), "l": episode.length}
            if self.world.auto_reset:
                self._begun, observations = observations, ended.final_observations
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
        """End the world."""
        self.world.close()

    def _by_name(self, observations: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
        return dict(zip(self.possible_agents, observations, strict=True))
