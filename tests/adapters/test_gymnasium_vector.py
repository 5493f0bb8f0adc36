"""GymnasiumVectorEnv: spaces, seeds, episode ends, and equality with a vector environment of Gymnasium."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import metta
from metta.adapters.gymnasium_vector import GymnasiumVectorEnv
from metta.config.env.env_config import EnvConfig
from metta.config.loading.presets import presets
from metta.errors import UsageError
from metta.world.env import MettaGridEnv

TINY = EnvConfig.model_validate(
    {
        "game": {"num_agents": 1, "width": 7, "height": 7, "max_steps": 5},
        "map_builder": {"objects": {"mine_red": 2}, "border_width": 1},
    }
)


class OneAgent(gymnasium.Env[Any, Any]):
    """A world of one agent as a plain Gymnasium environment, to be vectorized by Gymnasium."""

    def __init__(self, first_world: int):
        self.world = MettaGridEnv(TINY, first_world=first_world, auto_reset=False)
        self.observation_space = self.world.single_observation_space
        self.action_space = self.world.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.world.reset(seed=seed)[0][0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observations, rewards, terminated, truncated, _ = self.world.step(np.array([action]))
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}


@pytest.fixture
def env() -> Iterator[GymnasiumVectorEnv]:
    env = MettaGridEnv(TINY, num_worlds=3, seed=0).to_gymnasium_vector()
    yield env
    env.close()


def test_equals_a_vector_environment_of_gymnasium(env: GymnasiumVectorEnv) -> None:
    """Observations, rewards, flags and final observations over several episodes."""
    single = SyncVectorEnv(
        [lambda index=index: OneAgent(index) for index in range(3)],  # type: ignore[misc]
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    seeds: list[int | None] = [9, 9, 9]
    theirs, ours = single.reset(seed=seeds)[0], env.reset(seed=9)[0]
    assert data_equivalence(theirs, ours)
    env.action_space.seed(1)
    endings = 0
    for _ in range(12):
        actions = env.action_space.sample()
        *theirs, their_info = single.step(actions)
        *ours, our_info = env.step(actions)
        for their, our in zip(theirs, ours, strict=True):
            assert np.array_equal(their, our)
        assert set(their_info) == set(our_info)
        if our_info:
            endings += 1
            assert np.array_equal(their_info["_final_obs"], our_info["_final_obs"])
            assert np.array_equal(np.stack(their_info["final_obs"]), np.stack(our_info["final_obs"]))
    assert endings == 2
    single.close()


def test_spaces_contain_observations_and_actions(env: GymnasiumVectorEnv) -> None:
    observations, info = env.reset(seed=0)
    assert env.num_envs == 3
    assert info == {}
    assert env.observation_space.contains(observations)
    observations, rewards, *_ = env.step(env.action_space.sample())
    assert env.observation_space.contains(observations)
    assert rewards.shape == (3,)


def test_final_info_has_return_length_and_counters() -> None:
    config = EnvConfig.model_validate(
        {
            "game": {"num_agents": 2, "width": 7, "height": 7, "max_steps": 4, "time_punishment": -0.5},
            "map_builder": {"objects": {}},
        }
    )
    env = MettaGridEnv(config, num_worlds=2).to_gymnasium_vector()
    env.reset(seed=0)
    noop = np.zeros((4, 2), np.int64)
    for _ in range(3):
        assert env.step(noop)[-1] == {}
    *_, truncated, info = env.step(noop)
    assert truncated.all()
    assert info["final_info"]["episode"]["r"].tolist() == [-2.0] * 4
    assert info["final_info"]["episode"]["l"].tolist() == [4] * 4
    assert info["final_info"]["stats"]["action.noop.success"].tolist() == [4.0] * 4


def test_gymnasiums_wrappers_work(env: GymnasiumVectorEnv) -> None:
    wrapped = RecordEpisodeStatistics(env)
    wrapped.reset(seed=0)
    for _ in range(4):
        wrapped.step(env.action_space.sample())
    *_, info = wrapped.step(env.action_space.sample())
    assert info["episode"]["l"].tolist() == [5] * 3


def test_a_list_of_seeds(env: GymnasiumVectorEnv) -> None:
    """The agents of a world share its seed; a list has one entry for each of them."""
    by_list = [env.reset(seed=seeds)[0].tolist() for seeds in ([5, 6, 7], [5, 5, 5], [5, 5, 5], [5, 5, 6])]
    assert by_list[0] == env.reset(seed=5)[0].tolist(), "as in all of Gymnasium"
    assert by_list[1] == by_list[2]
    assert by_list[0] != by_list[1] != by_list[3]
    env.reset(seed=[5, 6, 7])
    unseeded = env.reset(seed=[None, None, None])[0].tolist()
    env.reset(seed=5)
    assert unseeded == env.reset()[0].tolist(), "without seeds the stream continues"


def test_gymnasium_finds_presets_without_an_import_of_metta() -> None:
    code = "import gymnasium; print(gymnasium.make_vec('metta:metta/quickstart', num_envs=2).num_envs)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "8\n", ran.stderr


def test_invalid_arguments_are_refused(env: GymnasiumVectorEnv) -> None:
    for seeds in ([1, 2], [1, None, 2], [1, 2, -3]):
        with pytest.raises(UsageError, match="one integer of at least 0 per sub-environment"):
            env.reset(seed=seeds)
    with pytest.raises(UsageError, match="auto_reset=True"):
        MettaGridEnv(TINY, auto_reset=False).to_gymnasium_vector()


def test_gymnasium_make_names_make_vec(env: GymnasiumVectorEnv) -> None:
    for preset in presets():
        with pytest.raises(UsageError, match=rf'gymnasium.make_vec\("metta/{preset.name}"\)'):
            gymnasium.make(f"metta/{preset.name}")


@pytest.mark.parametrize("name", [preset.name for preset in presets()])
def test_every_preset_is_made_by_its_name(name: str) -> None:
    assert metta.__doc__  # importing metta is what registers them
    env = gymnasium.make_vec(f"metta/{name}", num_envs=2, seed=3)
    worlds = env.unwrapped.worlds  # type: ignore[attr-defined]
    assert env.num_envs == 2 * worlds.num_agents
    assert worlds.seed == 3
    assert env.observation_space.contains(env.reset()[0])
    assert len(env.render() or ()) == 2
    env.close()
