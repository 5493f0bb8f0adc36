"""Runs with `[policies]`: each policy has its own network, and whatever stops the run, it resumes exactly."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_runs import (
    TEAM,
    TINY,
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

from metta.api import EpochEnded, Event, Notice, Override, RunBegan, TrainingState, load_policy, resume_run, train_run
from metta.config.loading.load import dump_config
from metta.config.loading.sweep_file import load_sweep
from metta.config.run import policy_settings
from metta.errors import CheckpointError, ConfigError, TrainingError, UsageError
from metta.experiments.sweep.score import score_run
from metta.rl.curricula.curriculum import Curriculum
from metta.run.training_run import TrainingRun
from metta_cli.views.training_lines import JsonView, PlainView
from metta_cli.views.training_view import LiveView

LENGTH = "run.total_timesteps=2048"
EPOCHS = 4


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """The run of two policies in one go, and its events."""
    run_dir, recorder = tmp_path_factory.mktemp("team") / "run", Recorder()
    train_run(tiny_config(run_dir, LENGTH, *TEAM), recorder)
    return run_dir, recorder.events


def assert_same_run(first: Path, second: Path) -> None:
    assert metrics_of(first) == metrics_of(second)
    assert_same_weights(weights_of(first, EPOCHS), weights_of(second, EPOCHS))
    states = [TrainingState.load(run / "checkpoints" / f"trainer_state_{EPOCHS:06d}.pt") for run in (first, second)]
    for name in ("optimizer_state_dict", "lr_scheduler_state_dict"):
        assert_same_state(*(getattr(state, name) for state in states))
    for name in ("experience", "opponents", "curriculum", "initial_weights"):
        assert_same_state(*(state.extra_args[name] for state in states))


KILLED_AFTER = """
import os, signal, sys
from metta.api import resume_run
import metta.run.train
from tiny_runs import Recorder
metta.run.train.IntervalTimer.is_due = lambda timer: timer.interval_seconds == 60
resume_run(sys.argv[1], Recorder(int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)))
"""


def test_killed_twice_it_ends_as_the_run_in_one_go(straight: tuple[Path, list[Event]], tmp_path: Path) -> None:
    """Each process saves after each epoch, and is killed before it saves its second one."""
    killed = tmp_path / "killed"
    with pytest.raises(Killed):
        train_run(tiny_config(killed, LENGTH, *TEAM), Recorder(1, kill))
    for last in (2, 3):
        command = [sys.executable, "-c", KILLED_AFTER, str(killed), str(last)]
        ended = subprocess.run(command, cwd=Path(__file__).parents[1] / "support", capture_output=True)
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        assert (killed / "checkpoints" / f"checkpoint_{last - 1:06d}.pt").exists()
        assert len(metrics_of(killed)) == last
    assert resume_run(killed, ignore).epoch == EPOCHS
    assert_same_run(straight[0], killed)


def everything(folder: Path) -> tuple[str, ...]:
    """A team of three with a teacher, self-play, a frozen policy of another run, two worlds and masks."""
    groups = "env.game.groups={hunters={id=1}, grazers={id=2}, birds={id=3}}"
    for name, steps in (("short", 20), ("long", 30)):
        world = TINY.replace("num_agents = 4", "num_agents = 6").replace("max_steps = 20", f"max_steps = {steps}")
        groups_of_world = "".join(f"[env.game.groups.{name}]\nid = {i}\n" for i, name in enumerate(GROUPS, 1))
        (folder / f"{name}.toml").write_text(world + groups_of_world)
    scenes = json.dumps([str(folder / "short.toml"), str(folder / "long.toml")])
    return (
        LENGTH,
        groups,
        "env.game.num_agents=6",
        "experience.batch_size=480",
        "experience.minibatch_size=240",
        f"curriculum.scenes={scenes}",
        'curriculum.type="low_reward"',
        "agent.mask_actions=true",
        'policies.wolves={groups=["hunters"], agent={memory="mingru"}}',
        f'policies.wolves.kickstarting={{teacher="{folder}/other:deer"}}',
        'policies.deer={groups=["grazers"], self_play={share=0.5, snapshot_interval=1, pool_size=1}}',
        f'policies.owls={{groups=["birds"], train=false, init_from="{folder}/other:wolves"}}',
    )


GROUPS = ("hunters", "grazers", "birds")


def test_teachers_opponents_frozen_policies_and_curricula_resume_exactly(
    straight: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    shutil.copytree(straight[0], tmp_path / "other")
    settings = everything(tmp_path)
    train_run(tiny_config(tmp_path / "straight", *settings), ignore)
    with pytest.raises(Killed):
        train_run(tiny_config(tmp_path / "killed", *settings), Recorder(1, kill))
    shutil.rmtree(tmp_path / "other")  # a resumed run needs no file outside of its directory
    assert resume_run(tmp_path / "killed", Recorder(2, interrupt)).epoch == 2
    with pytest.raises(Killed):
        resume_run(tmp_path / "killed", Recorder(3, kill))
    last = resume_run(tmp_path / "killed", ignore).epoch
    first, second = tmp_path / "straight", tmp_path / "killed"
    assert metrics_of(first) == metrics_of(second)
    assert_same_weights(weights_of(first, last), weights_of(second, last))
    saved = {path.relative_to(second / "checkpoints").as_posix() for path in (second / "checkpoints").rglob("*.pt")}
    assert {"wolves/teacher.pt", f"deer/opponents/epoch_{last:06d}.pt"} <= saved

    before, after = weights_of(second, 0), weights_of(second, last)
    changed = {name.partition(".")[0] for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed == {"wolves", "deer"}
    source = weights_of(straight[0], EPOCHS)["wolves.value_head.output.bias"]
    assert torch.equal(after["owls.value_head.output.bias"], source)
    (*_, line) = metrics_of(second)
    assert {"reward/owls", "reward/deer", "reward/wolves", "opponent_reward/deer"} <= line.keys()
    assert "learning_rate/owls" not in line
    assert {name.partition("/")[0] for name in line["losses"]} == {"wolves", "deer"}
    assert "wolves/teacher_kl" in line["losses"]

    (second / "checkpoints" / "wolves" / "teacher.pt").unlink()
    with pytest.raises(CheckpointError, match=r"wolves/teacher\.pt"):
        resume_run(second, ignore, [Override.parse("run.total_timesteps=9999")])


def test_a_policy_for_each_agent(tmp_path: Path) -> None:
    each = 'policies.herd={groups=["hunters", "grazers"], share=false}'
    config = tiny_config(tmp_path / "run", "run.total_timesteps=1024", TEAM[0], each)
    train_run(config, ignore)
    weights = weights_of(tmp_path / "run", 2)
    assert {name.partition(".")[0] for name in weights} == {f"herd_{index}" for index in range(4)}
    first, second = ({k.partition(".")[2]: w for k, w in weights.items() if k.startswith(f"herd_{i}.")} for i in (0, 1))
    assert any(not torch.equal(first[key], second[key]) for key in first)


def test_the_best_policies_are_those_that_learn(
    straight: tuple[Path, list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations and replays during training have all policies; `best.pt` is chosen by those in training."""
    frozen = f'policies.deer={{groups=["grazers"], train=false, init_from="{straight[0]}"}}'
    often = ("simulation.evaluate_interval=1", "simulation.replay_interval=1", "checkpoint.keep_best=true")
    monkeypatch.setattr("metta.run.interval_timer.IntervalTimer.is_due", lambda timer: timer.interval_seconds == 1)
    config = tiny_config(tmp_path / "run", "run.total_timesteps=1536", *TEAM[:2], frozen, *often)
    ended = train_run(config, ignore)
    lines = metrics_of(tmp_path / "run")
    scores = [line["evaluation"]["wolves/mean_reward"] for line in lines]
    assert ended.best is not None
    assert (ended.best.mean_reward, ended.best.epoch) == (max(scores), 1 + scores.index(max(scores)))
    for evaluation in (line["evaluation"] for line in lines):
        both = (evaluation["wolves/mean_reward"] + evaluation["deer/mean_reward"]) / 2
        assert evaluation["mean_reward"] == pytest.approx(both)
    assert len(list((tmp_path / "run" / "replays").glob("*.html"))) == len(lines)
    best = load_policy(tmp_path / "run" / "checkpoints" / "best.pt")
    assert list(best.team.policies) == ["wolves", "deer"]
    assert best.metadata["epoch"] == ended.best.epoch
    deer = {name: weight for name, weight in weights_of(straight[0], EPOCHS).items() if name.startswith("deer")}
    saved = {name: weight for name, weight in weights_of(tmp_path / "run", 3).items() if name.startswith("deer")}
    assert_same_weights(deer, saved)


def test_names_of_policies_cannot_change(straight: tuple[Path, list[Event]], tmp_path: Path) -> None:
    run_dir = shutil.copytree(straight[0], tmp_path / "run")
    renamed = [setting.replace("policies.wolves", "policies.wolfs") for setting in TEAM]
    with pytest.raises(ConfigError) as caught:
        train_run(tiny_config(run_dir, LENGTH, *renamed), ignore, or_resume=True)
    problems = {problem.key: problem.message for problem in caught.value.problems}
    assert problems.keys() == {"policies.wolves", "policies.wolfs"}
    assert problems["policies.wolfs"].startswith(f'is not a policy of the run in {run_dir}; did you mean "wolves"?')
    assert "rename it" in problems["policies.wolfs"]
    assert problems["policies.wolves"].startswith("is missing")
    with pytest.raises(ConfigError) as caught:
        train_run(tiny_config(run_dir, LENGTH, TEAM[0]), ignore, or_resume=True)
    assert {problem.key for problem in caught.value.problems} == {"policies.wolves", "policies.deer"}


def test_settings_of_a_policy_change_like_those_of_a_run(straight: tuple[Path, list[Event]], tmp_path: Path) -> None:
    run_dir = shutil.copytree(straight[0], tmp_path / "run")
    longer = Override.parse("run.total_timesteps=2560")
    rate = Override.parse("policies.deer.optimizer.learning_rate=0.002")
    recorder = Recorder()
    resume_run(run_dir, recorder, [longer, rate])
    notices = [event.text for event in recorder.events if isinstance(event, Notice)]
    assert "--set policies.wolves.optimizer.learning_rate" in notices[0]
    assert "the learning rate of deer was" in notices[1]
    assert metrics_of(run_dir)[-1]["learning_rate/deer"] == pytest.approx(0.002 / 5)
    for key, value in (("ppo.gamma", "0.5"), ("agent.hidden_dim", "8"), ("init_from", '"x"'), ("groups", '["prey"]')):
        with pytest.raises(UsageError, match=rf"policies\.deer\.{key} cannot change"):
            resume_run(run_dir, ignore, [Override.parse(f"policies.deer.{key}={value}")])
    # a key that the file no longer sets has the value of the run's table
    config = tiny_config(run_dir, "run.total_timesteps=2560", *TEAM[:2], TEAM[2].replace("0.001", "0.000457"))
    train_run(config, recorder := Recorder(), or_resume=True)
    assert any(isinstance(event, Notice) and "policies.deer.optimizer" in event.text for event in recorder.events)
    config = tiny_config(
        run_dir, "run.total_timesteps=2560", *TEAM[:2], TEAM[2].replace("optimizer={learning_rate=0.001}, ", "")
    )
    train_run(config, recorder := Recorder(), or_resume=True)
    notices = [event.text for event in recorder.events if isinstance(event, Notice) and "policies." in event.text]
    # nothing was trained since the rate of 0.002, and the file no longer changes anything
    assert notices == ["policies.deer.optimizer.learning_rate was 0.002 and is now 0.000457"]


def test_metrics_are_those_of_each_policy(straight: tuple[Path, list[Event]]) -> None:
    line = metrics_of(straight[0])[-1]
    assert line["learning_rate"] is None
    assert line["reward"] == pytest.approx((line["reward/wolves"] + line["reward/deer"]) / 2)
    for table in ("losses", "gradients", "weights"):
        lines = [line[table] for line in metrics_of(straight[0]) if line[table]]
        assert {name.partition("/")[0] for name in lines[-1]} == {"wolves", "deer"}
    assert "deer/value_target_std" in line["losses"]
    assert "wolves/value_target_std" not in line["losses"]


def test_a_sweep_improves_the_reward_of_a_policy(straight: tuple[Path, list[Event]], tmp_path: Path) -> None:
    base = tmp_path / "base.toml"
    base.write_text(dump_config(tiny_config("", LENGTH, *TEAM)))
    scores = {}
    for metric in ("reward/deer", "evaluation/deer/mean_reward", "evaluation/mean_reward", "reward/dear"):
        path = tmp_path / "sweep.toml"
        path.write_text(
            f'[sweep]\nbase = "base.toml"\nmetric = "{metric}"\n'
            "parameters = { policies.deer.optimizer.learning_rate = { values = [0.001, 0.002] } }\n"
        )
        if "dear" in metric:
            with pytest.raises(ConfigError, match=r'sweep\.metric .*unknown policy "dear"; did you mean "deer"\?'):
                load_sweep(path)
            continue
        sweep = load_sweep(path)
        values = {"policies.deer.optimizer.learning_rate": 0.002}
        (deer,) = [
            each for each in policy_settings(sweep.run_config(values, tmp_path / "run", 0)) if each.name == "deer"
        ]
        assert deer.optimizer.learning_rate == 0.002
        scores[metric] = score_run(straight[0], sweep.config, "cpu")
    assert scores["reward/deer"] == metrics_of(straight[0])[-1]["reward/deer"]
    assert len(set(scores.values())) == 3


def test_progress_names_the_policies(straight: tuple[Path, list[Event]]) -> None:
    _, events = straight
    (began,) = [event for event in events if isinstance(event, RunBegan)]
    assert [(policy.name, policy.num_agents) for policy in began.policies] == [("wolves", 2), ("deer", 2)]
    assert sum(policy.parameters for policy in began.policies) == began.parameters
    with redirect_stdout(io.StringIO()) as out:
        for view in (PlainView(), JsonView()):
            for event in events:
                view(event)
    printed = out.getvalue()
    assert "  wolves learns from 2 agents per world" in printed
    assert " (wolves " in printed
    assert "  deer:  policy_loss " in printed
    first = json.loads(next(line for line in printed.splitlines() if line.startswith('{"event": "begin"')))
    assert [policy["name"] for policy in first["policies"]] == ["wolves", "deer"]
    assert '"reward/wolves": ' in printed

    for width in (50, 80, 120):
        console = Console(file=io.StringIO(), width=width, height=40, force_terminal=False, markup=False)
        live = LiveView(console)
        for event in events:
            if isinstance(event, RunBegan | EpochEnded):
                live.run = event if isinstance(event, RunBegan) else live.run
                live.show(event)
        console.print(live.draw())
        shown = str(console.file.getvalue())  # type: ignore[attr-defined]  # a StringIO
        assert "wolves" in shown
        assert ("deer" in shown) == (width > 50)
        assert "1 more" in shown or width > 50
        assert "explained variance" in shown


def test_an_error_names_the_policy() -> None:
    config = tiny_config("", *TEAM)
    run = TrainingRun(config, Curriculum.from_config(config))
    run.collect()
    run.learners["deer"].experience.log_probs.fill_(-1000.0)
    with pytest.raises(TrainingError, match="policy deer: "):
        run.update()
    run.close()
