"""Launcher variables: a process belongs to a job only if all are set; wrong values are errors that name them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import Recorder, tiny_config

from metta.api import Notice, RunEnded, train_run
from metta.errors import UsageError
from metta.job_environment import (
    JOB_VARIABLES,
    ignored_job_variables,
    job_problem,
    job_rank,
    job_size,
    local_rank,
    local_size,
)

JOB = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}

INCOMPLETE: list[tuple[dict[str, str], list[str]]] = [
    ({}, []),
    ({"WORLD_SIZE": "2"}, ["WORLD_SIZE"]),
    ({"WORLD_SIZE": "x"}, ["WORLD_SIZE"]),
    ({"RANK": "1"}, ["RANK"]),
    ({"RANK": "-1"}, ["RANK"]),
    ({"LOCAL_RANK": "7"}, ["LOCAL_RANK"]),
    ({"LOCAL_WORLD_SIZE": "many"}, ["LOCAL_WORLD_SIZE"]),
    ({"RANK": "1", "WORLD_SIZE": "2"}, ["WORLD_SIZE", "RANK"]),
    ({"MASTER_ADDR": "node7", "MASTER_PORT": "1"}, []),  # clusters set these for all processes
    (dict.fromkeys(JOB, ""), []),
    *(({**JOB, missing: ""}, [name for name in JOB if name != missing and "MASTER" not in name]) for missing in JOB),
]
"""Variables of no job -> those that are ignored."""

WRONG = [
    ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number from 1 to 1000000; got 'two'"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a whole number from 1 to 1000000; got '0'"),
    ({"WORLD_SIZE": "-1"}, "WORLD_SIZE must be a whole number from 1 to 1000000; got '-1'"),
    ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE must be a whole number from 1 to 1000000; got '99"),
    ({"WORLD_SIZE": "4.0"}, "WORLD_SIZE must be a whole number from 1 to 1000000; got '4.0'"),
    ({"WORLD_SIZE": "\u0664"}, "WORLD_SIZE must be a whole number"),  # an Arabic 4
    ({"RANK": "4"}, "RANK must be a whole number from 0 to 3; got '4'"),
    ({"RANK": "-1"}, "RANK must be a whole number from 0 to 3; got '-1'"),
    ({"RANK": " "}, "RANK must be a whole number from 0 to 3; got ' '"),
    ({"LOCAL_RANK": "4"}, "LOCAL_RANK must be a whole number from 0 to 3; got '4'"),
    ({"LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK must be a whole number from 0 to 0; got '1'"),
    ({"LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE must be a whole number from 1 to 4; got '5'"),
    ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE must be a whole number from 1 to 4; got '0'"),
    ({"MASTER_PORT": "http"}, "MASTER_PORT must be a whole number from 1 to 65535; got 'http'"),
    ({"MASTER_PORT": "65536"}, "MASTER_PORT must be a whole number from 1 to 65535; got '65536'"),
]


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*JOB_VARIABLES, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_job_has_all_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, {**JOB, "LOCAL_WORLD_SIZE": "2"})
    assert (job_rank(), job_size(), local_rank(), local_size()) == (3, 4, 1, 2)
    assert (job_problem(), ignored_job_variables()) == (None, [])
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert (job_problem(), job_size()) == (None, 4)


@pytest.mark.parametrize(("variables", "ignored"), INCOMPLETE, ids=str)
def test_an_incomplete_job_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], ignored: list[str]
) -> None:
    set_variables(monkeypatch, variables)
    assert (job_rank(), job_size(), local_rank(), local_size()) == (0, 1, 0, 1)
    assert job_problem() is None
    assert ignored_job_variables() == ignored
    recorder = Recorder()
    ended = train_run(tiny_config(tmp_path / "run", "run.total_timesteps=1"), recorder)
    assert isinstance(ended, RunEnded)
    notes = [event.text for event in recorder.events if isinstance(event, Notice)]
    assert [note.partition(":")[0] for note in notes] == ["training in a single process"] * bool(ignored)
    assert all(", ".join(ignored) in note for note in notes)


@pytest.mark.parametrize(("variables", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_value_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    set_variables(monkeypatch, JOB | variables)
    assert (job_rank(), job_size(), local_rank(), local_size()) == (0, 1, 0, 1)
    with pytest.raises(UsageError) as error:
        train_run(tiny_config("", "run.total_timesteps=1"), lambda event: None)
    assert str(error.value).startswith(f"the environment variable {message}")
    assert "torchrun" in str(error.value)
