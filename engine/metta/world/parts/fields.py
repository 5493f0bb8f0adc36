"""The object `field`: a ripe field gives an item and grows again, at random or where ripe fields are near."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.config.parts.registries import OBJECTS
from metta.config.parts.settings import Byte, Fraction, ItemName
from metta.world.parts.editor import WorldsEditor


@OBJECTS.register("field", states={"ripe": 1.0}, initial={"ripe": 1}, walkable=True)
class RegrowingField:
    """A field that agents harvest by using it or by standing on it: they get a unit of `item`.

    A bare field ripens in each step with probability `regrowth + spread * n`, where n is the number of ripe fields at
    most `radius` rows and columns away. With `regrowth = 0`, fields whose neighbors are all bare stay so: a commons as
    in Perolat et al. 2017 (arXiv:1707.06600).
    """

    def __init__(
        self,
        item: ItemName,
        regrowth: Fraction = 0.01,
        spread: Fraction = 0.0,
        radius: Byte = 1,
    ):
        self.item, self.regrowth, self.spread, self.radius = item, regrowth, spread, radius

    def use(self, worlds: WorldsEditor, agents: NDArray[np.int64], objects: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Harvest ripe fields. Returns which agents got an item. `[agents] bool`"""
        success = worlds.state(objects, "ripe") > 0
        ripe = success.nonzero()[0]
        success[ripe] = worlds.add_items(agents[ripe], self.item, 1) > 0
        worlds.set_state(objects[success], "ripe", 0)
        return success

    def step(self, worlds: WorldsEditor, objects: NDArray[np.int64]) -> None:
        """Let agents harvest the fields that they stand on, then let bare fields grow."""
        on = worlds.agents_on(objects)
        self.use(worlds, on[on >= 0], objects[on >= 0])
        bare = objects[worlds.state(objects, "ripe") == 0]
        near = worlds.count_near(bare, "ripe", self.radius) if self.spread else 0
        grows = worlds.object_random(bare) < self.regrowth + self.spread * near
        worlds.set_state(bare[grows], "ripe", 1)
