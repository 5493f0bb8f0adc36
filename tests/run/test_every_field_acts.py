"""A test per field of the training tables, in whole runs: from the TOML file to what it changes.

Each fails if the field is ignored. What a field does in detail is tested beside the part that does it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_runs import Recorder, ignore, metrics_of, tiny_config

from metta.api import (
    AgentModelConfig,
    CheckpointConfig,
    Event,
    ExperienceConfig,
    OptimizerConfig,
    PhaseBegan,
    PPOConfig,
    RunBegan,
    SimulationConfig,
    train_run,
)

SHORT = ("run.total_timesteps=1536", "agent.analyze_weights_interval=0", "agent.l2_init_weight_update_interval=0")

LEARNING: dict[str, tuple[tuple[str, ...], str]] = {
    "agent.hidden_dim": ((), "24"),
    "agent.memory": ((), '"mingru"'),
    "agent.memory_window": (('agent.memory="attention"',), "2"),
    "agent.lstm_layers": ((), "2"),
    "agent.mlp_layers": ((), "2"),
    "agent.critic": ((), '"world"'),
    "agent.backbone": ((), '"mlp"'),
    "agent.bptt_horizon": ((), "1"),
    "agent.forward_lstm": ((), "false"),
    "agent.clip_range": ((), "1e-6"),
    "agent.use_cell_ahead": ((), "false"),
    "agent.egocentric": ((), "true"),
    "agent.mask_actions": ((), "true"),
    "agent.use_prev_action": ((), "false"),
    "agent.use_prev_reward": ((), "false"),
    "agent.observation_types": ((), '["inventory"]'),
    "agent.dtypes_fp16": ((), "true"),
    "agent.obs_scale": ((), "3.0"),
    "agent.l2_init_weight_update_interval": (("ppo.l2_init_loss_coef=1.0",), "1"),
    "optimizer.type": ((), '"muon"'),
    "optimizer.learning_rate": ((), "0.01"),
    "optimizer.beta1": ((), "0.1"),
    "optimizer.beta2": ((), "0.1"),
    "optimizer.eps": ((), "0.1"),
    "optimizer.weight_decay": ((), "0.5"),
    "ppo.clip_coef": (("optimizer.learning_rate=0.02",), "0.001"),
    "ppo.ent_coef": ((), "0.9"),
    "ppo.gae_lambda": ((), "0.1"),
    "ppo.gamma": ((), "0.1"),
    "ppo.max_grad_norm": ((), "1e-9"),
    "ppo.vf_clip_coef": ((), "1e-5"),
    "ppo.vf_coef": ((), "5.0"),
    "ppo.l2_reg_loss_coef": ((), "0.5"),
    "ppo.l2_init_loss_coef": ((), "5.0"),
    "ppo.norm_adv": ((), "false"),
    "ppo.clip_vloss": (("ppo.vf_clip_coef=1e-5",), "false"),
    "ppo.target_kl": ((), "1e-12"),
    "experience.batch_size": ((), "768"),
    "experience.minibatch_size": ((), "128"),
    "experience.bptt_horizon": ((), "16"),
    "experience.update_epochs": ((), "2"),
    "experience.stagger_episodes": ((), "true"),
    "experience.async_factor": ((), "1"),
    "experience.forward_pass_minibatch_target_size": ((), "8"),
}
"""field -> what it needs beside it, and a value with which something else is learned"""

ELSEWHERE = {
    "agent.obs_process_func": "tests/agent/test_policy.py",  # an observation processor has to be registered first
    "experience.zero_copy": "tests/rl/test_experience.py",  # where arrays lie, which must not change what is learned
    "experience.cpu_offload": "tests/rl/test_experience.py",
    "experience.workers": "tests/rl/test_workers.py",
    "checkpoint.wandb_checkpoint_interval": "tests/run/test_loggers.py",  # needs an extra
    "checkpoint.keep_last": "tests/run/test_kept_policies.py",
    "checkpoint.keep_best": "tests/run/test_kept_policies.py",
}

TABLES = {
    "agent": AgentModelConfig,
    "optimizer": OptimizerConfig,
    "ppo": PPOConfig,
    "experience": ExperienceConfig,
    "checkpoint": CheckpointConfig,
    "simulation": SimulationConfig,
}


@cache
def learned(*overrides: str) -> list[dict[str, Any]]:
    """What a run measures but for the time it takes."""
    with TemporaryDirectory() as folder:
        train_run(tiny_config(Path(folder) / "run", *SHORT, *overrides), ignore)
        return metrics_of(Path(folder) / "run")


def test_every_field_has_its_test() -> None:
    fields = {f"{table}.{name}" for table, model in TABLES.items() for name in model.model_fields}
    here = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    alone = {field for field in fields if field.replace(".", "_") in here}
    assert fields - set(LEARNING) - set(ELSEWHERE) - alone == set()
    for field, file in ELSEWHERE.items():
        text = (Path(__file__).parents[2] / file).read_text(encoding="utf-8")
        assert f"def test_{field.partition('.')[2]}" in text, field


@pytest.mark.parametrize("field", LEARNING)
def test_the_field_changes_what_is_learned(field: str) -> None:
    beside, value = LEARNING[field]
    assert learned(*beside) != learned(*beside, f"{field}={value}")


def test_the_same_settings_learn_the_same() -> None:
    """Or the tests above would show nothing."""
    assert learned() == learned("ppo.gamma=0.977")


def test_agent_analyze_weights_interval() -> None:
    for interval, epochs in ((0, []), (1, [1, 2, 3]), (2, [2])):
        reported = learned(f"agent.analyze_weights_interval={interval}")
        assert [line["epoch"] for line in reported if line["weights"]] == epochs
    kinds = {name.rpartition("/")[2] for name in reported[1]["weights"]}
    assert kinds == {"norm", "effective_rank", "dead"}


class Clock:
    """Ten seconds pass with every epoch."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.recorder = Recorder()

    def __call__(self, event: Event) -> None:
        self.recorder(event)
        if isinstance(event, PhaseBegan) and event.phase == "collect":
            self.seconds += 10


def phases(folder: Path, monkeypatch: pytest.MonkeyPatch, phase: str, *overrides: str) -> list[int]:
    """The epochs of four in which a phase began."""
    clock = Clock()
    monkeypatch.setattr("metta.run.interval_timer.time", SimpleNamespace(monotonic=lambda: clock.seconds))
    quiet = ("checkpoint.checkpoint_interval=1000", "simulation.replay_interval=0")
    train_run(tiny_config(folder, *SHORT, "run.total_timesteps=2048", *quiet, *overrides), clock)
    epoch, found = 0, []
    for event in clock.recorder.events:
        if isinstance(event, PhaseBegan):
            epoch += event.phase == "collect"
            if event.phase == phase:
                found.append(epoch)
    assert isinstance(clock.recorder.events[0], RunBegan)
    return found


def test_checkpoint_checkpoint_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, epochs in ((1000, [4]), (20, [2, 4]), (30, [3, 4])):
        run_dir = tmp_path / str(seconds)
        saved = phases(run_dir, monkeypatch, "save", f"checkpoint.checkpoint_interval={seconds}")
        assert saved == epochs
        names = sorted(path.name for path in (run_dir / "checkpoints").glob("checkpoint_*"))
        assert names == [f"checkpoint_{epoch:06d}.pt" for epoch in (0, *epochs)]


def test_checkpoint_checkpoint_dir(tmp_path: Path) -> None:
    train_run(tiny_config(tmp_path / "run", *SHORT, f'checkpoint.checkpoint_dir="{tmp_path}/kept"'), ignore)
    assert (tmp_path / "kept" / "checkpoint_000003.pt").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_simulation_evaluate_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, epochs in ((0, []), (20, [2, 4]), (30, [3])):
        run_dir = tmp_path / str(seconds)
        evaluated = phases(run_dir, monkeypatch, "evaluate", f"simulation.evaluate_interval={seconds}")
        assert evaluated == epochs
        assert [line["epoch"] for line in metrics_of(run_dir) if line["evaluation"]] == epochs


def test_evaluations_do_not_disturb_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same training curve with and without them."""
    curves = []
    for seconds in (0, 10):
        run_dir = tmp_path / str(seconds)
        phases(run_dir, monkeypatch, "evaluate", f"simulation.evaluate_interval={seconds}")
        curves.append(metrics_of(run_dir))
    assert all(line.pop("evaluation") for line in curves[1])
    assert [line | {"evaluation": {}} for line in curves[1]] == curves[0]


def test_simulation_replay_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, epochs in ((0, []), (20, [2, 4]), (40, [4])):
        run_dir = tmp_path / str(seconds)
        assert phases(run_dir, monkeypatch, "record", f"simulation.replay_interval={seconds}") == epochs
        pages = sorted(path.name for path in run_dir.glob("replays/*.html"))
        assert pages == [f"replay_{epoch:06d}.html" for epoch in epochs]


def test_simulation_replay_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f'simulation.replay_dir="{tmp_path}/watched"'
    phases(tmp_path / "run", monkeypatch, "record", "simulation.replay_interval=40", place)
    assert (tmp_path / "watched" / "run_replay_000004.html").exists()
    assert not (tmp_path / "run" / "replays").exists()
