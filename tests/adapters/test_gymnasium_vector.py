"""GymnasiumVectorEnv: spaces, seeds, episode ends, and equality with a vector environment of Gymnasium."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import FlattenObservation, NormalizeObservation, RecordEpisodeStatistics, RecordVideo

import metta
from metta.adapters.gymnasium_vector import GymnasiumVectorEnv
from metta.config.env.env_config import EnvConfig
from metta.config.loading.presets import presets
from metta.errors import ConfigError, UsageError
from metta.spaces import FlatActionSpace
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


@pytest.mark.parametrize("mode", AutoresetMode)
def test_equals_a_vector_environment_of_gymnasium(mode: AutoresetMode) -> None:
    """In all modes, over several episodes, and after resets of some sub-environments: all that `step` returns."""
    single = SyncVectorEnv(
        [lambda index=index: OneAgent(index) for index in range(3)],  # type: ignore[misc]
        autoreset_mode=mode,
    )
    env = MettaGridEnv(TINY, num_worlds=3).to_gymnasium_vector(mode)
    assert env.metadata["autoreset_mode"] is env.autoreset_mode is mode
    seeds: list[int | None] = [9, 9, 9]
    theirs, ours = single.reset(seed=seeds)[0], env.reset(seed=9)[0]
    assert data_equivalence(theirs, ours)
    env.action_space.seed(1)
    endings = 0
    done = np.zeros(3, np.bool_)
    for step in range(30):
        mask = np.array([False, True, True]) if step in (2, 18, 19) else done
        if step in (2, 18, 19) or (mode == AutoresetMode.DISABLED and done.any()):
            theirs, ours = (one.reset(options={"reset_mask": mask | done})[0] for one in (single, env))
            assert data_equivalence(theirs, ours)
        actions = env.action_space.sample()
        *theirs, their_info = single.step(actions)
        *ours, our_info = env.step(actions)
        for their, our in zip(theirs, ours, strict=True):
            assert np.array_equal(their, our)
        done = ours[2] | ours[3]
        endings += int(done.sum())
        assert (
            ("final_obs" in our_info) == ("final_obs" in their_info) == (mode == AutoresetMode.SAME_STEP and done.any())
        )
        assert ("final_info" in our_info) == done.any()
        if "final_obs" in our_info:
            assert np.array_equal(their_info["_final_obs"], our_info["_final_obs"])
            for their, our in zip(their_info["final_obs"], our_info["final_obs"], strict=True):
                assert (their is None) == (our is None)
                assert their is None or np.array_equal(their, our)
    assert endings >= 12
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


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_episode_statistics_of_gymnasium(mode: AutoresetMode) -> None:
    config = TINY.override(num_agents=2, time_punishment=-0.5, max_steps=4)
    worlds = MettaGridEnv(config, 3)
    wrapped = RecordEpisodeStatistics(worlds.to_gymnasium_vector(mode))
    wrapped.reset(seed=0)
    endings = 0
    for _ in range(14):
        *_, info = wrapped.step(np.zeros((6, 2), int))
        if "episode" in info:
            endings += 1
            assert info["episode"]["l"].tolist() == info["final_info"]["episode"]["l"].tolist() == [4] * 6
            assert info["episode"]["r"].tolist() == info["final_info"]["episode"]["r"].tolist() == [-2] * 6
    assert endings == 3 if mode == AutoresetMode.SAME_STEP else 2


def test_gymnasiums_observation_wrappers_work() -> None:
    """They refuse SAME_STEP, since they would not transform final observations."""
    worlds = MettaGridEnv(TINY.override(num_agents=2), 2).to_gymnasium_vector("NextStep")
    env = NormalizeObservation(FlattenObservation(worlds))
    observations, _ = env.reset(seed=0)
    for _ in range(12):
        observations = env.step(env.action_space.sample())[0]
        assert observations.shape == (4, 600)
    assert env.obs_rms.count == pytest.approx(13 * 4, abs=1)


def test_flat_actions_are_the_pairs() -> None:
    pairs, flat = (MettaGridEnv(TINY, 3).to_gymnasium_vector(flat_actions=flat) for flat in (False, True))
    count = len(pairs.worlds.single_action_space.spec.flat_actions)
    assert flat.single_action_space == gymnasium.spaces.Discrete(count)
    assert flat.action_space == gymnasium.spaces.MultiDiscrete([count] * 3)
    assert flat.single_action_space.spec is pairs.single_action_space.spec
    flat.reset(seed=2), pairs.reset(seed=2)
    table = np.array(flat.single_action_space.spec.flat_actions)
    for _ in range(12):
        actions = flat.action_space.sample()
        for ours, theirs in zip(flat.step(actions)[:4], pairs.step(table[actions])[:4], strict=True):
            assert np.array_equal(ours, theirs)
    for wrong in (np.array([0, 1, count]), np.array([0, -1, 2]), np.zeros((3, 2), int), np.zeros(3)):
        with pytest.raises(UsageError, match=f"integers .agents. from 0 to {count - 1}"):
            flat.step(wrong)
    nothing = TINY.override(actions=[{"type": "noop", "key": "noop", "enabled": False}])
    with pytest.raises(UsageError, match="no action that can succeed"):
        MettaGridEnv(nothing).to_gymnasium_vector(flat_actions=True)


class OneMasked(OneAgent):
    """A world of one agent with flat actions and masks in its infos."""

    def __init__(self, first_world: int):
        super().__init__(first_world)
        self.flat = FlatActionSpace(TINY)
        self.action_space = self.flat

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        return super().reset(**arguments)[0], self.info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return *super().step(self.flat.pairs(np.array([action]))[0])[:4], self.info()

    def info(self) -> dict[str, Any]:
        return {"action_mask": self.world.action_masks()[0].astype(np.int8)}


@pytest.mark.parametrize("mode", AutoresetMode)
def test_action_masks_equal_those_of_a_vector_environment_of_gymnasium(mode: AutoresetMode) -> None:
    """In all modes, after resets and steps, the masks in the infos; actions are sampled with them."""
    single = SyncVectorEnv(
        [lambda index=index: OneMasked(index) for index in range(3)],  # type: ignore[misc]
        autoreset_mode=mode,
    )
    env = MettaGridEnv(TINY, num_worlds=3).to_gymnasium_vector(mode, flat_actions=True, action_masks=True)
    seeds: list[int | None] = [9, 9, 9]
    their_info, our_info = single.reset(seed=seeds)[1], env.reset(seed=9)[1]
    endings = masked = 0
    for _ in range(30):
        masks = our_info["action_mask"]
        assert set(our_info) & {"action_mask", "_action_mask"} == {"action_mask", "_action_mask"}
        assert masks.dtype == np.int8
        assert np.array_equal(masks, their_info["action_mask"])
        assert np.array_equal(our_info["_action_mask"], their_info["_action_mask"])
        assert np.array_equal(masks, env.action_masks())
        masked += (masks == 0).sum()
        actions = env.action_space.sample(mask=tuple(masks))
        assert masks[np.arange(3), actions].all()
        *_, terminated, truncated, our_info = env.step(actions)
        *_, their_info = single.step(actions)
        done = terminated | truncated
        endings += int(done.sum())
        if mode == AutoresetMode.DISABLED and done.any():
            their_info, our_info = (one.reset(options={"reset_mask": done})[1] for one in (single, env))
            their_info["action_mask"][~done] = our_info["action_mask"][~done]  # Gymnasium leaves out other worlds
            their_info["_action_mask"][:] = True
    assert endings >= 12
    assert masked > 50
    single.close()


def test_masks_are_computed_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = MettaGridEnv(TINY, 2)
    asked = []
    monkeypatch.setattr(worlds, "action_masks", lambda: asked.append(1) or np.ones((2, 20), np.bool_))
    for options in ({"flat_actions": True}, {}):
        env = worlds.to_gymnasium_vector(**options)  # type: ignore[arg-type]
        assert env.reset(seed=0)[1] == env.step(env.action_space.sample())[-1] == {}
    assert not asked
    env = worlds.to_gymnasium_vector(flat_actions=True, action_masks=True)
    assert env.reset(seed=0)[1]
    assert len(asked) == 1
    with pytest.raises(UsageError, match="action_masks=True needs flat_actions=True"):
        worlds.to_gymnasium_vector(action_masks=True)
    with pytest.raises(UsageError, match="action_masks=True needs flat_actions=True"):
        gymnasium.make_vec("metta/quickstart", action_masks=True)


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
    for mode in ("Next", 3):
        with pytest.raises(UsageError, match=r'autoreset_mode must be .*"NextStep", "SameStep", "Disabled"; got'):
            MettaGridEnv(TINY).to_gymnasium_vector(mode)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r'render_mode must be "ansi", "rgb_array" or None; got .human.'):
        MettaGridEnv(TINY).to_gymnasium_vector(render_mode="human")


def test_a_step_without_the_reset_it_needs_is_refused() -> None:
    env = MettaGridEnv(TINY, 2, auto_reset=False).to_gymnasium_vector()
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED, "as for the MettaGridEnv"
    with pytest.raises(UsageError, match=r"call reset\(\) before the first step"):
        env.step(env.action_space.sample())
    with pytest.raises(UsageError, match="no episode has started"):
        env.render()
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    with pytest.raises(UsageError, match=r"episodes of worlds \[0, 1\] have ended: .*reset_mask"):
        env.step(env.action_space.sample())
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(UsageError, match=r"episodes of worlds \[1\] have ended"):
        env.step(env.action_space.sample())


def test_reset_masks_that_cannot_hold_are_refused() -> None:
    env = MettaGridEnv(TINY.override(num_agents=2), 2).to_gymnasium_vector()
    whole = np.array([True, True, False, False])
    with pytest.raises(UsageError, match="reset all of them first"):
        env.reset(options={"reset_mask": whole})
    env.reset(seed=1)
    with pytest.raises(UsageError, match="all 2 agents of a world or for none"):
        env.reset(options={"reset_mask": np.array([True, False, False, False])})
    for wrong in (whole[:3], whole.astype(int), np.zeros(4, bool), [1]):
        with pytest.raises(UsageError, match=r"reset_mask must be a bool array \[4\]"):
            env.reset(options={"reset_mask": wrong})
    with pytest.raises(UsageError, match="with the mask alone"):
        env.reset(seed=3, options={"reset_mask": whole})
    with pytest.raises(UsageError, match=r"unknown reset options \['mask'\]; known: reset_mask"):
        env.reset(options={"mask": whole})
    observations = env.reset(options={})[0]
    assert env.worlds.steps.tolist() == [0, 0]  # type: ignore[attr-defined]
    assert (env.reset(options={"reset_mask": whole})[0][2:] == observations[2:]).all()


class TestRendering:
    """One entry for each sub-environment, as in Gymnasium."""

    def test_text(self) -> None:
        env = MettaGridEnv(TINY.override(num_agents=2), 2, seed=1).to_gymnasium_vector()
        assert env.render_mode == "ansi"
        env.reset()
        drawings = env.render()
        assert drawings is not None
        assert len(drawings) == 4
        assert drawings[0] == drawings[1] == env.worlds.render(0) != drawings[2]

    def test_pictures(self) -> None:
        env = MettaGridEnv(TINY.override(num_agents=2), 2, seed=1).to_gymnasium_vector(render_mode="rgb_array")
        env.reset()
        pictures = env.render()
        assert pictures is not None
        assert {(picture.shape, picture.dtype) for picture in pictures} == {((168, 168, 3), np.dtype(np.uint8))}
        assert len({picture.tobytes() for picture in pictures}) == 4, "each has the window of its agent"

    def test_none(self) -> None:
        env = MettaGridEnv(TINY, seed=1).to_gymnasium_vector(render_mode=None)
        env.reset()
        assert env.render() is None

    @pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
    def test_gymnasium_records_videos(self, mode: AutoresetMode, tmp_path: Path) -> None:
        pytest.importorskip("moviepy")
        worlds = gymnasium.make_vec("metta/quickstart", render_mode="rgb_array", autoreset_mode=mode, max_steps=5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SAME_STEP: videos lack the last frame
            env = RecordVideo(worlds, str(tmp_path), episode_trigger=lambda episode: episode < 2)
            env.reset(seed=0)
            for _ in range(13):
                env.step(env.action_space.sample())
            env.close()
        names = {file.name: file.stat().st_size for file in tmp_path.glob("*.mp4")}
        assert set(names) == {"rl-video-episode-0.mp4", "rl-video-episode-1.mp4"}
        assert min(names.values()) > 1000


def test_gymnasium_make_names_make_vec(env: GymnasiumVectorEnv) -> None:
    for preset in presets():
        with pytest.raises(UsageError, match=rf'gymnasium.make_vec\("metta/{preset.name}"\)'):
            gymnasium.make(f"metta/{preset.name}")


@pytest.mark.parametrize("name", [preset.name for preset in presets()])
def test_every_preset_is_made_by_its_name(name: str) -> None:
    """With all that the metadata names, and Gymnasium's own arguments."""
    assert metta.__doc__  # importing metta is what registers them
    env = gymnasium.make_vec(f"metta/{name}", num_envs=2, seed=3)
    worlds = env.unwrapped.worlds  # type: ignore[attr-defined]
    assert env.num_envs == 2 * worlds.num_agents
    assert worlds.seed == env.np_random_seed == 3
    assert env.observation_space.contains(env.reset()[0])
    for mode in env.metadata["render_modes"]:
        other = gymnasium.make_vec(
            f"metta/{name}", 2, render_mode=mode, max_episode_steps=3, flat_actions=True, action_masks=True
        )
        assert other.render_mode == mode
        count = int(other.single_action_space.n)  # type: ignore[attr-defined]
        assert other.reset(seed=1)[1]["action_mask"].shape == (other.num_envs, count)
        flags = [other.step(other.action_space.sample())[3].all() for _ in range(6)]
        assert flags == [False, False, True] * 2
        assert len(other.render() or ()) == other.num_envs
        other.close()
    env.close()


def test_arguments_of_make_vec() -> None:
    env = gymnasium.make_vec("metta/quickstart", num_envs=2, num_agents=3, autoreset_mode="NextStep", render_mode=None)
    assert (env.num_envs, env.render_mode, env.metadata["autoreset_mode"]) == (6, None, AutoresetMode.NEXT_STEP)
    again = gymnasium.make_vec(env.spec)  # type: ignore[arg-type]
    assert (again.num_envs, again.render_mode, again.metadata["autoreset_mode"]) == (6, None, AutoresetMode.NEXT_STEP)
    steps = gymnasium.make_vec("metta/quickstart", max_episode_steps=-1).unwrapped.worlds.config.game.max_steps  # type: ignore[attr-defined]
    assert steps == gymnasium.make_vec("metta/quickstart").unwrapped.worlds.config.game.max_steps  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match='unknown setting; did you mean "num_agents"'):
        gymnasium.make_vec("metta/quickstart", num_agent=3)
    with pytest.raises(ConfigError, match="max_steps"):
        gymnasium.make_vec("metta/quickstart", max_episode_steps=-5)
    with pytest.raises(UsageError, match="without vectorization_mode"):
        gymnasium.make_vec("metta/quickstart", vectorization_mode="sync")
