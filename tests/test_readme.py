"""What the README shows is true: its example runs, its TOML loads, its commands are real."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metta.config.load import parse_config
from metta.config.run import RunConfig
from metta_cli.main import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_library_examples_run(tmp_path):
    example, with_gymnasium = blocks("python")
    ran = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "mean_reward" in ran.stdout
    assert (tmp_path / "checkpoints" / "checkpoint_000003.pt").exists()
    ran = subprocess.run([sys.executable, "-c", with_gymnasium], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


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
