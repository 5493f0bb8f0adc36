"""Policies in worlds with another observation window: what they observe there, and what they compute from it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_worlds import random_tasks

from metta.agent.policy import MettaAgent
from metta.agent.window import WINDOW_FIELDS, WindowConversion
from metta.api import (
    BACKBONES,
    AgentModelConfig,
    Backbone,
    EnvConfig,
    evaluate,
    load_policy,
    make_agent,
    make_environment,
    save_checkpoint,
)
from metta.checkpoint.onnx_policy import OnnxPolicy
from metta.config.env.token_features import NO_TOKEN
from metta.world.env import MettaGridEnv

ROOM = EnvConfig().override(
    num_agents=6,
    width=16,
    height=14,
    max_steps=40,
    map_builder={"border_width": 1, "objects": {"mine_red": 9, "generator_red": 6, "altar": 4, "wall": 8, "block": 8}},
)
SIZES = [(7, 7), (11, 11), (3, 5), (15, 9), (1, 1)]
"""(height, width) of windows; no observation in them reaches the limit of tokens."""


def window(config: EnvConfig, height: int, width: int, tokens: int = 400) -> EnvConfig:
    return config.override(observation_height=height, observation_width=width, num_observation_tokens=tokens)


def observed(config: EnvConfig, steps: int = 12, seed: int = 0) -> np.ndarray:
    """`[steps, agents, tokens, 3]`: observations of a few worlds in which agents act at random."""
    env = MettaGridEnv(config, num_worlds=3, seed=seed)
    flat_actions = np.array(env.spec.flat_actions or [(0, 0)])
    generator = np.random.default_rng(seed)
    observations = [env.reset()[0].copy()]
    for _ in range(steps - 1):
        observations.append(env.step(flat_actions[generator.integers(len(flat_actions), size=env.agents)])[0].copy())
    return np.stack(observations)


def cut(observation: np.ndarray, config: EnvConfig, height: int, width: int) -> np.ndarray:
    """The tokens of one observation `[tokens, 3]` in a smaller window in its middle, token by token; locations stay."""
    middle, kept = (config.spec.center >> 4, config.spec.center & 15), []
    for location, feature, value in observation[observation[:, 0] != NO_TOKEN].tolist():
        if abs((location >> 4) - middle[0]) <= height // 2 and abs((location & 15) - middle[1]) <= width // 2:
            kept.append((location, feature, value))
    padding = [(NO_TOKEN,) * 3] * (len(observation) - len(kept))
    return np.array([*kept, *padding], np.uint8)


@pytest.mark.parametrize("seed", range(6))
def test_a_converted_observation_is_that_of_a_world_with_the_other_window(seed: int) -> None:
    world = random_tasks(np.random.default_rng(seed), 1)[0]
    for source, target in itertools.permutations(SIZES, 2):
        here, there = window(world, *source), window(world, *target)
        converted = WindowConversion(here.spec, there.spec)(
            torch.from_numpy(observed(here, 4, seed).reshape(-1, 400, 3))
        )
        expected = observed(there, 4, seed).reshape(-1, 400, 3)
        if source[0] < target[0] or source[1] < target[1]:  # the world shows less than the policy's window
            expected = np.stack([cut(observation, there, *source) for observation in expected])
        assert np.array_equal(converted.numpy(), expected), (source, target)


def test_the_limit_of_tokens_is_that_of_the_policy() -> None:
    here, there = window(ROOM, 11, 11), window(ROOM, 7, 7, tokens=12)
    converted = WindowConversion(here.spec, there.spec)(torch.from_numpy(observed(here).reshape(-1, 400, 3)))
    assert np.array_equal(converted.numpy(), observed(there).reshape(-1, 12, 3))
    assert (converted[:, -1] != NO_TOKEN).any(), "the limit was not reached"


class TokenMatrix(Backbone):
    """A custom backbone with weights for each slot of the token list, so that it depends on length and order."""

    def __init__(self, spec, config):
        super().__init__(spec, config)
        self.layer = torch.nn.Linear(spec.num_observation_tokens * 3, config.hidden_dim)

    def forward(self, observations):
        return torch.relu(self.layer(observations.flatten(1).float() / 255))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BACKBONES, "_registered", dict(BACKBONES._registered))
    BACKBONES.register("token matrix")(TokenMatrix)


POLICIES = [
    {"backbone": backbone, "egocentric": egocentric}
    for backbone, egocentric in itertools.product(("cnn", "mlp", "attention", "token matrix"), (False, True))
]
HOME = window(ROOM, 7, 7)


def saved(folder: Path, model: dict[str, Any], config: EnvConfig = HOME) -> tuple[MettaAgent, Path]:
    """A policy whose outputs depend strongly on its inputs, and its checkpoint."""
    torch.manual_seed(1)
    env = make_environment(config)
    model = {"hidden_dim": 16, "mlp_layers": 1, **model}
    agent = make_agent(
        env.single_observation_space,
        env.single_action_space,
        ["hp", "agent:orientation"],
        "cpu",
        AgentModelConfig.model_validate(model),
    )
    with torch.no_grad():
        for weight in agent.parameters():
            weight += 0.1 * torch.randn_like(weight)
        agent.policy_head.output.weight *= 100
    save_checkpoint(agent, folder)
    return agent, folder / "checkpoint_000000.pt"


def outputs(agent: MettaAgent, observations: np.ndarray) -> torch.Tensor:
    """`[steps, agents, actions + 1]`: logits and values; recurrent memory is kept from step to step."""
    steps, agents = observations.shape[:2]
    starts = torch.zeros(steps, agents, dtype=torch.bool)
    with torch.no_grad():
        logits, values, _ = agent(torch.from_numpy(observations), agent.initial_memory(agents), starts)
    return torch.cat([logits, values.unsqueeze(-1)], -1)


@pytest.mark.parametrize("model", POLICIES, ids=lambda model: "-".join(map(str, model.values())))
def test_a_policy_computes_the_same_in_worlds_with_larger_windows(model: dict[str, Any], tmp_path: Path) -> None:
    agent, path = saved(tmp_path, model)
    expected = outputs(agent, observed(HOME))
    assert expected[..., :-1].std() > 0.1
    for height, width, tokens in [(11, 11, 400), (7, 9, 300), (15, 11, 500)]:
        abroad = load_policy(path, env_config=window(ROOM, height, width, tokens)).agent
        seen = observed(window(ROOM, height, width, tokens))
        assert torch.equal(outputs(abroad, seen), expected), (height, width)
        memory = abroad.initial_memory(len(seen[0]))
        first = torch.from_numpy(seen[0])
        with torch.no_grad():
            logits, values, *_ = OnnxPolicy(abroad)(
                first, tuple(memory.tensors.values()), torch.zeros(len(first)).bool()
            )
        exported = torch.cat([logits, values.unsqueeze(-1)], -1)
        torch.testing.assert_close(exported, outputs(abroad, seen[:1])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", POLICIES, ids=lambda model: "-".join(map(str, model.values())))
def test_a_policy_computes_the_same_in_worlds_with_smaller_windows(model: dict[str, Any], tmp_path: Path) -> None:
    """As in its own window, when nothing is seen outside the smaller one."""
    agent, path = saved(tmp_path, model)
    for height, width in [(3, 5), (1, 1), (9, 3)]:
        rows, cols = min(height, 7), min(width, 7)
        cropped = np.stack([[cut(agents, HOME, rows, cols) for agents in step] for step in observed(HOME)])
        abroad = load_policy(path, env_config=window(ROOM, height, width, 300)).agent
        found = outputs(abroad, observed(window(ROOM, height, width, 300)))
        assert torch.equal(found, outputs(agent, cropped)), (height, width)


def test_a_policy_loaded_for_another_window_can_be_saved_and_loaded(tmp_path: Path) -> None:
    _, path = saved(tmp_path, {"backbone": "cnn"})
    larger = window(ROOM, 11, 9)
    abroad = load_policy(path, env_config=larger).agent
    save_checkpoint(abroad, tmp_path, 1)
    again = load_policy(tmp_path / "checkpoint_000001.pt", env_config=larger).agent
    home = load_policy(tmp_path / "checkpoint_000001.pt").agent
    seen = observed(larger)
    assert torch.equal(outputs(again, seen), outputs(abroad, seen))
    assert [getattr(home.spec, field) for field in WINDOW_FIELDS] == [7, 7, 400]
    assert torch.equal(outputs(home, observed(HOME)), outputs(abroad, seen))


def test_equal_windows_are_not_converted(tmp_path: Path) -> None:
    agent, path = saved(tmp_path, {"backbone": "mlp"})
    assert agent.window is None
    assert load_policy(path, env_config=HOME.override(max_steps=5)).agent.window is None
    assert evaluate(agent, make_environment(HOME), 1).episode_lengths.tolist() == [40]
