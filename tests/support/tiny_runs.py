"""A run small enough for a test, and what two runs must have in common."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metta.api import EpochEnded, EpochMetrics, Event, RunConfig
from metta.config.loading.load import parse_config
from metta.run.epoch_metrics import epoch_metrics
from metta.run.learners.learner import Learner
from metta.run.training_run import TrainingRun

TINY = """
[run]
name = "tiny"
total_timesteps = 4096
device = "cpu"

[env.game]
num_agents = 4
width = 8
height = 8
max_steps = 20
num_observation_tokens = 48
observation_width = 5
observation_height = 5

[env.map_builder]
border_width = 1
objects = { mine_red = 3, generator_red = 2, altar = 2 }

[agent]
hidden_dim = 16
mlp_layers = 1
analyze_weights_interval = 3
l2_init_weight_update_interval = 2
bptt_horizon = 8

[ppo]
ent_coef = 0.01
l2_init_loss_coef = 0.001

[experience]
batch_size = 512
minibatch_size = 256
bptt_horizon = 8
forward_pass_minibatch_target_size = 16

[simulation]
evaluate_interval = 0
"""
"""Eight epochs of 512 agent steps, in which episodes end; about a quarter of a second."""

TEAM = (
    "env.game.groups={hunters={id=1}, grazers={id=2}}",
    'policies.wolves={groups=["hunters"], agent={hidden_dim=24, memory="mingru"}, ppo={gamma=0.9}}',
    'policies.deer={groups=["grazers"], optimizer={learning_rate=0.001}, normalization={values=true}}',
)
"""Overrides that make two policies of the tiny run: other sizes, memories and discounts, two agents each."""

WALL_CLOCK = ("seconds", "steps_per_second", "seconds_simulate", "seconds_infer", "seconds_learn")


def tiny_config(run_dir: Path | str = "", *overrides: str) -> RunConfig:
    """The tiny run, kept in `run_dir`."""
    return parse_config(TINY, "tiny.toml", [f"run.run_dir={json.dumps(str(run_dir))}", *overrides])


def ignore(event: Event) -> None:
    """A listener that hears nothing."""


class Recorder:
    """A listener that keeps every event, and acts once an epoch is done."""

    def __init__(self, after_epoch: int = 0, act: Callable[[], None] | None = None):
        self.events: list[Event] = []
        self.after_epoch = after_epoch
        self.act = act

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self.act and isinstance(event, EpochEnded) and event.metrics.epoch == self.after_epoch:
            self.act()


def interrupt() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def train_epoch(run: TrainingRun) -> EpochMetrics:
    """Train a run for an epoch, and measure it."""
    batches, losses = run.collect(), run.update()
    return epoch_metrics(run.finish_epoch(batches), batches, losses, run.learners, run.curriculum)


def only_learner(run: TrainingRun) -> Learner:
    """The policy of a run with one policy."""
    (learner,) = run.learners.values()
    return learner


class Killed(BaseException):
    """Stands for a SIGKILL in this process: the run ends here, nothing is saved."""


def kill() -> None:
    """End the run without a word."""
    raise Killed


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    """The reproducible part of a run's metrics."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in WALL_CLOCK} for line in lines]


def weights_of(run_dir: Path, epoch: int) -> dict[str, torch.Tensor]:
    """The policies' weights after an epoch, as they are on the disk; those of a named one begin with its name."""
    content = torch.load(run_dir / "checkpoints" / f"checkpoint_{epoch:06d}.pt", weights_only=True)
    policies = {f"{name}.": policy for name, policy in content.get("policies", {}).items()} or {"": content}
    return {f"{name}{key}": weight for name, policy in policies.items() for key, weight in policy["weights"].items()}


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), f"{name} differs by {(weight - second[name]).abs().max()}"


def assert_same_state(first: object, second: object, where: str = "state") -> None:
    """Nested values, types and all; tensors bit for bit."""
    assert type(first) is type(second), where
    if isinstance(first, dict) and isinstance(second, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same_state(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list) and isinstance(second, list):
        assert len(first) == len(second), where
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same_state(one, other, f"{where}[{index}]")
    elif isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where
