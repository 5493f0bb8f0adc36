"""PettingZooEnv: a MettaGridEnv of one world as a `pettingzoo.ParallelEnv`; needs the extra `pettingzoo`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from metta.adapters.vector_env_protocol import (
    RENDER_FPS,
    RENDER_MODES,
    VectorEnvProtocol,
    check_mask_options,
    checked_render_mode,
)
from metta.errors import UsageError
from metta.spaces import ActionSpace, FlatActionSpace, ObservationSpace

try:
    from pettingzoo import ParallelEnv

    HAS_PETTINGZOO = True
except ImportError:  # an optional dependency
    ParallelEnv = object
    HAS_PETTINGZOO = False


class PettingZooEnv(ParallelEnv):  # type: ignore[misc]  # PettingZoo's base class is untyped
    """A parallel environment with agents named `agent_0`, `agent_1`, ..., which all act until the episode ends.

    `render_mode` is "ansi" (text), "rgb_array" (pictures) or None. With `flat_actions`, an action is an index into
    `spec.flat_actions` instead of a pair. `world.auto_reset` is set to false: `reset` starts every episode, so that the
    world can be rendered after the last step.

    With `action_masks`, which needs `flat_actions`, the info of each agent has the key `action_mask`,
    `[flat actions] int8`, after every `step` and `reset`: 1 where the agent may take the action next.

    Raises UsageError if PettingZoo is not installed, if `world` has more than one world, for an unknown render mode, or
    for `action_masks` without `flat_actions`.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "metta",
        "render_modes": list(RENDER_MODES),
        "render_fps": RENDER_FPS,
        "is_parallelizable": True,
    }

    def __init__(
        self,
        world: VectorEnvProtocol,
        render_mode: str | None = "ansi",
        flat_actions: bool = False,
        action_masks: bool = False,
    ):
        if not HAS_PETTINGZOO:
            raise UsageError("to_pettingzoo() needs PettingZoo: pip install 'metta-gridworlds[pettingzoo]'")
        if world.num_worlds != 1:
            raise UsageError(f"a PettingZoo environment has one world; got {world.num_worlds} worlds")
        check_mask_options(action_masks, flat_actions)
        self.render_mode = checked_render_mode(render_mode)
        self.world = world
        self._has_masks = action_masks
        world.auto_reset = False
        self.possible_agents = [f"agent_{index}" for index in range(world.num_agents)]
        self.agents: list[str] = []
        env_config = world.single_observation_space.env_config
        self.observation_spaces = {name: ObservationSpace(env_config) for name in self.possible_agents}
        self.action_spaces: dict[str, ActionSpace | FlatActionSpace] = {
            name: FlatActionSpace(env_config) if flat_actions else ActionSpace(env_config)
            for name in self.possible_agents
        }
        rows, cols = (max(getattr(task.game, size) for task in world.configs) for size in ("height", "width"))
        self.state_space = Box(0, 255, (rows, cols, len(env_config.spec.feature_names)), np.uint8)
        """space of `state`"""

    def observation_space(self, agent: str) -> ObservationSpace:
        """The observation space of an agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> ActionSpace | FlatActionSpace:
        """The action space of an agent."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.uint8]], dict[str, dict[str, Any]]]:
        """Start a new episode. With `seed`, restart the sequence of episodes from that seed.

        There are no `options`; those that programs pass to every environment are ignored.

        Returns the observation `[tokens, 3] uint8` and the info of each agent, which is empty without `action_masks`.
        """
        observations = self.world.reset(seed=seed)[0]
        self.agents = list(self.possible_agents)
        return self._by_name(observations), self._new_infos()

    def step(
        self, actions: dict[str, NDArray[np.integer[Any]]]
    ) -> tuple[
        dict[str, NDArray[np.uint8]],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Advance the world by one step.

        `actions` maps every agent to integers `[2]`: action id and argument; with `flat_actions`, to one integer.

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
        space = self.action_spaces[self.possible_agents[0]]
        if isinstance(space, FlatActionSpace):
            rows = space.pairs(rows)
        observations, rewards, terminated, truncated, info = self.world.step(rows)
        infos = self._new_infos()
        if info.episodes:
            (episode,) = info.episodes
            for name, reward in zip(self.possible_agents, episode.rewards, strict=True):
                infos[name]["episode"] = {"r": float(reward), "l": episode.length}
            self.agents = []
        return (
            self._by_name(observations),
            dict(zip(self.possible_agents, map(float, rewards), strict=True)),
            dict(zip(self.possible_agents, map(bool, terminated), strict=True)),
            dict(zip(self.possible_agents, map(bool, truncated), strict=True)),
            infos,
        )

    def state(self) -> NDArray[np.uint8]:
        """The complete world as a grid of features, `[rows, cols, features] uint8`: see `MettaGridEnv.feature_grid`."""
        return self.world.feature_grid()

    def render(self) -> str | NDArray[np.uint8] | None:
        """The world, as `render_mode` says: a text drawing, a picture `[height, width, 3] uint8`, or None."""
        if self.render_mode is None:
            return None
        return self.world.render() if self.render_mode == "ansi" else self.world.render_rgb()

    def close(self) -> None:
        """Close the MettaGridEnv."""
        self.world.close()

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions each agent may take next. `[agents, flat actions] bool`, in the order of `spec.flat_actions`"""
        return self.world.action_masks()

    def _new_infos(self) -> dict[str, dict[str, Any]]:
        """Infos by agent with their action masks, or without entries."""
        if not self._has_masks:
            return {name: {} for name in self.agents}
        masks = self.action_masks().view(np.int8)
        return {name: {"action_mask": mask} for name, mask in zip(self.possible_agents, masks, strict=True)}

    def _by_name(self, observations: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
        return dict(zip(self.possible_agents, observations, strict=True))
