"""The interface of MettaGridEnv: shapes, types, episodes, seeds, shards, saved states."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from metta.config.env.env_config import EnvConfig
from metta.errors import CheckpointError, ConfigError, UsageError
from metta.world.env import MettaGridEnv
from metta.world.make_environment import make_environment

EVERY_ACTION = [
    {"type": type_, "key": key, **more}
    for type_, key, more in [
        ("noop", "noop", {}),
        ("move", "move", {}),
        ("rotate", "face", {}),
        ("rotate", "turn", {"delta": 1}),
        ("put_items", "put", {}),
        ("get_items", "get", {}),
        ("attack", "attack", {"defense_resources": {"armor": 1}}),
        ("swap", "swap", {}),
        ("change_color", "color", {}),
        ("gift", "give", {"item": "ore_red"}),
        ("use", "use", {}),
    ]
]
QUICK = [
    {"type": "mine", "name": "mine_red", "cooldown": 3},
    {"type": "generator", "name": "generator_red", "cooldown": 2},
]
OBJECTS = {"mine_red": 6, "generator_red": 3, "altar": 2, "armory": 2, "block": 5, "wall": 5}


def crowded(**game: Any) -> EnvConfig:
    """A small busy world of two teams with every action."""
    groups = {"red": {"id": 0, "group_reward_pct": 0.5}, "blue": {"id": 3, "props": {"freeze_duration": 2}}}
    whole = {"num_agents": 6, "width": 12, "height": 9, "max_steps": 40, "groups": groups} | game
    return EnvConfig.model_validate(
        {
            "game": whole,
            "objects": QUICK,
            "actions": EVERY_ACTION,
            "map_builder": {"border_width": 1, "objects": OBJECTS},
        }
    )


def random_actions(env: MettaGridEnv, generator: np.random.Generator) -> np.ndarray:
    pairs = np.array([*env.spec.flat_actions, (99, 1), (1, 200)], np.int32)
    return pairs[generator.integers(len(pairs), size=env.agents)]


def play(env: MettaGridEnv, actions: list[np.ndarray]) -> list[bytes]:
    """All that `step` returned, as bytes."""
    told = []
    for step_actions in actions:
        observations, rewards, terminated, truncated, info = env.step(step_actions)
        arrays = [observations, rewards, terminated, truncated, info.ended_agents, info.final_observations]
        told.append(b"".join(array.tobytes() for array in arrays) + repr(info.episodes).encode())
    return told


class TestContract:
    @pytest.mark.parametrize("num_worlds", [1, 5])
    def test_shapes_types_and_episodes(self, num_worlds: int) -> None:
        env = MettaGridEnv(crowded(max_steps=15), num_worlds, seed=0)
        generator = np.random.default_rng(0)
        observations, info = env.reset()
        assert info.episodes == ()
        ended = 0
        for step in range(1, 50):
            observations, rewards, terminated, truncated, info = env.step(random_actions(env, generator))
            assert observations.shape == (env.agents, 200, 3) == (num_worlds * 6, 200, 3)
            assert (observations.dtype, rewards.dtype) == (np.uint8, np.float32)
            assert (terminated.dtype, truncated.dtype) == (np.bool_, np.bool_)
            assert rewards.shape == terminated.shape == truncated.shape == env.action_success.shape == (env.agents,)
            assert env.single_observation_space.contains(observations[0])
            assert truncated.all() if step % 15 == 0 else not truncated.any()
            assert info.ended_agents.tolist() == np.flatnonzero(terminated | truncated).tolist()
            assert info.final_observations.shape == (len(info.ended_agents), 200, 3)
            assert len(info.episodes) == len(info.ended_agents) / 6
            ended += len(info.episodes)
        assert ended == 3 * num_worlds

    def test_a_new_episode_begins_where_one_ended(self) -> None:
        env = MettaGridEnv(crowded(max_steps=7), 2, seed=0)
        env.reset()
        generator = np.random.default_rng(0)
        for _ in range(7):
            observations, _, _, _, info = env.step(random_actions(env, generator))
        completion = 8
        # tokens of a new world: nothing done yet; of the old one: all of it over
        assert observations[:, :4, 1].tolist() == [[completion, 9, 10, 11]] * env.agents
        assert (observations[:, :4, 2] == 0).all()
        assert (info.final_observations[:, 0, 2] == 255).all()
        assert (env.steps == 0).all()
        assert not env.inventories.any()
        assert not env.action_success.any()

    def test_summary_of_a_finished_episode(self) -> None:
        env = MettaGridEnv(crowded(max_steps=30), 3, seed=0)
        env.reset()
        generator = np.random.default_rng(1)
        returned = np.zeros(env.agents, np.float32)
        individual = np.zeros(env.agents, np.float32)
        stats: list[dict[str, Any]] = []
        for step in range(30):
            _, rewards, _, _, info = env.step(random_actions(env, generator))
            returned += rewards
            if step < 29:
                individual += env.individual_rewards
                stats = [env.episode_stats(world) for world in range(3)]
        assert [summary.world for summary in info.episodes] == [0, 1, 2]
        for world, summary in enumerate(info.episodes):
            rows = slice(world * 6, world * 6 + 6)
            assert summary.length == 30
            assert not summary.terminated
            np.testing.assert_array_equal(summary.rewards, returned[rows])
            assert summary.stats["objects.mine_red"] == 6
            # one step before the end the counters can be no more than at the end
            moves = np.mean([agent.get("action.move.success", 0) for agent in stats[world]["agent"]])
            assert 0 < moves <= summary.stats["action.move.success"] <= moves + 1

    def test_lifetime_terminates_and_max_steps_truncates(self) -> None:
        generator = np.random.default_rng(0)
        for limits, is_termination in (((0, 5), True), ((5, 0), False), ((5, 5), True), ((9, 5), True)):
            env = MettaGridEnv(crowded(max_steps=limits[0], episode_lifetime=limits[1]), seed=0)
            env.reset()
            for step in range(1, 6):
                _, _, terminated, truncated, info = env.step(random_actions(env, generator))
                assert terminated.all() == (step == 5 and is_termination)
                assert truncated.all() == (step == 5 and not is_termination)
            assert info.episodes[0].terminated == is_termination

    def test_without_auto_reset_a_world_continues(self) -> None:
        env = MettaGridEnv(crowded(max_steps=4), auto_reset=False, seed=0)
        env.reset()
        generator = np.random.default_rng(0)
        flags = []
        for _ in range(6):
            _, _, _, truncated, _ = env.step(random_actions(env, generator))
            flags.append(bool(truncated.all()))
        assert flags == [False] * 3 + [True] * 3
        assert env.steps.tolist() == [6]

    def test_worlds_end_independently(self) -> None:
        env = MettaGridEnv([crowded(max_steps=3), crowded(max_steps=5)], 8, seed=3)
        env.reset()
        generator = np.random.default_rng(0)
        lengths = {3: set(), 5: set()}
        for step in range(1, 31):
            tasks = env.tasks.copy()
            _, _, _, _, info = env.step(random_actions(env, generator))
            for summary in info.episodes:
                assert summary.task == tasks[summary.world]
                assert summary.length == (3, 5)[summary.task]
                lengths[summary.length].add(step)
        assert len(lengths[3] | lengths[5]) > 8


class TestArguments:
    def test_observations_are_written_in_place(self) -> None:
        env = MettaGridEnv(crowded(max_steps=3), 2, seed=0)
        same = MettaGridEnv(crowded(max_steps=3), 2, seed=0)
        buffer = np.zeros((env.agents, 200, 3), np.uint8)
        first, _ = env.reset(out=buffer)
        assert first is buffer
        np.testing.assert_array_equal(buffer, same.reset()[0])
        generator = np.random.default_rng(0)
        for _ in range(7):
            actions = random_actions(env, generator)
            assert env.step(actions, out=buffer)[0] is buffer
            np.testing.assert_array_equal(buffer, same.step(actions)[0])

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
    def test_any_integers_are_actions(self, dtype: type) -> None:
        env = MettaGridEnv(crowded(), seed=0)
        env.reset()
        env.step(np.full((env.agents, 2), 1, dtype))
        assert not env.episode_stats()["agent"][0].get("action.invalid_arg")

    @pytest.mark.parametrize("method", ["render", "render_rgb", "cells", "converters", "episode_stats", "feature_grid"])
    def test_views_need_a_world_and_its_first_episode(self, method: str) -> None:
        env = MettaGridEnv(crowded(), 3)
        with pytest.raises(UsageError, match=r"call reset\(\) first"):
            getattr(env, method)()
        with pytest.raises(UsageError, match=r"call reset\(\) first"):
            env.compact_observations()
        env.reset()
        for world in (3, -1):
            with pytest.raises(UsageError, match=f"world must be from 0 to 2; got {world}"):
                getattr(env, method)(world)

    def test_invalid_arguments_are_refused(self) -> None:
        env = MettaGridEnv(crowded(), seed=0)
        with pytest.raises(UsageError, match="reset"):
            env.step(np.zeros((6, 2), np.int32))
        env.reset()
        with pytest.raises(UsageError, match="actions"):
            env.step(np.zeros((5, 2), np.int32))
        with pytest.raises(UsageError, match="actions"):
            env.step(np.zeros((6, 2), np.float32))
        with pytest.raises(UsageError, match="out"):
            env.step(np.zeros((6, 2), np.int32), out=np.zeros((6, 199, 3), np.uint8))
        for order in ([0, 1, 2], np.zeros(6, np.float32), [0, 1, 2, 0, 0, 1], [0, 1, 3, 0, 1, 2]):
            with pytest.raises(UsageError, match="order must"):
                env.step(np.zeros((6, 2), np.int32), order=np.array(order))
        with pytest.raises(UsageError, match="seed"):
            env.reset(seed=-1)
        with pytest.raises(UsageError, match="task_weights"):
            env.set_task_weights([0.5, 0.5])

    def test_tasks_must_have_equal_specs(self) -> None:
        with pytest.raises(ConfigError, match="num_observation_tokens"):
            MettaGridEnv([crowded(), crowded(num_observation_tokens=100)])

    def test_make_environment_overrides(self) -> None:
        env = make_environment(num_agents=8, width=16, height=17, max_steps=3, seed=0)
        env.reset()
        assert (env.agents, env.cells().shape) == (8, (17, 16))
        with pytest.raises(ConfigError, match="widht"):
            make_environment(widht=16)


class TestStreams:
    def test_same_seed_same_bytes(self) -> None:
        told = []
        for seed in (5, 5, 6):
            env = MettaGridEnv(crowded(), 3, seed=seed)
            generator = np.random.default_rng(0)
            first = env.reset()[0].tobytes()
            told.append([first, *play(env, [random_actions(env, generator) for _ in range(90)])])
        assert told[0] == told[1]
        assert told[0] != told[2]

    def test_reset_continues_the_stream_and_a_seed_restarts_it(self) -> None:
        env = MettaGridEnv(crowded(), 2, seed=5)
        first, second = env.reset()[0], env.reset()[0]
        assert (first != second).any()
        np.testing.assert_array_equal(first, env.reset(seed=5)[0])
        np.testing.assert_array_equal(second, env.reset()[0])
        np.testing.assert_array_equal(first, MettaGridEnv(crowded(), 2, seed=0).reset(seed=5)[0])

    def test_earlier_episodes_leave_no_trace(self) -> None:
        """From the same seed, a used environment gives the same results as a new one."""
        config = crowded(action_failure_penalty=0.1, default_item_max=2, freeze_duration=30)
        used, new = MettaGridEnv(config, 3), MettaGridEnv(config, 3)
        used.reset(seed=1)
        generator = np.random.default_rng(0)
        play(used, [random_actions(used, generator) for _ in range(35)])
        np.testing.assert_array_equal(used.reset(seed=2)[0], new.reset(seed=2)[0])
        assert [used.episode_stats(world) for world in range(3)] == [new.episode_stats(world) for world in range(3)]
        actions = [random_actions(used, generator) for _ in range(90)]
        assert play(used, actions) == play(new, actions)

    def test_shards_give_the_results_of_the_whole(self) -> None:
        """Also across episodes that end at different times, and with different tasks in other worlds."""
        tasks = [crowded(max_steps=11), crowded(max_steps=17, width=9, height=15)]
        whole = MettaGridEnv(tasks, 6, seed=1)
        shards = [MettaGridEnv(tasks, count, seed=1, first_world=first) for first, count in ((0, 1), (1, 3), (4, 2))]
        generator = np.random.default_rng(0)
        expected = whole.reset()[0]
        np.testing.assert_array_equal(expected, np.concatenate([shard.reset()[0] for shard in shards]))
        for _ in range(60):
            actions = random_actions(whole, generator)
            parts = np.split(actions, [6, 24])
            expected_arrays = whole.step(actions)[:4]
            got = [shard.step(part)[:4] for shard, part in zip(shards, parts, strict=True)]
            for index, array in enumerate(expected_arrays):
                np.testing.assert_array_equal(array, np.concatenate([arrays[index] for arrays in got]))

    def test_threads_do_not_disturb_each_other(self) -> None:
        def tell(seed: int) -> list[bytes]:
            env = MettaGridEnv(crowded(), 4, seed=seed)
            env.reset()
            generator = np.random.default_rng(seed)
            return play(env, [random_actions(env, generator) for _ in range(60)])

        alone = [tell(seed) for seed in range(4)]
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(tell, range(4))) == alone

    def test_turn_orders_are_fair(self) -> None:
        """Two agents move into the cell between them in many worlds: each gets it about half the time."""
        drawing = {"type": "Ascii", "map": "#####\n#@.@#\n#####"}
        env = MettaGridEnv(EnvConfig.model_validate({"game": {"max_steps": 0}, "map_builder": drawing}), 2000, seed=0)
        env.reset()
        env.step(np.tile([[2, 3], [2, 2]], (2000, 1)))
        env.step(np.tile([[1, 0]], (4000, 1)))
        first, second = env.action_success[::2], env.action_success[1::2]
        assert (first != second).all()
        assert 0.45 < first.mean() < 0.55

    def test_turn_orders_change_from_step_to_step(self) -> None:
        """The same two agents many times: the one that gets the cell moves back, and both try again."""
        drawing = {"type": "Ascii", "map": "#####\n#@.@#\n#####"}
        env = MettaGridEnv(EnvConfig.model_validate({"game": {"max_steps": 0}, "map_builder": drawing}), 50, seed=0)
        env.reset()
        env.step(np.tile([[2, 3], [2, 2]], (50, 1)))
        winners = []
        for _ in range(60):
            env.step(np.tile([[1, 0]], (100, 1)))
            won = env.action_success.copy()
            winners.append(won[::2])
            env.step(np.stack([won, won], axis=1).astype(np.int64))
        changes = np.diff(np.array(winners).astype(int), axis=0) != 0
        assert 0.45 < changes.mean() < 0.55


class TestSavedState:
    @pytest.mark.parametrize("steps_before", [1, 25, 60])
    def test_resumes_exactly(self, steps_before: int) -> None:
        tasks = [crowded(max_steps=23), crowded(max_steps=31, width=14)]
        env = MettaGridEnv(tasks, 4, seed=2, first_world=3)
        generator = np.random.default_rng(0)
        env.reset()
        env.set_task_weights([1, 3])
        play(env, [random_actions(env, generator) for _ in range(steps_before)])
        state = env.state()
        actions = [random_actions(env, generator) for _ in range(70)]
        expected = play(env, actions)
        fresh = MettaGridEnv(tasks, 4, seed=99)
        fresh.load_state(state)
        assert play(fresh, actions) == expected
        assert [fresh.episode_stats(world) for world in range(4)] == [env.episode_stats(world) for world in range(4)]

    def test_holds_only_arrays_and_numbers(self) -> None:
        env = MettaGridEnv(crowded(), seed=0)
        env.reset()
        for name, value in env.state().items():
            assert isinstance(value, (int, np.ndarray)), name
            tensors = ("int8", "int16", "int32", "int64", "uint8", "float32", "float64", "bool")
            assert isinstance(value, int) or value.dtype.name in tensors, name

    def test_is_a_copy(self) -> None:
        env = MettaGridEnv(crowded(), seed=0)
        env.reset()
        state = env.state()
        before = {name: np.copy(value) for name, value in state.items()}
        play(env, [random_actions(env, np.random.default_rng(0))])
        for name, value in state.items():
            np.testing.assert_array_equal(value, before[name])

    def test_does_not_fit_another_batch(self) -> None:
        env, other = MettaGridEnv(crowded(), 2, seed=0), MettaGridEnv(crowded(), 3, seed=0)
        env.reset()
        with pytest.raises(CheckpointError, match="does not fit"):
            other.load_state(env.state())


class TestRewards:
    def test_time_punishment_is_in_every_reward(self) -> None:
        env = MettaGridEnv(crowded(time_punishment=-0.25), seed=0)
        env.reset()
        rewards = env.step(np.zeros((6, 2), np.int32))[1]
        assert rewards.tolist() == [-0.25] * 6

    def test_reward_sharing_groups_give_shares_away(self) -> None:
        """Every agent earns -1; red gives a quarter to blue, blue half to red and a quarter to all of blue."""
        groups = {"red": {"id": 0}, "blue": {"id": 1}}
        shares = {"red": {"blue": 0.25}, "blue": {"red": 0.5, "blue": 0.25}}
        env = MettaGridEnv(crowded(groups=groups, reward_sharing_groups=shares, time_punishment=-1.0), seed=0)
        env.reset()
        rewards = env.step(np.zeros((6, 2), np.int32))[1]
        assert rewards[env.groups == 0].tolist() == pytest.approx([-0.75 - 3 * 0.5 / 3] * 3)
        assert rewards[env.groups == 1].tolist() == pytest.approx([-0.25 - 3 * 0.25 / 3 - 3 * 0.25 / 3] * 3)
        assert (env.individual_rewards == -1).all()

    def test_a_share_of_a_group_without_agents_is_kept(self) -> None:
        """One agent is red; blue, which gets half, has no agent in this world."""
        groups = {"red": {"id": 0}, "blue": {"id": 1}}
        shares = {"red": {"blue": 0.5}}
        config = crowded(num_agents=1, groups=groups, reward_sharing_groups=shares, time_punishment=-1.0)
        env = MettaGridEnv(config, seed=0)
        env.reset()
        assert env.step(np.zeros((1, 2), np.int32))[1].tolist() == [-1.0]

    def test_diversity_bonus_scales_the_last_reward(self) -> None:
        coefficients = {"similarity_coef": 0.3, "diversity_coef": 0.7}
        base = {"groups": {"red": {"id": 0}, "blue": {"id": 1}}, "max_steps": 20, "action_failure_penalty": 0.1}
        plain = MettaGridEnv(crowded(**base))
        bonus = MettaGridEnv(crowded(**base, diversity_bonus_enabled=True, **coefficients))
        groups = []
        for env in (plain, bonus):
            env.reset(seed=4)
            groups.append(env.groups)
        generator = np.random.default_rng(0)
        for step in range(20):
            actions = random_actions(plain, generator)
            expected, got = (env.step(actions) for env in (plain, bonus))
            if step < 19:
                np.testing.assert_array_equal(expected[1], got[1])
        r = expected[4].episodes[0].individual_rewards.astype(np.float64)
        for agent in range(6):
            own = r[groups[0] == groups[0][agent]]
            other = r[groups[0] != groups[0][agent]]
            similarity = np.exp(-abs(r[agent] - own.mean()) / (own.std() + 1e-6))
            diversity = 1 - np.exp(-abs(r[agent] - other.mean()) / (other.std() + 1e-6))
            factor = 1 + 0.3 * similarity + 0.7 * diversity
            assert got[1][agent] == pytest.approx(expected[1][agent] * factor, rel=1e-5)


def test_render_draws_the_map() -> None:
    drawing = "#####\n#@_b#\n#r.R#\n#####"
    config = EnvConfig.model_validate({"game": {}, "map_builder": {"type": "Ascii", "map": drawing}})
    env = MettaGridEnv(config, seed=0)
    env.reset()
    assert env.render() == drawing.replace("@", "^")
    env.step(np.array([[2, 3]]))
    assert env.render() == drawing.replace("@", ">")
