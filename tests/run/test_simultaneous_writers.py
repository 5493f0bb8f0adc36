"""Several processes or threads that begin a run or write a file in the same moment do not disturb each other."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from tiny_runs import TINY, tiny_config

from metta.checkpoint.trainer_state import TrainingState
from metta.files import new_directory, write_atomically, write_together
from metta.run.run_directory import RunDirectory

WRITERS = 8


def at_once(act: Callable[[int], Any]) -> list[Any]:
    """What `act` returns in each of `WRITERS` threads, which call it in the same moment."""
    barrier = Barrier(WRITERS)

    def wait_and_act(index: int) -> Any:
        barrier.wait()
        return act(index)

    with ThreadPoolExecutor(WRITERS) as threads:
        return list(threads.map(wait_and_act, range(WRITERS)))


def test_runs_begun_at_once_have_their_own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as running:
        runs = at_once(lambda index: running.enter_context(RunDirectory.create(tiny_config())).root)
    assert len(set(runs)) == WRITERS
    assert all(re.fullmatch(r"runs/tiny-\d{8}-\d{6}(-\d+)?", str(run)) for run in runs)
    assert all((run / "config.toml").exists() for run in runs)


@pytest.mark.slow
def test_commands_begun_at_once_train_their_own_runs(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    command = [sys.executable, "-m", "metta_cli", "train", "tiny.toml", "--quiet", "--total-timesteps", "512"]
    processes = [subprocess.Popen(command, cwd=tmp_path) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    runs = list((tmp_path / "runs").iterdir())
    assert len(runs) == 3
    assert all((run / "checkpoints" / "checkpoint_000001.pt").exists() for run in runs)


def test_new_directories_of_one_name_are_numbered(tmp_path: Path) -> None:
    def create(index: int) -> Path:
        with new_directory(tmp_path / "runs", "run") as path:
            return path

    names = {path.name for path in at_once(create)}
    assert names == {"run", *(f"run-{number}" for number in range(2, WRITERS + 1))}


def test_a_new_directory_is_removed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_directory(tmp_path / "runs", "run"):
        raise KeyboardInterrupt
    assert not (tmp_path / "runs").exists()


def test_a_file_written_at_once_is_that_of_one_writer(tmp_path: Path) -> None:
    """Threads have the same process id, as processes on two machines can have."""
    path = tmp_path / "report.html"
    contents = [str(index).encode() * 10_000 for index in range(WRITERS)]

    def write(index: int) -> None:
        for _ in range(5):
            write_atomically(path, contents[index])
            assert path.read_bytes() in contents

    at_once(write)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_files_written_at_once_under_one_name_are_numbered(tmp_path: Path) -> None:
    """Replays, reports and exports whose names nobody chose."""

    def write(index: int) -> Path:
        content = str(index).encode()
        return write_together(tmp_path / "replays", "replay", {".a": content, ".b": content}, overwrite=False)[".b"]

    paths = at_once(write)
    assert [int(path.read_bytes()) for path in paths] == list(range(WRITERS))
    assert all(path.with_suffix(".a").read_bytes() == path.read_bytes() for path in paths)


def test_trainer_states_saved_at_once_are_all_valid(tmp_path: Path) -> None:
    at_once(lambda index: TrainingState(index, 0, 0, {}).save(tmp_path))
    for path in tmp_path.iterdir():
        assert TrainingState.load(path).epoch == int(path.stem[-6:])
