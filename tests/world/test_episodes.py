"""Where episodes end and begin, what seeds promise, and what a saved state brings back."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from conformance import engine_state
from random_worlds import random_actions, random_tasks

from metta.config.env import EnvConfig
from metta.errors import ConfigError, UsageError
from metta.world.env import MettaGridEnv, StepInfo, make_environment


def small(**game: Any) -> EnvConfig:
    settings = {"num_agents": 3, "width": 8, "height": 7, "max_steps": 5, "time_punishment": -0.5}
    return EnvConfig.model_validate(
        {"game": settings | game, "map_builder": {"border_width": 1, "objects": {"mine_red": 2, "block": 2}}}
    )


def idle(env: MettaGridEnv) -> np.ndarray:
    return np.zeros((env.agents, 2), np.int32)


def played(env: MettaGridEnv, steps: int, seed: int = 0) -> list[bytes]:
    """Everything that comes out of so many random steps, after a reset."""
    generator = np.random.default_rng(seed)
    out = [env.reset()[0].tobytes()]
    for _ in range(steps):
        observations, rewards, terminated, truncated, info = env.step(random_actions(generator, env.config, env.agents))
        out += [array.tobytes() for array in (observations, rewards, terminated, truncated, info.final_observations)]
    return out


class TestEnd:
    def test_truncation_at_max_steps(self) -> None:
        env = MettaGridEnv(small(max_steps=5, episode_lifetime=0))
        env.reset()
        ends = [env.step(idle(env))[2:4] for _ in range(11)]
        assert [truncated.all() for _, truncated in ends] == [False] * 4 + [True] + [False] * 4 + [True, False]
        assert not any(terminated.any() for terminated, _ in ends)

    def test_termination_at_the_end_of_the_lifetime(self) -> None:
        env = MettaGridEnv(small(max_steps=0, episode_lifetime=3))
        env.reset()
        ends = [env.step(idle(env))[2:4] for _ in range(7)]
        assert [terminated.all() for terminated, _ in ends] == [False, False, True] * 2 + [False]
        assert not any(truncated.any() for _, truncated in ends)

    def test_an_end_is_never_both(self) -> None:
        env = MettaGridEnv(small(max_steps=2, episode_lifetime=2))
        env.reset()
        env.step(idle(env))
        _, _, terminated, truncated, info = env.step(idle(env))
        assert terminated.all()
        assert not truncated.any()
        assert info.episodes[0].terminated

    def test_0_is_never(self) -> None:
        env = MettaGridEnv(small(max_steps=0, episode_lifetime=0))
        env.reset()
        for _ in range(300):
            _, _, terminated, truncated, info = env.step(idle(env))
            assert not terminated.any()
            assert not truncated.any()
            assert info.episodes == ()


class TestAutoReset:
    def test_the_next_episode_begins_in_the_same_step(self) -> None:
        env = MettaGridEnv(small(max_steps=3))
        env.reset()
        before = env.cells()
        for _ in range(2):
            env.step(idle(env))
        observations, rewards, _, _, info = env.step(np.array([[2, 3]] * 3))
        assert rewards.tolist() == [-0.5] * 3
        assert env.steps.tolist() == [0]
        assert (env.orientations == 0).all()
        assert not np.array_equal(env.cells(), before)
        first, last = observations[:, :4, 2], info.final_observations[:, :4, 2]
        assert first.tolist() == [[0, 0, 0, 0]] * 3
        assert last.tolist() == [[255, 2, 3, 0]] * 3
        assert info.ended_agents.tolist() == [0, 1, 2]

    def test_nothing_ends_nothing_is_told(self) -> None:
        env = MettaGridEnv(small())
        _, info = env.reset()
        assert (info.ended_agents.size, info.episodes) == (0, ())
        *_, info = env.step(idle(env))
        assert isinstance(info, StepInfo)
        assert (info.ended_agents.size, info.episodes) == (0, ())

    def test_only_the_world_that_ended_begins_anew(self) -> None:
        tasks = [small(max_steps=4), small(max_steps=6)]
        env = MettaGridEnv(tasks, num_worlds=8, seed=2)
        env.reset()
        assert 0 < env.tasks.sum() < 8
        assert set(env.tasks.tolist()) == {0, 1}
        for _ in range(3):
            env.step(idle(env))
        short = np.flatnonzero(env.tasks == 0)
        before = {world: env.cells(world) for world in range(8)}
        observations, _, _, truncated, info = env.step(idle(env))
        rows = (short[:, None] * 3 + np.arange(3)).ravel()
        assert info.ended_agents.tolist() == rows.tolist()
        assert np.flatnonzero(truncated).tolist() == rows.tolist()
        assert [summary.world for summary in info.episodes] == short.tolist()
        assert info.final_observations.shape == (len(rows), *observations.shape[1:])
        assert env.steps.tolist() == [0 if world in short else 4 for world in range(8)]
        for world in set(range(8)) - set(short.tolist()):
            assert np.array_equal(env.cells(world), before[world])

    def test_the_summary_says_what_was_paid(self) -> None:
        config = small(
            max_steps=4,
            groups={"red": {"id": 0, "group_reward_pct": 0.5}, "blue": {"id": 1}},
            action_failure_penalty=1.0,
        )
        env = MettaGridEnv(config, num_worlds=6)
        env.reset()
        returned = np.zeros(18, np.float32)
        for _ in range(4):
            _, rewards, _, _, info = env.step(np.tile([[99, 0], [0, 0], [0, 0]], (6, 1)))
            returned += rewards
        assert len(info.episodes) == 6
        shared = 0
        for world, summary in enumerate(info.episodes):
            assert (summary.world, summary.length, summary.task, summary.terminated) == (world, 4, 0, False)
            assert np.array_equal(summary.rewards, returned[world * 3 : world * 3 + 3])
            assert summary.individual_rewards.tolist() == [-10, -2, -2]
            assert summary.rewards.sum() == -14
            shared += summary.rewards.tolist() != [-10, -2, -2]
        assert 0 < shared < 6  # where the first agent is the only one of its group it shares with nobody

    def test_the_summary_counts(self) -> None:
        env = MettaGridEnv(small(max_steps=4), num_worlds=1)
        env.reset()
        for action in ([2, 1], [2, 2], [0, 0]):
            env.step(np.array([action, [0, 0], [99, 0]]))
        *_, info = env.step(np.array([[8, 0]] * 3))
        stats = info.episodes[0].stats
        assert stats["action.rotate.success"] == pytest.approx(2 / 3)
        assert stats["action.change_color.success"] == 1
        assert stats["action.invalid_type"] == stats["action.invalid_type.99.0"] == 2
        assert stats["objects.mine_red"] == 2
        assert stats["tokens_written"] > 0

    def test_counters_begin_anew(self) -> None:
        env = MettaGridEnv(small(max_steps=2))
        env.reset()
        for _ in range(2):
            env.step(np.array([[99, 1], [1, 0], [2, 2]]))
        assert env.episode_stats()["agent"] == [{}, {}, {}]
        env.step(np.array([[99, 1], [2, 2], [2, 2]]))
        assert env.episode_stats()["agent"][1] == {"action.rotate.success": 1}
        assert env.episode_rewards.tolist() == [-0.5] * 3

    def test_without_it_a_world_goes_on(self) -> None:
        env = MettaGridEnv(small(max_steps=2), auto_reset=False)
        env.reset()
        flags = [bool(env.step(idle(env))[3].all()) for _ in range(4)]
        assert flags == [False, True, True, True]
        assert env.steps.tolist() == [4]


class TestSeeds:
    def config(self) -> list[EnvConfig]:
        return random_tasks(np.random.default_rng(8))

    def test_same_seed_same_bytes(self) -> None:
        assert played(MettaGridEnv(self.config(), 4, seed=5), 40) == played(MettaGridEnv(self.config(), 4, seed=5), 40)

    def test_another_seed_differs(self) -> None:
        assert played(MettaGridEnv(self.config(), 4, seed=5), 3) != played(MettaGridEnv(self.config(), 4, seed=6), 3)

    def test_reset_with_a_seed_is_an_environment_of_that_seed(self) -> None:
        env = MettaGridEnv(self.config(), 4, seed=5)
        played(env, 30)
        again, _ = env.reset(6)
        fresh, _ = MettaGridEnv(self.config(), 4, seed=6).reset()
        assert np.array_equal(again, fresh)

    def test_reset_without_one_begins_another_episode(self) -> None:
        env = MettaGridEnv(small())
        env.reset()
        first = env.cells()
        env.reset()
        assert not np.array_equal(env.cells(), first)

    def test_worlds_differ(self) -> None:
        env = MettaGridEnv(small(), num_worlds=2)
        env.reset()
        assert not np.array_equal(env.cells(0), env.cells(1))

    @pytest.mark.parametrize("cut", [1, 3])
    def test_sharding_changes_nothing(self, cut: int) -> None:
        """Two batches with the same seed that together cover the worlds give what one batch gives."""
        tasks, generator = self.config(), np.random.default_rng(0)
        whole = MettaGridEnv(tasks, 5, seed=7)
        parts = [MettaGridEnv(tasks, cut, seed=7), MettaGridEnv(tasks, 5 - cut, seed=7, first_world=cut)]
        middle = cut * whole.num_agents
        together = whole.reset()[0]
        assert np.array_equal(together, np.concatenate([part.reset()[0] for part in parts]))
        for _ in range(60):
            actions = random_actions(generator, whole.config, whole.agents)
            expected = whole.step(actions)
            got = [parts[0].step(actions[:middle]), parts[1].step(actions[middle:])]
            for index in range(4):
                assert np.array_equal(expected[index], np.concatenate([part[index] for part in got]))

    def test_a_negative_seed_is_refused(self) -> None:
        with pytest.raises(UsageError, match="seed"):
            MettaGridEnv(small(), seed=-1)


class TestTurnOrder:
    """Three agents want the same cell: who gets it has the first turn of the three."""

    DRAWING = "#.#\n^.^\n#^#"

    def winners(self, num_worlds: int, seed: int) -> np.ndarray:
        world = {
            "game": {"episode_lifetime": 1, "max_steps": 0, "num_observation_tokens": 1},
            "map_builder": {"type": "Ascii", "map": "#.#\n@.@\n#@#"},
            "actions": [{"type": "move", "key": "move"}, {"type": "rotate", "key": "rotate"}],
        }
        env = MettaGridEnv(EnvConfig.model_validate(world), num_worlds, seed, auto_reset=False)
        env.reset()
        env.step(np.tile([[1, 3], [1, 2], [1, 0]], (num_worlds, 1)))
        env.step(np.zeros((env.agents, 2), np.int32))
        moved = (env.positions == [1, 1]).all(1).reshape(num_worlds, 3)
        assert (moved.sum(1) == 1).all()
        return moved.argmax(1)

    def test_everyone_is_first_equally_often(self) -> None:
        counts = np.bincount(self.winners(6000, seed=1), minlength=3)
        assert (np.abs(counts - 2000) < 4.5 * np.sqrt(6000 * 2 / 9)).all()

    def test_worlds_are_independent(self) -> None:
        winners = self.winners(6001, seed=2)
        pairs = np.bincount(winners[:-1] * 3 + winners[1:], minlength=9)
        assert (np.abs(pairs - 6000 / 9) < 4.5 * np.sqrt(6000 / 9)).all()

    def test_steps_are_independent_and_pairs_uniform(self) -> None:
        """Two agents run at each other over one free cell, and back, again and again."""
        world = {
            "game": {"episode_lifetime": 0, "max_steps": 0, "num_observation_tokens": 1},
            "map_builder": {"type": "Ascii", "map": "@.@"},
            "actions": [{"type": "move", "key": "move"}, {"type": "rotate", "key": "rotate"}],
        }
        env = MettaGridEnv(EnvConfig.model_validate(world), num_worlds=400)
        env.reset()
        env.step(np.tile([[1, 3], [1, 2]], (400, 1)))
        firsts = []
        for _ in range(20):
            env.step(np.zeros((800, 2), np.int32))
            success = env.action_success.reshape(400, 2).copy()
            assert (success.sum(1) == 1).all()
            firsts.append(success[:, 0])
            # the winner steps back; the other's step back fails against the edge
            env.step(np.tile([[0, 1], [0, 1]], (400, 1)))
        first = np.array(firsts)
        assert abs(first.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(first.size)
        repeated = (first[1:] == first[:-1]).mean()
        assert abs(repeated - 0.5) < 4.5 * 0.5 / np.sqrt(first[1:].size)
        assert (first.mean(1) > 0.3).all()
        assert (first.mean(1) < 0.7).all()
        assert (first.mean(0) > 0.02).all()


class TestSavedState:
    def test_goes_on_exactly(self) -> None:
        tasks, generator = random_tasks(np.random.default_rng(3)), np.random.default_rng(1)
        env = MettaGridEnv(tasks, 4, seed=9)
        env.reset()
        for _ in range(17):
            env.step(random_actions(generator, env.config, env.agents))
        saved = env.state()
        again = MettaGridEnv(tasks, 4, seed=0)
        again.load_state(saved)
        for _ in range(70):
            actions = random_actions(generator, env.config, env.agents)
            one, other = env.step(actions), again.step(actions)
            for index in range(4):
                assert np.array_equal(one[index], other[index])
            assert np.array_equal(one[4].final_observations, other[4].final_observations)
            for mine, theirs in zip(one[4].episodes, other[4].episodes, strict=True):
                assert mine.stats == theirs.stats
                assert mine.rewards.tobytes() == theirs.rewards.tobytes()
        for world in range(4):
            assert env.episode_stats(world) == again.episode_stats(world)

    def test_a_saved_state_stays_as_it_was(self) -> None:
        env = MettaGridEnv(small(), 2)
        env.reset()
        saved = env.state()
        copies = {key: np.array(value) for key, value in saved.items()}
        played(env, 9)
        assert all(np.array_equal(saved[key], copies[key]) for key in saved)

    def test_holds_only_arrays_numbers_and_text(self) -> None:
        env = MettaGridEnv(small(), 2)
        env.reset()
        assert {type(value) for value in env.state().values()} <= {np.ndarray, int, float, str}

    def test_another_size_is_refused(self) -> None:
        env = MettaGridEnv(small(), 2)
        env.reset()
        with pytest.raises(UsageError, match="does not fit"):
            MettaGridEnv(small(), 3).load_state(env.state())


class TestTasks:
    def test_weights_say_how_often(self) -> None:
        tasks = [small(), small(width=12, time_punishment=0.0)]
        env = MettaGridEnv(tasks, num_worlds=600, task_weights=[1, 3])
        env.reset()
        assert abs(env.tasks.mean() - 0.75) < 0.08
        env.set_task_weights([1, 0])
        env.reset()
        assert not env.tasks.any()

    def test_rules_are_the_tasks_own(self) -> None:
        env = MettaGridEnv([small(), small(time_punishment=0.25)], num_worlds=20)
        env.reset()
        _, rewards, *_ = env.step(idle(env))
        assert rewards.reshape(20, 3)[:, 0].tolist() == [0.25 if task else -0.5 for task in env.tasks]

    def test_what_a_policy_sees_must_be_equal(self) -> None:
        with pytest.raises(ConfigError, match="num_agents"):
            MettaGridEnv([small(), small(num_agents=4)])

    @pytest.mark.parametrize("weights", [[1], [0, 0], [-1, 2]])
    def test_weights_must_make_sense(self, weights: list[float]) -> None:
        with pytest.raises(UsageError, match="task weights"):
            MettaGridEnv([small(), small()], task_weights=weights)


class TestDoor:
    def test_spaces(self) -> None:
        env = MettaGridEnv(small(num_observation_tokens=33), num_worlds=2)
        observations, _ = env.reset()
        assert env.single_observation_space.shape == (33, 3)
        assert env.single_action_space.nvec.tolist() == [9, 10]
        assert all(env.single_observation_space.contains(row) for row in observations)
        assert observations.shape == (6, 33, 3)

    def test_out_is_written(self) -> None:
        env = MettaGridEnv(small(), num_worlds=2)
        out = np.zeros((6, 200, 3), np.uint8)
        observations, _ = env.reset(out=out)
        assert observations is out
        expected, _ = MettaGridEnv(small(), num_worlds=2).reset()
        assert np.array_equal(out, expected)
        out[:] = 7
        observations, *_ = env.step(idle(env), out=out)
        assert observations is out
        assert (out[:, -1] == 0xFF).all()

    def test_results_of_earlier_steps_stay(self) -> None:
        env = MettaGridEnv(small(max_steps=2), num_worlds=2)
        kept = [env.reset()[0]]
        copies = [kept[0].copy()]
        for _ in range(5):
            results = env.step(random_actions(np.random.default_rng(0), env.config, env.agents))[:4]
            kept += results
            copies += [array.copy() for array in results]
        assert all(np.array_equal(mine, copy) for mine, copy in zip(kept, copies, strict=True))

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint32])
    def test_any_integers_are_actions(self, dtype: type) -> None:
        env = MettaGridEnv(small())
        env.reset()
        env.step(np.array([[2, 3]] * 3, dtype))
        assert (env.orientations == 3).all()

    @pytest.mark.parametrize(
        "actions", [np.zeros((3, 2), np.float32), np.zeros((4, 2), np.int32), np.zeros(6, np.int32)]
    )
    def test_other_arrays_are_not(self, actions: np.ndarray) -> None:
        env = MettaGridEnv(small())
        env.reset()
        with pytest.raises(UsageError, match="actions must be integers"):
            env.step(actions)

    def test_step_before_reset(self) -> None:
        env = MettaGridEnv(small())
        with pytest.raises(UsageError, match="reset"):
            env.step(idle(env))

    def test_actions_given_are_not_changed(self) -> None:
        env = MettaGridEnv(small())
        env.reset()
        actions = np.array([[99, 4], [-7, 3], [1, 0]])
        env.step(actions)
        assert actions.tolist() == [[99, 4], [-7, 3], [1, 0]]

    def test_make_environment(self) -> None:
        env = make_environment(num_agents=8, width=16, height=16)
        assert (env.num_worlds, env.num_agents, env.config.game.width) == (1, 8, 16)
        assert make_environment(small()).config == small()
        env.reset()
        env.close()

    def test_render_draws_the_map(self) -> None:
        world = {"map_builder": {"type": "Ascii", "map": "#@.b\n_@@r"}, "game": {"max_steps": 0}}
        env = make_environment(EnvConfig.model_validate(world))
        env.reset()
        env.step(np.array([[2, 1], [2, 2], [2, 3]]))
        assert env.render() == "#v.b\n_<>r"


def test_state_can_be_read_of_every_world() -> None:
    env = MettaGridEnv(random_tasks(np.random.default_rng(4)), 5)
    env.reset()
    played(env, 30)
    for world in range(5):
        state, game = engine_state(env, world), env.configs[int(env.tasks[world])].game
        assert state["cells"].shape == (game.height, game.width)
        standing = Counter(map(tuple, np.argwhere(state["cells"] < 0).tolist()))
        assert standing == Counter(map(tuple, state["position of agents"].tolist()))
