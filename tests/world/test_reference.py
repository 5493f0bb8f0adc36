"""The reference simulator against the recordings; it is the oracle of the differential test."""

from __future__ import annotations

from typing import Any

import numpy as np
from conformance import Moment, compare
from recordings import Recording
from reference import ReferenceWorld

from metta.config.env.env_config import EnvConfig


class ReferencePlayer:
    """The reference simulator as a player of a recording."""

    world = 0

    def __init__(self, config: EnvConfig, cells: np.ndarray):
        self.world = ReferenceWorld(config, cells)

    def reset(self) -> Moment:
        return Moment(self.world.reset(), state=self.world.state())

    def step(self, actions: np.ndarray, order: np.ndarray) -> Moment:
        observations, rewards, _, truncated = self.world.step(actions, order)
        return Moment(observations, rewards, truncated, np.array(self.world.success), self.world.state())

    def statistics(self) -> dict[str, Any]:
        return self.world.statistics()


def test_reference_agrees_with_the_recording(recording: Recording) -> None:
    difference = compare(recording, ReferencePlayer(recording.config, recording.cells(0)))
    assert difference is None, f"\n{difference}"
