"""Packed observations: the same tokens as in padded ones, and the same outputs of every network, bit for bit."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from metta.agent.direct_inputs import DirectInputs
from metta.agent.egocentric import EgocentricFrame
from metta.agent.policy import MettaAgent
from metta.agent.sparse_tokens import PackedTokens
from metta.agent.window import WindowConversion
from metta.api import OBSERVATION_PROCESSORS, AgentModelConfig, make_agent
from metta.config.agent import BACKBONES
from metta.config.env.token_features import NO_TOKEN


def agent_of(env: Any, **settings: Any) -> MettaAgent:
    torch.manual_seed(5)
    spaces = env.single_observation_space, env.single_action_space
    agent = make_agent(*spaces, ["inv:ore_red", "episode_completion_pct"], "cpu", AgentModelConfig(**settings))
    with torch.no_grad():
        for weight in agent.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    return agent


@pytest.fixture
def random_tokens(seen: torch.Tensor) -> torch.Tensor:
    """`[16, tokens, 3] uint8`: observations with unused slots between tokens, one without any token, and a full one."""
    observations = seen[4].clone()
    generator = torch.Generator().manual_seed(2)
    observations[torch.rand(observations.shape[:2], generator=generator) < 0.2] = NO_TOKEN
    observations[3] = NO_TOKEN
    observations[7] = observations[7, :1]
    return observations


def test_the_tokens_of_each_agent_are_its_used_ones(random_tokens: torch.Tensor) -> None:
    packed = PackedTokens.pack(random_tokens)
    lists = [[token for token in agent if token[0] != NO_TOKEN] for agent in random_tokens.tolist()]
    assert len(packed) == len(lists) == 16
    bounds = packed.offsets.tolist()
    assert [packed.tokens[a:b].tolist() for a, b in pairwise(bounds)] == lists
    assert packed.agent_index.tolist() == [agent for agent, tokens in enumerate(lists) for _ in tokens]
    for capacity in (1, 30, 120, 130):
        rows = [(tokens + [[NO_TOKEN] * 3] * capacity)[:capacity] for tokens in lists]
        assert packed.padded(capacity).tolist() == rows
    chosen = torch.tensor([7, 3, 3, 0, 15])
    selected = packed.select(chosen)
    assert torch.equal(selected.padded(120), packed.padded(120)[chosen])
    is_kept = packed.tokens[:, 2] % 2 == 1
    odd = [[token for token in tokens if token[2] % 2] for tokens in lists]
    assert packed.filter(is_kept).padded(120).tolist() == [(tokens + [[NO_TOKEN] * 3] * 120)[:120] for tokens in odd]
    assert len(PackedTokens.pack(random_tokens[:0])) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "cnn"},
        {"backbone": "mlp", "observation_types": ["grid_obs"]},
        {"backbone": "attention", "memory": "attention"},
        {"backbone": "mlp", "egocentric": True, "use_prev_reward": True, "use_prev_action": True},
        {"backbone": "cnn", "egocentric": True, "use_cell_ahead": True, "forward_lstm": False},
    ],
)
def test_networks_compute_the_same(crowded_env, seen, settings) -> None:
    agent = agent_of(crowded_env, hidden_dim=32, **settings)
    observations, memory = seen[:5], agent.initial_memory(16)
    starts = torch.rand(5, 16, generator=torch.Generator().manual_seed(0)) < 0.2
    packed = PackedTokens.pack(observations.flatten(0, 1))
    actions = torch.randint(0, len(agent.spec.flat_actions), (5, 16), generator=torch.Generator().manual_seed(1))
    gradients = []
    for each in (observations, packed):
        agent.zero_grad()
        evaluation = agent.evaluate_actions(each, actions, memory, starts)
        (evaluation.log_probs.sum() + evaluation.values.square().sum()).backward()
        gradients.append([weight.grad for weight in agent.parameters()] + [evaluation.log_probs, evaluation.values])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    step = packed.select(torch.arange(16, 32))
    outputs = [agent.act(each, memory, starts[1], torch.Generator().manual_seed(3)) for each in (seen[1], step)]
    assert torch.equal(outputs[0].actions, outputs[1].actions)
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert torch.equal(agent.value(seen[1], memory), agent.value(step, memory))


def test_frames_windows_and_direct_inputs_are_the_same(crowded_env, random_tokens, seen) -> None:
    spec = crowded_env.spec
    for observations in (random_tokens, *seen[2:5]):
        packed = PackedTokens.pack(observations)
        frame = EgocentricFrame(spec, crowded_env.config)
        facing = frame.agent_orientation(observations)
        assert torch.equal(facing, frame.agent_orientation(packed))
        turned = PackedTokens.pack(frame(observations, facing))
        assert torch.equal(turned.tokens, frame(packed, facing).tokens)
        assert not torch.equal(turned.tokens, packed.tokens)
        for size, tokens in ((5, 12), (5, 120), (15, 200)):
            fields = {"observation_height": size, "observation_width": size, "num_observation_tokens": tokens}
            window = WindowConversion(spec, spec.model_copy(update=fields))
            converted = window(packed)
            assert torch.equal(window(observations), converted.padded(tokens))
            assert converted.offsets.diff().max() <= tokens
        inputs = DirectInputs(spec, ["inv:ore_red", "agent:color"], 1.0)
        for read in (inputs.previous_action, inputs.previous_reward, inputs.global_features):
            assert torch.equal(read(observations), read(packed))


def test_custom_processors_and_backbones_read_padded_observations(crowded_env, seen, monkeypatch) -> None:
    read: list[torch.Tensor] = []
    monkeypatch.setattr(OBSERVATION_PROCESSORS, "_registered", dict(OBSERVATION_PROCESSORS._registered))
    monkeypatch.setattr(BACKBONES, "_registered", dict(BACKBONES._registered))

    @OBSERVATION_PROCESSORS.register("first 40")
    def first_40(observations: torch.Tensor, spec: Any) -> torch.Tensor:
        read.append(observations)
        return observations[:, :40]

    class Watching(BACKBONES.find("mlp")):  # type: ignore[misc]  # a class that is looked up
        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            read.append(observations)
            return super().forward(observations)

    BACKBONES.register("watching")(Watching)
    packed = PackedTokens.pack(seen[3])
    values, weights = [], None
    for settings in ({"obs_process_func": "first 40"}, {"obs_process_func": "first 40", "backbone": "watching"}):
        agent = agent_of(crowded_env, **{"backbone": "mlp", "hidden_dim": 16} | settings)
        weights = weights or agent.state_dict()
        agent.load_state_dict(weights)
        values.append(agent.value(packed, agent.initial_memory(16)))
    agent = agent_of(crowded_env, backbone="watching", hidden_dim=16)
    agent.value(packed, agent.initial_memory(16))
    processed, watched = seen[3], seen[3][:, :40]
    reads = [each for each in read if len(each) == 16]  # without those of the check of a backbone's output
    assert all(torch.equal(a, b) for a, b in zip(reads, [processed, processed, watched, seen[3]], strict=True))
    assert torch.equal(*values)


def test_the_number_of_agents_is_checked(crowded_env, seen) -> None:
    agent = agent_of(crowded_env, backbone="mlp", hidden_dim=16)
    starts = torch.zeros(2, 16, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"2 \* 16 agents; got 16"):
        agent(PackedTokens.pack(seen[0]), agent.initial_memory(16), starts)
    with pytest.raises(ValueError, match=r"must be \[horizon, agents, tokens, 3\] = \[2, 16, 120, 3\]"):
        agent(seen[:2, :, :90], agent.initial_memory(16), starts)
