"""Which policies of a run are kept: the newest (`keep_last`) and the best (`keep_best`); what resuming does to them."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import (
    TINY,
    Killed,
    Recorder,
    assert_same_state,
    ignore,
    interrupt,
    kill,
    metrics_of,
    tiny_config,
    weights_of,
)
from typer.testing import CliRunner, Result

from metta import api
from metta.api import Notice, RunEnded, newest_checkpoint, resume_run, train_run
from metta.checkpoint.kept_policies import read_best, remove_old_policies
from metta.checkpoint.policy_file import checkpoint_name
from metta.config.loading.overrides import Override
from metta.errors import CheckpointError, ConfigError
from metta.run import run_directory, train
from metta.run.interval_timer import IntervalTimer
from metta_cli.main import app

EVALUATED = (
    "checkpoint.keep_best=true",
    "simulation.evaluate_interval=1",
    "prioritized_sampling.enabled=true",
    "optimizer.learning_rate=0.02",
)


def is_always_due(timer: IntervalTimer) -> bool:
    """Checkpoints, and evaluations if they are on, are due after each epoch; replays and progress never."""
    return timer.interval_seconds not in (0, 0.25, 300)


@pytest.fixture(autouse=True)
def _always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IntervalTimer, "is_due", is_always_due)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunEnded]:
    """A run of four epochs with all policies and the best one. Tests that resume it work on a copy."""
    run = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IntervalTimer, "is_due", is_always_due)
        return run, train_run(tiny_config(run, *EVALUATED), ignore)


@pytest.fixture
def copy(trained: tuple[Path, RunEnded], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def epochs_kept(run: Path) -> list[int]:
    names = [re.fullmatch(r"checkpoint_(\d+)\.pt", path.name) for path in (run / "checkpoints").iterdir()]
    return sorted(int(name[1]) for name in names if name)


def resume(run: Path, *settings: str) -> Recorder:
    recorder = Recorder()
    resume_run(run, recorder, [Override.parse(setting) for setting in settings])
    return recorder


def notices(recorder: Recorder) -> list[str]:
    return [event.text for event in recorder.events if isinstance(event, Notice)]


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("keep_last", "epoch", "expected"),
    [
        (0, 8, [0, 1, 2, 6, 7, 8, 1_000_000]),
        (1, 8, [6, 8, 1_000_000]),
        (2, 8, [6, 7, 8, 1_000_000]),
        (4, 8, [2, 6, 7, 8, 1_000_000]),
        (99, 8, [0, 1, 2, 6, 7, 8, 1_000_000]),
        (1, 2, [2, 6, 7, 8, 1_000_000]),  # resumed from an earlier state: training passes the later ones again
        (1, 1_000_000, [6, 8, 1_000_000]),
    ],
)
def test_the_newest_policies_and_those_of_the_trainer_states_are_kept(
    keep_last: int, epoch: int, expected: list[int], tmp_path: Path
) -> None:
    """And all that the run has not written: files that a user has named, and other folders."""
    others = ["checkpoint_mine.pt", "checkpoint_000001_copy.pt", "checkpoint_000001.onnx", "best.pt", "teacher.pt"]
    others += ["opponents/checkpoint_000001.pt", "trainer_state_000006.pt", "trainer_state_000008.pt"]
    (tmp_path / "opponents").mkdir()
    for name in (*others, *(checkpoint_name(n) for n in (0, 1, 2, 6, 7, 8, 1_000_000))):
        (tmp_path / name).touch()
    remove_old_policies(tmp_path, epoch, keep_last)
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert kept == {*others, *map(checkpoint_name, expected)}


def test_a_run_keeps_its_last_policies_whatever_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(train, "remove_old_policies", lambda folder, epoch, keep: kill() if epoch == 3 else None)
        with pytest.raises(Killed):  # between saving and removing
            train_run(tiny_config(run, "checkpoint.keep_last=1"), ignore)
    assert epochs_kept(run) == [0, 1, 2, 3]
    with pytest.raises(Killed):
        resume_run(run, Recorder(5, kill))
    assert epochs_kept(run) == [3, 4]
    damage(run / "checkpoints/trainer_state_000004.pt")
    assert any("resuming from trainer_state_000003.pt" in text for text in notices(resume(run)))
    assert epochs_kept(run) == [7, 8]
    assert [line["epoch"] for line in metrics_of(run)] == [*range(1, 9)]


def test_keep_last_may_change_and_applies_at_once_also_to_a_finished_run(copy: Path) -> None:
    resume(copy, "checkpoint.keep_last=4")
    assert epochs_kept(copy) == [5, 6, 7, 8]
    resume(copy, "checkpoint.keep_last=0", "run.total_timesteps=4608")
    assert epochs_kept(copy) == [5, 6, 7, 8, 9]


def test_who_looks_for_the_newest_policy_while_it_is_replaced_gets_the_next(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, removed = run_directory.checkpoint_paths, [[copy / "checkpoints/checkpoint_000099.pt"]]
    monkeypatch.setattr(run_directory, "checkpoint_paths", lambda folder: removed.pop() if removed else find(folder))
    assert newest_checkpoint(copy) == copy / "checkpoints/checkpoint_000008.pt"
    for path in find(copy / "checkpoints"):
        damage(path)
    with pytest.raises(CheckpointError, match="no policy is valid"):
        newest_checkpoint(copy)


# -- the best policy ---------------------------------------------------------------------------------------------------


def test_keep_best_keeps_the_policy_of_the_highest_evaluation_with_all_that_it_was_chosen_by(
    trained: tuple[Path, RunEnded],
) -> None:
    run, ended = trained
    lines = metrics_of(run)
    scores = [line["evaluation"]["mean_reward"] for line in lines]
    best = read_best(run / "checkpoints")
    assert best is not None
    assert (best.mean_reward, best.epoch) == (max(scores), 1 + scores.index(max(scores)))
    assert (best.agent_step, best.episodes) == (512 * best.epoch, 10)
    assert 0 < best.half_width < 10
    assert len(set(scores)) > 1
    assert best == ended.best
    content = torch.load(run / "checkpoints/best.pt", weights_only=True)
    assert content["epoch"] == best.epoch
    assert_same_state(dict(content["weights"]), dict(weights_of(run, best.epoch)))


@pytest.mark.parametrize(("act", "epoch"), [(kill, 4), (interrupt, 7)])
def test_the_best_policy_is_the_same_however_the_run_was_stopped(
    act: Callable[[], None], epoch: int, trained: tuple[Path, RunEnded], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    try:
        train_run(tiny_config(run, *EVALUATED), Recorder(epoch, act))
    except Killed:
        assert act is kill
    resume(run)
    contents = [torch.load(path / "checkpoints/best.pt", weights_only=True) for path in (run, trained[0])]
    assert_same_state(*contents)
    assert metrics_of(run) == metrics_of(trained[0])


def test_a_run_that_resumes_keeps_its_best_policy_until_a_better_one(copy: Path) -> None:
    path = copy / "checkpoints/best.pt"
    content = torch.load(path, weights_only=True)
    content["metadata"]["evaluation"]["mean_reward"] = 1e6
    torch.save(content, path)
    resume(copy, "run.total_timesteps=4608")
    best = read_best(copy / "checkpoints")
    assert best is not None
    assert best.mean_reward == 1e6
    damage(path)
    # evaluations are seldom: only the last epoch is evaluated
    recorder = resume(copy, "run.total_timesteps=5632", "simulation.evaluate_interval=300")
    assert any("best.pt is damaged" in text for text in notices(recorder))
    best = read_best(copy / "checkpoints")
    assert best is not None
    assert best.epoch == 11


def test_without_evaluations_the_best_policy_cannot_be_kept(copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(TINY + "\n[checkpoint]\nkeep_best = true\n")
    line = TINY.count("\n") + 3
    assert f"line {line}  checkpoint.keep_best  chooses by evaluations, which are off" in metta("check", file, code=2)
    endless = TINY.replace("max_steps = 20", "max_steps = 0\nepisode_lifetime = 0").replace(
        "interval = 0", "interval = 9"
    )
    file.write_text(endless + "\n[checkpoint]\nkeep_best = true\n")
    for command in ("check", "train"):
        assert f"line {line + 1}  checkpoint.keep_best  chooses by evaluations, but" in metta(command, file, code=2)
    with pytest.raises(ConfigError, match="which are off"):
        resume(copy, "simulation.evaluate_interval=0")


def metta(*arguments: object, code: int = 0) -> str:
    result: Result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


def test_commands_take_the_best_policy_of_a_run_and_say_by_what_it_was_chosen(
    trained: tuple[Path, RunEnded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ended = trained
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/mine").symlink_to(run)
    assert ended.best is not None
    assert ended.best_reward is not None
    text = " ".join(metta("eval", run / "best.pt", "--episodes", 30, "--no-baseline").split())
    assert f"policy of epoch {ended.best.epoch}, chosen by its mean reward in 10 episodes" in text
    shown = re.search(r"reward per agent and episode +(\S+)", text)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(ended.best_reward.mean, abs=6e-3), "the final report uses the same maps"
    direct = " ".join(metta("eval", run / "checkpoints/best.pt", "--episodes", 30, "--no-baseline").split())
    assert direct.split(" in evaluation world")[1] == text.split(" in evaluation world")[1]
    for name in (run / "best.pt", "mine/best.pt", "runs/mine/best.pt"):
        assert api.policy_file(name).resolve() == run / "checkpoints/best.pt"
    assert "mine_best_deterministic_seed_0.html" in metta("replay", "mine/best.pt", "--deterministic", "--max-steps", 2)
    metta("export", "mine/best.pt", "--out", tmp_path / "policy.onnx")
    (tmp_path / "tiny.toml").write_text(TINY)
    begun = (
        "train",
        "tiny.toml",
        "--from",
        "mine/best.pt",
        "--run-dir",
        "new",
        "--total-timesteps",
        512,
        "--or-resume",
    )
    assert "weights from" in metta(*begun)
    assert "all 512 agent steps are done" in metta(*begun)
    assert "difference" in metta("eval", "mine/best.pt", "--against", "mine", "--episodes", 2)
    match = metta("eval", "scripted", "--env", "tiny.toml", "--against", "mine/best.pt", "--deterministic")
    assert "--deterministic has no effect on the scripted policy" in match
    assert "new has no best.pt; checkpoint.keep_best = true keeps one" in metta("eval", "new/best.pt", code=2)
    assert "missing/best.pt does not exist" in metta("eval", "missing/best.pt", code=2)


# -- schedules ---------------------------------------------------------------------------------------------------------

LAST, BASE = 0.02 / 8, 0.02
HOLD = ["lr_schedule.anneal_lr=false", f"optimizer.learning_rate={LAST:.3g}"]


def test_the_last_learning_rate_of_a_run_that_was_shortened_is_said(copy: Path) -> None:
    last = metrics_of(copy)[-1]["learning_rate"]
    resume_run(copy, ignore, [Override.parse("run.total_timesteps=512")])  # ended before
    recorder = Recorder()
    resume_run(copy, recorder, [Override.parse("run.total_timesteps=8192")])
    (said,) = [text for text in notices(recorder) if "learning rate" in text]
    assert f"was {last:.3g} in the last epoch" in said


@pytest.mark.parametrize(
    ("settings", "next_rate", "is_annealed"),
    [
        (["run.total_timesteps=8192"], BASE / 2, True),
        (
            ["run.total_timesteps=4608", "lr_schedule.schedule_type=cosine"],
            BASE * (1 + math.cos(math.pi * 8 / 9)) / 2,
            True,
        ),
        (["run.total_timesteps=5120", "lr_schedule.anneal_lr=false"], BASE, False),
        (["run.total_timesteps=5120", *HOLD], LAST, False),
        (["checkpoint.keep_last=3"], None, True),
    ],
)
def test_what_becomes_of_the_learning_rate_is_said_when_it_changes(
    settings: list[str], next_rate: float | None, is_annealed: bool, copy: Path
) -> None:
    recorder = Recorder(9, interrupt)
    resume_run(copy, recorder, [Override.parse(setting) for setting in settings])
    said = [text for text in notices(recorder) if "learning rate" in text]
    if next_rate is None:
        assert said == []
        return
    if next_rate == LAST:
        assert said == []
    else:
        assert f"was {LAST:.3g} in the last epoch and is {next_rate:.3g} in the next one" in said[0]
        assert all(text in said[0] for text in HOLD) == is_annealed
    rates = [line["learning_rate"] for line in metrics_of(copy)]
    assert rates[7:] == pytest.approx([LAST, next_rate])
    beta = [text for text in notices(recorder) if "beta of prioritized_sampling" in text]
    assert len(beta) == 1
    if not is_annealed:
        again = Recorder(10, interrupt)  # annealing may be turned on
        resume_run(copy, again, [Override.parse("lr_schedule.anneal_lr=true")])
        assert metrics_of(copy)[-1]["learning_rate"] < rates[8]


def test_copies_with_other_names_are_neither_the_newest_nor_removed(
    trained: tuple[Path, RunEnded], tmp_path: Path
) -> None:
    run = shutil.copytree(trained[0], tmp_path / "run")
    ended, newest = trained[1], newest_checkpoint(run)
    copies = []
    for kind in ("checkpoint", "trainer_state"):
        for name in ("old", "before_change", f"{ended.epoch:06d}_copy"):
            copies.append(run / "checkpoints" / f"{kind}_{name}.pt")
            shutil.copy(run / "checkpoints" / f"{kind}_{ended.epoch:06d}.pt", copies[-1])
    assert newest_checkpoint(run) == newest
    (config := run / "config.toml").rename(tmp_path / "config.toml")
    assert newest_checkpoint(run) == newest  # also without the settings of the run
    (tmp_path / "config.toml").rename(config)
    more = f"run.total_timesteps={2 * ended.agent_step}"
    resume(run, more, "checkpoint.keep_last=1")
    assert newest_checkpoint(run) == run / "checkpoints" / checkpoint_name(2 * ended.epoch)
    assert all(copy.exists() for copy in copies)
