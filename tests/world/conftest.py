"""Fixtures of the simulator tests: the recordings, and the two backends that must agree on every rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from board import Backend, MakeBackend
from conformance import engine_state, engine_statistics
from recordings import FOLDER, recordings
from reference import ReferenceWorld

from metta.config.env.env_config import EnvConfig
from metta.world.env import MettaGridEnv
from metta.world.maps.build import build_map


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "recording" in metafunc.fixturenames:
        absent = pytest.param(None, marks=pytest.mark.skip(reason=f"no recordings in {FOLDER}"), id="absent")
        found = [pytest.param(recording, id=recording.name) for recording in recordings()]
        metafunc.parametrize("recording", found or [absent])


class ReferenceBackend:
    """The reference simulator; plays one episode."""

    def __init__(self, config: EnvConfig):
        self.world = ReferenceWorld(config, build_map(config, np.random.default_rng(0)))

    def reset(self) -> np.ndarray:
        return self.world.reset()

    def step(
        self, actions: np.ndarray, order: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return *self.world.step(actions, order), np.array(self.world.success)

    def state(self) -> dict[str, np.ndarray]:
        return self.world.state()

    def statistics(self) -> dict[str, Any]:
        return self.world.statistics()


class EngineBackend:
    """The engine with one world that is not reset when its episode ends."""

    def __init__(self, config: EnvConfig):
        self.env = MettaGridEnv(config, auto_reset=False, seed=0)

    def reset(self) -> np.ndarray:
        return self.env.reset()[0]

    def step(
        self, actions: np.ndarray, order: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        observations, rewards, terminated, truncated, _ = self.env.step(actions, order=order)
        return observations, rewards, terminated, truncated, self.env.action_success.copy()

    def state(self) -> dict[str, np.ndarray]:
        return engine_state(self.env, 0)

    def statistics(self) -> dict[str, Any]:
        return engine_statistics(self.env, 0)


BACKENDS: dict[str, type[Backend]] = {"engine": EngineBackend, "reference": ReferenceBackend}


@pytest.fixture(params=BACKENDS)
def make_backend(request: pytest.FixtureRequest) -> MakeBackend:
    """Makes the world of a drawn test: once with the engine, once with the reference simulator."""
    return BACKENDS[request.param]
