"""The code for GPUs, which computes with entries that change nothing where that of CPUs leaves them out, on a CPU.

`devices.is_host` says for the duration of a test that a CPU is no CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from metta.agent import devices
from metta.agent.policy import MettaAgent
from metta.agent.sparse_tokens import PackedTokens, added_rows, token_sums
from metta.agent.tokens import TokenCodes
from metta.config.agent import BACKBONES, MEMORIES, AgentModelConfig
from metta.config.env.env_spec import EnvSpec

NETWORKS = {
    **{backbone: {"backbone": backbone} for backbone in BACKBONES.names()},
    **{f"memory {memory}": {"memory": memory} for memory in MEMORIES.names()},
    "egocentric": {"backbone": "mlp", "egocentric": True},
    "two layers": {"lstm_layers": 2},
}


@pytest.fixture
def as_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, the code for GPUs runs."""
    return lambda: monkeypatch.setattr(devices, "is_host", lambda device: False)


def agent_for(env, spec: EnvSpec | None = None, **config) -> MettaAgent:
    torch.manual_seed(0)
    settings = AgentModelConfig(**{"hidden_dim": 16, "mlp_layers": 1} | config)
    spaces = env.single_observation_space, env.single_action_space
    return MettaAgent(*spaces, ["agent:group"], config=settings, network_spec=spec)


def computed(agent: MettaAgent, observations: object, starts: torch.Tensor, **known: object) -> dict[str, torch.Tensor]:
    """Logits, values, memory and gradients of a segment."""
    agent.zero_grad(set_to_none=True)
    logits, values, memory = agent(observations, agent.initial_memory(starts.shape[1]), starts, **known)
    torch.manual_seed(1)
    (logits * torch.randn_like(logits)).sum().backward(retain_graph=True)
    values.square().sum().backward()
    gradients = {name: weight.grad for name, weight in agent.named_parameters()}
    return {"logits": logits, "values": values, **memory.tensors, **gradients}


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
def test_networks_compute_the_same(crowded_env, seen, as_gpu, settings: dict) -> None:
    check_agent(agent_for(crowded_env, **settings), seen, as_gpu)


def test_a_custom_observation_processor_reads_the_same(crowded_env, seen, as_gpu) -> None:
    agent = agent_for(crowded_env)
    agent.observation_processor = lambda observations, spec: observations.clone()
    check_agent(agent, seen, as_gpu)


def check_agent(agent: MettaAgent, seen: torch.Tensor, as_gpu: Callable[[], None]) -> None:
    """Outputs, memory and gradients of the two paths are equal, for padded and packed observations."""
    observations = seen[:6]
    starts = torch.zeros(observations.shape[:2], dtype=torch.bool)
    starts[0], starts[3, 2], starts[4, 5] = True, True, True
    expected = computed(agent, observations, starts)
    packed = PackedTokens.pack(observations.flatten(0, 1))
    as_gpu()
    hints = {"start_steps": starts.any(1).tolist()} if agent.memory and agent.memory.uses_start_steps else {}
    for each, known in ((observations, {}), (packed, {}), (packed, hints)):
        found = computed(agent, each, starts, **known)
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=2e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize(("height", "width", "tokens"), [(5, 5, 20), (15, 13, 200), (3, 3, 4)])
def test_windows_are_converted_the_same(crowded_env, seen, as_gpu, height: int, width: int, tokens: int) -> None:
    fields = {"observation_height": height, "observation_width": width, "num_observation_tokens": tokens}
    agent = agent_for(crowded_env, crowded_env.spec.model_copy(update=fields))
    starts = torch.zeros(seen[:3].shape[:2], dtype=torch.bool)
    expected = computed(agent, seen[:3], starts)
    as_gpu()
    found = computed(agent, PackedTokens.pack(seen[:3].flatten(0, 1)), starts)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=2e-4, atol=2e-5)


def test_gradients_of_rows_with_many_entries(crowded_env, seen, as_gpu) -> None:
    """The same token for each of many agents: one row has all entries."""
    codes = TokenCodes(crowded_env.spec, AgentModelConfig())
    observations = seen[2][:1].repeat(3000, 1, 1)
    gradients = []
    for prepare in (lambda: None, as_gpu):
        prepare()
        weight = torch.ones(codes.num_rows, 3, requires_grad=True)
        token_sums(weight, codes.sparse(observations)).sum().backward()
        gradients.append(weight.grad)
    assert gradients[0].max() >= 3000
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)


def test_sums_without_embedding_bag(crowded_env, seen) -> None:
    """Those of MPS, which has no embedding_bag in older versions of torch."""
    codes = TokenCodes(crowded_env.spec, AgentModelConfig())
    tokens, results = codes.sparse(seen[1]), []
    for sums in (token_sums, added_rows):
        torch.manual_seed(0)
        weight = torch.randn(codes.num_rows, 4, requires_grad=True)
        sums(weight, tokens).square().sum().backward()
        results += [sums(weight, tokens), weight.grad]
    torch.testing.assert_close(results[:2], results[2:], rtol=1e-4, atol=1e-4)
