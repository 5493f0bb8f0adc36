"""Fixtures with a small world that holds many objects, and observations of random play in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metta.config.env.env_config import EnvConfig
from metta.world.env import MettaGridEnv


@pytest.fixture(scope="session")
def crowded_config() -> EnvConfig:
    """A small world with many objects, whose episodes end within the few steps of a test."""
    return EnvConfig(
        game={"num_agents": 4, "width": 10, "height": 10, "max_steps": 23, "num_observation_tokens": 120},
        map_builder={"border_width": 1, "objects": {"mine_red": 6, "generator_red": 4, "altar": 3, "wall": 4}},
    )


@pytest.fixture(scope="session")
def crowded_env(crowded_config) -> MettaGridEnv:
    return MettaGridEnv(crowded_config, num_worlds=4, seed=3)


@pytest.fixture(scope="session")
def seen(crowded_env) -> torch.Tensor:
    """Observations of random play, `[12, 16, tokens, 3] uint8`."""
    rng = np.random.default_rng(0)
    flat_actions = np.array(crowded_env.spec.flat_actions)
    observations = [crowded_env.reset(seed=3)[0].copy()]
    for _ in range(11):
        actions = flat_actions[rng.integers(len(flat_actions), size=crowded_env.agents)]
        observations.append(crowded_env.step(actions)[0].copy())
    return torch.from_numpy(np.stack(observations))
