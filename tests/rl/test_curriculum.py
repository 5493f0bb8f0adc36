"""Curricula: one policy trained in several scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import TINY, Recorder, assert_same_weights, ignore, interrupt, metrics_of, tiny_config, weights_of

from metta.api import (
    Curriculum,
    MettaGridEnv,
    make_agent,
    make_curriculum,
    make_experience_manager,
    resume_run,
    rollout,
    train_run,
)
from metta.config.loading.load import load_config
from metta.errors import ConfigError, MettaError, UsageError
from metta.world.state.compiled_config import CompiledConfig


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two files that differ only in the length of episodes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.toml").write_text(TINY.replace("max_steps = 20", "max_steps = 7"))
    (tmp_path / "long.toml").write_text(TINY.replace("max_steps = 20", "max_steps = 13"))
    return ["short.toml", "long.toml"]


def test_the_path_of_the_api_document_is_the_preset_simple() -> None:
    curriculum = make_curriculum("/env/mettagrid/simple")
    assert curriculum.env_configs == make_curriculum().env_configs
    assert curriculum.env_configs == (load_config("simple").env,)
    assert curriculum.env_configs[0].game.num_agents == 24


def test_scenes_are_files_presets_and_configs_by_weight(scenes: list[str]) -> None:
    curriculum = make_curriculum(scenes=[*scenes, load_config("short.toml").env], weights=[1, 2, 0])
    assert curriculum.names == ("short.toml", "long.toml", "scene 2")
    assert [config.game.max_steps for config in curriculum.env_configs] == [7, 13, 7]
    env = MettaGridEnv(curriculum.env_configs, num_worlds=300, task_weights=curriculum.weights, seed=0)
    env.reset()
    lengths: dict[int, int] = {}
    while len(lengths) < env.num_worlds:
        *_, info = env.step(np.zeros((env.agents, 2), np.int32))
        for episode in info.episodes:
            lengths.setdefault(episode.world, episode.length)
    assert set(lengths.values()) == {7, 13}
    assert 60 < list(lengths.values()).count(7) < 140  # a third of them


@pytest.mark.parametrize("weights", [[1.0], [-1.0, 2.0], [0.0, 0.0]])
def test_invalid_weights_are_refused(scenes: list[str], weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="weight"):
        make_curriculum(scenes=scenes, weights=weights)


def test_scenes_that_one_policy_cannot_play_are_refused(scenes: list[str], tmp_path: Path) -> None:
    wider = load_config("short.toml").env.override(num_agents=6)
    with pytest.raises(MettaError, match="num_agents is 6, not 4"):
        make_curriculum(scenes=["short.toml", wider])


def test_a_run_plays_all_scenes_and_reports_each(scenes: list[str], tmp_path: Path) -> None:
    config = tiny_config("straight", 'curriculum.scenes=["short.toml", "long.toml"]', "curriculum.weights=[1, 3]")
    train_run(config, ignore)
    lines = metrics_of(tmp_path / "straight")
    assert {name for line in lines for name in line["task_rewards"]} == {"short.toml", "long.toml"}
    lengths = [line["episode_length"] for line in lines if line["episodes"]]
    assert all(7 <= length <= 13 for length in lengths)


def test_a_resumed_run_keeps_its_scenes(scenes: list[str], tmp_path: Path) -> None:
    options = ('curriculum.scenes=["short.toml", "long.toml"]', "curriculum.weights=[1, 3]")
    train_run(tiny_config("straight", *options), ignore)
    train_run(tiny_config("resumed", *options), Recorder(3, interrupt))
    for scene in scenes:
        Path(scene).unlink()
    resume_run("resumed", ignore)
    assert metrics_of(tmp_path / "straight") == metrics_of(tmp_path / "resumed")
    assert_same_weights(weights_of(tmp_path / "straight", 8), weights_of(tmp_path / "resumed", 8))


def test_a_training_loop_can_adapt_the_task_weights(scenes: list[str]) -> None:
    curriculum = make_curriculum(
        scenes=scenes,
        type="progressive",
        agent_steps=512,
        buckets={"map_builder.objects.altar": {"range": [1, 2], "bins": 2}},
    )
    assert len(curriculum.names) == 4
    env = MettaGridEnv(curriculum.env_configs, task_weights=curriculum.weights)
    spaces = env.single_observation_space, env.single_action_space
    agent = make_agent(*spaces, [], torch.device("cpu"), tiny_config().agent)
    experience = make_experience_manager(env, agent, tiny_config().experience)
    played = []
    for _ in range(6):
        batch = rollout(experience, agent)
        curriculum.update(batch)
        experience.set_task_weights(curriculum.weights)
        played.append(set(batch.episode_tasks))
    experience.close()
    assert curriculum.weights == (0.0, 0.0, 0.0, 1.0)
    assert curriculum.probabilities["long.toml, map_builder.objects.altar=2"] == 1.0
    assert list(curriculum.scores)[:2] == list(curriculum.names)[:2]
    assert played[0] == {0}
    assert len(set.union(*played)) > 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "nope"}, 'type  must be one of "fixed", "low_reward", "learning_progress", "progressive"'),
        ({"type": "progressive"}, "needs curriculum.thresholds or curriculum.agent_steps"),
        ({"exploration": 0.5}, 'exploration  is used only with curriculum.type = "low_reward" or'),
        ({"buckets": {"game.nope": {"values": [1]}}}, 'there is no setting "env.game.nope"'),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_curriculum("quickstart", **settings)


def test_no_scenes_at_all_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one scene"):
        make_curriculum(scenes=[])


TYPES = {
    "low_reward": ("curriculum.exploration=0.2",),
    "learning_progress": ("curriculum.min_episodes=2", "curriculum.success_reward=0.01"),
    "progressive": ("curriculum.agent_steps=600", "curriculum.earlier_share=0.25"),
    "fixed": (),
}


@pytest.mark.parametrize(("type_", "async_factor"), list(zip(TYPES, (1, 2, 2, 1), strict=True)))
def test_a_resumed_run_samples_the_same_tasks(type_: str, async_factor: int, scenes: list[str], tmp_path: Path) -> None:
    options = (
        f"curriculum.type={type_}",
        'curriculum.scenes=["short.toml", "long.toml"]',
        'curriculum.buckets={ "map_builder.objects.mine_red" = { range = [2, 5], bins = 2 } }',
        f"experience.async_factor={async_factor}",
        "run.total_timesteps=3072",
        *TYPES[type_],
    )
    train_run(tiny_config("straight", *options), ignore)
    train_run(tiny_config("resumed", *options), Recorder(3, interrupt))
    for scene in scenes:
        Path(scene).unlink()
    resume_run("resumed", ignore)
    lines = metrics_of(tmp_path / "straight")
    assert lines == metrics_of(tmp_path / "resumed")
    assert_same_weights(weights_of(tmp_path / "straight", 6), weights_of(tmp_path / "resumed", 6))
    names = [f"{scene}, map_builder.objects.mine_red={mines}" for scene in scenes for mines in (2, 4)]
    for line in lines:
        assert list(line["task_probabilities"]) == names
        assert sum(line["task_probabilities"].values()) == pytest.approx(1)
        assert set(line["task_scores"]) <= set(names)
    if type_ == "fixed":
        assert all(line["task_scores"] == {} for line in lines)
    else:
        assert lines[-1]["task_scores"]
        assert len({tuple(line["task_probabilities"].values()) for line in lines}) > 2


def test_states_of_version_1_still_load(scenes: list[str]) -> None:
    world = load_config("short.toml").env
    old = {"names": ["a", "b"], "env_configs": [world.model_dump(exclude_none=True)] * 2, "weights": [1.0, 3.0]}
    curriculum = Curriculum.from_state(old)
    assert curriculum.names == ("a", "b")
    assert curriculum.weights == (0.25, 0.75)
    assert curriculum.env_configs == (world, world)


def test_tasks_that_differ_only_in_maps_share_their_rules(scenes: list[str]) -> None:
    """Compiled rules are shared, but each world has the map size of its task."""
    curriculum = make_curriculum(scenes=scenes, buckets={"game.width": {"range": [8, 11], "bins": 4}})
    assert len(CompiledConfig(curriculum.env_configs).configs) == 2
    env = MettaGridEnv(curriculum.env_configs, num_worlds=60, seed=1)
    env.reset()
    assert set(env.tasks.tolist()) == set(range(8))
    for world, task in enumerate(env.tasks.tolist()):
        assert env.cells(world).shape == (8, 8 + task % 4)
    again = MettaGridEnv(curriculum.env_configs, num_worlds=60, seed=0)
    again.load_state(env.state())
    assert again.tasks.tolist() == env.tasks.tolist()
    for _ in range(13):
        *_, info = env.step(np.zeros((env.agents, 2), np.int32))
        for episode in info.episodes:
            assert episode.length == (7, 13)[episode.task // 4]


BUCKETS = (
    'curriculum.buckets={"game.max_steps" = {values = [7, 13]}, '
    '"map_builder.objects.altar" = {range = [1, 2], bins = 2}}'
)


@pytest.mark.parametrize(
    "settings",
    [
        ["curriculum.type=fixed"],
        ["curriculum.type=low_reward"],
        ["curriculum.type=learning_progress", "curriculum.min_episodes=2"],
        ["curriculum.type=progressive", "curriculum.agent_steps=900"],
    ],
    ids=["fixed", "low_reward", "learning_progress", "progressive"],
)
def test_buckets_of_every_curriculum_resume(tmp_path: Path, settings: list[str]) -> None:
    overrides = [BUCKETS, *settings, "run.total_timesteps=2048"]
    train_run(tiny_config(tmp_path / "straight", *overrides), ignore)
    train_run(tiny_config(tmp_path / "stopped", *overrides), Recorder(2, interrupt))
    resume_run(tmp_path / "stopped", ignore)
    assert metrics_of(tmp_path / "stopped") == metrics_of(tmp_path / "straight")
    assert_same_weights(weights_of(tmp_path / "stopped", 4), weights_of(tmp_path / "straight", 4))
