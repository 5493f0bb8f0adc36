"""PettingZooEnv: a MettaGridEnv of one world as a `pettingzoo.ParallelEnv`; needs the extra `pettingzoo`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metta.adapters.vector_env_protocol import VectorEnvProtocol
from metta.errors import UsageError
from metta.spaces import ActionSpace, ObservationSpace

try:
    from pettingzoo import ParallelEnv

    HAS_PETTINGZOO = True
except ImportError:  # an optional dependency
    ParallelEnv = object
    HAS_PETTINGZOO = False


class PettingZooEnv(ParallelEnv):  # type: ignore[misc]  # PettingZoo's base class is untyped
    """A parallel environment with agents named `agent_0`, `agent_1`, ..., which all act until the episode ends.

    Raises UsageError if PettingZoo is not installed, or if `world` has more than one world.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "metta", "render_modes": ["ansi"], "is_parallelizable": True}
    render_mode = "ansi"

    def __init__(self, world: VectorEnvProtocol):
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
        """first observations of the next episode, which a world with `auto_reset` starts when an episode ends"""

    def observation_space(self, agent: str) -> ObservationSpace:
        """The observation space of an agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> ActionSpace:
        """The action space of an agent."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.uint8]], dict[str, dict[str, Any]]]:
        """Start a new episode. With `seed`, restart the sequence of episodes from that seed. `options` are ignored.

        Returns the observation `[tokens, 3] uint8` and an empty info of each agent.
        """
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
        """Advance the world by one step. `actions` maps every agent to integers `[2]`: action id and argument.

        Returns observations, rewards, terminations, truncations and infos by agent. When the episode ends, the info of
        each agent has the key `episode`, with the return `r` and the length `l` in steps, as in Gymnasium.

        Raises UsageError if an agent has no action, or if the episode has ended.
        """
        if set(actions) != set(self.agents) or not actions:
            raise UsageError(
                f"actions must have an action for each of {self.agents}; got {sorted(actions)}"
                if self.agents
                else "no episode is running: call reset() before step()"
            )
        rows = np.array([actions[name] for name in self.possible_agents])
        observations, rewards, terminated, truncated, info = self.world.step(rows)
        infos: dict[str, dict[str, Any]] = {name: {} for name in self.agents}
        if info.episodes:
            (episode,) = info.episodes
            for name, reward in zip(self.possible_agents, episode.rewards, strict=True):
                infos[name]["episode"] = {"r": float(reward), "l": episode.length}
            if self.world.auto_reset:
                self._next_observations, observations = observations, info.final_observations
            self.agents = []
        return (
            self._by_name(observations),
            dict(zip(self.possible_agents, map(float, rewards), strict=True)),
            dict(zip(self.possible_agents, map(bool, terminated), strict=True)),
            dict(zip(self.possible_agents, map(bool, truncated), strict=True)),
            infos,
        )

    def render(self) -> str:
        """A text drawing of the world."""
        return self.world.render()

    def close(self) -> None:
        """Close the MettaGridEnv."""
        self.world.close()

    def _by_name(self, observations: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
        return dict(zip(self.possible_agents, observations, strict=True))
