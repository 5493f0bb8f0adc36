"""`metta check` as a command: in a pipe, in a terminal, as JSON, and for runs that this machine cannot hold."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from test_extensions import MeanOfValues
from tiny_runs import Recorder, tiny_config
from typer.testing import CliRunner

from metta.api import BACKBONES, RunBegan, dump_config, load_config, load_policy, train_run
from metta.config.loading.load import parse_config
from metta.run import memory_check
from metta_cli.main import app


def test_the_text_in_a_pipe_is_a_config() -> None:
    ran = CliRunner().invoke(app, ["check", "quickstart"])
    assert ran.exit_code == 0
    assert parse_config(ran.stdout, "checked.toml") == load_config("quickstart")
    assert ran.stdout.index("[run]") < ran.stdout.index("# steps per epoch")


def test_a_world_without_an_action_that_can_succeed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By all commands alike, with its line, before anything is written."""
    monkeypatch.chdir(tmp_path)
    Path("still.toml").write_text('[run]\n[[env.actions]]\nkey = "step"\ntype = "move"\nenabled = false\n')
    for command in (["check"], ["train"], ["train", "--seeds", "2", "--run-dir", "runs/still"]):
        ran = CliRunner().invoke(app, [*command, "still.toml"])
        assert ran.exit_code == 2
        assert ran.stderr == (
            "error: still.toml has 1 problem\n"
            "  line 2  env.actions  has no action that can succeed; enable one whose required items exist\n"
        )
    assert os.listdir() == ["still.toml"]


def test_derived_numbers_come_first_in_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "metta_cli", "check", "quickstart"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"COLUMNS": "80"},
        cwd=tmp_path,
    )
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 65536):
            text += part
    except OSError:  # the command has ended and closed the terminal
        pass
    os.close(ours)
    assert process.wait() == 0
    lines = text.decode().splitlines()
    assert lines[0].split()[:4] == ["map", "14", "x", "14"]
    derived, _, values = "\n".join(lines).partition("# All values\n")
    assert "steps per epoch              16,384  512 segments x 32 steps" in derived
    assert max(map(len, derived.splitlines())) <= 80
    assert parse_config(values, "values.toml") == load_config("quickstart")


def test_json_has_numbers_warnings_and_all_values() -> None:
    ran = CliRunner().invoke(app, ["check", "quickstart", "--json", "--set", "run.total_timesteps=100"])
    (line,) = ran.stdout.splitlines()
    found = json.loads(line)
    numbers = {row["name"]: row["value"] for row in found["derived"]}
    assert (numbers["steps per epoch"], numbers["weights"], numbers["map"]) == (16_384, 1_215_114, "14 x 14")
    assert all(row["reason"] for row in found["derived"])
    assert found["warnings"] == ["run.total_timesteps = 100 is less than one epoch of 16,384 steps"]
    assert found["error"] is None
    config = load_config("quickstart", ["run.total_timesteps=100"])
    assert found["config"] == tomllib.loads(dump_config(config))


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_run_that_this_machine_cannot_hold_is_wrong_input(options: list[str]) -> None:
    ran = CliRunner().invoke(app, ["check", "quickstart", "--set", "experience.batch_size=100663296000", *options])
    assert ran.exit_code == 2
    assert ran.stderr.startswith("error: this run needs about ")
    assert "this machine has" in ran.stderr
    assert "lower experience.batch_size" in ran.stderr
    assert "experience" in ran.stdout
    assert not options or json.loads(ran.stdout)["error"] == ran.stderr.removeprefix("error: ").rstrip("\n")


def test_training_refuses_it_before_anything_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["train", "quickstart", "--set", "experience.batch_size=100663296000"])
    assert ran.exit_code == 2
    assert ran.stderr.startswith("error: this run needs about ")
    assert not list(tmp_path.iterdir())


def test_a_run_that_does_not_fit_now_gets_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "free_memory", lambda: 10 << 20)
    ran = CliRunner().invoke(app, ["check", "quickstart", "--set", "run.device=cpu"])
    assert ran.exit_code == 0
    assert "# warning: this run needs about 77.4 MiB of memory; 10 MiB are free" in ran.stdout


def test_a_run_that_the_gpu_cannot_hold_is_wrong_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "free_memory", lambda: 10 << 20)
    monkeypatch.setattr("metta.api.find_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr("metta.api.gpu_memory", lambda device: 20 << 20)
    ran = CliRunner().invoke(app, ["check", "quickstart"])
    assert ran.exit_code == 2
    assert ran.stderr.startswith("error: this run needs about 75.1 MiB of memory; the GPU has 20 MiB: ")


@pytest.mark.parametrize("backbone", [*BACKBONES.built_in, "mean of values"])
def test_the_weights_are_those_of_the_live_view_and_of_the_checkpoint(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BACKBONES, "_registered", {**BACKBONES._registered, "mean of values": MeanOfValues})
    config = tiny_config(tmp_path / "run", "run.total_timesteps=512", f"agent.backbone={backbone}")
    heard = Recorder()
    ended = train_run(config, heard)
    (shown,) = [event.parameters for event in heard.events if isinstance(event, RunBegan)]
    saved = load_policy(ended.checkpoint).agent.parameters()
    ran = CliRunner().invoke(app, ["check", str(tmp_path / "run" / "config.toml"), "--json"])
    (checked,) = [row["value"] for row in json.loads(ran.stdout)["derived"] if row["name"] == "weights"]
    assert checked == shown == sum(weight.numel() for weight in saved)
