"""Seeds: an environment that nobody seeded draws one, and so do its copies; a given seed is reproducible."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

import metta
from metta.baselines.random_policy import RandomPolicy
from metta.config.env.env_config import EnvConfig
from metta.errors import CheckpointError, ConfigError, UsageError
from metta.evaluation.evaluate import evaluate
from metta.world.env import MettaGridEnv
from metta.world.make_environment import make_environment

assert metta.__doc__, "importing metta registers the presets"

CONFIG = EnvConfig.model_validate(
    {"game": {"num_agents": 2, "width": 12, "height": 12, "max_steps": 4}, "map_builder": {"objects": {"wall": 20}}}
)


def supersuit_envs() -> Any:
    supersuit = pytest.importorskip("supersuit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = supersuit.pettingzoo_env_to_vec_env_v1(make_environment(CONFIG).to_pettingzoo())
        return supersuit.concat_vec_envs_v1(one, 3)


def pettingzoo_env() -> Any:
    pytest.importorskip("pettingzoo")
    return make_environment(CONFIG).to_pettingzoo()


KINDS: dict[str, Callable[[], Any]] = {
    "MettaGridEnv": lambda: MettaGridEnv(CONFIG, 2),
    "make_environment": lambda: make_environment(CONFIG, num_worlds=2),
    "without auto_reset": lambda: MettaGridEnv(CONFIG, auto_reset=False),
    "Gymnasium": lambda: MettaGridEnv(CONFIG, 2).to_gymnasium_vector(),
    "make_vec": lambda: gymnasium.make_vec("metta/quickstart", num_envs=2),
    "PettingZoo": pettingzoo_env,
    "SuperSuit": supersuit_envs,
}


def start(env: Any, **arguments: Any) -> bytes:
    """The first observations of the episodes that `reset` starts."""
    observations = env.reset(**arguments)[0]
    if isinstance(observations, dict):
        observations = np.stack([*observations.values()])
    return bytes(observations.tobytes())


@pytest.mark.parametrize("kind", KINDS)
class TestKinds:
    def test_without_a_seed_every_env_and_every_copy_differs(self, kind: str) -> None:
        """Copies of a new env, and copies of one that has drawn its seed: all play other worlds once they are reset."""
        env = KINDS[kind]()
        copies = [copy.deepcopy(env), pickle.loads(pickle.dumps(env)), copy.deepcopy(copy.deepcopy(env)), KINDS[kind]()]
        starts = [start(one) for one in (env, *copies)]
        later = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
        starts += [start(one) for one in (*later, env)]
        assert len(set(starts)) == len(starts)

    def test_a_seed_is_reproducible_and_later_resets_continue_its_sequence(self, kind: str) -> None:
        first, second = KINDS[kind](), KINDS[kind]()
        start(second)
        expected = [start(first, seed=7), start(first), start(first)]
        assert len(set(expected)) == 3
        assert [start(second, seed=7), start(second), start(second)] == expected
        copied = copy.deepcopy(first)
        assert start(copied) == start(first)
        assert start(first, seed=7) == start(copied, seed=7) == expected[0]
        assert start(first, seed=8) != expected[0]


def test_auto_resets_of_a_copy_follow_those_of_the_original() -> None:
    """Only an explicit reset draws another seed."""
    env = MettaGridEnv(CONFIG, 2)
    env.reset()
    copied = copy.deepcopy(env)
    for _ in range(9):
        actions = np.zeros((env.agents, 2), int)
        np.testing.assert_array_equal(env.step(actions)[0], copied.step(actions)[0])


def test_the_seed_that_was_drawn_can_be_read_and_given_again() -> None:
    env = MettaGridEnv(CONFIG, 2)
    assert env.seed is None
    drawn = start(env)
    assert isinstance(env.seed, int)
    assert env.seed >= 0
    assert start(MettaGridEnv(CONFIG, 2, seed=env.seed)) == drawn
    assert start(env, seed=3) == start(MettaGridEnv(CONFIG, 2, seed=3))
    assert env.seed == 3


def test_global_random_states_are_neither_used_nor_changed() -> None:
    starts = []
    for _ in range(2):
        np.random.seed(0)
        starts.append(start(MettaGridEnv(CONFIG)))
        assert np.random.random() == pytest.approx(0.5488135)
    assert starts[0] != starts[1]


def test_a_saved_state_keeps_what_is_known_of_the_seed() -> None:
    env = MettaGridEnv(CONFIG)
    fresh = [MettaGridEnv(CONFIG, seed=1) for _ in range(2)]
    for one in fresh:
        one.load_state(env.state())
    assert start(fresh[0]) != start(fresh[1]), "nobody has seeded the saved env"
    start(env)
    for one in fresh:
        one.load_state(env.state())
    assert start(fresh[0]) == start(fresh[1]) == start(env), "its seed was drawn"
    state = env.state() | {"seed": -1}
    with pytest.raises(CheckpointError, match="seed must be an integer from 0"):
        env.load_state(state)


def test_evaluations_use_the_given_seed_or_0() -> None:
    """Not the one that `reset` draws: an evaluation gives the same result each time."""
    policy = RandomPolicy(CONFIG.spec)

    def stats(env: MettaGridEnv) -> dict[str, float]:
        return evaluate(policy, env, 3).stats

    unseeded = MettaGridEnv(CONFIG)
    expected = stats(MettaGridEnv(CONFIG, seed=0))
    assert stats(unseeded) == expected
    unseeded.reset()
    assert stats(unseeded) == expected
    unseeded.reset(seed=4)
    assert stats(unseeded) == stats(MettaGridEnv(CONFIG, seed=4)) != expected


@pytest.mark.parametrize("seed", [-1, 1.5, "1", np.float32(2)])
def test_other_seeds_are_refused(seed: Any) -> None:
    with pytest.raises(UsageError, match="seed must be an integer of at least 0"):
        MettaGridEnv(CONFIG, seed=seed)
    with pytest.raises(UsageError, match="seed must be an integer of at least 0"):
        MettaGridEnv(CONFIG).reset(seed=seed)


def test_make_environment_takes_the_number_of_worlds_and_a_seed() -> None:
    env = make_environment(CONFIG, num_worlds=3, seed=1, num_agents=5)
    assert (env.num_worlds, env.num_agents, env.seed) == (3, 5, 1)
    assert start(env) == start(MettaGridEnv(CONFIG.override(num_agents=5), 3, 1))


def test_hints_of_make_environment_lead_to_valid_arguments() -> None:
    for name, value in {"num_envs": 3, "obs_width": 5, "n_agents": 3, "max_cycles": 9, "max_step": 9}.items():
        with pytest.raises((ConfigError, UsageError)) as caught:
            make_environment(CONFIG, **{name: value})
        (hint,) = re.findall(r'did you mean "(\w+)"', str(caught.value))
        make_environment(CONFIG, **{hint: value})


class TestSomeWorlds:
    def test_start_an_episode_while_the_others_continue(self) -> None:
        env, other = MettaGridEnv(CONFIG, 3, seed=1, auto_reset=False), MettaGridEnv(CONFIG, 3, seed=1)
        assert start(env) == start(other)
        actions = np.ones((env.agents, 2), int)
        env.step(actions)
        current = env.step(actions)[0]
        stats = env.episode_stats(0)
        observations, info = env.reset(worlds=np.array([False, True, False]))
        assert info.episodes == ()
        assert env.steps.tolist() == [2, 0, 2]
        np.testing.assert_array_equal(observations[[0, 1, 4, 5]], current[[0, 1, 4, 5]])
        np.testing.assert_array_equal(observations[2:4], other.reset()[0][2:4])
        assert env.episode_stats(0) == stats, "tokens are not counted twice"

    def test_invalid_uses_are_refused(self) -> None:
        env = MettaGridEnv(CONFIG, 3)
        mask = np.array([True, False, False])
        with pytest.raises(UsageError, match="reset all of them first"):
            env.reset(worlds=mask)
        env.reset()
        for more in ({"seed": 1}, {"staggered": True}):
            with pytest.raises(UsageError, match="with the mask alone"):
                env.reset(worlds=mask, **more)
        for wrong in (mask[:2], mask.astype(int)):
            with pytest.raises(UsageError, match=r"worlds must be bool \[worlds\] = \[3\]"):
                env.reset(worlds=wrong)
