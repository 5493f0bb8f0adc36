"""Files of a run directory, its lock, timers and signals."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import threading
from pathlib import Path

import pytest
from tiny_runs import Recorder, ignore, interrupt, tiny_config

from metta.api import StopRequested, TrainingState, resume_run, train_run
from metta.errors import CheckpointError, TrainingError, UsageError
from metta.files import write_atomically
from metta.run.interval_timer import IntervalTimer
from metta.run.metrics_file import MetricsFile, json_line, valid_lines
from metta.run.run_directory import RunDirectory
from metta.run.signals import StopSignals

SHORT = "run.total_timesteps=1024"


def test_a_run_stays_inside_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train_run(tiny_config(tmp_path / "run", SHORT), ignore)
    assert sorted(entry.name for entry in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "checkpoint_000000.pt",
        "checkpoint_000002.pt",
        "trainer_state_000000.pt",
        "trainer_state_000002.pt",
    ]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_checkpoints_go_where_the_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train_run(tiny_config("run", "checkpoint.checkpoint_dir=kept"), Recorder(1, interrupt))
    assert (tmp_path / "kept" / "checkpoint_000001.pt").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ended = resume_run("../run", ignore)
    assert ended.checkpoint == tmp_path / "kept" / "checkpoint_000008.pt"
    assert ended.checkpoint.exists()


def test_two_runs_in_one_second_have_two_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    roots = set()
    for _ in range(3):
        with RunDirectory.create(tiny_config()) as directory:
            roots.add(directory.root)
    assert len(roots) == 3


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file is a file; name a directory for the run"):
        RunDirectory.create(tiny_config(tmp_path / "file"))
    with pytest.raises(UsageError, match="is a file; name a directory"):
        RunDirectory.create(tiny_config(tmp_path / "file" / "run"))
    with pytest.raises(CheckpointError, match="does not exist"):
        RunDirectory.open(tmp_path / "none")


def test_a_full_disk_stops_the_run_and_says_how_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "run"

    def fill() -> None:
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device", "checkpoints")

        monkeypatch.setattr("os.fsync", full)

    with pytest.raises(TrainingError) as caught:
        train_run(tiny_config(run_dir, SHORT), Recorder(2, fill))
    assert str(caught.value) == (
        "stopped in epoch 3: checkpoints: No space left on device; "
        f"metta resume {run_dir} continues from trainer_state_000000.pt"
    )
    assert not list(run_dir.glob("**/*.partial"))


def test_write_whole_replaces_or_leaves(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "file", b"three")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_an_error_of_writing_names_the_file_also_if_no_file_can_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only file system refuses both, the second with the name of the temporary file."""

    def refuse(path: Path, *arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match="Read-only") as caught:
        write_atomically(tmp_path / "file", b"one")
    assert caught.value.filename == str(tmp_path / "file")


def test_metrics_continue_with_each_epoch_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        for epoch in (1, 2, 3):
            metrics.append({"epoch": epoch, "reward": 0.1 + 0.2})
    with path.open("a") as file:
        file.write('{"epoch": 4, "rew')
    with MetricsFile(path, epochs_done=2) as metrics:
        metrics.append({"epoch": 3, "reward": float("nan")})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"epoch": 1, "reward": 0.1 + 0.2}, {"epoch": 2, "reward": 0.1 + 0.2}, {"epoch": 3, "reward": None}]


def test_json_has_no_number_that_is_not_finite() -> None:
    assert json_line({"a": [float("inf"), {"b": float("nan")}, 1.5]}) == '{"a": [null, {"b": null}, 1.5]}'


def test_a_timer_counts_from_the_last_time_it_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100, 100, 105, 110, 115, 125])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    timer, never = IntervalTimer(10), IntervalTimer(0)
    assert [timer.is_due() for _ in range(4)] == [False, True, False, True]
    monkeypatch.undo()
    assert not never.is_due()


def test_the_first_signal_requests_a_stop_and_the_second_raises() -> None:
    before = signal.getsignal(signal.SIGTERM)
    asked: list[str] = []
    with StopSignals(asked.append) as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested
        assert asked == ["SIGTERM"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGTERM) is before


def test_training_in_another_thread_takes_no_signals(tmp_path: Path) -> None:
    recorder = Recorder()
    thread = threading.Thread(target=lambda: train_run(tiny_config(tmp_path / "run", SHORT), recorder))
    thread.start()
    thread.join()
    assert not [event for event in recorder.events if isinstance(event, StopRequested)]
    assert (tmp_path / "run" / "checkpoints" / "checkpoint_000002.pt").exists()


def test_training_in_a_locked_directory_names_the_process(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run")
    with RunDirectory.create(config):
        since = r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
        who = rf"{tmp_path / 'run'} is being trained by process {os.getpid()} on {platform.node()} {since}; wait for it"
        with pytest.raises(TrainingError, match=who):
            RunDirectory.create(config)
    with pytest.raises(UsageError, match="already contains a run"):
        RunDirectory.create(config)


def test_the_two_newest_undamaged_states_are_kept(tmp_path: Path) -> None:
    """Whatever damaged ones there are, be they newer or older."""

    def save(epoch: int) -> None:
        TrainingState(epoch, 0, 0, {}).save(tmp_path)

    def damage(epoch: int) -> None:
        path = tmp_path / f"trainer_state_{epoch:06d}.pt"
        path.write_bytes(path.read_bytes()[:-40])

    def kept() -> list[int]:
        return sorted(int(path.stem[-6:]) for path in tmp_path.glob("trainer_state_*.pt"))

    for epoch in (1, 2):
        save(epoch)
    save(6)
    assert kept() == [2, 6]
    damage(6)
    save(4)  # the run went on from 2
    assert kept() == [2, 4, 6]
    damage(4)
    save(5)
    assert kept() == [2, 5, 6]
    save(6)
    assert kept() == [5, 6]


def test_a_run_that_cannot_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    replays = tmp_path / "a" / "replays"
    with pytest.raises(UsageError, match="is a file; name a directory"):
        RunDirectory.create(
            tiny_config(
                tmp_path / "new" / "run",
                f"checkpoint.checkpoint_dir={tmp_path / 'file' / 'x'}",
                f"simulation.replay_dir={replays}",
            )
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TrainingError, match="cannot be written: No space left on device"):
        RunDirectory.create(tiny_config(tmp_path / "new" / "run", f"simulation.replay_dir={replays}"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_partial_files_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f".config.toml.{2**22 + 1}.partial").write_text("half")
    (tmp_path / "run" / f".config.toml.{os.getppid()}.0123abcd.partial").write_text("a process that still writes it")
    with RunDirectory.create(tiny_config(tmp_path / "run")):
        (left,) = (tmp_path / "run").glob(".*.partial")
    of_policy = tmp_path / "run" / "checkpoints" / "wolves" / "opponents"
    of_policy.mkdir(parents=True)
    (of_policy / f".epoch_000001.pt.{2**22 + 1}.partial").write_text("half")
    with RunDirectory.open(tmp_path / "run"):
        assert not list(of_policy.iterdir())
    assert left.read_text() == "a process that still writes it"


def test_lines_that_are_no_metrics_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    strange = [
        "[" * 100_000,
        '{"epoch": ' + "9" * 5000 + "}",
        '{"epoch": 3, "agent_step": 1' + "0" * 4000 + "}",
        '{"epoch": -1}',
        '{"epoch": true}',
        '{"epoch": 3, "losses": ' + '{"a": ' * 50 + "1" + "}" * 50 + "}",
    ]
    path.write_text("\n".join(['{"epoch": 1, "losses": {"a": 0.5}}', *strange, '{"epoch": 2}']))
    assert [line["epoch"] for line in valid_lines(path)] == [1, 2]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe is not a regular file"):
        list(valid_lines(tmp_path / "pipe"))
    with pytest.raises(UsageError, match="pipe is not a regular file"):
        MetricsFile(tmp_path / "pipe")
