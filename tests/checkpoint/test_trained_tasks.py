"""The main world of a run with a curriculum, its file's `[env]`, and the tasks saved in its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_runs import TINY, ignore, metrics_of, tiny_config, train_epoch
from typer.testing import CliRunner

from metta.api import Curriculum, EnvConfig, load_config, load_policy, load_world, resume_run, train_run, trained_tasks
from metta.checkpoint.file_format import read_torch_file, write_torch_file
from metta.checkpoint.policy_file import KIND
from metta.errors import CheckpointError
from metta.run.training_run import TrainingRun
from metta_cli.main import app

SCENES = (
    'curriculum.scenes=["short.toml", "long.toml"]',
    'curriculum.type="progressive"',
    "curriculum.agent_steps=1024",
    "simulation.evaluate_interval=1",
)
"""Scenes whose episodes have 7 and 13 steps, one after the other; the file's own `[env]` has 20."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with both scenes."""
    monkeypatch.chdir(tmp_path)
    for name, steps in (("short", 7), ("long", 13)):
        (tmp_path / f"{name}.toml").write_text(TINY.replace("max_steps = 20", f"max_steps = {steps}"))
    return tmp_path


def metta(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def test_the_main_world_of_hearts_is_its_env() -> None:
    config = load_config("hearts")
    assert load_world("hearts") == config.env == load_config("hearts").env
    assert Curriculum.from_config(config).env_configs[0] != config.env


def test_the_main_world_is_the_env_of_the_file_or_the_last_scene(here: Path) -> None:
    scenes = 'scenes = ["short.toml", "long.toml"]'
    (here / "own.toml").write_text(f"{TINY}\n[curriculum]\n{scenes}\n")
    (here / "none.toml").write_text(f"{TINY.partition('[env.game]')[0]}\n[curriculum]\n{scenes}\n")
    (here / "unlike.toml").write_text(f"{TINY.replace('num_agents = 4', 'num_agents = 5')}\n[curriculum]\n{scenes}\n")
    (here / "buckets.toml").write_text(f'{TINY}\n[curriculum.buckets]\n"game.max_steps" = {{ values = [5, 6] }}\n')
    steps = {name: load_world(f"{name}.toml").game.max_steps for name in ("own", "none", "unlike", "buckets")}
    assert steps == {"own": 20, "none": 13, "unlike": 13, "buckets": 20}


def test_evaluations_play_the_main_world_also_after_resuming(here: Path) -> None:
    for total in (512, 2048):
        config = tiny_config("", *SCENES, f"run.total_timesteps={total}")
        run = TrainingRun(config, Curriculum.from_config(config))
        while not run.is_finished:
            train_epoch(run)
        assert max(run.curriculum.weights) == run.curriculum.weights[0 if total == 512 else 1]
        assert run.evaluate().mean_length == 20
        run.close()
    train_run(tiny_config("run", *SCENES, "run.total_timesteps=1024"), ignore)
    resume_run("run", ignore)
    lengths = {line["episode_length"] for line in metrics_of(here / "run") if line["episodes"]}
    assert 20 not in lengths


def test_a_checkpoint_holds_the_main_world_and_the_tasks(here: Path) -> None:
    train_run(tiny_config("run", *SCENES, "run.total_timesteps=1024"), ignore)
    checkpoint = "run/checkpoints/checkpoint_000002.pt"
    assert load_policy(checkpoint).agent.env_config.game.max_steps == 20
    assert {name: world.game.max_steps for name, world in trained_tasks(checkpoint).items()} == {
        "short.toml": 7,
        "long.toml": 13,
    }
    for scene in ("short.toml", "long.toml"):
        Path(scene).unlink()  # the checkpoint has all that is needed
    options = ("--json", "--episodes", "2")
    assert json.loads(metta("eval", checkpoint, *options))["policy"]["mean_length"] == 20
    assert json.loads(metta("replay", checkpoint, "--json"))["steps"] == 20
    rows = json.loads(metta("eval", checkpoint, "--tasks", *options))["tasks"]
    assert {task: row["policy"]["mean_length"] for task, row in rows.items()} == {"short.toml": 7, "long.toml": 13}
    table = metta("eval", checkpoint, "--tasks", "--episodes", "2")
    assert [line.split()[0] for line in table.splitlines() if ".toml" in line] == ["short.toml", "long.toml"]


def test_baselines_play_the_tasks_of_a_file(here: Path) -> None:
    buckets = '[curriculum.buckets]\n"game.max_steps" = { values = [5, 6] }\n'
    (here / "buckets.toml").write_text(f"{TINY}\n{buckets}")
    rows = json.loads(metta("eval", "scripted", "--env", "buckets.toml", "--tasks", "--json", "--episodes", "2"))[
        "tasks"
    ]
    assert [row["scripted"]["mean_length"] for row in rows.values()] == [5, 6]
    assert [row["random"]["mean_length"] for row in rows.values()] == [5, 6]


def test_a_run_of_one_task_has_one_row(here: Path) -> None:
    train_run(tiny_config("run", "run.total_timesteps=512"), ignore)
    worlds = trained_tasks("run/checkpoints/checkpoint_000001.pt")
    assert list(worlds.values()) == [tiny_config("").env]


SMALL, LARGE = (config.model_dump(exclude_none=True) for config in (tiny_config("").env, EnvConfig()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["short.toml"]}, "is invalid: 1 task names for 2 environments"),
        ({"names": [], "env_configs": []}, "is invalid: 0 task names"),
        ({"env_configs": [SMALL, LARGE]}, "is invalid: its tasks cannot be trained together"),
    ],
)
def test_invalid_tasks_in_a_checkpoint(here: Path, change: dict[str, object], message: str) -> None:
    train_run(tiny_config("run", *SCENES, "run.total_timesteps=512"), ignore)
    path = here / "run" / "checkpoints" / "checkpoint_000001.pt"
    content = read_torch_file(path, KIND)
    content["curriculum"] |= change
    write_torch_file(path, KIND, content)
    with pytest.raises(CheckpointError, match=message):
        trained_tasks(path)
