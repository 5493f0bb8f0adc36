"""Custom rules that tests register, and worker processes import."""

from __future__ import annotations

import numpy as np

from metta.config.parts.registries import FEATURES, REWARDS, TERMINATIONS
from metta.config.parts.settings import GroupName


@REWARDS.register("test.near")
def near(worlds, to: str = "altar", within: int = 3):  # type: ignore[no-untyped-def]  # as users write it
    """1 within some moves of an object."""
    return (worlds.distances(to) <= within).astype(np.float32)


@REWARDS.register("test.escort")
def escort(worlds, group: GroupName):  # type: ignore[no-untyped-def]  # as users write it
    """1 for the agents of a group."""
    return worlds.in_group(group).astype(np.float32)


@REWARDS.register("test.new cells")
def new_cells(worlds):  # type: ignore[no-untyped-def]  # as users write it
    """A reward with a memory of each agent."""
    visited = worlds.memory("visited", shape=worlds.shape, dtype=bool)
    rows, cols = worlds.positions.T
    is_new = ~visited[np.arange(worlds.agents), rows, cols]
    visited[np.arange(worlds.agents), rows, cols] = True
    return is_new.astype(np.float32)


@REWARDS.register("test.result")
def result(worlds, kind: str = "", step: int = 0):  # type: ignore[no-untyped-def]  # as users write it
    """What no reward may return, from a step on."""
    good = np.zeros(worlds.agents, np.float32)
    if (worlds.steps < step).any():
        return good
    return {
        "shape": np.zeros(worlds.num_worlds + 1, np.float32),
        "dtype": np.zeros(worlds.agents),
        "nan": np.where(np.arange(worlds.agents) == 3, np.float32(np.nan), good),
        "infinite": good + np.float32(np.inf),
        "list": good.tolist(),
        "none": None,
    }[kind]


@TERMINATIONS.register("test.random")
def random_end(worlds, probability: float = 0.05):  # type: ignore[no-untyped-def]  # as users write it
    """Ends episodes at random."""
    return worlds.random("world") < probability


@FEATURES.register("test.last action", scale=8.0)
def last_action(worlds):  # type: ignore[no-untyped-def]  # as users write it
    """A value for the agent itself."""
    return worlds.actions[:, 0] + np.uint8(1)


@FEATURES.register("test.facing", at="agents", scale=1.0)
def facing(worlds, to: str = "wall"):  # type: ignore[no-untyped-def]  # as users write it
    """A value of agents that all see."""
    return worlds.faces(to).astype(np.uint8)


@FEATURES.register("test.trail", at="cells")
def trail(worlds, fade: int = 60):  # type: ignore[no-untyped-def]  # as users write it
    """A value of cells: how recently an agent was there."""
    scent = worlds.memory("scent", "cell", dtype=np.int16)
    scent[:] = np.maximum(scent - fade, 0)
    scent[worlds.find("agent")] = 255
    return scent.astype(np.uint8)


@REWARDS.register("test.others_rotated")
def others_rotated(worlds, within: str = "group"):  # type: ignore[no-untyped-def]  # as users write it
    """The fraction of the other agents, of the group or the world, that rotated in the step before."""
    before = worlds.memory("rotated", dtype=np.float32)
    groups = worlds.by_world(worlds.groups) if within == "group" else np.zeros((worlds.num_worlds, worlds.num_agents))
    are_others = (groups[:, :, None] == groups[:, None]) & ~np.eye(worlds.num_agents, dtype=bool)
    rewards = (are_others @ worlds.by_world(before)[:, :, None])[..., 0] / are_others.sum(axis=2)
    before[:] = worlds.did("rotate")
    return rewards.ravel().astype(np.float32)
