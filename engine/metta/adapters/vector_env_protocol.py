"""Protocols (structural types) of the parts of MettaGridEnv that the adapters use, since they cannot import it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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
    single_observation_space: ObservationSpace
    single_action_space: ActionSpace

    def reset(self, seed: int | None = None) -> tuple[NDArray[np.uint8], Any]:
        """Start an episode in every world. Returns observations `[agents, tokens, 3] uint8` and info."""

    def step(self, actions: NDArray[np.integer[Any]]) -> Transition:
        """Advance every world by one step. `actions [agents, 2]` are integers: action id and argument."""

    def render(self, world: int = 0) -> str:
        """A text drawing of a world."""

    def close(self) -> None:
        """Release resources."""
