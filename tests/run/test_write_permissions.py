"""A run writes only to its own directory and to those that its user named, whatever its config.toml says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_runs import Recorder, ignore, interrupt, tiny_config

from metta.config.loading.overrides import Override
from metta.errors import CheckpointError, UsageError
from metta.rl.frozen_policies.self_play import check_opponent_names
from metta.run.train import resume_run, train_run

NO_PROCESS = 2**22 + 1
"""Larger than any process id on Linux."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was stopped after its first epoch."""
    train_run(tiny_config(tmp_path / "run"), Recorder(1, interrupt))
    return tmp_path / "run"


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def say_in_config(run: Path, key: str, directory: Path) -> None:
    """What a stranger's config.toml may say."""
    text = (run / "config.toml").read_text()
    assert f'{key} = ""' in text
    (run / "config.toml").write_text(text.replace(f'{key} = ""', f'{key} = "{directory}"'))


@pytest.mark.parametrize("setting", ["checkpoint.checkpoint_dir", "simulation.replay_dir"])
def test_a_directory_that_was_not_granted_does_not_change(run: Path, tmp_path: Path, setting: str) -> None:
    """Not even another run's, whose states would load."""
    other = tmp_path / "other"
    shutil.copytree(run / "checkpoints", other)
    say_in_config(run, setting.partition(".")[2], other)
    before, inside = content(other), content(run)
    with pytest.raises(UsageError, match=f"to use it: metta resume {run} --set {setting}={other}"):
        resume_run(run, ignore)
    assert content(other) == before
    assert content(run) == inside
    resume_run(run, ignore, [Override.parse(f"{setting}={other}")])
    assert content(other) != before
    resume_run(run, ignore)  # from now on it is the run's


def test_a_directory_that_the_user_named_is_granted(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    train_run(tiny_config(tmp_path / "run", f"checkpoint.checkpoint_dir={kept}"), Recorder(1, interrupt))
    assert resume_run(tmp_path / "run", ignore).checkpoint.parent == kept


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", ".lock", "replays", "tensorboard"])
def test_a_link_out_of_the_run_directory_is_not_followed(run: Path, tmp_path: Path, name: str) -> None:
    treasure = tmp_path / "treasure"
    if (run / name).is_dir() or name in ("replays", "tensorboard"):
        treasure.mkdir()
        (treasure / "trainer_state_000000.pt").write_text("precious")
        shutil.rmtree(run / name, ignore_errors=True)
    else:
        treasure.write_text("precious")
        (run / name).unlink()
    (run / name).symlink_to(treasure)
    with pytest.raises(UsageError, match=f"{run / name} is a symbolic link out of the run directory, to {treasure}"):
        resume_run(run, ignore)
    assert (treasure.read_text() if treasure.is_file() else content(treasure)) in (
        "precious",
        {"trainer_state_000000.pt": b"precious"},
    )


def test_a_link_within_the_run_directory_is(run: Path) -> None:
    (run / "checkpoints").rename(run / "states")
    (run / "checkpoints").symlink_to(run / "states")
    assert resume_run(run, ignore).reason == "finished"


def test_names_of_opponents_cannot_lead_out_of_the_directory() -> None:
    check_opponent_names(["given_000", "epoch_000100"])
    for name in ("../../policy", "/etc/given_000", "epoch_1/../../x"):
        with pytest.raises(CheckpointError, match="opponents contain the invalid name"):
            check_opponent_names([name])


def test_partial_replays_of_a_killed_writer_are_removed(run: Path) -> None:
    for directory in ("replays", "checkpoints/opponents"):
        (run / directory).mkdir(exist_ok=True)
        (run / directory / f".page.html.{NO_PROCESS}.partial").write_text("half")
    resume_run(run, ignore)
    assert not list(run.rglob("*.partial"))
