"""The state of a batch of worlds, divided among smaller batches and joined again: the worlds continue unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_worlds import random_tasks

from metta.world.env import MettaGridEnv
from metta.world.state.divided_state import divide_state, join_states

WORLDS = 7
SHARES = ([7], [3, 4], [1, 2, 4], [1] * 7)


def tasks(seed: int) -> list[Any]:
    """Tasks with different rules, episodes that end soon, and actions that do not exist."""
    random = random_tasks(np.random.default_rng(seed), 3, every_action=True)
    return [task.override(max_steps=11 + 4 * index, episode_lifetime=0) for index, task in enumerate(random)]


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert np.asarray(value).dtype == np.asarray(second[name]).dtype, name
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def actions(env: MettaGridEnv, generator: np.random.Generator) -> np.ndarray:
    """Random actions of all agents, some of which do not exist."""
    pairs = np.array([*env.spec.flat_actions, (99, 1), (1, 200)], np.int32)
    return pairs[generator.integers(len(pairs), size=env.agents)]


@pytest.mark.parametrize("shares", SHARES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_shares_of_worlds_continue_like_all_of_them(seed: int, shares: list[int]) -> None:
    configs, generator = tasks(seed), np.random.default_rng(seed)
    whole = MettaGridEnv(configs, WORLDS, seed, first_world=5, task_weights=[1, 2, 3])
    whole.reset(staggered=True)
    for _ in range(25):
        whole.step(actions(whole, generator))
    parts = [MettaGridEnv(configs, count) for count in shares]
    for part, state in zip(parts, divide_state(whole.configs, whole.state(), shares), strict=True):
        part.load_state(state)
    assert_same(join_states(whole.configs, [part.state() for part in parts], shares), whole.state())
    for _ in range(25):
        chosen = actions(whole, generator)
        observations, rewards, terminated, truncated, info = whole.step(chosen)
        rows, worlds, episodes = 0, 0, []
        for part in parts:
            own = slice(rows, rows + part.agents)
            step = part.step(chosen[own])
            for expected, found in zip((observations, rewards, terminated, truncated), step, strict=False):
                np.testing.assert_array_equal(expected[own], found)
            episodes += [(episode.world + worlds, episode.length, episode.stats) for episode in step[4].episodes]
            rows, worlds = own.stop, worlds + part.num_worlds
        assert [(episode.world, episode.length, episode.stats) for episode in info.episodes] == episodes
    assert_same(join_states(whole.configs, [part.state() for part in parts], shares), whole.state())


def test_worlds_that_have_not_begun_can_be_divided() -> None:
    whole = MettaGridEnv(tasks(0), 3, seed=1)
    shares = divide_state(whole.configs, whole.state(), [1, 2])
    for count, share in zip([1, 2], shares, strict=True):
        MettaGridEnv(whole.configs, count).load_state(share)
    assert_same(join_states(whole.configs, shares, [1, 2]), whole.state())
