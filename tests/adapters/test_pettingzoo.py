"""PettingZooEnv: the API tests of PettingZoo, episodes, and errors."""

from __future__ import annotations

import warnings

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


def make(auto_reset: bool = True) -> PettingZooEnv:
    return MettaGridEnv(TINY, auto_reset=auto_reset, seed=0).to_pettingzoo()


@pytest.mark.parametrize("auto_reset", [True, False])
def test_pettingzoos_own_tests_pass(auto_reset: bool) -> None:
    from pettingzoo.test import parallel_api_test, parallel_seed_test  # noqa: PLC0415  # the extra may be missing

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(make(auto_reset), num_cycles=50)
        parallel_seed_test(lambda: make(auto_reset), num_cycles=50)


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
