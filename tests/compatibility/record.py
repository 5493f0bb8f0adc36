"""Makes the files of one version that later versions must load for ever, with what they gave when they were made.

`python tests/compatibility/record.py tests/compatibility/version_1`, once, with the code of the release that is to be
kept; never again for the same version. See test_compatibility.py for what is done with them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from metta.api import (
    AgentModelConfig,
    EnvConfig,
    EpochEnded,
    Event,
    evaluate,
    load_config,
    load_policy,
    make_agent,
    make_environment,
    record_episode,
    resume_run,
    save_checkpoint,
    train_run,
)
from metta.replay.mettascope import mettascope_bytes

SEED = 3
EPISODES = 4
STEPS = 3
"""of the policy's outputs that are kept"""
CLOCK = ("seconds", "steps_per_second", "seconds_simulate", "seconds_infer", "seconds_learn")

RUN = """
[run]
name = "kept"
total_timesteps = 2048
device = "cpu"

[env.game]
num_agents = 4
width = 8
height = 8
max_steps = 20
num_observation_tokens = 48
observation_width = 5
observation_height = 5

[env.game.groups]
red = { id = 0 }
blue = { id = 1, props = { heart_reward = 2.0 } }

[env.map_builder]
border_width = 1
objects = { mine_red = 3, generator_red = 2, altar = 2 }

[agent]
hidden_dim = 8
mlp_layers = 1
backbone = "attention"

[lr_schedule]
warmup_steps = 512

[ppo]
l2_init_loss_coef = 0.001

[experience]
batch_size = 512
minibatch_size = 256
bptt_horizon = 8
forward_pass_minibatch_target_size = 8

[simulation]
evaluate_interval = 0
replay_interval = 0
"""
POLICIES = {"cnn": {"lstm_layers": 2}, "mlp": {"forward_lstm": False, "mlp_layers": 0}}
"""Policies beside the run's, each of another make."""


def record(directory: Path) -> None:
    """Fill `directory`: `run/` that stopped half way, `policies/`, and `expected.json`."""
    directory.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "kept.toml")
        source.write_text(RUN, encoding="utf-8")
        train_run(load_config(str(source), [f"run.run_dir={json.dumps(str(directory / 'run'))}"]), stop_half_way)
    for superfluous in (".lock", "checkpoints/checkpoint_000000.pt", "checkpoints/trainer_state_000000.pt"):
        (directory / "run" / superfluous).unlink()
    for index, (name, settings) in enumerate(POLICIES.items()):
        torch.manual_seed(index)
        env = make_environment(small_world())
        agent = make_agent(
            env.single_observation_space,
            env.single_action_space,
            ["episode_completion_pct"],
            torch.device("cpu"),
            AgentModelConfig.model_validate({"hidden_dim": 8, "backbone": name} | settings),
        )
        with torch.no_grad():  # a fresh policy is almost uniform whatever it sees; these care
            agent.policy_head.output.weight *= 100
            agent.value_head.output.weight *= 10
        save_checkpoint(agent, directory / "policies" / name, 7, {"total_steps": 1234, "note": [name, (1, 2.5), None]})
    values = {path.relative_to(directory).as_posix(): outputs(path) for path in checkpoints(directory)}
    expected = {"policies": values, "resumed": resumed(directory / "run")}
    (directory / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


def checkpoints(directory: Path) -> list[Path]:
    """The policies kept in a directory."""
    return sorted(directory.rglob("checkpoint_*.pt"))


def outputs(path: Path) -> dict[str, Any]:
    """What a policy makes of some steps of its world, how it fares in episodes, and what a replay of it shows."""
    policy = load_policy(path)
    agent, env = policy.agent, make_environment(policy.agent.env_config, seed=0)
    observations, _ = env.reset(seed=SEED)
    memory, steps = agent.initial_memory(env.agents), []
    episode_starts = torch.zeros(1, env.agents, dtype=torch.bool)
    for step in range(STEPS):
        logits, values, memory = agent(torch.from_numpy(observations).unsqueeze(0), memory, episode_starts)
        steps.append({"logits": rounded(logits[0]), "values": rounded(values[0])})
        pairs = torch.arange(env.agents) * 5 + step
        observations, *_ = env.step(agent.flat_actions[pairs % len(agent.flat_actions)].numpy())
    played = evaluate(agent, make_environment(agent.env_config, seed=0), EPISODES, SEED)
    replay = record_episode(agent, agent.env_config, SEED)
    assert mettascope_bytes(replay)
    return {
        "metadata": policy.metadata,
        "steps": steps,
        "evaluation": played.summary() | {"stats": played.stats},
        "replay": {"steps": replay.steps, "rewards": replay.total_rewards[-1].tolist()},
    }


def resumed(run: Path) -> dict[str, Any]:
    """What the run comes to when it goes on to its end, in a copy."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "run")
        shutil.copytree(run, copy)
        ended = resume_run(copy, ignore)
        lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        weights = torch.load(ended.checkpoint, weights_only=True)["weights"]
    return {
        "epoch": ended.epoch,
        "agent_step": ended.agent_step,
        "metrics": [{key: value for key, value in line.items() if key not in CLOCK} for line in lines],
        "norms": {name: float(weight.float().norm()) for name, weight in weights.items()},
    }


def rounded(numbers: torch.Tensor) -> Any:
    """Nested lists of six digits after the point."""
    return (numbers.detach().double() * 1e6).round().div(1e6).tolist()


def ignore(event: Event) -> None:
    """Hears nothing."""


def stop_half_way(event: Event) -> None:
    """Ctrl-C after the second epoch."""
    if isinstance(event, EpochEnded) and event.metrics.epoch == 2:
        os.kill(os.getpid(), signal.SIGINT)


def small_world() -> EnvConfig:
    """A world whose policies are small files: few items, few cells in sight."""
    return EnvConfig.model_validate(
        {
            "game": {
                "num_agents": 3,
                "width": 7,
                "height": 7,
                "max_steps": 12,
                "num_observation_tokens": 24,
                "observation_width": 1,
                "observation_height": 3,
            },
            "map_builder": {"border_width": 1, "objects": {"mine_red": 2, "altar": 1}},
        }
    )


if __name__ == "__main__":
    record(Path(sys.argv[1]))
