"""Worlds of scenes: runs, experiments and sweeps keep those with which they began, whatever becomes of the files."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import pytest
from in_process_pool import InProcessPool
from tiny_runs import TINY, Killed, Recorder, assert_same_weights, ignore, interrupt, tiny_config, weights_of

from metta.api import (
    EpochEnded,
    Event,
    ExperimentEvent,
    JobEvent,
    load_config,
    load_sweep,
    resume_run,
    resume_runs,
    resume_sweep,
    start_sweep,
    train_run,
    train_runs,
)
from metta.config.loading.load import dump_config, load_tasks, load_world, parse_config, read_config, with_worlds
from metta.errors import ConfigError
from metta.experiments.sweep import run_sweep
from metta.report.run_data import read_runs
from metta.report.run_groups import group_runs

SCENES = ('curriculum.scenes=["easy.toml", "hard.toml"]',)
LENGTH = "run.total_timesteps=1536"


def world(steps: int) -> str:
    return TINY.replace("max_steps = 20", f"max_steps = {steps}")


@pytest.fixture(autouse=True)
def _scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scenes in the working directory, with episodes of 10 and 20 steps."""
    (tmp_path / "begun").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "begun")
    Path("easy.toml").write_text(world(10))
    Path("hard.toml").write_text(world(20))


def lose_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change one of the scenes, remove the other one, and go on in another directory."""
    Path("easy.toml").write_text(world(5))
    Path("hard.toml").unlink()
    monkeypatch.chdir("../elsewhere")


def killed_in_second_trial(file: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a sweep whose process ends during the second trial, and lose that trial's runs."""

    def kill(name: str, event: Event) -> None:
        if name.startswith("trial_0001"):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(InProcessPool, "after", staticmethod(kill))
        with pytest.raises(Killed):
            start_sweep(load_sweep(file), ignore, root)
    gc.collect()  # frees the locks, as the end of a process does
    shutil.rmtree(root / "trial_0001")


def lengths(config_file: Path) -> list[int]:
    """The length of episodes in each scene of a run."""
    return [env.game.max_steps for env in load_tasks(read_config(config_file)).env_configs]


def test_a_loaded_config_has_the_worlds_of_its_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = {name: load_world(name) for name in ("easy.toml", "hard.toml")}
    config = load_config("easy.toml", SCENES)
    assert config.curriculum.worlds == worlds
    lose_scenes(monkeypatch)
    assert dict(load_tasks(config).scenes) == worlds


@pytest.mark.parametrize("scenes", [["a", "b"], ["b", "c.toml", "a"]])
def test_a_scene_can_be_a_table_of_the_file(scenes: list[str]) -> None:
    tables = "".join(f"[curriculum.worlds.{name}.game]\nmax_steps = {steps}\n" for name, steps in (("a", 7), ("b", 8)))
    Path("b").write_text("a file of that name is not read")
    Path("c.toml").write_text("env.game.max_steps = 9")
    Path("tables.toml").write_text(f"curriculum.scenes = {json.dumps(scenes)}\n{tables}")
    config = load_config("tables.toml")
    expected = {"a": 7, "b": 8, "c.toml": 9}
    assert [(name, env.game.max_steps) for name, env in load_tasks(config).scenes] == [
        (name, expected[name]) for name in scenes
    ]
    assert parse_config(dump_config(config), "again") == config


def test_a_world_that_no_scene_has_is_refused() -> None:
    Path("tables.toml").write_text('curriculum.scenes = ["hearts_easy"]\n\n[curriculum.worlds.heart_easy]\n')
    with pytest.raises(ConfigError) as raised:
        load_config("tables.toml")
    [problem] = raised.value.problems
    assert (problem.key, problem.line) == ("curriculum.worlds.heart_easy", 3)
    assert problem.message == 'is not one of curriculum.scenes; did you mean "hearts_easy"?'


def test_the_config_of_a_run_trains_the_same_worlds_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path("run").absolute()
    train_run(tiny_config(root, LENGTH, *SCENES), ignore)
    lose_scenes(monkeypatch)
    again = load_config(root / "config.toml", ["run.run_dir=again"])
    train_run(again, ignore)
    assert_same_weights(weights_of(Path("again"), 3), weights_of(root, 3))
    assert lengths(Path("again/config.toml")) == [10, 20]


def test_edits_of_a_world_are_refused() -> None:
    train_run(tiny_config("run", LENGTH, *SCENES), ignore)
    path = Path("run/config.toml")
    text = path.read_text()
    path.write_text(text.replace("max_steps = 10\n", "max_steps = 11\n"))
    with pytest.raises(ConfigError, match=r'worlds\."easy\.toml"\.game\.max_steps +must be 10 to resume run; got 11'):
        resume_run("run", ignore)


def test_a_run_without_worlds_in_its_config_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As runs of version 0.6, which have their worlds only in trainer states."""
    with monkeypatch.context() as patch:
        patch.setattr("metta.run.train.with_worlds", lambda config: config)
        train_run(tiny_config("run", LENGTH, *SCENES), Recorder(1, interrupt))
    assert read_config("run/config.toml").curriculum.worlds == {}
    config = with_worlds(tiny_config("run", LENGTH, *SCENES))  # as load_config gives
    assert train_run(config, ignore, or_resume=True).agent_step == 1536


def test_an_experiment_keeps_its_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path("both").absolute()
    interrupted: list[ExperimentEvent] = []

    def interrupt_once(event: ExperimentEvent) -> None:
        if isinstance(event, JobEvent) and isinstance(event.event, EpochEnded) and not interrupted:
            interrupted.append(event)
            interrupt()

    config = tiny_config(root, "run.total_timesteps=20480", *SCENES)
    assert train_runs(config, [0, 1], interrupt_once).reason == "interrupted"
    lose_scenes(monkeypatch)
    assert resume_runs(root, ignore).reason == "finished"
    assert [lengths(root / f"seed_{seed}/config.toml") for seed in (0, 1)] == [[10, 20], [10, 20]]


def test_a_sweep_keeps_its_worlds_and_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_sweep, "JobPool", InProcessPool)
    teacher = train_run(tiny_config("teacher", LENGTH, *SCENES), ignore)
    Path("tiny.toml").write_text(TINY.replace("4096", "1536") + "\n[curriculum]\n" + SCENES[0].partition(".")[2])
    sweep = '[sweep]\nbase = "tiny.toml"\nmetric = "reward"\ntrials = 2\n[run]\ninit_from = "teacher"\n'
    Path("s.toml").write_text(f'{sweep}[sweep.parameters]\n"ppo.gamma" = {{ low = 0.9, high = 0.99 }}\n')
    root = Path("out").absolute()
    killed_in_second_trial("s.toml", root, monkeypatch)
    shutil.copy(teacher.checkpoint, teacher.checkpoint.with_name("checkpoint_000099.pt"))
    lose_scenes(monkeypatch)
    assert resume_sweep(root, ignore).reason == "finished"
    configs = [read_config(root / f"trial_000{trial}/seed_0/config.toml") for trial in (0, 1)]
    assert [[env.game.max_steps for env in load_tasks(config).env_configs] for config in configs] == [[10, 20]] * 2
    assert {Path(config.run.init_from).name for config in configs} == {teacher.checkpoint.name}


def test_a_sweep_keeps_the_worlds_of_the_scenes_that_it_varies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_sweep, "JobPool", InProcessPool)
    Path("tiny.toml").write_text(TINY.replace("4096", "1536") + '\n[curriculum]\nscenes = ["easy.toml"]\n')
    scenes = '"curriculum.scenes" = { values = [["easy.toml"], ["hard.toml"]] }'
    Path("s.toml").write_text(
        f'[sweep]\nbase = "tiny.toml"\nmetric = "reward"\nsampler = "grid"\n[sweep.parameters]\n{scenes}\n'
    )
    root = Path("out").absolute()
    killed_in_second_trial("s.toml", root, monkeypatch)
    lose_scenes(monkeypatch)
    assert resume_sweep(root, ignore).best_file == root / "best.toml"
    trials = [root / f"trial_000{trial}/seed_0/config.toml" for trial in (0, 1)]
    assert sorted(map(lengths, trials)) == [[10], [20]]
    assert lengths(root / "best.toml") in ([10], [20])
    assert load_config(root / "best.toml").curriculum.worlds.keys() <= {"easy.toml", "hard.toml"}


def test_an_option_replaces_the_scenes_of_a_file_with_their_worlds() -> None:
    train_run(tiny_config("run", LENGTH, *SCENES), ignore)
    assert [*load_config("run/config.toml", ['curriculum.scenes=["hard.toml"]']).curriculum.worlds] == ["hard.toml"]


def test_runs_of_different_worlds_are_not_seeds_of_one_setting() -> None:
    train_run(tiny_config("first", LENGTH, *SCENES), ignore)
    Path("hard.toml").write_text(world(30))
    train_run(tiny_config("second", LENGTH, "run.seed=1", *SCENES), ignore)
    groups = group_runs(read_runs([Path("first"), Path("second")]))
    assert [len(group.runs) for group in groups] == [1, 1]
