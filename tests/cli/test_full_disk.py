"""Every command that writes files: a full disk is a failure (exit code 1), a wrong path a wrong input (exit code 2)."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import TINY, ignore, tiny_config
from typer.testing import CliRunner, Result

from metta.run.train import train_run
from metta_cli.main import app

FAILED, WRONG_INPUT = 1, 2

WRITERS: dict[str, Callable[[Path, Path], list[object]]] = {
    "train": lambda run, out: ["train", run.parent / "tiny.toml", "--run-dir", out / "run"],
    "resume": lambda run, out: ["resume", run],
    "replay": lambda run, out: ["replay", run, "--out", out],
    "export": lambda run, out: ["export", run, "--out", out / "policy.onnx"],
    "report": lambda run, out: ["report", run, "--out", out / "report.html"],
}
"""The arguments of each command, by a run directory and a directory to write to."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("disk")
    (directory / "tiny.toml").write_text(TINY)
    train_run(tiny_config(directory / "run", "run.total_timesteps=1024"), ignore)
    return directory / "run"


def invoke(command: str, run: Path, out: Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in WRITERS[command](run, out)])


def fail_to_sync(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk_is_a_failure(command: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metta.files.os.fsync", fail_to_sync)
    ran = invoke(command, run, tmp_path)
    assert ran.exit_code == FAILED, ran.stderr
    assert re.search("^error: .*No space left on device", ran.stderr, re.MULTILINE)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("command", [command for command in WRITERS if command != "resume"])
def test_a_path_below_a_file_is_a_wrong_input(command: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = invoke(command, run, tmp_path / "file")
    assert ran.exit_code == WRONG_INPUT, ran.stderr
    assert str(tmp_path / "file") in ran.stderr
