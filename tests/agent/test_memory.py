"""Memories: a segment gives the same outputs as single steps, also where episodes end inside it."""

from __future__ import annotations

import re

import pytest
import torch
from custom_memory import EVERY_MEMORY, Average, every_memory

from metta.agent.memory import lstm as lstm_module
from metta.agent.memory.attention import AttentionMemory
from metta.agent.memory.lstm import SegmentLSTM
from metta.agent.memory.make_memory import make_memory
from metta.agent.memory.mingru import MinGRU
from metta.agent.memory.network import run_memory
from metta.agent.memory.state import Memory
from metta.agent.policy import make_agent
from metta.config.agent import BACKBONES, MEMORIES, AgentModelConfig
from metta.errors import UsageError

pytestmark = pytest.mark.usefixtures("average_memory")

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


SETTINGS = [
    *({"backbone": backbone} for backbone in BACKBONES.built_in),
    {"forward_lstm": False},
    *(
        {"backbone": "mlp", "memory": memory} | settings
        for memory in EVERY_MEMORY
        for settings in ({}, {"lstm_layers": 2}, {"bptt_horizon": 5}, {"memory_window": 3}, {"memory_window": 300})
    ),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_replaying_a_segment_equals_acting_step_by_step(crowded_env, seen, settings):
    agent = new_agent(crowded_env, **settings)
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


@every_memory
def test_memory_is_cleared_at_episode_starts(crowded_env, seen, memory):
    agent = new_agent(crowded_env, memory=memory)
    agents = seen.shape[1]
    full = agent.initial_memory(agents)
    for step in seen[1:]:
        full = agent.act(step, full).memory
    forgotten = torch.arange(agents) % 2 == 0
    after_reset = agent.value(seen[0], full, forgotten)
    fresh = agent.value(seen[0], agent.initial_memory(agents))
    torch.testing.assert_close(after_reset[forgotten], fresh[forgotten])
    assert (after_reset[~forgotten] - fresh[~forgotten]).abs().max() > 1e-4


@every_memory
def test_value_does_not_change_memory_and_acting_does(crowded_env, seen, memory):
    agent = new_agent(crowded_env, memory=memory)
    before = agent.initial_memory(seen.shape[1])
    agent.value(seen[0], before)
    assert not any(tensor.any() for tensor in before.tensors.values())
    assert all(tensor.any() for tensor in agent.act(seen[0], before).memory.tensors.values())
    assert not any(tensor.any() for tensor in before.tensors.values())


def slow_lstm(lstm: SegmentLSTM, inputs: torch.Tensor, memory: Memory, episode_starts: torch.Tensor) -> torch.Tensor:
    """The LSTM's equations in a plain loop, one layer."""
    weights = dict(lstm.lstm.named_parameters())
    hidden, cell = memory.tensors["hidden"][0], memory.tensors["cell"][0]
    outputs = []
    for features, starts in zip(inputs, episode_starts, strict=True):
        hidden, cell = (torch.where(starts[:, None], 0.0, state) for state in (hidden, cell))
        gates = features @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        gates = gates + hidden @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
        i, f, g, o = gates.chunk(4, -1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return torch.stack(outputs)


def slow_mingru(mingru: MinGRU, inputs: torch.Tensor, memory: Memory, episode_starts: torch.Tensor) -> torch.Tensor:
    """The equations of minGRU in a plain loop, one layer, with a residual connection."""
    hidden = memory.tensors["hidden"][0]
    outputs = []
    for features, starts in zip(inputs, episode_starts, strict=True):
        hidden = torch.where(starts[:, None], 0.0, hidden)
        z, candidate = mingru.layers[0](features).chunk(2, -1)
        z = z.sigmoid()
        hidden = (1 - z) * hidden + z * candidate
        outputs.append(features + hidden)
    return torch.stack(outputs)


def slow_attention(
    attention: AttentionMemory, inputs: torch.Tensor, memory: Memory, episode_starts: torch.Tensor
) -> torch.Tensor:
    """Attention computed separately for each head, agent and step: one layer, from an empty memory."""
    assert not any(tensor.any() for tensor in memory.tensors.values())
    (layer,) = attention.layers
    horizon, agents, hidden = inputs.shape
    outputs = []
    for t in range(horizon):
        for agent in range(agents):
            since = [s for s in range(t + 1) if not episode_starts[s + 1 : t + 1, agent].any()][-attention.window - 1 :]
            rows = layer.queries_entries(layer.norm(inputs[since, agent]))
            queries, keys, values = rows.split((layer.heads * layer.width, layer.width, layer.width), -1)
            attended = []
            for head, query in enumerate(queries[-1].split(layer.width)):
                bias = layer.distances.weight[[t - s for s in since], head]
                attended.append((keys @ query / layer.width**0.5 + bias).softmax(0) @ values)
            outputs.append(inputs[t, agent] + layer.output(torch.cat(attended)))
    return torch.stack(outputs).view(horizon, agents, hidden)


SLOW = {"lstm": slow_lstm, "mingru": slow_mingru, "attention": slow_attention}


@pytest.mark.parametrize("memory_window", [4, 64])
@pytest.mark.parametrize("memory", MEMORIES.built_in)
def test_outputs_and_gradients_are_those_of_the_equations(memory, memory_window):
    torch.manual_seed(0)
    network = make_memory(AgentModelConfig(hidden_dim=64, memory=memory, memory_window=memory_window))
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn_like(weight)
    start = Memory(network.initial_state(6))
    start = start if memory == "attention" else random_memory(start)
    episode_starts = random_episode_starts(10, 6)
    incoming = torch.randn(10, 6, 64)
    results = []

    def fast(x):
        return network(x, start, episode_starts)[0]

    def slow(x):
        return SLOW[memory](network, x, start, episode_starts)

    for run in (fast, slow):
        network.zero_grad()
        torch.manual_seed(2)
        inputs = torch.randn(10, 6, 64, requires_grad=True)
        outputs = run(inputs)
        (outputs * incoming).sum().backward()
        gradients = [weight.grad.clone() for weight in network.parameters()]
        results.append([outputs.detach(), inputs.grad, *gradients])
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=2e-5)


def inputs_with_gradient(memory: str, bptt_horizon: int, start: int = 0) -> list[bool]:
    """For each of ten inputs, whether the last output has a gradient with respect to it."""
    torch.manual_seed(0)
    network = make_memory(AgentModelConfig(hidden_dim=4, memory=memory))
    inputs = torch.randn(10, 2, 4, requires_grad=True)
    episode_starts = torch.zeros(10, 2, dtype=torch.bool)
    episode_starts[start] = True
    outputs, _ = run_memory(network, inputs, Memory(network.initial_state(2)), episode_starts, bptt_horizon)
    (outputs[9] * torch.randn(2, 4)).sum().backward()
    return [bool(step.abs().sum() > 0) for step in inputs.grad]


@every_memory
def test_bptt_horizon_cuts_gradients_inside_a_segment(memory):
    assert inputs_with_gradient(memory, 64) == [True] * 10
    assert inputs_with_gradient(memory, 4) == [False] * 8 + [True] * 2
    assert inputs_with_gradient(memory, 1) == [False] * 9 + [True]


@every_memory
def test_no_gradient_crosses_the_start_of_an_episode(memory):
    assert inputs_with_gradient(memory, 64, start=6) == [False] * 6 + [True] * 4


@pytest.mark.parametrize("steps", [-1e30, 1e30])
def test_a_stored_number_of_steps_outside_of_the_window_is_harmless(steps):
    """A trainer state is checked for shapes and finite numbers only."""
    network = make_memory(AgentModelConfig(hidden_dim=4, memory="attention", memory_window=3))
    stored = Memory(network.initial_state(2) | {"steps": torch.full((1, 2, 1), steps)})
    outputs, _ = network(torch.randn(5, 2, 4), stored, torch.zeros(5, 2, dtype=torch.bool))
    assert bool(outputs.isfinite().all())


@every_memory
def test_half_precision_gives_about_the_same_and_keeps_the_state_in_float32(crowded_env, seen, memory):
    whole, half = (new_agent(crowded_env, memory=memory, backbone="mlp", dtypes_fp16=on) for on in (False, True))
    half.load_state_dict(whole.state_dict())
    episode_starts = random_episode_starts(*seen.shape[:2])
    start = whole.initial_memory(seen.shape[1])
    with torch.no_grad():
        logits, values, after = whole(seen, start, episode_starts)
        half_logits, half_values, half_after = half(seen, start, episode_starts)
        memory_now, steps = start, []
        for observations, starts in zip(seen, episode_starts, strict=True):
            output = half.act(observations, memory_now, starts)
            memory_now = output.memory
            steps.append(output.values)
    assert {tensor.dtype for tensor in half_after.tensors.values()} == {torch.float32}
    torch.testing.assert_close(half_logits, logits, rtol=0.1, atol=0.05)
    torch.testing.assert_close(half_values, values, rtol=0.1, atol=0.05)
    assert not torch.equal(half_values, values)
    torch.testing.assert_close(torch.stack(steps), half_values, rtol=0.05, atol=0.02)
    for name, tensor in after.tensors.items():
        torch.testing.assert_close(half_after.tensors[name], tensor, rtol=0.1, atol=0.1)


@every_memory
def test_every_weight_gets_a_gradient_and_muon_gets_the_matrices(crowded_env, seen, memory):
    agent = new_agent(crowded_env, memory=memory, lstm_layers=2)
    action_index, starts = torch.zeros(seen.shape[:2], dtype=torch.int64), torch.zeros(seen.shape[:2], dtype=torch.bool)
    evaluation = agent.evaluate_actions(seen, action_index, agent.initial_memory(16), starts)
    (evaluation.log_probs.sum() + evaluation.values.sum()).backward()
    assert [name for name, weight in agent.named_parameters() if weight.grad is None] == []
    trained = {id(weight) for weight in agent.hidden_matrices()}
    matrices = [name for name, weight in agent.memory.named_parameters() if id(weight) in trained]
    assert (
        matrices
        == {
            "lstm": [f"lstm.weight_{part}_l{layer}" for layer in range(2) for part in ("ih", "hh")],
            "mingru": [f"layers.{layer}.weight" for layer in range(2)],
            "attention": [
                f"layers.{layer}.{part}.weight" for layer in range(2) for part in ("queries_entries", "output")
            ],
            "average": [],
        }[memory]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"initial_state": lambda _, agents: {"x": torch.zeros(agents, 4)}},
            '"x" that is [2, 4] float32; it must be',
        ),
        (
            {"initial_state": lambda _, agents: {"x": torch.ones(1, agents)}},
            "[1, 2] float32, not all zeros; it must",
        ),
        ({"initial_state": lambda _, agents: {"x": torch.zeros(1, agents).int()}}, "[1, 2] int32; it must be zeros"),
        ({"forward": lambda self, x, memory, starts: (x[..., :3], memory)}, "shape [1, 2, 3] for inputs [1, 2, 4]"),
        ({"forward": lambda self, x, memory, starts: (x, Memory())}, "the state nothing after a step of 2 agents"),
    ],
)
def test_a_custom_memory_with_wrong_shapes_is_refused(monkeypatch, change, message):
    wrong = type("Wrong", (Average,), change)
    monkeypatch.setattr(MEMORIES, "_registered", {**MEMORIES._registered, "wrong": wrong})
    with pytest.raises(UsageError, match=f'the memory "wrong" .*{re.escape(message)}'):
        make_memory(AgentModelConfig(hidden_dim=4, memory="wrong"))


def test_a_custom_memory_of_another_class_is_refused(monkeypatch):
    monkeypatch.setattr(
        MEMORIES, "_registered", {**MEMORIES._registered, "linear": lambda config: torch.nn.Linear(4, 4)}
    )
    with pytest.raises(UsageError, match=r'the memory "linear" is a Linear; it must be a metta\.api\.MemoryNetwork'):
        make_memory(AgentModelConfig(hidden_dim=4, memory="linear"))


@pytest.mark.parametrize("is_fast", [True, False])
def test_autocast_uses_bfloat16_only_where_it_is_fast(is_fast, monkeypatch):
    monkeypatch.setattr(lstm_module, "cpu_is_fast_in_bfloat16", lambda: is_fast)
    torch.manual_seed(0)
    lstm, inputs = SegmentLSTM(AgentModelConfig(hidden_dim=32, dtypes_fp16=True)), torch.randn(20, 6, 32)
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
