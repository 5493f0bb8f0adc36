"""Fixtures of the tests of reinforcement learning: a small environment, agent and experience."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from metta.agent.policy import MettaAgent, make_agent
from metta.config.agent import AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.config.training import ExperienceConfig
from metta.rl.experience import Experience, make_experience_manager
from metta.world.env import MettaGridEnv

SMALL_BATCH = {
    "batch_size": 512,
    "minibatch_size": 128,
    "bptt_horizon": 8,
    "forward_pass_minibatch_target_size": 16,
    "async_factor": 1,
}
SMALL_AGENT = {"hidden_dim": 16, "mlp_layers": 1, "backbone": "mlp", "bptt_horizon": 64}


@pytest.fixture(scope="session")
def busy_env() -> MettaGridEnv:
    """Two agents among mines; episodes of 11 steps, so that they end inside segments of 8."""
    config = EnvConfig(
        game={"num_agents": 2, "width": 7, "height": 7, "max_steps": 11, "ore_red_reward": 1.0},
        map_builder={"border_width": 1, "objects": {"mine_red": 8}},
    )
    return MettaGridEnv(config, seed=4)


@pytest.fixture
def set_up(busy_env) -> Callable[..., tuple[MettaAgent, Experience]]:
    """A fresh agent and experience; the same ones each time but for what is asked for."""

    def build(env: MettaGridEnv = busy_env, agent: dict | None = None, seed: int = 4, **experience):
        torch.manual_seed(1)
        spaces = env.single_observation_space, env.single_action_space
        policy = make_agent(*spaces, [], "cpu", AgentModelConfig(**SMALL_AGENT | (agent or {})))
        config = ExperienceConfig(**SMALL_BATCH | experience)
        return policy, make_experience_manager(env, policy, config, seed)

    return build


def padded_observations(experience: Experience) -> torch.Tensor:
    """The observations of all steps that were stored, `[steps, agents, tokens, 3] uint8`."""
    store = experience.observations
    return torch.stack([store.padded(step) for step in range(store.length // store.agents)])
