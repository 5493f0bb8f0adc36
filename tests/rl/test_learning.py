"""The policy learns small worlds whose optimal policy is known."""

from __future__ import annotations

import pytest
import torch

from metta.agent.policy import make_agent
from metta.config.agent import AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.config.training import ExperienceConfig, OptimizerConfig, PPOConfig
from metta.evaluation.evaluate import evaluate
from metta.rl.experience import make_experience_manager
from metta.rl.optimizer import make_optimizer
from metta.rl.ppo import train_ppo
from metta.rl.rollout import rollout
from metta.world.env import MettaGridEnv

ACTIONS = [
    {"type": "move", "key": "move"},
    {"type": "rotate", "key": "turn_right", "delta": 1},
    {"type": "rotate", "key": "turn_left", "delta": -1},
    {"type": "get_items", "key": "get"},
]


def drawn_world(drawing: str, max_steps: int, height: int, width: int, **game) -> EnvConfig:
    """A world whose only reward is 1 for the first red ore."""
    window = {"observation_height": height, "observation_width": width, "num_observation_tokens": 48}
    rules = {"max_steps": max_steps, "time_punishment": 0.0, "ore_red_reward": 1.0, "ore_red_max": 1.0}
    return EnvConfig(game={**window, **rules, **game}, actions=ACTIONS, map_builder={"type": "Ascii", "map": drawing})


def trained_agent(env, epochs, learning_rate=3e-3, ent_coef=0.03, **agent_settings):
    torch.manual_seed(0)
    config = AgentModelConfig(**{"hidden_dim": 32, "mlp_layers": 1, "backbone": "mlp"} | agent_settings)
    agent = make_agent(env.single_observation_space, env.single_action_space, [], "cpu", config)
    optimizer = make_optimizer(agent, OptimizerConfig(learning_rate=learning_rate))
    batch = ExperienceConfig(batch_size=1024, minibatch_size=256, bptt_horizon=16, async_factor=1)
    experience = make_experience_manager(env, agent, batch)
    ppo = PPOConfig(clip_coef=0.2, ent_coef=ent_coef, gamma=0.95, gae_lambda=0.95)
    for _ in range(epochs):
        rollout(experience, agent)
        train_ppo(agent, optimizer, experience, ppo, update_epochs=2)
    return agent


@pytest.mark.parametrize(
    ("backbone", "mask_actions"), [("cnn", False), ("mlp", False), ("attention", False), ("mlp", True)]
)
def test_the_agent_learns_to_fetch_the_ore_of_a_corridor(backbone, mask_actions):
    """The optimal policy turns right, moves twice and takes the ore: 4 of at most 8 steps."""
    corridor = drawn_world("######\n#@..r#\n######", max_steps=8, height=3, width=9)
    env = MettaGridEnv(corridor)
    agent = trained_agent(env, 30, backbone=backbone, mask_actions=mask_actions)
    result = evaluate(agent, env, 50)
    assert result.mean_reward >= 0.95
    assert evaluate(agent, env, 1, deterministic=True).mean_reward == 1


def forked_worlds() -> list[EnvConfig]:
    """Two worlds in which the agent moves up once and then turns left or right to the ore.

    The direction is visible only before that move: it is the object in the cell below the agent. The window is one cell
    wide, so the ores beside the fork are never visible from it. An episode has three steps, all of which are needed, so
    the agent cannot encode the direction in its position or orientation.
    """
    left = "#####\n#r.m#\n##@##\n#####"
    right = "#####\n#m.r#\n##@##\n##b##"
    return [drawn_world(drawing, max_steps=3, height=3, width=1) for drawing in (left, right)]


LONG_TRAINING = {"epochs": 80, "learning_rate": 1e-3, "ent_coef": 0.1}
"""A policy without memory reaches half the reward and is learned first; the entropy bonus keeps training going."""


def test_the_lstm_remembers_an_earlier_observation():
    env = MettaGridEnv(forked_worlds())
    assert evaluate(trained_agent(env, **LONG_TRAINING), env, 100).mean_reward >= 0.9


def test_without_the_lstm_nothing_is_remembered():
    env = MettaGridEnv(forked_worlds())
    result = evaluate(trained_agent(env, **LONG_TRAINING, forward_lstm=False), env, 200)
    assert 0.35 <= result.mean_reward <= 0.65


@pytest.mark.parametrize(
    ("ending", "expected_values"),
    [
        # truncated: reward 1 in each of infinitely many steps, V = 1 / (1 - 1/2)
        ({"max_steps": 3, "episode_lifetime": 0}, [2.0, 2.0, 2.0]),
        # terminated: reward 1 in each remaining step
        ({"max_steps": 0, "episode_lifetime": 3}, [1.75, 1.5, 1.0]),
    ],
)
def test_truncation_is_bootstrapped_and_termination_is_not(ending, expected_values):
    torch.manual_seed(0)
    config = drawn_world("###\n#@#\n###", height=1, width=1, **{"max_steps": 3} | ending, time_punishment=1.0)
    env = MettaGridEnv(config)
    settings = AgentModelConfig(hidden_dim=32, mlp_layers=1, backbone="mlp")
    agent = make_agent(env.single_observation_space, env.single_action_space, [], "cpu", settings)
    optimizer = make_optimizer(agent, OptimizerConfig(learning_rate=3e-3))
    batch = ExperienceConfig(batch_size=768, minibatch_size=192, bptt_horizon=12, async_factor=1)
    experience = make_experience_manager(env, agent, batch)
    for _ in range(30):
        rollout(experience, agent)
        train_ppo(agent, optimizer, experience, PPOConfig(gamma=0.5, clip_vloss=False), update_epochs=2)
    rollout(experience, agent)
    values = experience.values[:9].view(3, 3, -1).mean((0, 2))
    torch.testing.assert_close(values, torch.tensor(expected_values), rtol=0, atol=0.2)
