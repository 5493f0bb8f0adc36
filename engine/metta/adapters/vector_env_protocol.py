"""Protocols (structural types) of the parts of MettaGridEnv that the adapters use, since they cannot import it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.errors import UsageError
from metta.spaces import ActionSpace, ObservationSpace


class EpisodeProtocol(Protocol):
    """A finished episode of one world: see `EpisodeSummary` in `world/episode_summary.py`."""

    @property
    def world(self) -> int:
        """Index of the world."""

    @property
    def length(self) -> int:
        """Number of steps."""

    @property
    def rewards(self) -> NDArray[np.float32]:
        """Sum of the rewards that `step` returned to each agent of the world. `[agents of a world] float32`"""

    @property
    def stats(self) -> dict[str, float]:
        """Counters by name."""


class StepInfoProtocol(Protocol):
    """The episodes that ended in a step: see `StepInfo` in `world/episode_summary.py`."""

    @property
    def ended_agents(self) -> NDArray[np.int64]:
        """Rows of the agents whose episode ended. `[ended] int64`"""

    @property
    def final_observations(self) -> NDArray[np.uint8]:
        """Last observations of these agents. `[ended, tokens, 3] uint8`"""

    @property
    def episodes(self) -> tuple[EpisodeProtocol, ...]:
        """The episodes that ended, by ascending world index."""


Transition = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], StepInfoProtocol]
"""observations `[agents, tokens, 3]`, rewards, terminated and truncated `[agents]`, and the episodes that ended."""


class VectorEnvProtocol(Protocol):
    """A MettaGridEnv: `num_worlds` worlds of `num_agents` agents, `agents` rows in total in world-major order."""

    agents: int
    num_worlds: int
    num_agents: int
    auto_reset: bool
    configs: tuple[EnvConfig, ...]
    single_observation_space: ObservationSpace
    single_action_space: ActionSpace

    @property
    def seed(self) -> int | None:
        """The seed of all random streams."""

    def reset(
        self,
        seed: int | None = None,
        out: NDArray[np.uint8] | None = None,
        *,
        worlds: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.uint8], Any]:
        """Start an episode in every world, or in those of a mask. Returns observations `[agents, tokens, 3] uint8`."""

    def step(self, actions: NDArray[np.integer[Any]]) -> Transition:
        """Advance every world by one step. `actions [agents, 2]` are integers: action id and argument."""

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions each agent may take in the next step. `[agents, flat actions] bool`, as `spec.flat_actions`"""

    def render(self, world: int = 0) -> str:
        """A text drawing of a world."""

    def render_rgb(self, world: int = 0, agent: int | None = None) -> NDArray[np.uint8]:
        """A picture of a world, `[height, width, 3] uint8`, with the outline of an agent's observation window."""

    def feature_grid(self, world: int = 0) -> NDArray[np.uint8]:
        """The complete world as a grid of features. `[rows, cols, features] uint8`"""

    def close(self) -> None:
        """Release resources."""


RENDER_MODES = ("ansi", "rgb_array")
"""Render modes of the adapters: text drawings, and pictures."""

RENDER_FPS = 8
"""Steps per second at which one can follow a video of an episode."""


def check_mask_options(action_masks: bool, flat_actions: bool) -> None:
    """Raise UsageError for action masks without flat actions."""
    if action_masks and not flat_actions:
        raise UsageError("action_masks=True needs flat_actions=True: a mask has one entry for each flat action")


def checked_render_mode(render_mode: str | None) -> str | None:
    """The render mode. Raises UsageError unless it is None or one of RENDER_MODES."""
    if render_mode not in (None, *RENDER_MODES):
        raise UsageError(f'render_mode must be "ansi", "rgb_array" or None; got {render_mode!r}')
    return render_mode
