"""Runs that were copied, moved, renamed or linked: each writes to its own checkpoints and never to another run's."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import Recorder, ignore, interrupt, tiny_config
from typer.testing import CliRunner

from metta.api import load_config, newest_checkpoint, resume_run, train_run
from metta.config.loading.overrides import Override
from metta.errors import CheckpointError, TrainingError, UsageError
from metta.run.run_directory import RunDirectory
from metta_cli.main import app


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run, `a`, that was stopped after an epoch and has its directories elsewhere in itself."""
    folder = tmp_path_factory.mktemp("trained")
    run = folder / "a"
    inside = (f"checkpoint.checkpoint_dir={run / 'states'}", f"simulation.replay_dir={run / 'films' / 'all'}")
    train_run(tiny_config(run, *inside), Recorder(1, interrupt))
    return folder


@pytest.fixture
def original(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The run `a` in an empty working directory, as the version in `request.param` wrote it."""
    shutil.copytree(trained / "a", tmp_path / "a")
    config = tmp_path / "a" / "config.toml"
    text = config.read_text()
    assert str(tmp_path) not in text
    assert str(trained) not in text
    if getattr(request, "param", "new") == "old":
        (tmp_path / "a" / "films" / "all").mkdir(parents=True)
        config.write_text(text.replace("{run_dir}", str(tmp_path / "a")))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "a"


def copied(original: Path) -> Path:
    return Path(shutil.copytree(original, original.with_name("b")))


def copied_by_cp(original: Path) -> Path:
    subprocess.run(["cp", "-r", "a", "my b"], cwd=original.parent, check=True)
    return Path("my b")


def moved(original: Path) -> Path:
    (original.parent / "deep" / "er").mkdir(parents=True)
    return Path(shutil.move(original, original.parent / "deep" / "er"))


def renamed(original: Path) -> Path:
    return original.rename(original.with_name("c"))


def linked(original: Path) -> Path:
    link = original.with_name("latest")
    link.symlink_to("a")
    return link


def relative(original: Path) -> Path:
    (original / "films").mkdir(exist_ok=True)
    os.chdir(original / "films")
    return Path("../../a")


WAYS = [copied, copied_by_cp, moved, renamed, linked, relative]


@pytest.mark.parametrize("original", ["new", "old"], indirect=True)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_run_writes_to_its_own_directories_wherever_it_is(way: Callable[[Path], Path], original: Path) -> None:
    run = way(original)
    is_copy = way in (copied, copied_by_cp)
    before = content(original) if is_copy else {}
    assert newest_checkpoint(run) == run / "states" / "checkpoint_000001.pt"
    options = [Override.parse("run.total_timesteps=1024"), Override.parse("simulation.replay_interval=1")]
    ended = resume_run(run, ignore, options)
    assert ended.checkpoint == run / "states" / "checkpoint_000002.pt"
    assert newest_checkpoint(run) == ended.checkpoint
    text = (run / "config.toml").read_text()
    assert 'checkpoint_dir = "{run_dir}/states"' in text
    assert 'replay_dir = "{run_dir}/films/all"' in text
    assert str(original.parent) not in text
    if is_copy:
        assert content(original) == before
        assert resume_run(original, ignore, options).checkpoint.parent == original / "states"


def test_a_new_run_from_the_config_of_another_has_its_own_directories(original: Path) -> None:
    before = content(original)
    metta("train", "a/config.toml", "--run-dir", "b", "--total-timesteps", "512", "--quiet")
    assert newest_checkpoint("b") == Path("b/states/checkpoint_000001.pt")
    assert content(original) == before


def metta(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


def follow(message: str) -> None:
    """Run the commands at the end of an error message."""
    for command in message.rpartition(" it: ")[2].split(" && "):
        program, *arguments = shlex.split(command)
        if program == "metta":
            metta(*arguments, "--quiet")
        else:
            subprocess.run([program, *arguments], check=True)


def named_outside(tmp_path: Path) -> Path:
    """A run whose checkpoints are on a larger disk, by its config."""
    disk = tmp_path / "big disk"
    train_run(tiny_config("a", f"checkpoint.checkpoint_dir={disk}"), Recorder(1, interrupt))
    return disk


def linked_outside(tmp_path: Path) -> Path:
    """A run whose checkpoints are on a larger disk, by a link that was there before."""
    disk = tmp_path / "big disk"
    disk.mkdir()
    Path("a").mkdir()
    Path("a/checkpoints").symlink_to(disk)
    train_run(tiny_config("a"), Recorder(1, interrupt))
    return disk


@pytest.mark.parametrize("make", [named_outside, linked_outside], ids=lambda make: make.__name__)
def test_a_copy_does_not_write_into_outside_checkpoints_of_the_original(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    disk = make(tmp_path)
    subprocess.run(["cp", "-r", "a", "b"], check=True)
    before = content(disk), content(tmp_path / "a")
    with pytest.raises(CheckpointError, match="belongs to another run, of which this one may be a copy"):
        newest_checkpoint("b")
    with pytest.raises(UsageError, match="belongs to another run, of which this one may be a copy") as caught:
        resume_run("b", ignore)
    assert (content(disk), content(tmp_path / "a")) == before
    follow(str(caught.value))
    assert newest_checkpoint("b") == Path("b/checkpoints/checkpoint_000008.pt")
    assert (content(disk), content(tmp_path / "a")) == before
    assert resume_run("a", ignore).epoch == 8  # the original still has its permission


def test_a_moved_run_keeps_its_outside_checkpoints_and_its_copy_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    disk = named_outside(tmp_path)
    Path("a").rename("c")
    assert newest_checkpoint("c") == disk / "checkpoint_000001.pt"
    assert resume_run("c", Recorder(2, interrupt)).checkpoint == disk / "checkpoint_000002.pt"
    shutil.copytree("c", "d")
    with pytest.raises(UsageError, match="belongs to another run"):
        resume_run("d", ignore)


def test_a_link_to_a_larger_disk_is_used_where_the_user_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train_run(tiny_config("my run"), Recorder(1, interrupt))
    shutil.move("my run/checkpoints", tmp_path / "disk")
    Path("my run/checkpoints").symlink_to(tmp_path / "disk")
    with pytest.raises(UsageError, match="is a symbolic link out of the run directory") as caught:
        resume_run("my run", ignore)
    follow(str(caught.value))
    assert (tmp_path / "disk" / "checkpoint_000008.pt").exists()
    assert Path("my run/checkpoints").is_symlink()
    assert resume_run("my run", ignore).epoch == 8  # from now on it is permitted
    assert newest_checkpoint("my run") == Path("my run/checkpoints/checkpoint_000008.pt")


def test_the_command_of_an_error_names_all_directories_that_need_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outside = (f"checkpoint.checkpoint_dir={tmp_path / 'disk'}", f"simulation.replay_dir={tmp_path / 'films'}")
    train_run(tiny_config("a", *outside), Recorder(1, interrupt))
    Path("a/.run").unlink()
    with pytest.raises(UsageError) as caught:
        resume_run("a", ignore)
    follow(str(caught.value))
    assert resume_run("a", ignore).epoch == 8


def test_two_runs_cannot_train_into_the_same_outside_checkpoints(tmp_path: Path) -> None:
    """Neither has written a checkpoint yet, so that only a lock can keep them apart."""
    shared = f"checkpoint.checkpoint_dir={tmp_path / 'disk'}"
    first, second = tiny_config(tmp_path / "a", shared), tiny_config(tmp_path / "b", shared)
    message = "disk is being trained by process"
    with RunDirectory.create(first), pytest.raises(TrainingError, match=message):
        RunDirectory.create(second)
    assert not (tmp_path / "b").exists()


def test_policies_in_the_run_directory_move_with_it(original: Path) -> None:
    """A teacher that lay in the directory before the run began; a new run reads it from there, wherever it is now."""
    Path("t").mkdir()
    shutil.copy(original / "states" / "checkpoint_000001.pt", "t/teacher.pt")
    options = (
        "run.init_from=t/teacher.pt",
        "kickstarting.teacher=t/teacher.pt",
        "self_play.share=0.5",
        'self_play.policies=["t/teacher.pt"]',
    )
    train_run(tiny_config("t", *options), Recorder(1, interrupt))
    moved = Path("t").rename("u")
    assert str(original.parent) not in (moved / "config.toml").read_text()
    assert resume_run(moved, Recorder(2, interrupt)).epoch == 2
    config = load_config("u/config.toml")
    assert config.run.init_from == "u/teacher.pt"
    assert (config.kickstarting.teacher, config.self_play.policies) == ("u/teacher.pt", ["u/teacher.pt"])
    metta("train", "u/config.toml", "--run-dir", "v", "--total-timesteps", "512", "--quiet")
    assert str(moved.absolute() / "teacher.pt") in Path("v/config.toml").read_text()
