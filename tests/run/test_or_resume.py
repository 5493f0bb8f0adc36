"""`metta train --or-resume`: the same command begins a run, resumes it and finds it finished, whatever stopped it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import (
    TINY,
    Killed,
    Recorder,
    assert_same_weights,
    ignore,
    interrupt,
    kill,
    metrics_of,
    tiny_config,
    weights_of,
)
from typer.testing import CliRunner, Result

from metta.api import Notice, load_config, resume_run, train_run
from metta.config.loading.config_changes import config_changes
from metta.config.loading.load import dump_config, parse_config
from metta.errors import ConfigError, TrainingError
from metta.job_environment import STOP_SIGNALS
from metta.run.resume.changed_settings import CHANGEABLE
from metta.run.run_directory import RunDirectory
from metta.run.signals import StopSignals
from metta_cli.main import app

LENGTH = "run.total_timesteps=1536"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    train_run(tiny_config(directory, LENGTH), ignore)
    return directory


def stop(directory: Path, after_epoch: int, act: Callable[[], None], *settings: str) -> None:
    """Begin or resume the run, and stop it after an epoch."""
    with suppress(Killed):
        train_run(tiny_config(directory, LENGTH, *settings), Recorder(after_epoch, act), or_resume=True)


def remove_all_but(directory: Path, *names: str) -> None:
    for path in [path for path in directory.rglob("*") if path.is_file() and path.name not in names]:
        path.unlink()


STATES: dict[str, Callable[[Path], Any]] = {
    "no directory": lambda run: None,
    "an empty directory": lambda run: run.mkdir(),
    "killed before config.toml": lambda run: (stop(run, 1, kill), remove_all_but(run, ".lock", ".lock_holder")),
    "killed after config.toml": lambda run: (stop(run, 1, kill), remove_all_but(run, "config.toml", ".lock")),
    "killed after the first policy": lambda run: (
        stop(run, 1, kill),
        remove_all_but(run, "config.toml", "checkpoint_000000.pt"),
    ),
    "killed in the first epoch": lambda run: stop(run, 1, kill),
    "killed later": lambda run: (stop(run, 1, interrupt), stop(run, 2, kill)),
    "interrupted": lambda run: stop(run, 2, interrupt),
    "interrupted twice": lambda run: (stop(run, 1, interrupt), stop(run, 2, interrupt)),
    "finished": lambda run: stop(run, 0, kill),
}


@pytest.mark.parametrize("state", STATES)
def test_whatever_stopped_the_run_it_ends_as_if_nothing_had_happened(
    state: str, uninterrupted: Path, tmp_path: Path
) -> None:
    STATES[state](tmp_path / "run")
    recorder = Recorder()
    ended = train_run(tiny_config(tmp_path / "run", LENGTH), recorder, or_resume=True)
    assert (ended.reason, ended.agent_step) == ("finished", 1536)
    assert metrics_of(tmp_path / "run") == metrics_of(uninterrupted)
    assert_same_weights(weights_of(tmp_path / "run", 3), weights_of(uninterrupted, 3))
    notices = [event.text for event in recorder.events if isinstance(event, Notice)]
    finished = ["all 1,536 agent steps are done; increase --total-timesteps to continue"]
    assert notices == (finished if state == "finished" else [])


def metta(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY.replace("4096", "1024"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_can_be_repeated(here: Path) -> None:
    command = ("train", "tiny.toml", "--run-dir", "run", "--or-resume")
    metta(*command)
    again = metta(*command)
    assert again.stderr == "note: all 1,024 agent steps are done; increase --total-timesteps to continue\n"
    assert "finished: 1,024 agent steps" in again.stdout
    longer = metta(*command, "--total-timesteps", "1536")
    changed, schedule = longer.stderr.splitlines()
    assert changed == "note: run.total_timesteps was 1024 and is now 1536"
    assert schedule.startswith("note: the learning rate was 0.000228 in the last epoch and is 0.000152 in the next one")
    assert load_config("run/config.toml").run.total_timesteps == 1536
    assert [line["epoch"] for line in metrics_of(Path("run"))] == [1, 2, 3]
    refused = metta("train", "tiny.toml", "--run-dir", "run", code=2)
    assert "already contains a run" in refused.stderr


def test_without_a_directory_the_command_says_that_it_needs_one(here: Path) -> None:
    assert metta("train", "tiny.toml", "--or-resume", code=2).stderr == (
        "error: --or-resume needs a run directory, in which the repeated command finds the run; "
        "add --run-dir DIRECTORY\n"
    )
    Path("named.toml").write_text(TINY.replace("4096", "512").replace("[run]", '[run]\nrun_dir = "named"'))
    for _ in range(2):
        metta("train", "named.toml", "--or-resume")
    assert len(metrics_of(Path("named"))) == 1


def test_other_settings_are_refused_all_at_once_with_their_lines(here: Path) -> None:
    command = ("train", "tiny.toml", "--run-dir", "run", "--or-resume")
    metta(*command)
    before = Path("run/config.toml").read_bytes()
    Path("tiny.toml").write_text(Path("tiny.toml").read_text().replace("ent_coef = 0.01", "ent_coef = 0.02"))
    options = ("--seed", "3", "--set", "env.objects.altar.cooldown=7", "--total-timesteps", "4096")
    refused = metta(*command, *options, code=2).stderr.splitlines()
    assert refused[0] == "error: tiny.toml has 3 problems"
    assert [" ".join(line.split()) for line in refused[1:]] == [
        "line 28 ppo.ent_coef must be 0.01 to resume run; got 0.02",
        "--seed run.seed must be 0 to resume run; got 3",
        "--set env.objects[0].cooldown must be 10 to resume run; got 7",
    ]
    assert Path("run/config.toml").read_bytes() == before


DIFFERENT = {
    "run.name": '"other"',
    "run.seed": "1",
    "run.init_from": '"elsewhere.pt"',
    "env.game.max_steps": "30",
    "env.game.groups.agent.id": "3",
    "env.map_builder.type": '"Maze"',
    "env.map_builder.objects.altar": "1",
    "agent.hidden_dim": "24",
    "agent.observation_types": '["inventory"]',
    "optimizer.type": '"muon"',
    "ppo.target_kl": "0.1",
    "vtrace.enabled": "true",
    "prioritized_sampling.alpha": "0.5",
    "normalization.values": "true",
    "experience.batch_size": "768",
    "curriculum.type": '"low_reward"',
    "kickstarting.coef": "0.5",
    "kickstarting.teacher": '"scripted"',
    "self_play.pool_size": "5",
    "distributed.batch": '"per_process"',
}
"""A key of each table that cannot change when a run resumes -> another value."""


@pytest.mark.parametrize("key", DIFFERENT)
def test_no_difference_is_ignored(key: str, uninterrupted: Path, tmp_path: Path) -> None:
    """Neither one in the file of the repeated command nor an edit of the run's `config.toml`."""
    needed = ("env.map_builder.objects={}",) if "Maze" in DIFFERENT[key] else ()
    config = tiny_config(uninterrupted, LENGTH, *needed, f"{key}={DIFFERENT[key]}")
    with pytest.raises(ConfigError) as caught:
        train_run(config, ignore, or_resume=True)
    assert key in {problem.key for problem in caught.value.problems}
    edited = shutil.copytree(uninterrupted, tmp_path / "edited")
    (edited / "config.toml").write_text(dump_config(config), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        resume_run(edited, ignore)
    assert caught.value.source == str(edited / "config.toml")
    assert {problem.key: problem.line is not None for problem in caught.value.problems}[key]


def test_an_edit_that_may_change_is_taken_and_announced(uninterrupted: Path, tmp_path: Path) -> None:
    edited, recorder = shutil.copytree(uninterrupted, tmp_path / "edited"), Recorder()
    config = tiny_config(edited, "run.total_timesteps=2048", "optimizer.learning_rate=0.002")
    (edited / "config.toml").write_text(dump_config(config), encoding="utf-8")
    resume_run(edited, recorder)
    assert [line["epoch"] for line in metrics_of(edited)][-1] == 4
    notices = [event.text for event in recorder.events if isinstance(event, Notice)]
    assert notices[:2] == [
        "run.total_timesteps was 1536 and is now 2048",
        "optimizer.learning_rate was 0.000457 and is now 0.002",
    ]
    assert "the learning rate was" in notices[2]
    assert "to hold it" not in notices[2]  # the new rate is what was asked for


SPECIAL: dict[str, Any] = {
    "run.device": "cuda:1",
    "compile.mode": "max-autotune-no-cudagraphs",
    "logging.wandb_mode": "offline",
    "logging.extra": ["lines"],
    "lr_schedule.schedule_type": "cosine",
    "lr_schedule.warmup_steps": 5,
}


def changeable() -> dict[str, Any]:
    """Every key that may change when a run resumes -> another value than in the tiny run."""
    found = {}
    for section, table in tiny_config().model_dump().items():
        for name, value in table.items():
            key = f"{section}.{name}"
            if key.startswith(CHANGEABLE):
                other = (
                    not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "other"
                )
                found[key] = SPECIAL.get(key, other)
    return found


def test_the_changeable_keys_are_found() -> None:
    assert {"run.total_timesteps", "compile.mode", "logging.extra", "simulation.replay_dir"} <= set(changeable())


@pytest.mark.parametrize("key", changeable())
def test_a_changeable_key_changes_to_the_value_of_the_file(key: str) -> None:
    before = tiny_config()
    section, name = key.split(".")
    table = getattr(before, section).model_copy(update={name: changeable()[key]})
    (change,) = config_changes(before, before.model_copy(update={section: table}))
    assert (change.key, change.before, change.now) == (key, getattr(getattr(before, section), name), changeable()[key])
    override = change.override("--or-resume")
    data = before.model_dump(exclude_none=True)
    override.apply(data)
    assert data[section][name] == changeable()[key]
    assert type(data[section][name]) is type(changeable()[key])


def test_a_policy_by_the_name_of_a_run_is_the_one_with_which_the_run_began(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = tmp_path / "runs" / "teacher-20260101-000000"
    shutil.copytree(uninterrupted, teacher)
    newest = teacher / "checkpoints" / "checkpoint_000003.pt"
    for index, name in enumerate(("tiny", str(teacher), str(newest.parent), "runs/teach*", str(newest))):
        settings = (f"run.init_from={json.dumps(name)}", f"kickstarting.teacher={json.dumps(name)}")
        directory = tmp_path / f"run{index}"
        stop(directory, 1, interrupt, *settings)
        shutil.copy(newest, newest.with_name("checkpoint_000009.pt"))  # the teacher was trained for longer
        assert train_run(tiny_config(directory, LENGTH, *settings), ignore, or_resume=True).agent_step == 1536
        newest.with_name("checkpoint_000009.pt").unlink()
        other = tmp_path / "other.pt"
        shutil.copy(newest, other)
        with pytest.raises(ConfigError, match=r"run\.init_from +must be .*; got .other\.pt"):
            train_run(tiny_config(directory, LENGTH, *settings, "run.init_from=other.pt"), ignore, or_resume=True)


def test_a_scene_that_has_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scene.toml").write_text(TINY)
    settings = ('curriculum.scenes=["scene.toml"]',)
    stop(tmp_path / "run", 1, interrupt, *settings)
    Path("scene.toml").write_text(TINY.replace("max_steps = 20", "max_steps = 21"))
    with pytest.raises(ConfigError, match=r'"scene\.toml"\.game\.max_steps +must be 20 to resume .*; got 21'):
        train_run(tiny_config(tmp_path / "run", LENGTH, *settings), ignore, or_resume=True)
    Path("scene.toml").write_text(TINY)
    assert train_run(tiny_config(tmp_path / "run", LENGTH, *settings), ignore, or_resume=True).agent_step == 1536


def test_directories_elsewhere_are_the_same_however_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    epoch = 0
    for written in ("checkpoints", "./checkpoints", str(tmp_path / "checkpoints")):
        recorder = Recorder(epoch := epoch + 1, interrupt)
        settings = (f"checkpoint.checkpoint_dir={json.dumps(written)}", "simulation.replay_dir='replays/../replays'")
        train_run(tiny_config("run", LENGTH, *settings), recorder, or_resume=True)
        assert not [event for event in recorder.events if isinstance(event, Notice)]


def test_a_run_in_training_is_not_resumed(uninterrupted: Path) -> None:
    with RunDirectory.open(uninterrupted), pytest.raises(TrainingError, match="is being trained by process"):
        train_run(tiny_config(uninterrupted, LENGTH), ignore, or_resume=True)


@pytest.fixture
def not_ignored(name: str) -> Iterator[None]:
    """The signal is not ignored, as SIGHUP is where the tests run under nohup: a run would leave it so."""
    number = signal.Signals[name]
    before = signal.getsignal(number)
    if before == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
    yield
    signal.signal(number, before)


@pytest.mark.parametrize("name", STOP_SIGNALS)
def test_a_signal_of_a_batch_system_saves_and_the_same_command_continues(
    name: str, not_ignored: None, uninterrupted: Path, tmp_path: Path
) -> None:
    def send() -> None:
        os.kill(os.getpid(), signal.Signals[name])

    before = signal.getsignal(signal.Signals[name])
    ended = train_run(tiny_config(tmp_path / "run", LENGTH), Recorder(1, send), or_resume=True)
    assert (ended.reason, ended.epoch) == ("interrupted", 1)
    assert signal.getsignal(signal.Signals[name]) == before
    train_run(tiny_config(tmp_path / "run", LENGTH), ignore, or_resume=True)
    assert_same_weights(weights_of(tmp_path / "run", 3), weights_of(uninterrupted, 3))


def send_twice(number: signal.Signals) -> None:
    with StopSignals(lambda name: None) as signals:
        os.kill(os.getpid(), number)
        assert signals.requested
        os.kill(os.getpid(), number)


def test_in_a_job_a_signal_that_arrives_twice_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        send_twice(signal.SIGTERM)
    job = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1234"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    send_twice(signal.SIGTERM)
    send_twice(signal.SIGINT)
    monkeypatch.setattr("metta.run.signals.SPREAD_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        send_twice(signal.SIGTERM)


def test_a_programs_handler_of_a_signal_stays_installed() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with StopSignals(lambda name: None) as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert heard == [signal.SIGUSR1]
            assert not signals.requested
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_list_or_table_of_another_length_is_one_change() -> None:
    before, now = parse_config(TINY, "tiny.toml"), tiny_config("", "env.game.groups.red={id=1}")
    assert [change.key for change in config_changes(before, now)] == ["env.game.groups.red"]
