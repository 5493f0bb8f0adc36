"""The object `door`: closed until an agent opens it, with a key or without; open doors can be walked through."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.config.parts.registries import OBJECTS
from metta.config.parts.settings import Byte, ItemName
from metta.world.parts.editor import WorldsEditor


@OBJECTS.register("door", states={"open": 1.0}, walkable="open")
class Door:
    """A door that agents open by using it.

    With the name of an item as `key`, that takes one unit of it. After `steps_open` steps the door closes, unless an
    agent stands in it; 0: it stays open.
    """

    def __init__(self, key: ItemName = "", steps_open: Byte = 0):
        self.key, self.steps_open = key, steps_open

    def use(self, worlds: WorldsEditor, agents: NDArray[np.int64], objects: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Open closed doors. Returns which agents have opened one. `[agents] bool`"""
        opens: NDArray[np.bool_] = worlds.state(objects, "open") == 0
        if self.key:
            opens &= worlds.inventory(self.key)[agents] > 0
            worlds.add_items(agents[opens], self.key, -1)
        worlds.set_state(objects[opens], "open", max(self.steps_open, 1))
        return opens

    def step(self, worlds: WorldsEditor, objects: NDArray[np.int64]) -> None:
        """Count the steps until doors close."""
        if self.steps_open:
            left = worlds.state(objects, "open")
            closing = (left > 1) | ((left == 1) & (worlds.agents_on(objects) < 0))
            worlds.set_state(objects[closing], "open", left[closing] - 1)
