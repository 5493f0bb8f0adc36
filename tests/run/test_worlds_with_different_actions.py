"""One policy in worlds with different actions: training, resume, evaluation, teachers, opponents, replays."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from test_resume import assert_same_run
from tiny_runs import (
    TINY,
    Recorder,
    assert_same_weights,
    ignore,
    interrupt,
    only_learner,
    tiny_config,
    train_epoch,
    weights_of,
)
from typer.testing import CliRunner

from metta.api import (
    MettaGridEnv,
    Override,
    RunConfig,
    eval_policy,
    evaluate,
    load_policy,
    load_world,
    make_environment,
    resume_run,
    save_checkpoint,
    train_run,
)
from metta.checkpoint.policy_file import newest_valid
from metta.config.loading.load import load_config
from metta.rl.curricula.curriculum import Curriculum
from metta.run.training_run import TrainingRun
from metta_cli.main import app

WORLD = TINY[TINY.index("[env.game]") : TINY.index("[agent]")]

ACTIONS = {
    "gather": ["noop", "move", "rotate", "put_items", "get_items"],
    "fight": ["noop", "move", "rotate", "attack"],
    "build": ["get_items", "put_items", "rotate", "move", "noop", "swap", "change_color"],
}
"""Types, and at once keys, of the actions of each scene: as in `hearts`, in `arena_small`, and in another order."""

ALL = ["noop", "move", "rotate", "put_items", "get_items", "attack", "attack_nearest", "swap", "change_color"]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the scenes, and a run in all of them."""
    folder = tmp_path_factory.mktemp("worlds")
    for name, types in ACTIONS.items():
        actions = "".join(f'[[env.actions]]\ntype = "{type_}"\nkey = "{type_}"\n' for type_ in types)
        (folder / f"{name}.toml").write_text(f"{WORLD}{actions}")
    train_run(config(folder, folder / "straight"), ignore)
    return folder


def config(folder: Path, run_dir: Path, *overrides: str) -> RunConfig:
    scenes = json.dumps([str(folder / f"{name}.toml") for name in ACTIONS])
    return tiny_config(run_dir, f"curriculum.scenes={scenes}", 'curriculum.type="low_reward"', *overrides)


def newest(run_dir: Path) -> Path:
    return newest_valid(sorted((run_dir / "checkpoints").glob("checkpoint_*.pt"), reverse=True))


def metta(*arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_it_trains_in_all_scenes_with_all_actions(worlds: Path) -> None:
    lines = [json.loads(line) for line in (worlds / "straight" / "metrics.jsonl").read_text().splitlines()]
    scenes = [str(worlds / f"{name}.toml") for name in ACTIONS]
    assert {scene for line in lines for scene in line["task_rewards"]} == set(scenes)
    succeeded = {name for name in ALL if any(line["stats"].get(f"action.{name}.success") for line in lines)}
    assert succeeded >= {"noop", "move", "rotate", "attack", "change_color"}
    assert len(weights_of(worlds / "straight", 8)["policy_head.output.bias"]) == 1 + 2 + 4 + 1 + 1 + 10 + 1 + 1 + 4


def test_a_stopped_run_resumes_bit_for_bit(worlds: Path, tmp_path: Path) -> None:
    train_run(config(worlds, tmp_path / "run"), Recorder(3, interrupt))
    resume_run(tmp_path / "run", ignore)
    assert_same_run(worlds / "straight", tmp_path / "run")


def test_the_evaluation_world_is_env_with_its_own_actions(worlds: Path, tmp_path: Path) -> None:
    """`[env]`, here with two of the policy's actions, is the world of `metta eval` without options, too."""
    actions = 'env.actions=[{ type = "move", key = "move" }, { type = "rotate", key = "rotate" }]'
    own = config(worlds, tmp_path, actions, "env.game.max_steps=7")
    run = TrainingRun(own, Curriculum.from_config(own))
    assert run.env.spec == run.worlds.spec
    assert eval_policy(only_learner(run).agent, run.env, 2)["mean_length"] == 7
    save_checkpoint(only_learner(run).agent, tmp_path)
    loaded = load_policy(tmp_path / "checkpoint_000000.pt")
    assert loaded.agent.env_config.spec.action_names == ["move", "rotate"]
    assert loaded.agent.env_config.game.max_steps == 7
    assert eval_policy(loaded.agent, make_environment(own.env), 2)["mean_length"] == 7


@pytest.mark.parametrize("scene", ACTIONS)
def test_every_way_to_name_a_world_gives_the_same_episodes(worlds: Path, scene: str) -> None:
    """`--env`, `--suite`, `--tasks`: the policy plays with the actions of that world alone."""
    path = str(worlds / f"{scene}.toml")
    run = str(worlds / "straight")
    (alone,) = metta("eval", run, "--env", path, "--episodes", "3")
    suite = {row["env"]: row for row in metta("eval", run, "--suite", f"{path},quickstart", "--episodes", "3")}
    tasks = metta("eval", run, "--tasks", "--episodes", "3")[0]["tasks"]
    assert alone["policy"] == suite[path]["policy"]
    loaded = load_policy(newest(worlds / "straight"), env_config=load_world(path))
    assert {type_.removesuffix("_nearest") for type_ in loaded.agent.spec.action_names} == set(ACTIONS[scene])
    assert tasks[path]["policy"]["mean_length"] == alone["policy"]["mean_length"]
    if scene != "build":  # there the order of actions differs, and with it which of them a random number selects
        assert tasks[path]["policy"] == alone["policy"]


def test_two_policies_with_different_actions_meet(worlds: Path, tmp_path: Path) -> None:
    train_run(tiny_config(tmp_path / "own", "run.total_timesteps=512"), ignore)
    for first, second in ((worlds / "straight", tmp_path / "own"), (tmp_path / "own", worlds / "straight")):
        for where in ((), ("--env", str(worlds / "fight.toml"))):
            (row,) = metta("eval", str(first), "--against", str(second), "--episodes", "2", *where)
            assert row["episodes"] == 2


def test_teachers_opponents_and_replays_have_the_actions_of_all_scenes(worlds: Path, tmp_path: Path) -> None:
    """The teacher was trained in one scene; opponents are snapshots and a policy of one scene."""
    alone = load_config(worlds / "gather.toml", ["run.total_timesteps=512"])
    tiny = tiny_config(tmp_path / "teacher", "run.total_timesteps=512").model_copy(update={"env": alone.env})
    train_run(tiny, ignore)
    teacher = newest(tmp_path / "teacher")
    settings = (
        f'kickstarting.teacher="{teacher}"',
        f'self_play.policies=["{teacher}"]',
        "self_play.snapshot_interval=2",
        "self_play.share=0.5",
        "simulation.replay_interval=1",
        "run.total_timesteps=2048",
        "experience.batch_size=256",
    )
    for name, listener in (("straight", ignore), ("stopped", Recorder(3, interrupt))):
        train_run(config(worlds, tmp_path / name, *settings), listener)
    resume_run(tmp_path / "stopped", ignore)
    assert_same_weights(*(weights_of(tmp_path / name, 8) for name in ("straight", "stopped")))


def test_masked_policies_never_take_what_a_scene_lacks(worlds: Path, tmp_path: Path) -> None:
    """Also with a teacher that takes it, after a resume, and in the worlds of the curriculum themselves."""
    teacher = f'kickstarting.teacher="{newest(worlds / "straight")}"'
    settings = ("agent.mask_actions=true", teacher, "run.total_timesteps=2048", "experience.batch_size=256")
    for name, listener in (("straight", ignore), ("stopped", Recorder(3, interrupt))):
        train_run(config(worlds, tmp_path / name, *settings), listener)
    resume_run(tmp_path / "stopped", ignore)
    assert_same_weights(*(weights_of(tmp_path / name, 8) for name in ("straight", "stopped")))
    lines = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["losses"]["loss"]) for line in lines)
    for scene, env in zip(ACTIONS, Curriculum.from_config(config(worlds, tmp_path)).env_configs, strict=True):
        lacked = {name for name in ALL if name.removesuffix("_nearest") not in ACTIONS[scene]}
        for run, is_masked in ((tmp_path / "straight", True), (worlds / "straight", False)):
            stats = evaluate(load_policy(newest(run), env_config=env).agent, MettaGridEnv(env), 4).stats
            assert is_masked is not any(f"action.{name}.failed" in stats for name in lacked)


def test_the_scripted_teacher_chooses_actions_of_the_world_it_labels(worlds: Path, tmp_path: Path) -> None:
    scenes = f'curriculum.scenes=["{worlds / "gather.toml"}", "{worlds / "build.toml"}"]'
    own = config(worlds, tmp_path, scenes, 'kickstarting.teacher="scripted"')
    run = TrainingRun(own, Curriculum.from_config(own))
    train_epoch(run)
    names = [run.worlds.spec.action_names[action] for action, _ in run.worlds.spec.flat_actions]
    labels = only_learner(run).experience.teacher_probs.sum((0, 1))
    assert {name for name, share in zip(names, labels, strict=True) if share} <= {*ACTIONS["gather"]}
    assert labels.sum() > 0


def test_a_resumed_run_keeps_its_scenes(worlds: Path, tmp_path: Path) -> None:
    """Also if a scene's file has other actions now."""
    copies = tmp_path / "copies"
    copies.mkdir()
    for name in ACTIONS:
        (copies / f"{name}.toml").write_text((worlds / f"{name}.toml").read_text())
    train_run(config(copies, tmp_path / "run"), Recorder(3, interrupt))
    (copies / "fight.toml").write_text((worlds / "gather.toml").read_text())
    resume_run(tmp_path / "run", ignore, [Override.parse("run.total_timesteps=2048")])
    assert len(weights_of(tmp_path / "run", 4)["policy_head.output.bias"]) == 25
