"""Several scenes, one policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_runs import TINY, Recorder, assert_same_weights, ignore, interrupt, metrics_of, tiny_config, weights_of

from metta.api import MettaGridEnv, make_curriculum, resume_run, train_run
from metta.config.load import load_config
from metta.errors import MettaError, UsageError


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two files that differ in the length of episodes alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.toml").write_text(TINY.replace("max_steps = 20", "max_steps = 7"))
    (tmp_path / "long.toml").write_text(TINY.replace("max_steps = 20", "max_steps = 13"))
    return ["short.toml", "long.toml"]


def test_the_path_of_the_document_is_the_preset_simple() -> None:
    curriculum = make_curriculum("/env/mettagrid/simple")
    assert curriculum == make_curriculum()
    assert curriculum.env_configs == (load_config("simple").env,)
    assert curriculum.env_configs[0].game.num_agents == 24


def test_scenes_are_files_presets_and_configs_by_weight(scenes: list[str]) -> None:
    curriculum = make_curriculum(scenes=[*scenes, load_config("short.toml").env], weights=[1, 2, 0])
    assert curriculum.names == ("short.toml", "long.toml", "scene 2")
    assert [config.game.max_steps for config in curriculum.env_configs] == [7, 13, 7]
    env = MettaGridEnv(curriculum.env_configs, num_worlds=300, task_weights=curriculum.weights)
    env.reset()
    lengths: dict[int, int] = {}
    while len(lengths) < env.num_worlds:
        *_, info = env.step(np.zeros((env.agents, 2), np.int32))
        for episode in info.episodes:
            lengths.setdefault(episode.world, episode.length)
    assert set(lengths.values()) == {7, 13}
    assert 60 < list(lengths.values()).count(7) < 140  # a third of them


@pytest.mark.parametrize("weights", [[1.0], [-1.0, 2.0], [0.0, 0.0]])
def test_weights_that_make_no_sense_are_refused(scenes: list[str], weights: list[float]) -> None:
    with pytest.raises(UsageError, match="weight"):
        make_curriculum(scenes=scenes, weights=weights)


def test_scenes_that_no_one_policy_can_play_are_refused(scenes: list[str], tmp_path: Path) -> None:
    wider = load_config("short.toml").env.override(num_agents=6)
    curriculum = make_curriculum(scenes=["short.toml", wider])
    with pytest.raises(MettaError, match="num_agents"):
        MettaGridEnv(curriculum.env_configs)


def test_a_run_plays_all_its_scenes_and_says_how_each_went(scenes: list[str], tmp_path: Path) -> None:
    config = tiny_config("straight", 'curriculum.scenes=["short.toml", "long.toml"]', "curriculum.weights=[1, 3]")
    train_run(config, ignore)
    lines = metrics_of(tmp_path / "straight")
    assert {name for line in lines for name in line["task_rewards"]} == {"short.toml", "long.toml"}
    lengths = [line["episode_length"] for line in lines if line["episodes"]]
    assert all(7 <= length <= 13 for length in lengths)


def test_a_run_goes_on_in_the_scenes_it_began_with(scenes: list[str], tmp_path: Path) -> None:
    options = ('curriculum.scenes=["short.toml", "long.toml"]', "curriculum.weights=[1, 3]")
    train_run(tiny_config("straight", *options), ignore)
    train_run(tiny_config("resumed", *options), Recorder(3, interrupt))
    for scene in scenes:
        Path(scene).unlink()
    resume_run("resumed", ignore)
    assert metrics_of(tmp_path / "straight") == metrics_of(tmp_path / "resumed")
    assert_same_weights(weights_of(tmp_path / "straight", 8), weights_of(tmp_path / "resumed", 8))
