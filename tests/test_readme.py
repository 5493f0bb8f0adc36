"""What the README shows is true: its example runs, its TOML loads, its commands are real."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packages import install
from typer.testing import CliRunner

from metta.config.loading.load import parse_config
from metta.config.run import RunConfig
from metta_cli.main import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


KINDS = ("map_builders", "backbones", "loggers", "observation_processors", "presets")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_library_examples_run(tmp_path):
    example, with_gymnasium, _ = blocks("python")
    ran = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "mean_reward" in ran.stdout
    assert (tmp_path / "checkpoints" / "checkpoint_000003.pt").exists()
    ran = subprocess.run([sys.executable, "-c", with_gymnasium], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_stable_baselines_trains_as_it_says(tmp_path):
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("supersuit")
    (example,) = blocks("py")
    assert "100_000" in example
    short = example.replace("100_000", "2_048").replace("n_steps=64", "n_steps=64, n_epochs=1")
    (tmp_path / "example.py").write_text(short + "print(env.num_agents, worlds.num_envs)\n")
    ran = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split("\n")[-2] == "4 32"


def test_parts_of_ones_own_are_used_as_it_says(tmp_path):
    """The package of the section, as pip would install it; then its preset is trained, by its name."""
    *_, parts = blocks("python")
    project, world = blocks("ini")
    entry_points = tomllib.loads(project)["project"]["entry-points"]
    assert set(entry_points) == {f"metta.{kind}" for kind in KINDS}
    site = install(tmp_path / "site", "my-parts", entry_points, my_parts={"parts": parts})
    (site / "my_parts" / "worlds").mkdir()
    (site / "my_parts" / "worlds" / "striped.toml").write_text(world)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}

    def metta(*arguments):
        command = [sys.executable, "-m", "metta_cli", *arguments]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert re.search(r"^mine\.striped +a world of stripes$", metta("presets"), re.MULTILINE)
    metta("train", "mine.striped", "--total-timesteps", "8192", "--run-dir", "run", "--quiet")
    rewards = [json.loads(line)["reward"] for line in (tmp_path / "run" / "reward.jsonl").read_text().splitlines()]
    epochs = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rewards == [line["reward"] for line in epochs]
    assert len(rewards) == 2
    agent = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["agent"]
    assert (agent["backbone"], agent["obs_process_func"]) == ("sums", "only_near")
    assert "run/checkpoints" in metta("eval", "run/checkpoints/checkpoint_000002.pt", "--episodes", "1", "--json")


@pytest.mark.parametrize("text", blocks("toml"))
def test_each_toml_example_is_a_config(text):
    assert parse_config(text, "README.md") != RunConfig()


def test_the_gate_runs_the_test_command():
    commands = [command for block in blocks("sh") for command in block.splitlines() if ".venv/bin/pytest" in command]
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("--quiet ", "")
    assert len(commands) == 1
    for step in commands[0].split(" && "):
        assert step in gate


@pytest.mark.parametrize(
    "command",
    sorted({command for block in blocks("sh") for command in re.findall(r"^metta (\w+)", block, re.MULTILINE)}),
)
def test_each_command_of_the_tour_exists(command):
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0
