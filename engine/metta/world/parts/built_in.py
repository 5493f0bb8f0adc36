"""Custom rules that metta provides: rewards by distance, for exploring and supplying, an end of episodes at a goal."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metta.config.parts.settings import EntityName, Fraction, ItemName, PositiveFloat, PositiveInt
from metta.world.parts.view import WorldsView


def distance(
    worlds: WorldsView,
    to: EntityName,
    gamma: Fraction = 0.977,
    limit: PositiveFloat = 100.0,
    through_walls: bool = False,
) -> NDArray[np.float32]:
    """Potential-based reward for coming closer to the closest entity `to`: `gamma * phi(s') - phi(s)`.

    phi is minus the distance in moves, at most `limit`, and 0 after the end of an episode that terminates. With `gamma`
    equal to `ppo.gamma`, the best policies are the same as without the reward (Ng, Harada and Russell, 1999).
    """
    potential = worlds.memory("potential")
    new = -np.minimum(worlds.distances(to, through_walls), np.float32(limit))
    new[worlds.per_agent(worlds.terminated)] = 0
    shaping: NDArray[np.float32] = np.float32(gamma) * new - potential
    potential[:] = new
    return shaping


def exploration(worlds: WorldsView, shared: bool = False) -> NDArray[np.float32]:
    """1 for every cell that an agent enters for the first time in the episode.

    With `shared`, cells count that no agent of the world has been in.
    """
    rows, cols = worlds.positions.T
    first = worlds.world if shared else np.arange(worlds.agents)
    visited = worlds.memory("visited", "cell" if shared else "agent", () if shared else worlds.shape, bool)
    is_new = ~visited[first, rows, cols]
    visited[first, rows, cols] = True
    reward: NDArray[np.float32] = is_new.astype(np.float32)
    return reward


def supply(worlds: WorldsView, to: EntityName, item: ItemName) -> NDArray[np.float32]:
    """1 for every agent that puts units of an item into an object `to` that had none after the previous step."""
    put, stock = worlds.memory("put", dtype=np.int64), worlds.memory("stock", "cell", dtype=np.uint8)
    total = worlds.stat(f"{item}.put")
    supplies = (total > put) & worlds.faces(to) & (worlds.at(stock, worlds.ahead) == 0)
    put[:], stock[:] = total, worlds.stock(item)
    reward: NDArray[np.float32] = supplies.astype(np.float32)
    return reward


def goal(
    worlds: WorldsView,
    stat: str = "heart.gained",
    amount: PositiveInt = 1,
    by: Literal["sum", "any", "all"] = "sum",
) -> NDArray[np.bool_]:
    """Whether a statistic of the agents reached `amount`: their sum, that of any agent, or that of all agents."""
    counts = worlds.by_world(worlds.stat(stat))
    reached = {"sum": counts.sum(axis=1), "any": counts.max(axis=1), "all": counts.min(axis=1)}[by] >= amount
    return np.asarray(reached, np.bool_)
