"""OnnxPolicy computes the same as MettaAgent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from metta.agent.memory.state import Memory
from metta.agent.policy import MettaAgent, make_agent
from metta.checkpoint.onnx_policy import OnnxPolicy
from metta.config.agent import AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.world.env import MettaGridEnv


def agent_of(env: MettaGridEnv, **settings: Any) -> MettaAgent:
    """An agent with weights unlike the initial ones."""
    torch.manual_seed(0)
    agent = make_agent(
        env.single_observation_space,
        env.single_action_space,
        ["agent:frozen", "agent:orientation"],
        "cpu",
        AgentModelConfig(hidden_dim=12, lstm_layers=2, **settings),
    )
    with torch.no_grad():
        for weight in agent.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return agent


def some_observations() -> tuple[MettaGridEnv, np.ndarray]:
    """An environment and its observations after 30 random steps."""
    env = MettaGridEnv(
        EnvConfig().override(num_agents=6, width=9, height=9, map_builder={"objects": {"altar": 6, "mine_red": 6}}),
        4,
        seed=0,
    )
    observations, _ = env.reset(seed=1)
    rng = np.random.default_rng(0)
    flat_actions = np.array(env.spec.flat_actions)
    for _ in range(30):
        observations = env.step(flat_actions[rng.integers(len(flat_actions), size=env.agents)])[0]
    return env, observations


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "cnn"},
        {"backbone": "mlp"},
        {"backbone": "attention"},
        {"forward_lstm": False},
        {"egocentric": True},
        {"egocentric": True, "mask_actions": True},
        {"use_prev_action": False, "use_prev_reward": False, "observation_types": ["grid_obs"], "obs_scale": 0.5},
    ],
    ids=str,
)
def test_outputs_are_those_of_the_agent(settings: dict[str, Any]) -> None:
    env, observations = some_observations()
    agent = agent_of(env, **settings)
    initial = agent.initial_memory(env.agents)
    memory = Memory({name: torch.randn_like(tensor) for name, tensor in initial.tensors.items()})
    episode_starts = torch.arange(env.agents) % 3 == 0
    tokens = torch.from_numpy(observations)
    with torch.no_grad():
        logits, values, after = agent(tokens.unsqueeze(0), memory, episode_starts.unsqueeze(0))
        masks = torch.from_numpy(env.action_masks()) if agent.uses_action_masks else None
        plain = OnnxPolicy(agent)(tokens, tuple(memory.tensors.values()), episode_starts, masks)
    if masks is not None:
        logits = logits.masked_fill(~masks, torch.finfo(torch.float32).min)
        torch.testing.assert_close(logits[0], agent.act(tokens, memory, episode_starts, action_masks=masks).logits)
    assert float(logits.std()) > 0.01
    for fast, slow in zip((logits[0], values[0], *after.tensors.values()), plain, strict=True):
        torch.testing.assert_close(slow, fast, rtol=1e-4, atol=1e-5)
