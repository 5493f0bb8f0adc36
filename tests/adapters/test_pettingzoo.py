"""PettingZooEnv: the API tests of PettingZoo, episodes, and errors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from metta.adapters import pettingzoo_parallel
from metta.adapters.pettingzoo_parallel import PettingZooEnv
from metta.config.env.env_config import EnvConfig
from metta.errors import UsageError
from metta.world.env import MettaGridEnv

pytest.importorskip("pettingzoo")

TINY = EnvConfig.model_validate(
    {"game": {"num_agents": 3, "width": 8, "height": 8, "max_steps": 20}, "map_builder": {"objects": {"mine_red": 3}}}
)


def make(auto_reset: bool = True, **modes: Any) -> PettingZooEnv:
    return MettaGridEnv(TINY, auto_reset=auto_reset, seed=0).to_pettingzoo(**modes)


@pytest.mark.parametrize("options", [{}, {"flat_actions": True}, {"flat_actions": True, "action_masks": True}])
@pytest.mark.parametrize("auto_reset", [True, False])
def test_pettingzoos_own_tests_pass(auto_reset: bool, options: dict[str, bool]) -> None:
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test  # noqa: PLC0415  # the extra may be missing
    from pettingzoo.test.state_test import state_test  # noqa: PLC0415
    from pettingzoo.utils import parallel_to_aec  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make(auto_reset, **options)
        parallel_api_test(env, num_cycles=50)
        parallel_seed_test(lambda: make(auto_reset, **options), num_cycles=50)
        state_test(parallel_to_aec(env), env)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about attributes of the conversion
        api_test(parallel_to_aec(make(auto_reset, **options)), num_cycles=50)


def test_episodes_are_those_of_the_world() -> None:
    """The episode that the world starts after the last one ends is the one that `reset` returns."""
    env, world = make(), MettaGridEnv(TINY, auto_reset=False, seed=0)
    rng = np.random.default_rng(0)
    env.reset(seed=4)
    world.reset(seed=4)
    for _ in range(3):
        for _ in range(20):
            actions = rng.integers(0, 3, (3, 2))
            observations, rewards, _, truncated, _ = env.step(dict(zip(env.agents, actions, strict=True)))
            expected, expected_rewards, *_ = world.step(actions)
            assert np.array_equal(np.stack(list(observations.values())), expected)
            assert list(rewards.values()) == expected_rewards.tolist()
        assert all(truncated.values())
        assert env.agents == []
        assert np.array_equal(np.stack(list(env.reset()[0].values())), world.reset()[0])


@pytest.mark.parametrize("render_mode", PettingZooEnv.metadata["render_modes"])
def test_after_the_last_step_the_last_map_is_shown(render_mode: str) -> None:
    """Until `reset`, also by the state; a world that is never reset shows the same."""
    env, world = make(render_mode=render_mode), MettaGridEnv(TINY, auto_reset=False)
    with pytest.raises(UsageError, match="no episode has started"):
        env.render()
    env.reset(seed=4)
    world.reset(seed=4)
    rng = np.random.default_rng(0)
    while env.agents:
        actions = rng.integers(0, 3, (3, 2))
        env.step(dict(zip(env.agents, actions, strict=True)))
        world.step(actions)
        shown = world.render() if render_mode == "ansi" else world.render_rgb()
        assert np.array_equal(env.render(), shown)
        assert np.array_equal(env.state(), world.feature_grid())
    env.reset()
    assert not np.array_equal(env.render(), shown)


def test_without_a_render_mode_nothing_is_shown() -> None:
    env = make(render_mode=None)
    env.reset()
    assert env.render() is None
    with pytest.raises(UsageError, match="render_mode must be"):
        make(render_mode="human")


def test_flat_actions_are_the_pairs() -> None:
    flat, pairs = make(flat_actions=True), make()
    table = flat.action_space("agent_0").spec.flat_actions
    assert flat.action_space("agent_1").n == len(table)
    flat.reset(seed=3)
    pairs.reset(seed=3)
    while flat.agents:
        actions = {name: flat.action_space(name).sample() for name in flat.agents}
        ours = flat.step(actions)
        theirs = pairs.step({name: np.array(table[index]) for name, index in actions.items()})
        for our, their in zip(ours[:4], theirs[:4], strict=True):
            assert all(np.array_equal(our[name], their[name]) for name in our)
    flat.reset()
    with pytest.raises(UsageError, match=f"from 0 to {len(table) - 1}"):
        flat.step(dict.fromkeys(flat.agents, len(table)))


def test_infos_have_action_masks() -> None:
    """Of each agent, after every reset and step; sampling with them never takes a masked action."""
    env, world = make(flat_actions=True, action_masks=True), MettaGridEnv(TINY, auto_reset=False)
    table = np.array(env.action_space("agent_0").spec.flat_actions)
    world.reset(seed=5)
    masked = 0
    for _ in range(3):
        infos = env.reset(seed=5)[1] if not masked else env.reset()[1]
        while env.agents:
            masks = np.stack([infos[name]["action_mask"] for name in env.possible_agents])
            assert masks.dtype == np.int8
            assert np.array_equal(masks, world.action_masks())
            assert np.array_equal(masks, env.action_masks())
            masked += (masks == 0).sum()
            actions = {name: env.action_space(name).sample(infos[name]["action_mask"]) for name in env.agents}
            assert all(infos[name]["action_mask"][action] for name, action in actions.items())
            *_, infos = env.step(actions)
            world.step(table[list(actions.values())])
        assert all({"action_mask", "episode"} == set(info) for info in infos.values())
        world.reset()
    assert masked > 100
    with pytest.raises(UsageError, match="action_masks=True needs flat_actions=True"):
        make(action_masks=True)


def test_the_state_has_the_values_of_all_tokens() -> None:
    """What an agent sees around it is in the state, at the cells of its window."""
    tasks = [TINY, TINY.override(width=11, height=9)]
    env = MettaGridEnv(tasks, seed=0).to_pettingzoo()
    spec = env.world.single_observation_space.spec
    rng = np.random.default_rng(1)
    sizes = set()
    for _ in range(8):
        observations, _ = env.reset()
        sizes.add(env.world.cells().shape)
        for _ in range(12):
            state = env.state()
            assert env.state_space.contains(state)
            assert state.shape == (9, 11, len(spec.feature_names))
            for agent, tokens in enumerate(observations.values()):
                seen = {}
                for location, feature, value in tokens.tolist():
                    if location != 0xFF:
                        window = np.array([location >> 4, location & 15])
                        cell = env.world.positions[agent] + window - [5, 5]
                        seen[*cell.tolist(), feature] = value
                assert len(seen) > 5
                for place, value in seen.items():
                    assert state[place] == value
            observations = env.step(dict(zip(env.agents, rng.integers(0, 4, (3, 2)), strict=True)))[0]
        cells = env.world.cells()
        types = env.state()[..., 0]  # 0 is the type of agents and empty cells
        assert np.array_equal(types[: len(cells), : cells.shape[1]], np.maximum(cells, 0))
        assert types.sum() == np.maximum(cells, 0).sum()
    assert sizes == {(8, 8), (9, 11)}


def test_info_has_return_and_length() -> None:
    env = make()
    env.reset(seed=0)
    for _ in range(20):
        *_, infos = env.step({name: np.zeros(2, np.int64) for name in env.agents})
    assert infos["agent_2"]["episode"] == {"r": pytest.approx(-0.002), "l": 20}


def test_invalid_uses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make()
    with pytest.raises(UsageError, match=r"call reset\(\)"):
        env.step({})
    env.reset()
    with pytest.raises(UsageError, match=r"for each of .*got \['agent_0'\]"):
        env.step({"agent_0": np.zeros(2, np.int64)})
    with pytest.raises(UsageError, match="one world; got 2 worlds"):
        MettaGridEnv(TINY, num_worlds=2, seed=0).to_pettingzoo()
    monkeypatch.setattr(pettingzoo_parallel, "HAS_PETTINGZOO", False)
    with pytest.raises(UsageError, match=r"pip install 'metta-gridworlds\[pettingzoo\]'"):
        make()
