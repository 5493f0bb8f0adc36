"""What an adapter needs of a batch of worlds; `metta.world.env.MettaGridEnv` has it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metta.spaces import ActionSpace, ObservationSpace


class Episode(Protocol):
    """An episode that ended."""

    @property
    def world(self) -> int:
        """Its world's index."""

    @property
    def length(self) -> int:
        """Its steps."""

    @property
    def rewards(self) -> NDArray[np.float32]:
        """`[agents]` of its world, the sum of what `step` returned."""

    @property
    def stats(self) -> dict[str, float]:
        """Its counters by name."""


class Ended(Protocol):
    """The episodes that ended in a step."""

    @property
    def ended_agents(self) -> NDArray[np.int64]:
        """`[ended]` rows of the agents whose episode ended."""

    @property
    def final_observations(self) -> NDArray[np.uint8]:
        """`[ended, tokens, 3]` what these agents saw last."""

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """The episodes, by world."""


Transition = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], Ended]
"""observations `[agents, tokens, 3]`, rewards, terminated and truncated `[agents]`, and the episodes that ended"""


class BatchOfWorlds(Protocol):
    """Worlds of which each agent is a row of every array, world by world."""

    agents: int
    num_worlds: int
    num_agents: int
    auto_reset: bool
    single_observation_space: ObservationSpace
    single_action_space: ActionSpace

    def reset(self, seed: int | None = None) -> tuple[NDArray[np.uint8], Any]:
        """Begin an episode in every world; the observations and what is told of them."""

    def step(self, actions: NDArray[np.integer[Any]]) -> Transition:
        """One step of every world; `actions [agents, 2]`."""

    def render(self, world: int = 0) -> str:
        """A world as text."""

    def close(self) -> None:
        """End the worlds."""
