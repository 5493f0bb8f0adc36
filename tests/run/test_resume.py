"""Train 2n == train n, stop in any way, resume n: bit for bit."""

from __future__ import annotations

import re
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import (
    Killed,
    Recorder,
    assert_same_state,
    assert_same_weights,
    ignore,
    interrupt,
    kill,
    metrics_of,
    tiny_config,
    weights_of,
)
from typer.testing import CliRunner

from metta.agent.heads import initial_statistics
from metta.api import Event, Notice, Override, PhaseBegan, RunEnded, TrainingState, resume_run, train_run
from metta.errors import CheckpointError, ConfigError, TrainingError, UsageError
from metta.run.run_directory import RunDirectory
from metta_cli.main import app

EPOCHS = 8


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one go."""
    run_dir = tmp_path_factory.mktemp("runs") / "straight"
    ended = train_run(tiny_config(run_dir), ignore)
    assert (ended.reason, ended.epoch, ended.agent_step) == ("finished", EPOCHS, 4096)
    return run_dir


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its second epoch, with two trainer states."""
    run_dir = tmp_path_factory.mktemp("runs") / "stopped"
    train_run(tiny_config(run_dir), Recorder(2, interrupt))
    return run_dir


def assert_same_run(first: Path, second: Path) -> None:
    assert metrics_of(first) == metrics_of(second)
    assert_same_weights(weights_of(first, EPOCHS), weights_of(second, EPOCHS))
    states = [TrainingState.load(run / "checkpoints" / f"trainer_state_{EPOCHS:06d}.pt") for run in (first, second)]
    worlds = [state.extra_args["experience"] for state in states]
    assert_same_state(*worlds)
    assert_same_state(*(state.optimizer_state_dict for state in states))


def test_the_same_seed_twice_gives_the_same_run(straight: Path, tmp_path: Path) -> None:
    train_run(tiny_config(tmp_path / "again"), ignore)
    assert_same_run(straight, tmp_path / "again")


def test_another_seed_gives_another_run(straight: Path, tmp_path: Path) -> None:
    train_run(tiny_config(tmp_path / "other", "run.seed=1"), ignore)
    assert metrics_of(straight) != metrics_of(tmp_path / "other")


def test_metrics_show_that_episodes_ended_and_weights_changed(straight: Path) -> None:
    lines = metrics_of(straight)
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    assert sum(line["episodes"] for line in lines) > 0
    assert [bool(line["weights"]) for line in lines] == [line["epoch"] % 3 == 0 for line in lines]
    assert lines[0]["learning_rate"] > lines[-1]["learning_rate"] > 0
    before, after = weights_of(straight, 0), weights_of(straight, EPOCHS)
    statistics = {f"value_head.{name}" for name in initial_statistics()}
    assert {name for name in before if torch.equal(before[name], after[name])} == statistics


def test_a_run_with_action_masks_is_resumed_as_the_run_in_one_go(tmp_path: Path) -> None:
    masked = ("agent.mask_actions=true", "experience.stagger_episodes=true", "agent.egocentric=true")
    train_run(tiny_config(tmp_path / "straight", *masked), ignore)
    train_run(tiny_config(tmp_path / "stopped", *masked), Recorder(3, interrupt))
    resume_run(tmp_path / "stopped", ignore)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize("epoch", [1, 3, 6])
def test_interrupted_and_resumed_is_the_run_in_one_go(straight: Path, tmp_path: Path, epoch: int) -> None:
    run_dir = tmp_path / "interrupted"
    ended = train_run(tiny_config(run_dir), Recorder(epoch, interrupt))
    assert (ended.reason, ended.epoch) == ("interrupted", epoch)
    ended = resume_run(run_dir, ignore)
    assert (ended.reason, ended.epoch) == ("finished", EPOCHS)
    assert_same_run(straight, run_dir)


@pytest.mark.parametrize("phase", ["collect", "update"])
def test_a_signal_within_an_epoch_leaves_it_and_saves_the_epochs_before(
    straight: Path, tmp_path: Path, phase: str
) -> None:
    """Sent at the beginning of the fourth epoch's phase, or by another thread a moment later, in the middle of it."""
    for delay in (0.0, 0.003):
        run_dir = tmp_path / f"{phase}-{delay}"
        count = 0

        def listen(event: Event, delay: float = delay) -> None:
            nonlocal count
            if event == PhaseBegan(phase):
                count += 1
                if count == 4:
                    threading.Timer(delay, interrupt).start() if delay else interrupt()

        ended = train_run(tiny_config(run_dir), listen)
        assert ended.reason == "interrupted"
        assert ended.epoch == 3 or (delay and ended.epoch < EPOCHS)
        assert [line["epoch"] for line in metrics_of(run_dir)] == list(range(1, ended.epoch + 1))
        assert ended.checkpoint == run_dir / "checkpoints" / f"checkpoint_{ended.epoch:06d}.pt"
        assert resume_run(run_dir, ignore).epoch == EPOCHS
        assert_same_run(straight, run_dir)


@pytest.mark.parametrize("phase", ["evaluate", "record"])
def test_a_signal_during_evaluation_or_recording_costs_no_epoch(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("metta.run.interval_timer.IntervalTimer.is_due", lambda timer: timer.interval_seconds == 17)
        intervals = [
            f"simulation.evaluate_interval={17 if phase == 'evaluate' else 0}",
            f"simulation.replay_interval={17 if phase == 'record' else 0}",
        ]

        def listen(event: Event) -> None:
            if event == PhaseBegan(phase):
                interrupt()

        ended = train_run(tiny_config(tmp_path / "run", *intervals), listen)
    assert (ended.reason, ended.epoch) == ("interrupted", 1)
    assert not metrics_of(tmp_path / "run")[0]["evaluation"]
    assert not (tmp_path / "run" / "replays").exists()
    resume_run(tmp_path / "run", ignore, [Override.parse("simulation.evaluate_interval=0")])
    assert_same_run(straight, tmp_path / "run")


@pytest.mark.parametrize("phase", ["collect", "update", "evaluate", "record"])
@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError("of a reward")], ids=["memory", "zero"])
def test_an_error_costs_no_epoch_before(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, error: Exception
) -> None:
    run_dir, began = tmp_path / "run", Counter[str]()

    def listen(event: Event) -> None:
        if isinstance(event, PhaseBegan):
            began[event.phase] += 1
            if event.phase == phase and began[phase] == 4:
                raise error

    intervals = ["simulation.evaluate_interval=17", "simulation.replay_interval=17"]
    with monkeypatch.context() as patch:
        patch.setattr("metta.run.interval_timer.IntervalTimer.is_due", lambda timer: timer.interval_seconds == 17)
        with pytest.raises(TrainingError if isinstance(error, MemoryError) else ZeroDivisionError) as caught:
            train_run(tiny_config(run_dir, *intervals), listen)
    assert (run_dir / "checkpoints" / "trainer_state_000003.pt").exists()
    if isinstance(error, MemoryError):
        assert "out of memory" in str(caught.value)
        assert f"metta resume {run_dir} continues from trainer_state_000003.pt" in str(caught.value)
    off = [Override.parse(f"simulation.{name}_interval=0") for name in ("evaluate", "replay")]
    assert resume_run(run_dir, ignore, off).epoch == EPOCHS
    assert_same_weights(weights_of(straight, EPOCHS), weights_of(run_dir, EPOCHS))


def test_a_run_killed_before_its_first_checkpoint_restarts(straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "unborn"
    with RunDirectory.create(tiny_config(run_dir)):
        pass
    assert resume_run(run_dir, ignore).epoch == EPOCHS
    assert_same_run(straight, run_dir)


def test_killed_again_and_again_is_the_run_in_one_go(straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "killed"
    with pytest.raises(Killed):
        train_run(tiny_config(run_dir), Recorder(2, kill))
    assert len(metrics_of(run_dir)) == 2  # of epochs that no checkpoint holds: they are trained and written again
    assert resume_run(run_dir, Recorder(3, interrupt)).epoch == 3
    with pytest.raises(Killed):
        resume_run(run_dir, Recorder(5, kill))
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 6, "agent_st')  # a line that a crash cut short
    resume_run(run_dir, ignore)
    assert_same_run(straight, run_dir)


def test_evaluations_and_checkpoints_do_not_disturb_training(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metta.run.interval_timer.IntervalTimer.is_due", lambda timer: True)
    train_run(tiny_config(tmp_path / "watched"), ignore)
    watched = metrics_of(tmp_path / "watched")
    assert all(line.pop("evaluation")["mean_length"] == 20 for line in watched)
    assert watched == [{key: line[key] for key in line if key != "evaluation"} for line in metrics_of(straight)]
    assert_same_weights(weights_of(straight, EPOCHS), weights_of(tmp_path / "watched", EPOCHS))
    states = sorted(path.name for path in (tmp_path / "watched" / "checkpoints").glob("trainer_state*"))
    assert states == ["trainer_state_000007.pt", "trainer_state_000008.pt"]


@pytest.mark.parametrize(
    ("victim", "damage"),
    [
        ("trainer_state_000006.pt", "torn"),
        ("trainer_state_000006.pt", "empty"),
        ("checkpoint_000006.pt", "flipped"),
    ],
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    straight: Path, tmp_path: Path, victim: str, damage: str
) -> None:
    run_dir = tmp_path / "damaged"
    train_run(tiny_config(run_dir), Recorder(3, interrupt))
    resume_run(run_dir, Recorder(6, interrupt))
    path = run_dir / "checkpoints" / victim
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes({"torn": content[:middle], "flipped": flipped, "empty": b""}[damage])
    recorder = Recorder()
    ended = resume_run(run_dir, recorder)
    notices = [event.text for event in recorder.events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert victim in notices[0]
    assert "damaged" in notices[0]
    assert notices[0].endswith("resuming from trainer_state_000003.pt")
    assert ended.epoch == EPOCHS
    assert_same_run(straight, run_dir)


FIRST, NEWEST = "trainer_state_000000.pt", "trainer_state_000001.pt"


@pytest.mark.parametrize("damaged", [[NEWEST], [NEWEST, FIRST]])
def test_without_a_valid_state_a_run_does_not_restart(damaged: list[str], tmp_path: Path) -> None:
    """Not even from that of epoch 0: the policy is left, from which a new run can start."""
    run_dir = tmp_path / "lost"
    train_run(tiny_config(run_dir), Recorder(1, interrupt))
    for name in damaged:
        path = run_dir / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:100])
    metrics = metrics_of(run_dir)
    with pytest.raises(CheckpointError, match="lost has no valid trainer state:") as caught:
        resume_run(run_dir, ignore)
    message = str(caught.value)
    assert message.count("damaged or truncated") == len(damaged)
    assert ("epoch 0: the run would start over" in message) == (len(damaged) == 1)
    policy = run_dir / "checkpoints" / "checkpoint_000001.pt"
    assert f"--from {policy} starts a new run with the weights of the newest policy" in message
    assert metrics_of(run_dir) == metrics


def test_a_state_of_an_earlier_version_does_not_resume_in_another_world(tmp_path: Path) -> None:
    """Those do not hold the config with which they were saved."""
    run_dir = tmp_path / "run"
    train_run(tiny_config(run_dir), Recorder(1, interrupt))
    for path in (run_dir / "checkpoints").glob("trainer_state_*.pt"):
        state = TrainingState.load(path)
        del state.extra_args["config"]
        state.save(path.parent)
    config = run_dir / "config.toml"
    text = config.read_text()
    (steps,) = [line for line in text.splitlines() if line.startswith("max_steps = ")]
    config.write_text(text.replace(steps, "max_steps = 77"))
    with pytest.raises(CheckpointError, match="the worlds of the run's config\\.toml are not those of the run"):
        resume_run(run_dir, ignore)
    config.write_text(text)
    recorder = Recorder()
    resume_run(run_dir, recorder, [Override.parse("optimizer.learning_rate=0.002")])
    assert not any("is now" in event.text for event in recorder.events if isinstance(event, Notice))


def test_a_copy_of_a_teacher_that_was_removed_from_the_config_is_named(tmp_path: Path) -> None:
    run_dir, teacher = tmp_path / "run", tmp_path / "teacher"
    policy = str(train_run(tiny_config(teacher, "run.total_timesteps=512"), ignore).checkpoint)
    train_run(tiny_config(run_dir, f"kickstarting.teacher='{policy}'"), Recorder(1, interrupt))
    config = run_dir / "config.toml"
    text = config.read_text()
    for edited in ("", "/elsewhere.pt"):
        config.write_text(text.replace(f'teacher = "{policy}"', f'teacher = "{edited}"'))
        with pytest.raises(ConfigError, match=f'kickstarting.teacher *must be "{re.escape(policy)}" to resume'):
            resume_run(run_dir, ignore)
    config.write_text(text)
    moved = run_dir.rename(tmp_path / "moved")
    resume_run(moved, ignore)


@pytest.mark.parametrize("kept", ["metrics.jsonl", "checkpoints/checkpoint_000001.pt", "both"])
def test_a_run_without_a_trainer_state_is_refused_with_what_to_do(tmp_path: Path, kept: str) -> None:
    """Copied without them, say. Nothing is overwritten, and what the message says works."""
    run_dir = tmp_path / "run"
    train_run(tiny_config(run_dir), Recorder(1, interrupt))
    lost = ["checkpoints/trainer_state_*.pt", "checkpoints/checkpoint_000000.pt"]
    lost += [name for name in ("metrics.jsonl", "checkpoints/checkpoint_000001.pt") if kept not in (name, "both")]
    for path in [path for pattern in lost for path in run_dir.glob(pattern)]:
        path.unlink()
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError) as caught:
        resume_run(run_dir, ignore)
    message = str(caught.value)
    assert message.startswith(
        f"{run_dir} cannot be resumed: {run_dir / 'checkpoints'} has no trainer state (trainer_state_*.pt)"
    )
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file() and path.name != ".lock"} == {
        path: content for path, content in before.items() if path.name != ".lock"
    }
    command = message.partition("or: metta ")[2].partition(" starts a new run")[0].split()
    command[command.index("NEW_DIRECTORY")] = str(tmp_path / "new")
    policy = str(run_dir / "checkpoints" / "checkpoint_000001.pt")
    assert (["--from", policy] == command[-2:]) == (kept != "metrics.jsonl")
    result = CliRunner().invoke(app, [*command, "--total-timesteps", "512", "--quiet"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "new" / "checkpoints" / "checkpoint_000001.pt").exists()


def test_training_does_not_overwrite_policies(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train_run(tiny_config(run_dir, "run.total_timesteps=512"), ignore)
    for path in [run_dir / "config.toml", *(run_dir / "checkpoints").glob("trainer_state_*")]:
        path.unlink()
    with pytest.raises(UsageError, match="checkpoints contains the checkpoints of another run"):
        train_run(tiny_config(run_dir), ignore)


@pytest.mark.parametrize("kind", [AttributeError, KeyError, RuntimeError])
@pytest.mark.parametrize(
    "place",
    [
        "metta.checkpoint.trainer_state.TrainingState.load",
        "metta.rl.curricula.curriculum.Curriculum.from_state",
        "metta.run.resume.restore_run.load_checkpoint",
        "metta.run.resume.restore_run.check_experience",
        "metta.rl.experience.Experience.load_own_state",
        "metta.run.training_run.TrainingRun.load_state",
    ],
)
def test_a_bug_is_not_taken_for_a_state_that_does_not_fit(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, place: str, kind: type[Exception]
) -> None:
    """Or the run would silently continue from an older state, or from its beginning."""

    def fail(*_: object, **__: object) -> None:
        raise kind("a bug")

    before = {path: path.read_bytes() for path in (stopped / "checkpoints").iterdir()}
    monkeypatch.setattr(place, fail)
    with pytest.raises(kind, match="a bug"):
        resume_run(stopped, ignore)
    assert {path: path.read_bytes() for path in (stopped / "checkpoints").iterdir()} == before


def test_a_finished_run_says_so_and_trains_on_if_asked(tmp_path: Path) -> None:
    run_dir = tmp_path / "finished"
    train_run(tiny_config(run_dir, "run.total_timesteps=1024"), ignore)
    recorder = Recorder()
    assert resume_run(run_dir, recorder).epoch == 2
    assert Notice("all 1,024 agent steps are done; increase --total-timesteps to continue") in recorder.events
    more = Override("--total-timesteps", ("run", "total_timesteps"), "2048")
    assert resume_run(run_dir, ignore, [more]).epoch == 4
    lines = metrics_of(run_dir)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    # the linear schedule ends with the new total: half of it is left after 2 of 4 epochs
    assert lines[2]["learning_rate"] == pytest.approx(lines[0]["learning_rate"] / 2)
    assert "total_timesteps = 2048" in (run_dir / "config.toml").read_text()


def test_keys_that_affect_learning_cannot_change_on_resume(tmp_path: Path) -> None:
    keys = ("ppo.gamma=0.5", "env.objects.altar.cooldown=3", "optimizer.learning_rte=1")
    with pytest.raises(UsageError) as caught:
        resume_run(tmp_path, ignore, [Override.parse(key) for key in keys])
    message = str(caught.value)
    assert "--set: ppo.gamma cannot change when a run resumes" in message
    assert "--set: env.objects.altar.cooldown cannot change when a run resumes" in message
    assert '--set: there is no table or key "optimizer.learning_rte"' in message
    assert 'did you mean "optimizer.learning_rate"?' in message


def test_one_directory_is_trained_by_one_process(tmp_path: Path) -> None:
    run_dir = tmp_path / "mine"

    def intrude() -> None:
        with pytest.raises(TrainingError, match=r"is being trained by process \d+ on .* since 20"):
            resume_run(run_dir, ignore)

    train_run(tiny_config(run_dir, "run.total_timesteps=512"), Recorder(1, intrude))
    assert isinstance(resume_run(run_dir, ignore), RunEnded)
    with pytest.raises(UsageError, match="already contains a run; resume it"):
        train_run(tiny_config(run_dir), ignore)


def test_a_reward_that_is_not_finite_stops_the_run_and_keeps_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "broken"
    train_run(tiny_config(run_dir), Recorder(2, interrupt))
    before = {path.name: path.read_bytes() for path in (run_dir / "checkpoints").iterdir()}
    monkeypatch.setattr("metta.world.env.share_rewards", lambda worlds: np.full(worlds.agents, np.inf, np.float32))
    with pytest.raises(TrainingError) as caught:
        resume_run(run_dir, ignore)
    message = str(caught.value)
    assert message.startswith("stopped in epoch 3: ")
    assert "the reward of agent 0 in world 0 is inf" in message
    assert message.endswith(f"metta resume {run_dir} continues from trainer_state_000002.pt")
    assert {path.name: path.read_bytes() for path in (run_dir / "checkpoints").iterdir()} == before
