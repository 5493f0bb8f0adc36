"""Recurrent memory: a segment gives the same outputs as single steps, also where episodes end inside it."""

from __future__ import annotations

import pytest
import torch

from metta.agent.memory import lstm as lstm_module
from metta.agent.memory.lstm import SegmentLSTM
from metta.agent.memory.state import Memory
from metta.agent.policy import make_agent
from metta.config.agent import AgentModelConfig

SIZES = {"hidden_dim": 16, "mlp_layers": 1}


def new_agent(env, **settings):
    torch.manual_seed(1)
    spaces = env.single_observation_space, env.single_action_space
    return make_agent(*spaces, [], "cpu", AgentModelConfig(**SIZES | settings))


def random_memory(memory: Memory) -> Memory:
    """A memory of that shape with random values."""
    return Memory({name: torch.randn_like(tensor) for name, tensor in memory.tensors.items()})


def random_episode_starts(horizon: int, agents: int) -> torch.Tensor:
    episode_starts = torch.rand(horizon, agents, generator=torch.Generator().manual_seed(5)) < 0.15
    episode_starts[0, :3] = True
    episode_starts[5:8] = False
    return episode_starts


@pytest.mark.parametrize("backbone", ["cnn", "mlp", "attention"])
@pytest.mark.parametrize("settings", [{}, {"lstm_layers": 2}, {"forward_lstm": False}, {"bptt_horizon": 5}])
def test_replaying_a_segment_equals_acting_step_by_step(crowded_env, seen, backbone, settings):
    agent = new_agent(crowded_env, backbone=backbone, **settings)
    horizon, agents = seen.shape[:2]
    episode_starts = random_episode_starts(horizon, agents)
    start = random_memory(agent.initial_memory(agents))
    memory, outputs = start, []
    for t in range(horizon):
        outputs.append(agent.act(seen[t], memory, episode_starts[t], torch.Generator().manual_seed(t)))
        memory = outputs[-1].memory
    action_index = torch.stack([output.action_index for output in outputs])
    evaluation = agent.evaluate_actions(seen, action_index, start, episode_starts)
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    acted = torch.stack([output.log_probs for output in outputs])
    torch.testing.assert_close(evaluation.log_probs.detach(), acted, **tolerance)
    values = torch.stack([output.values for output in outputs])
    torch.testing.assert_close(evaluation.values.detach(), values, **tolerance)
    assert values.std() > 1e-3
    assert len({tuple(step) for step in action_index.tolist()}) > 1


def test_memory_is_cleared_at_episode_starts(crowded_env, seen):
    agent = new_agent(crowded_env)
    agents = seen.shape[1]
    full = random_memory(agent.initial_memory(agents))
    forgotten = torch.arange(agents) % 2 == 0
    after_reset = agent.value(seen[0], full, forgotten)
    fresh = agent.value(seen[0], agent.initial_memory(agents))
    torch.testing.assert_close(after_reset[forgotten], fresh[forgotten])
    assert (after_reset[~forgotten] - fresh[~forgotten]).abs().min() > 1e-4


def test_value_does_not_change_memory_and_acting_does(crowded_env, seen):
    agent = new_agent(crowded_env)
    memory = agent.initial_memory(seen.shape[1])
    agent.value(seen[0], memory)
    assert not any(tensor.any() for tensor in memory.tensors.values())
    assert all(tensor.any() for tensor in agent.act(seen[0], memory).memory.tensors.values())


def slow_lstm(lstm: SegmentLSTM, inputs: torch.Tensor, memory: Memory, episode_starts: torch.Tensor) -> torch.Tensor:
    """The LSTM's equations in a plain loop, one layer."""
    weights = dict(lstm.lstm.named_parameters())
    hidden, cell = memory.tensors["hidden"][0], memory.tensors["cell"][0]
    outputs = []
    for t in range(len(inputs)):
        if t and t % lstm.bptt_horizon == 0:
            hidden, cell = hidden.detach(), cell.detach()
        hidden, cell = (torch.where(episode_starts[t, :, None], 0.0, state) for state in (hidden, cell))
        gates = inputs[t] @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        gates = gates + hidden @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
        i, f, g, o = gates.chunk(4, -1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return torch.stack(outputs)


@pytest.mark.parametrize("bptt_horizon", [1, 3, 64])
def test_outputs_and_gradients_are_those_of_the_equations(bptt_horizon):
    torch.manual_seed(0)
    lstm = SegmentLSTM(AgentModelConfig(hidden_dim=8, bptt_horizon=bptt_horizon))
    memory = random_memory(Memory(lstm.initial_state(6)))
    episode_starts = random_episode_starts(10, 6)
    incoming = torch.randn(10, 6, 8)
    results = []
    for run in (lambda x: lstm(x, memory, episode_starts)[0], lambda x: slow_lstm(lstm, x, memory, episode_starts)):
        lstm.zero_grad()
        torch.manual_seed(2)
        inputs = torch.randn(10, 6, 8, requires_grad=True)
        outputs = run(inputs)
        (outputs * incoming).sum().backward()
        gradients = [weight.grad.clone() for weight in lstm.parameters()]
        results.append([outputs.detach(), inputs.grad, *gradients])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def inputs_with_gradient(bptt_horizon: int) -> list[bool]:
    """For each of ten inputs, whether the last output has a gradient with respect to it."""
    torch.manual_seed(0)
    lstm = SegmentLSTM(AgentModelConfig(hidden_dim=4, bptt_horizon=bptt_horizon))
    inputs = torch.randn(10, 2, 4, requires_grad=True)
    outputs, _ = lstm(inputs, Memory(lstm.initial_state(2)), torch.zeros(10, 2, dtype=torch.bool))
    outputs[9].sum().backward()
    return [bool(step.abs().sum() > 0) for step in inputs.grad]


def test_bptt_horizon_cuts_gradients_inside_a_segment():
    assert inputs_with_gradient(64) == [True] * 10
    assert inputs_with_gradient(4) == [False] * 8 + [True] * 2
    assert inputs_with_gradient(1) == [False] * 9 + [True]


@pytest.mark.parametrize("is_fast", [True, False])
def test_autocast_uses_bfloat16_only_where_it_is_fast(is_fast, monkeypatch):
    monkeypatch.setattr(lstm_module, "cpu_is_fast_in_bfloat16", lambda: is_fast)
    torch.manual_seed(0)
    lstm, inputs = SegmentLSTM(AgentModelConfig(hidden_dim=32, bptt_horizon=64)), torch.randn(20, 6, 32)
    initial = random_memory(Memory(lstm.initial_state(6)))
    episode_starts = torch.rand(20, 6) < 0.05
    with torch.no_grad():
        full, full_memory = lstm(inputs, initial, episode_starts)
        with torch.autocast("cpu", torch.bfloat16):
            half, half_memory = lstm(inputs, initial, episode_starts)
            steps = []
            memory = initial
            for t in range(20):
                output, after = lstm(inputs[t : t + 1], memory, episode_starts[t : t + 1])
                steps.append(output)
                memory = after.float()  # as MettaAgent.forward does
    assert torch.equal(half.float(), full) is not is_fast
    torch.testing.assert_close(half.float(), full, rtol=0, atol=0.02)
    torch.testing.assert_close(half_memory.tensors["cell"].float(), full_memory.tensors["cell"], rtol=0, atol=0.02)
    # single steps, as in a rollout, give what the whole segment gives in an update
    torch.testing.assert_close(torch.cat(steps).float(), half.float(), rtol=0, atol=1e-6 if not is_fast else 0.004)
