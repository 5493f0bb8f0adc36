"""Runs with every memory: resume, self-play, kickstarting between different memories, evaluation, export, estimates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from custom_memory import EVERY_MEMORY, every_memory
from tiny_runs import (
    Killed,
    Recorder,
    assert_same_state,
    assert_same_weights,
    ignore,
    interrupt,
    kill,
    metrics_of,
    tiny_config,
    weights_of,
)

from metta.agent.policy import MettaAgent, make_agent
from metta.api import TrainingState, evaluate, load_policy, resume_run, train_run
from metta.checkpoint.onnx_policy import OnnxPolicy
from metta.config.agent import MEMORIES, AgentModelConfig
from metta.config.plan.network_size import memory_state_size, num_weights
from metta.config.run import RunConfig
from metta.errors import CheckpointError, ConfigError
from metta.spaces import ActionSpace, ObservationSpace
from metta.world.env import MettaGridEnv

pytestmark = pytest.mark.usefixtures("average_memory")
OTHER = dict(zip(EVERY_MEMORY, [*EVERY_MEMORY[1:], EVERY_MEMORY[0]], strict=True))
"""For every memory, another one."""
EPOCHS = 4
SHORT = (f"run.total_timesteps={512 * EPOCHS}", "agent.lstm_layers=2", "agent.memory_window=6")


def train(run_dir: Path, memory: str, *overrides: str, listener=ignore) -> Path:
    train_run(tiny_config(run_dir, *SHORT, f"agent.memory={memory}", *overrides), listener)
    return run_dir


def checkpoint(run_dir: Path, epoch: int = EPOCHS) -> Path:
    return run_dir / f"checkpoints/checkpoint_{epoch:06d}.pt"


def assert_same_run(first: Path, second: Path) -> None:
    assert metrics_of(first) == metrics_of(second)
    assert_same_weights(weights_of(first, EPOCHS), weights_of(second, EPOCHS))
    states = [TrainingState.load(run / f"checkpoints/trainer_state_{EPOCHS:06d}.pt") for run in (first, second)]
    assert_same_state(*(state.extra_args["experience"] for state in states))


@every_memory
def test_killed_and_interrupted_is_the_run_in_one_go(memory: str, tmp_path: Path) -> None:
    straight = train(tmp_path / "straight", memory)
    stopped = train(tmp_path / "stopped", memory, listener=Recorder(1, interrupt))
    with pytest.raises(Killed):
        resume_run(stopped, Recorder(3, kill))
    resume_run(stopped, ignore)
    assert_same_run(straight, stopped)
    state = TrainingState.load(straight / f"checkpoints/trainer_state_{EPOCHS:06d}.pt")
    assert all(bool(tensor.any()) for saved in state.extra_args["experience"]["memory"] for tensor in saved.values())
    agent = load_policy(checkpoint(straight)).agent
    assert agent.config.memory == memory
    world = tiny_config().env
    first, second = (evaluate(agent, MettaGridEnv(world, seed=5), 3).mean_reward for _ in range(2))
    assert first == second


@every_memory
def test_self_play_against_another_memory_resumes_bit_identically(memory: str, tmp_path: Path) -> None:
    given = checkpoint(train(tmp_path / "given", OTHER[memory], "run.total_timesteps=512"), 1)
    settings = ["self_play.share=0.5", "self_play.snapshot_interval=1", f"self_play.policies=['{given}']"]
    straight = train(tmp_path / "straight", memory, *settings)
    stopped = train(tmp_path / "stopped", memory, *settings, listener=Recorder(2, interrupt))
    resume_run(stopped, ignore)
    assert_same_run(straight, stopped)


@every_memory
def test_a_teacher_may_have_another_memory(memory: str, tmp_path: Path) -> None:
    teacher = checkpoint(train(tmp_path / "teacher", OTHER[memory], "run.total_timesteps=512"), 1)
    straight = train(tmp_path / "straight", memory, f"kickstarting.teacher='{teacher}'")
    stopped = train(tmp_path / "stopped", memory, f"kickstarting.teacher='{teacher}'", listener=Recorder(2, interrupt))
    resume_run(stopped, ignore)
    assert_same_run(straight, stopped)
    assert all(np.isfinite(line["losses"]["teacher_kl"]) for line in metrics_of(straight))


def agent_with(config: RunConfig) -> MettaAgent:
    torch.manual_seed(0)
    return make_agent(ObservationSpace(config.env), ActionSpace(config.env), [], "cpu", config.agent)


@every_memory
def test_the_exported_network_computes_the_same(memory: str) -> None:
    config = tiny_config("", *SHORT, f"agent.memory={memory}")
    agent, env = agent_with(config), MettaGridEnv(config.env, 3, seed=0)
    plain, expected = OnnxPolicy(agent), agent.initial_memory(env.agents)
    state = list(expected.tensors.values())
    observations, _ = env.reset()
    for step in range(12):
        tokens, starts = torch.from_numpy(observations.copy()), torch.arange(env.agents) % 5 == step
        with torch.no_grad():
            logits, values, expected = agent(tokens[None], expected, starts[None])
            their_logits, their_values, *state = plain(tokens, state, starts)
        torch.testing.assert_close(their_logits, logits[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(their_values, values[0], rtol=1e-4, atol=1e-5)
        for theirs, tensor in zip(state, expected.tensors.values(), strict=True):
            torch.testing.assert_close(theirs, tensor, rtol=1e-4, atol=1e-5)
        observations = env.step(agent.flat_actions[logits[0].argmax(-1)].numpy())[0]


@pytest.mark.parametrize("hidden", [16, 80])
@pytest.mark.parametrize("memory", [*MEMORIES.built_in, None])
def test_formulas_give_the_sizes_of_real_networks_and_states(memory: str | None, hidden: int) -> None:
    choice = "agent.forward_lstm=false" if memory is None else f"agent.memory={memory}"
    config = tiny_config("", *SHORT, choice, f"agent.hidden_dim={hidden}")
    agent = agent_with(config)
    assert num_weights(config.agent, config.env.spec) == sum(weight.numel() for weight in agent.parameters())
    state = agent.initial_memory(10).tensors.values()
    assert memory_state_size(config.agent) * 10 == sum(tensor.numel() for tensor in state)


def test_a_memory_that_forward_lstm_turns_off_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'agent\.forward_lstm +must be true with memory = "mingru"; false: a policy'):
        tiny_config("", "agent.memory=mingru", "agent.forward_lstm=false")
    assert AgentModelConfig(memory="lstm", forward_lstm=False).forward_lstm is False


def test_an_unknown_memory_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r'agent\.memory +must be one of "lstm", "mingru", "attention", "average"; got'
    ):
        tiny_config("", "agent.memory=gru")


def test_a_checkpoint_whose_memory_is_not_installed_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(train(tmp_path, "average", "run.total_timesteps=512"), 1)
    monkeypatch.setattr(MEMORIES, "_registered", {"lstm": MEMORIES.find("lstm")})
    with pytest.raises(
        CheckpointError, match='needs the memory "average", which is not installed; install the package'
    ):
        load_policy(path)
