"""Copies between devices, generators of a GPU, and what MPS lacks, on a CPU."""

from __future__ import annotations

import pytest
import torch

from metta.agent import devices
from metta.agent.action_distribution import sample
from metta.agent.heads import ValueHead
from metta.agent.policy import make_agent
from metta.checkpoint.state_validation import check_generator
from metta.config.agent import AgentModelConfig
from metta.errors import CheckpointError
from metta.rl.plain_values import plain

CPU = torch.device("cpu")


def test_on_a_cpu_nothing_is_copied() -> None:
    tensor = torch.arange(5)
    assert devices.to_device(tensor, CPU) is tensor
    assert devices.HostCopy(tensor).wait() is tensor
    assert plain(tensor[:2], "a test").untyped_storage().nbytes() == 16  # but for what is saved


def test_a_state_of_another_device_seeds_the_generator() -> None:
    cuda_state = torch.tensor([7, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0], dtype=torch.uint8)
    drawn = []
    for state in (cuda_state, cuda_state, cuda_state.flip(0)):
        generator = torch.Generator()
        devices.set_generator_state(generator, state)
        drawn.append(torch.rand(9, generator=generator))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    generator = torch.Generator().manual_seed(5)
    again = torch.Generator()
    devices.set_generator_state(again, generator.get_state())
    assert torch.equal(torch.rand(9, generator=generator), torch.rand(9, generator=again))


def test_states_of_generators_are_checked() -> None:
    check_generator(torch.Generator().get_state(), "it")
    check_generator(torch.tensor([7] + 7 * [0] + [8] + 7 * [0], dtype=torch.uint8), "it")
    for offset in (3, 255):  # no multiple of four; negative
        state = torch.tensor([7] + 7 * [0] + 8 * [offset], dtype=torch.uint8)
        with pytest.raises(CheckpointError, match="it is not the state of a random generator"):
            check_generator(state, "it")
    with pytest.raises(CheckpointError, match="int64"):
        check_generator(torch.zeros(16, dtype=torch.int64), "it")


def test_a_device_has_a_generator_of_its_own_only_on_cuda() -> None:
    assert devices.make_generator(3, CPU).device == CPU
    assert devices.make_generator(3, torch.device("mps")).device == CPU
    logits = torch.zeros(8, 5)
    torch.manual_seed(2)
    expected = sample(logits, torch.Generator().manual_seed(2))
    assert torch.equal(sample(logits), expected)  # without a generator: the global one of the logits' device


def test_statistics_are_float32_where_there_is_no_float64(crowded_env, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.exact_dtype(torch.device("mps")) == torch.float32
    for name in ("metta.agent.policy", "metta.agent.heads"):
        monkeypatch.setattr(f"{name}.exact_dtype", lambda device: torch.float32)
    spaces = crowded_env.single_observation_space, crowded_env.single_action_space
    agent = make_agent(*spaces, [], "cpu", AgentModelConfig(hidden_dim=8))
    assert {buffer.dtype for buffer in agent.buffers() if buffer.is_floating_point()} == {torch.float32}
    exact = ValueHead(8, 0)
    targets = torch.tensor([1.0, 2.0, 6.0])
    agent.observe_value_targets(targets, 0.9)
    monkeypatch.undo()
    exact.observe(targets, 0.9)
    torch.testing.assert_close(agent.value_head.std, exact.std)
    agent.load_state_dict(agent.state_dict() | {"value_head.moments": exact.moments})  # saved on another device
    torch.testing.assert_close(agent.value_head.moments.double(), exact.moments)
