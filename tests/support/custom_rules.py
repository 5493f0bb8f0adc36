"""Registered actions and objects for tests, vectorized as users write them; custom_reference.py has them as loops."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from metta.config.parts.registries import ACTIONS, OBJECTS
from metta.geometry import CLOCKWISE, STEPS
from metta.world.parts.editor import WorldsEditor

CUSTOM_ACTIONS: Final = ["signal", "push", "spin", "heal"]
CUSTOM_OBJECTS: Final = ("door", "field", "trap", "conveyor")

Rows = NDArray[np.int64]
OFFSETS = np.array(STEPS)


def two_ahead(worlds: WorldsEditor, agents: Rows, arguments: Rows) -> NDArray[np.int64]:
    """The next two cells ahead. `[agents, 2, 2]`"""
    step = OFFSETS[worlds.orientations[agents]]
    return worlds.positions[agents][:, None] + step[:, None] * np.array([[1], [2]])


@ACTIONS.register("push", touches=two_ahead, moves_others=True)
def push(worlds: WorldsEditor, agents: Rows, arguments: Rows) -> NDArray[np.bool_]:
    """Push the agent ahead one cell further."""
    others = worlds.faced_agents[agents]
    success = others >= 0
    pushers = agents[success]
    targets = two_ahead(worlds, pushers, pushers)[:, 1]
    success[success] = worlds.move(others[success], targets)
    return success


@ACTIONS.register("spin", arguments=2, moves_others=True)
def spin(worlds: WorldsEditor, agents: Rows, arguments: Rows) -> NDArray[np.bool_]:
    """Turn the agent ahead clockwise (argument 0), or let it face oneself (1)."""
    others = worlds.faced_agents[agents]
    success = others >= 0
    others, facing = others[success], worlds.orientations[agents[success]]
    turned = np.array(CLOCKWISE)[worlds.orientations[others]]
    worlds.turn(others, np.where(arguments[success] == 0, turned, facing ^ 1))
    return success


def faces_an_agent(worlds: WorldsEditor, agents: Rows, arguments: Rows) -> NDArray[np.bool_]:
    """Whether each agent faces another one. `[agents]`"""
    return np.asarray(worlds.faced_agents[agents] >= 0)


@ACTIONS.register("heal", possible=faces_an_agent)
def heal(worlds: WorldsEditor, agents: Rows, arguments: Rows) -> NDArray[np.bool_]:
    """Unfreeze the agent ahead."""
    others = worlds.faced_agents[agents]
    success = (others >= 0) & worlds.frozen[others]
    worlds.freeze(others[success], 0)
    return success


@OBJECTS.register("trap", states={"sprung": 1.0}, walkable=True)
class Trap:
    """Freezes the first agent that stands on it for two actions, until somebody uses it."""

    def step(self, worlds: WorldsEditor, objects: Rows) -> None:
        agents = worlds.agents_on(objects)
        caught = (agents >= 0) & (worlds.state(objects, "sprung") == 0)
        worlds.freeze(agents[caught], 2)
        worlds.set_state(objects[caught], "sprung", 1)

    def use(self, worlds: WorldsEditor, agents: Rows, objects: Rows) -> NDArray[np.bool_]:
        sprung = worlds.state(objects, "sprung") > 0
        worlds.set_state(objects[sprung], "sprung", 0)
        return np.asarray(sprung)


@OBJECTS.register("conveyor", walkable=True)
class Conveyor:
    """Moves agents in a direction, an orientation."""

    def __init__(self, direction: int = 0):
        self.direction = direction

    def step(self, worlds: WorldsEditor, objects: Rows) -> None:
        agents = worlds.agents_on(objects)
        targets = worlds.object_positions(objects) + OFFSETS[self.direction]
        worlds.move(agents[agents >= 0], targets[agents >= 0])
