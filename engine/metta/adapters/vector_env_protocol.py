"""The interface of MettaGridEnv that the adapters use, as protocols."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metta.spaces import ActionSpace, ObservationSpace


class Episode(Protocol):
    """A finished episode of one world."""

    @property
    def world(self) -> int:
        """The index of the world."""

    @property
    def length(self) -> int:
        """The number of steps."""

    @property
    def rewards(self) -> NDArray[np.float32]:
        """`[agents]` of the world: the sum of the rewards that `step` returned."""

    @property
    def stats(self) -> dict[str, float]:
        """Counters by name."""


class Ended(Protocol):
    """The episodes that ended in a step."""

    @property
    def ended_agents(self) -> NDArray[np.int64]:
        """`[ended]`: the rows of the agents whose episode ended."""

    @property
    def final_observations(self) -> NDArray[np.uint8]:
        """`[ended, tokens, 3]`: the last observations of these agents."""

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """The episodes, in the order of worlds."""


Transition = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], Ended]
"""observations `[agents, tokens, 3]`, rewards, terminated and truncated `[agents]`, and the episodes that ended."""


class VectorWorlds(Protocol):
    """Worlds stepped at once, with one row per agent in every array, world by world."""

    agents: int
    num_worlds: int
    num_agents: int
    auto_reset: bool
    single_observation_space: ObservationSpace
    single_action_space: ActionSpace

    def reset(self, seed: int | None = None) -> tuple[NDArray[np.uint8], Any]:
        """Start an episode in every world; returns observations and info."""

    def step(self, actions: NDArray[np.integer[Any]]) -> Transition:
        """Advance every world by one step. `actions [agents, 2]`"""

    def render(self, world: int = 0) -> str:
        """A world as text."""

    def close(self) -> None:
        """Close the worlds."""
