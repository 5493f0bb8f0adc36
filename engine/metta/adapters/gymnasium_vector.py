"""GymnasiumVectorEnv: a MettaGridEnv as a `gymnasium.vector.VectorEnv`, with each agent as one sub-environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metta.adapters.vector_env_protocol import (
    RENDER_FPS,
    RENDER_MODES,
    StepInfoProtocol,
    VectorEnvProtocol,
    check_mask_options,
    checked_render_mode,
)
from metta.errors import UsageError
from metta.spaces import FlatActionSpace

Observations = NDArray[np.uint8]
Actions = NDArray[np.integer[Any]]
Autoreset = AutoresetMode | str
"""When the next episode starts: an `AutoresetMode` or its value, such as "NextStep"."""


class GymnasiumVectorEnv(VectorEnv[Observations, Actions, NDArray[Any]]):
    """A vector environment with `num_envs` = worlds * agents per world sub-environments, in world-major order.

    The episodes of all agents of a world start and end together. `autoreset_mode` (an `AutoresetMode` or its value),
    which `metadata` repeats, says when the next episode starts:

    - `SAME_STEP`, the default: in the step that ends the previous one; its last observation is in `info`
    - `NEXT_STEP`: in the step after it, whose actions for this world are ignored and whose rewards are 0
    - `DISABLED`, the default if `worlds.auto_reset` is false: when `reset` is called, for all worlds or with
      `reset_mask`

    In a step that ends episodes, `info` contains, as in Gymnasium's vector environments,

        final_obs     [num_envs] object   last observation `[tokens, 3] uint8` where an episode ended, otherwise None;
                                          only with `SAME_STEP`, since `step` returns it with the other modes
        final_info    dict                "episode": return "r" `[num_envs] float32` and length "l" `[num_envs] int64`
                                          in steps; "stats": counters of the world by name, each `[num_envs] float64`
        _final_obs    [num_envs] bool     where an episode ended
        _final_info   [num_envs] bool     the same

    `render_mode` is "ansi" (text), "rgb_array" (pictures) or None. With `flat_actions`, an action is an index into
    `spec.flat_actions` instead of a pair. `worlds.auto_reset` is set to fit the mode.

    With `action_masks`, which needs `flat_actions`, the `info` of every `step` and `reset` contains

        action_mask   [num_envs, flat actions] int8   1 where an action may be taken next, as `Discrete.sample` expects
                                                      it; after the last step of an episode, those of the next episode
                                                      with `SAME_STEP`
        _action_mask  [num_envs] bool                 true

    Raises UsageError for an unknown mode, and for `action_masks` without `flat_actions`.
    """

    def __init__(
        self,
        worlds: VectorEnvProtocol,
        autoreset_mode: Autoreset | None = None,
        render_mode: str | None = "ansi",
        flat_actions: bool = False,
        action_masks: bool = False,
    ):
        check_mask_options(action_masks, flat_actions)
        if autoreset_mode is None:
            autoreset_mode = AutoresetMode.SAME_STEP if worlds.auto_reset else AutoresetMode.DISABLED
        self.autoreset_mode = _checked_mode(autoreset_mode)
        self.metadata = {
            "render_modes": list(RENDER_MODES),
            "render_fps": RENDER_FPS,
            "autoreset_mode": self.autoreset_mode,
        }
        self.render_mode = checked_render_mode(render_mode)
        self.worlds = worlds
        worlds.auto_reset = self.autoreset_mode == AutoresetMode.SAME_STEP
        self.num_envs = worlds.agents
        env_config = worlds.single_observation_space.env_config
        self.single_observation_space = worlds.single_observation_space
        self.single_action_space = FlatActionSpace(env_config) if flat_actions else worlds.single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._has_masks = action_masks
        self._has_ended = np.zeros(worlds.num_worlds, np.bool_)
        """worlds whose episode has ended and that are not yet reset; none with SAME_STEP"""

    @property
    def np_random_seed(self) -> int | None:
        """The seed of the worlds; None before the first `reset` if none was given."""
        return self.worlds.seed

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start a new episode in every world. With `seed`, restart the sequence of episodes from that seed.

        A list has one seed per sub-environment. As everywhere in Gymnasium, `seed=5` means `seed=[5, 6, 7, ...]`. Since
        the agents of a world share its random numbers, any other list is hashed into one seed for all worlds.

        With `options={"reset_mask": mask}`, `mask [num_envs] bool`, only the worlds of these sub-environments start a
        new episode. It must be true for all agents of a world or for none, and cannot be combined with a seed.

        Returns observations `[num_envs, tokens, 3] uint8` and `info`, which is empty without `action_masks`. Raises
        UsageError for other options.
        """
        number = seed if seed is None or isinstance(seed, int | np.integer) else self._one_seed(list(seed))
        worlds = self._worlds_to_reset(options or {})
        self._has_ended[slice(None) if worlds is None else worlds] = False
        return self.worlds.reset(seed=number, worlds=worlds)[0], self._mask_info()

    def _worlds_to_reset(self, options: dict[str, Any]) -> NDArray[np.bool_] | None:
        """The worlds that `reset_mask` selects, `[worlds] bool`; None for all."""
        if unknown := sorted(set(options) - {"reset_mask"}):
            raise UsageError(f"unknown reset options {unknown}; known: reset_mask")
        if options.get("reset_mask") is None:
            return None
        mask = np.asarray(options["reset_mask"])
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise UsageError(
                f"reset_mask must be a bool array [{self.num_envs}], true for at least one sub-environment; "
                f"got {mask.dtype} {list(mask.shape)} with {np.count_nonzero(mask)} true entries"
            )
        by_world = mask.reshape(self.worlds.num_worlds, self.worlds.num_agents)
        if (by_world.any(axis=1) != by_world.all(axis=1)).any():
            raise UsageError(
                f"reset_mask must be true for all {self.worlds.num_agents} agents of a world or for none, since their "
                "episodes start together"
            )
        return np.asarray(by_world.any(axis=1))

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
        """Advance every world by one step.

        `actions [num_envs, 2]` are integers: action id and argument; with `flat_actions`, `[num_envs]`.

        Returns observations `[num_envs, tokens, 3] uint8`, rewards `[num_envs] float32`, terminated and truncated
        `[num_envs] bool`, and `info`, described in the class.
        """
        if isinstance(self.single_action_space, FlatActionSpace):
            actions = self.single_action_space.pairs(actions)
        resets = self._has_ended
        if self.autoreset_mode == AutoresetMode.DISABLED and resets.any():
            raise UsageError(
                f"the episodes of worlds {resets.nonzero()[0].tolist()} have ended: start the next ones with "
                'reset(options={"reset_mask": terminated | truncated})'
            )
        observations, rewards, terminated, truncated, info = self.worlds.step(actions)
        if resets.any():
            self.worlds.reset(out=observations, worlds=resets)
            for array in (rewards, terminated, truncated):
                array.reshape(len(resets), -1)[resets] = 0
        if self.autoreset_mode != AutoresetMode.SAME_STEP:
            self._has_ended = np.asarray(terminated | truncated)[:: self.worlds.num_agents]
        episodes = self._gymnasium_info(info) if info.episodes else {}
        return observations, rewards, terminated, truncated, episodes | self._mask_info()

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions each sub-environment may take next: see `MettaGridEnv.action_masks`.

        `[num_envs, flat actions] bool`, in the order of `spec.flat_actions`. The name is that which sb3-contrib's
        MaskablePPO calls.
        """
        return self.worlds.action_masks()

    def _mask_info(self) -> dict[str, Any]:
        if not self._has_masks:
            return {}
        return {"action_mask": self.action_masks().view(np.int8), "_action_mask": np.ones(self.num_envs, np.bool_)}

    def _gymnasium_info(self, info: StepInfoProtocol) -> dict[str, Any]:
        has_ended = np.zeros(self.num_envs, np.bool_)
        has_ended[info.ended_agents] = True
        returns, lengths = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.int64)
        stats: dict[str, NDArray[np.float64]] = {}
        for episode in info.episodes:
            rows = slice(episode.world * self.worlds.num_agents, (episode.world + 1) * self.worlds.num_agents)
            returns[rows], lengths[rows] = episode.rewards, episode.length
            for name, count in episode.stats.items():
                stats.setdefault(name, np.zeros(self.num_envs))[rows] = count
        final_info = {"episode": {"r": returns, "l": lengths}, "_episode": has_ended, "stats": stats}
        result = {"final_info": final_info, "_final_info": has_ended}
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            final_observations = np.full(self.num_envs, None, object)
            for row, observation in zip(info.ended_agents.tolist(), info.final_observations, strict=True):
                final_observations[row] = observation
            result |= {"final_obs": final_observations, "_final_obs": has_ended}
        return result

    def render(self) -> tuple[Any, ...] | None:
        """The world of each sub-environment, `[num_envs]`, as `render_mode` says; None if it is None.

        "ansi": a text drawing. "rgb_array": a picture `[height, width, 3] uint8` with the outline of the observation
        window of the sub-environment's agent; all pictures have the same size.
        """
        worlds, agents = range(self.worlds.num_worlds), range(self.worlds.num_agents)
        if self.render_mode is None:
            return None
        if self.render_mode == "ansi":
            return tuple(drawing for world in worlds for drawing in [self.worlds.render(world)] * len(agents))
        return tuple(self.worlds.render_rgb(world, agent) for world in worlds for agent in agents)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the MettaGridEnv."""
        self.worlds.close()


def _checked_mode(mode: Autoreset) -> AutoresetMode:
    """The mode, also from its value, such as "NextStep". Raises UsageError for any other value."""
    try:
        return AutoresetMode(mode)
    except ValueError:
        values = ", ".join(f'"{known.value}"' for known in AutoresetMode)
        raise UsageError(f"autoreset_mode must be an AutoresetMode or one of {values}; got {mode!r}") from None
