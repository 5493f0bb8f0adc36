"""Disks that fill up, turn read-only or lose the run's directory while it trains."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_runs import Recorder, ignore, interrupt, tiny_config

from metta.api import Notice, resume_run, train_run
from metta.errors import TrainingError
from metta.run.directory_lock import LOCK_HOLDER, SOFT_LOCK
from metta.run.run_directory import RunDirectory

SHORT = "run.total_timesteps=2048"  # four epochs


def mount(*arguments: str | Path) -> bool:
    """Whether it can be done here: it takes root."""
    return (
        shutil.which("mount") is not None and not subprocess.run(["mount", *arguments], capture_output=True).returncode
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", disk):
        pytest.skip("mounting a disk takes root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metta.run.interval_timer.IntervalTimer.is_due", lambda timer: timer.interval_seconds > 0)


def fill(disk: Path) -> None:
    """Leave no byte on a disk."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (65536, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def stopped(run_dir: Path, *overrides: str, when: Recorder) -> str:
    """What a run says that cannot go on."""
    with pytest.raises(TrainingError) as caught:
        train_run(tiny_config(run_dir, SHORT, "simulation.replay_interval=0", *overrides), when)
    return str(caught.value)


@pytest.mark.usefixtures("always_due")
def test_a_full_disk_stops_the_run_which_resumes_when_there_is_room(small_disk: Path) -> None:
    run_dir = small_disk / "run"
    message = stopped(run_dir, when=Recorder(2, lambda: fill(small_disk)))
    assert "No space left on device" in message
    assert message.endswith(f"metta resume {run_dir} continues from trainer_state_000001.pt")
    assert not list(run_dir.glob("**/.*.partial"))
    (small_disk / "filler").unlink()
    assert resume_run(run_dir, ignore).epoch == 4


@pytest.mark.usefixtures("always_due")
def test_training_continues_without_a_replay_that_cannot_be_written(small_disk: Path, tmp_path: Path) -> None:
    recorder = Recorder(1, lambda: fill(small_disk))
    config = tiny_config(tmp_path / "run", SHORT, f"simulation.replay_dir='{small_disk}'")
    assert train_run(config, recorder).reason == "finished"
    notices = [event.text for event in recorder.events if isinstance(event, Notice)]
    assert len(notices) == 4
    assert notices[0].startswith(f"the replay of epoch 1 was not saved: {small_disk}")
    assert notices[0].endswith("No space left on device")


def test_a_run_does_not_start_where_its_directories_cannot_be_written(small_disk: Path, tmp_path: Path) -> None:
    fill(small_disk)
    config = tiny_config(tmp_path / "run", SHORT, f"simulation.replay_dir='{small_disk}'")
    with pytest.raises(TrainingError, match=f"^{small_disk}/.run cannot be written: No space left on device$"):
        train_run(config, ignore)


@pytest.mark.usefixtures("always_due")
def test_a_disk_that_turns_read_only_stops_the_run(small_disk: Path) -> None:
    run_dir = small_disk / "run"

    def protect() -> None:
        assert mount("--bind", run_dir, run_dir)
        assert mount("-o", "remount,ro,bind", run_dir)

    message = stopped(run_dir, when=Recorder(2, protect))
    assert "Read-only file system" in message
    assert message.endswith("continues from trainer_state_000001.pt")
    subprocess.run(["umount", "-l", run_dir], check=True)
    assert resume_run(run_dir, ignore).epoch == 4


def test_a_directory_that_is_removed_or_replaced_stops_the_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"

    def replace() -> None:
        run_dir.rename(tmp_path / "moved")
        run_dir.mkdir()

    for act in (lambda: shutil.rmtree(run_dir), replace):
        message = stopped(run_dir, when=Recorder(2, act))
        assert message.startswith(f"stopped in epoch 4: {run_dir} was removed, or replaced by another directory")
        assert message.endswith("no checkpoint was saved")
        assert not list(tmp_path.glob("run/*"))
    assert resume_run(tmp_path / "moved", ignore).epoch == 4  # what was saved is where it is now


@pytest.mark.usefixtures("always_due")
def test_checkpoints_that_are_removed_are_written_again(tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    train_run(tiny_config(tmp_path / "run"), Recorder(2, lambda: (shutil.rmtree(checkpoints), interrupt())))
    assert resume_run(tmp_path / "run", ignore).epoch == 8
    message = stopped(
        tmp_path / "other",
        f"checkpoint.checkpoint_dir='{tmp_path / 'kept'}'",
        when=Recorder(2, lambda: (shutil.rmtree(tmp_path / "kept"), (tmp_path / "kept").write_text(""))),
    )
    assert f"{tmp_path / 'kept'}: File exists" in message


def test_the_newest_state_is_the_one_of_the_last_epoch_whatever_the_clock_says(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train_run(tiny_config(run_dir), Recorder(2, interrupt))
    os.utime(run_dir / "checkpoints" / "trainer_state_000000.pt", (2e9, 2e9))
    os.utime(run_dir / "checkpoints" / "trainer_state_000002.pt", (0, 0))
    recorder = Recorder(3, interrupt)
    assert resume_run(run_dir, recorder).epoch == 3


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    program = (
        "import os, signal, sys\n"
        "from metta.run.run_directory import RunDirectory\n"
        "from tiny_runs import tiny_config\n"
        "RunDirectory.create(tiny_config(sys.argv[1]))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", program, str(run_dir)], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert (run_dir / LOCK_HOLDER).exists()
    with RunDirectory.open(run_dir):
        pass
    assert not (run_dir / LOCK_HOLDER).exists()


def test_a_network_file_system_without_locks_is_locked_by_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    run_dir = tmp_path / "run"
    monkeypatch.setattr("fcntl.flock", no_locks)
    with RunDirectory.create(tiny_config(run_dir)):
        with pytest.raises(TrainingError, match=f"trained by process {os.getpid()} on"):
            RunDirectory.open(run_dir)
        (run_dir / LOCK_HOLDER).write_text("process 7 on elsewhere since 2026-01-01 00:00:00")
        otherwise = rf"process 7 on elsewhere .*, or remove {run_dir / SOFT_LOCK} if that host is down"
        with pytest.raises(TrainingError, match=otherwise):
            RunDirectory.open(run_dir)
    with RunDirectory.open(run_dir):
        pass
