"""Episodes: staggered starts, resets within a batch, turn orders, tasks, summaries and the reset pool."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from conformance import engine_state
from random_worlds import random_actions, random_tasks

from metta.config.env.env_config import EnvConfig
from metta.errors import UsageError
from metta.world.env import MettaGridEnv
from metta.world.episodes import draw_episode


def small(**game: Any) -> EnvConfig:
    settings = {"num_agents": 3, "width": 8, "height": 7, "max_steps": 5, "time_punishment": -0.5}
    return EnvConfig.model_validate(
        {"game": settings | game, "map_builder": {"border_width": 1, "objects": {"mine_red": 2, "block": 2}}}
    )


def idle(env: MettaGridEnv) -> np.ndarray:
    return np.zeros((env.agents, 2), np.int32)


class TestStaggered:
    def test_episodes_end_at_different_steps_with_their_lengths(self) -> None:
        env = MettaGridEnv(small(max_steps=100), num_worlds=16, seed=0)
        env.reset(staggered=True)
        begun = env.steps.copy()
        gaps = np.diff(np.sort([*begun.tolist(), 100]))
        assert begun[0] == 0
        assert gaps.min() > 0
        assert gaps.max() < 2 * 100 / 16
        ended, lengths = {}, {}
        for step in range(1, 201):
            for summary in env.step(idle(env))[4].episodes:
                ended.setdefault(summary.world, []).append(step)
                lengths.setdefault(summary.world, []).append(summary.length)
        for world, first in enumerate((100 - begun).tolist()):
            assert ended[world][:2] == [first, first + 100]
            assert lengths[world][:2] == [first, 100]

    def test_it_changes_only_completion_tokens(self) -> None:
        together, staggered = (MettaGridEnv(small(max_steps=100), num_worlds=4, seed=0) for _ in range(2))
        expected, _ = together.reset()
        observations, _ = staggered.reset(staggered=True)
        completion = observations[:, 0]
        assert completion[::3, 2].tolist() == [round(step / 100 * 255) for step in staggered.steps.tolist()]
        assert len(set(completion[:, 2].tolist())) == 4
        np.testing.assert_array_equal(observations[:, 1:], expected[:, 1:])
        np.testing.assert_array_equal(completion[:, :2], expected[:, 0, :2])
        for world in range(4):
            assert staggered.episode_stats(world) == together.episode_stats(world)

    def test_shards_give_the_results_of_the_whole(self) -> None:
        whole = MettaGridEnv(small(max_steps=100), num_worlds=7, seed=0)
        whole.reset(staggered=True)
        parts = [
            MettaGridEnv(small(max_steps=100), count, first_world=first, seed=0) for first, count in ((0, 3), (3, 4))
        ]
        for part in parts:
            part.reset(staggered=True)
        assert whole.steps.tolist() == [step for part in parts for step in part.steps.tolist()]

    def test_each_by_the_length_of_its_own_task(self) -> None:
        tasks = [small(max_steps=10), small(max_steps=1000), small(max_steps=0, episode_lifetime=0)]
        env = MettaGridEnv(tasks, num_worlds=60, seed=1)
        env.reset(staggered=True)
        assert set(env.tasks.tolist()) == {0, 1, 2}
        latest = [int(env.steps[env.tasks == task].max()) for task in range(3)]
        assert latest[0] < 10
        assert 500 < latest[1] < 1000
        assert latest[2] == 0

    def test_a_saved_state_resumes(self) -> None:
        env, other = (MettaGridEnv(small(max_steps=20), num_worlds=5, seed=seed) for seed in (0, 9))
        env.reset(staggered=True)
        other.load_state(env.state())
        lengths = [[], []]
        for _ in range(45):
            for told, worlds in zip(lengths, (env, other), strict=True):
                told += [(summary.world, summary.length) for summary in worlds.step(idle(worlds))[4].episodes]
        assert lengths[0] == lengths[1]
        assert min(length for _, length in lengths[0]) < 20


class TestNextEpisode:
    def test_only_the_world_that_ended_is_reset(self) -> None:
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

    def test_the_summary_has_the_rewards(self) -> None:
        config = small(
            max_steps=4,
            groups={"red": {"id": 0, "group_reward_pct": 0.5}, "blue": {"id": 1}},
            action_failure_penalty=1.0,
        )
        env = MettaGridEnv(config, num_worlds=6, seed=0)
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
        assert 0 < shared < 6  # an agent that is the only one of its group keeps its reward

    def test_the_summary_has_the_counters(self) -> None:
        env = MettaGridEnv(small(max_steps=4), num_worlds=1, seed=0)
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

    def test_counters_restart_at_0(self) -> None:
        env = MettaGridEnv(small(max_steps=2), seed=0)
        env.reset()
        for _ in range(2):
            env.step(np.array([[99, 1], [1, 0], [2, 2]]))
        assert env.episode_stats()["agent"] == [{}, {}, {}]
        env.step(np.array([[99, 1], [2, 2], [2, 2]]))
        assert env.episode_stats()["agent"][1] == {"action.rotate.success": 1}
        assert env.episode_rewards.tolist() == [-0.5] * 3


class TestTurnOrder:
    """Three agents move into the same cell: the one that gets it has the first turn of the three."""

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
        moved: np.ndarray = (env.positions == [1, 1]).all(1).reshape(num_worlds, 3)
        assert (moved.sum(1) == 1).all()
        first: np.ndarray = moved.argmax(axis=1)
        return first

    def test_each_agent_is_first_equally_often_and_worlds_are_independent(self) -> None:
        winners = self.winners(3001, seed=1)
        counts = np.bincount(winners, minlength=3)
        assert (np.abs(counts - 3001 / 3) < 4.5 * np.sqrt(3001 * 2 / 9)).all()
        pairs = np.bincount(winners[:-1] * 3 + winners[1:], minlength=9)
        assert (np.abs(pairs - 3000 / 9) < 4.5 * np.sqrt(3000 / 9)).all()

    def test_whole_orders_are_uniform(self) -> None:
        """In a line of agents, the first k move if their turns go from front to back: in one of k! orders."""
        world = {
            "game": {"episode_lifetime": 0, "max_steps": 0, "num_observation_tokens": 1},
            "map_builder": {"type": "Ascii", "map": "@@@@@."},
            "actions": [{"type": "move", "key": "move"}, {"type": "rotate", "key": "rotate"}],
        }
        env = MettaGridEnv(EnvConfig.model_validate(world), num_worlds=3000, seed=0)
        env.reset()
        env.step(np.tile([1, 3], (env.agents, 1)))
        env.step(np.zeros((env.agents, 2), np.int32))
        moved = env.action_success.reshape(3000, 5).sum(1)
        for least, share in ((1, 1.0), (2, 1 / 2), (3, 1 / 6), (4, 1 / 24), (5, 1 / 120)):
            assert abs((moved >= least).mean() - share) <= 4.5 * np.sqrt(share * (1 - share) / 3000)

    def test_steps_are_independent_and_pairs_uniform(self) -> None:
        """Two agents move toward each other over one free cell, and back, many times."""
        world = {
            "game": {"episode_lifetime": 0, "max_steps": 0, "num_observation_tokens": 1},
            "map_builder": {"type": "Ascii", "map": "@.@"},
            "actions": [{"type": "move", "key": "move"}, {"type": "rotate", "key": "rotate"}],
        }
        env = MettaGridEnv(EnvConfig.model_validate(world), num_worlds=400, seed=0)
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


class TestTasks:
    def test_weights_are_proportional_to_frequencies(self) -> None:
        tasks = [small(), small(width=12, time_punishment=0.0)]
        env = MettaGridEnv(tasks, num_worlds=600, task_weights=[1, 3], seed=0)
        env.reset()
        assert abs(env.tasks.mean() - 0.75) < 0.08
        env.set_task_weights([1, 0])
        env.reset()
        assert not env.tasks.any()

    def test_each_task_has_its_own_rules(self) -> None:
        env = MettaGridEnv([small(), small(time_punishment=0.25)], num_worlds=20, seed=0)
        env.reset()
        _, rewards, *_ = env.step(idle(env))
        assert rewards.reshape(20, 3)[:, 0].tolist() == [0.25 if task else -0.5 for task in env.tasks]

    @pytest.mark.parametrize(
        "weights",
        [[], [1], [1, 1, 1], [[1, 1]], [0, 0], [-1, 2], [math.nan, 1], [1, math.inf], [-math.inf, 1], [1e308, 1e308]],
    )
    def test_weights_must_be_finite_numbers_with_a_positive_sum(self, weights: list[float]) -> None:
        with pytest.raises(UsageError, match="task_weights must be 2 finite numbers"):
            MettaGridEnv([small(), small()], task_weights=weights)
        env = MettaGridEnv([small(), small()], task_weights=[1, 3])
        with pytest.raises(UsageError, match="task_weights must be 2 finite numbers"):
            env.set_task_weights(weights)
        assert env.task_weights == [0.25, 0.75]


class TestArrays:
    def test_results_of_earlier_steps_stay(self) -> None:
        env = MettaGridEnv(small(max_steps=2), num_worlds=2, seed=0)
        kept: list[np.ndarray] = [env.reset()[0]]
        copies = [kept[0].copy()]
        for _ in range(5):
            results = env.step(random_actions(np.random.default_rng(0), env.config, env.agents))[:4]
            kept += results
            copies += [array.copy() for array in results]
        assert all(np.array_equal(mine, copy) for mine, copy in zip(kept, copies, strict=True))

    def test_action_arrays_are_not_changed(self) -> None:
        env = MettaGridEnv(small(), seed=0)
        env.reset()
        actions = np.array([[99, 4], [-7, 3], [1, 0]])
        env.step(actions)
        assert actions.tolist() == [[99, 4], [-7, 3], [1, 0]]


def test_state_can_be_read_of_every_world() -> None:
    env = MettaGridEnv(random_tasks(np.random.default_rng(4)), 5, seed=0)
    env.reset()
    generator = np.random.default_rng(0)
    for _ in range(30):
        env.step(random_actions(generator, env.config, env.agents))
    for world in range(5):
        state, game = engine_state(env, world), env.configs[int(env.tasks[world])].game
        assert state["cells"].shape == (game.height, game.width)
        standing = Counter(map(tuple, np.argwhere(state["cells"] < 0).tolist()))
        assert standing == Counter(map(tuple, state["position of agents"].tolist()))


@pytest.mark.parametrize("seed", range(3))
def test_a_saved_state_resumes_in_busy_worlds(seed: int) -> None:
    """The state holds pending converter events, freeze counters and ending episodes."""
    tasks, generator = random_tasks(np.random.default_rng(seed)), np.random.default_rng(1)
    env, again = MettaGridEnv(tasks, 6, seed), MettaGridEnv(tasks, 6, seed=99)
    env.reset()
    for _ in range(17):
        env.step(random_actions(generator, env.config, env.agents))
    again.load_state(env.state())
    for _ in range(40):
        actions = random_actions(generator, env.config, env.agents)
        one, other = env.step(actions), again.step(actions)
        expected: Any = one[:4]
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(expected, other[:4], strict=True))
        assert [summary.stats for summary in one[4].episodes] == [summary.stats for summary in other[4].episodes]
    assert [env.episode_stats(world) for world in range(6)] == [again.episode_stats(world) for world in range(6)]


def test_prepared_episodes_equal_those_of_single_worlds() -> None:
    """For any end of episodes, with changed task weights, and after loading a state."""
    tasks, generator = [small(max_steps=4), small(max_steps=7), small(max_steps=9)], np.random.default_rng(3)
    batch = MettaGridEnv(tasks, 24, seed=6)
    alone = [MettaGridEnv(tasks, 1, seed=6, first_world=world) for world in range(24)]
    assert np.array_equal(batch.reset()[0], np.concatenate([env.reset()[0] for env in alone]))
    moments = Counter()
    for step in range(60):
        if step % 10 == 5:
            weights = generator.random(3) ** 4
            for env in (batch, *alone):
                env.set_task_weights(weights.tolist())
        if step == 33:
            state, batch = batch.state(), MettaGridEnv(tasks, 24, seed=0)
            batch.load_state(state)
        if step in (41, 48):
            seed = 8 if step == 48 else None
            assert np.array_equal(batch.reset(seed)[0], np.concatenate([env.reset(seed)[0] for env in alone]))
        actions = random_actions(generator, batch.config, batch.agents)
        *together, info = batch.step(actions)
        apart = [env.step(own) for env, own in zip(alone, actions.reshape(24, 3, 2), strict=True)]
        for array, pieces in zip(together, zip(*[results[:4] for results in apart], strict=True), strict=True):
            assert np.array_equal(array, np.concatenate(pieces))
        assert np.array_equal(info.final_observations, np.concatenate([own[4].final_observations for own in apart]))
        assert [summary.stats for summary in info.episodes] == [e.stats for own in apart for e in own[4].episodes]
        compact = batch.compact_observations()
        used = together[0][:, :, 0] != 255
        assert np.array_equal(compact.values, together[0][:, :, 2][used])
        assert np.array_equal(np.diff(compact.offsets), used.sum(1))
        moments[len(info.episodes)] += 1
    assert batch.episode_stats(5) == alone[5].episode_stats()
    assert {1, 2, 3} <= set(moments), "ends come alone and several together"


@pytest.mark.parametrize(("worlds", "agents"), [(64, 4), (100, 16)])
def test_few_prepared_episodes_are_discarded(monkeypatch: pytest.MonkeyPatch, worlds: int, agents: int) -> None:
    """Even if some episodes are ten times as long as others, fewer than one per world is prepared and unused."""
    begun: list[tuple[int, int]] = []

    def counted(configs: Any, streams: Any, world: int, episode: int, shares: np.ndarray) -> Any:
        begun.append((world, episode))
        return draw_episode(configs, streams, world, episode, shares)

    monkeypatch.setattr("metta.world.reset_pool.draw_episode", counted)
    tasks = [small(num_agents=agents, max_steps=length) for length in (12, 120)]
    env = MettaGridEnv(tasks, worlds, seed=3)
    env.reset()
    ended = 0
    for _ in range(130):
        ended += len(env.step(idle(env))[4].episodes)
    assert len(set(begun)) == len(begun), "each episode is begun once"
    assert ended + worlds <= len(begun) <= ended + 2 * worlds


def test_prepared_episodes_are_replaced_by_those_needed_sooner() -> None:
    """Long episodes fill the reset pool; then task weights change, and all new episodes are short."""
    tasks = [small(num_agents=128, width=16, height=16, max_steps=length) for length in (40, 3)]
    env = MettaGridEnv(tasks, 5, seed=1, task_weights=[1, 0])
    alone = [MettaGridEnv(tasks, 1, seed=1, first_world=world, task_weights=[1, 0]) for world in range(5)]
    for one in (env, *alone):
        one.reset()
    env.load_state(env.state() | {"steps": np.array([39, 10, 12, 14, 16])})
    for world, one in enumerate(alone):
        one.load_state(one.state() | {"steps": np.array([[39, 10, 12, 14, 16][world]])})
    for step in range(30):
        if step == 1:
            for one in (env, *alone):
                one.set_task_weights([0, 1])
        together = env.step(idle(env))
        apart = [one.step(idle(one)) for one in alone]
        for index in range(4):
            assert np.array_equal(together[index], np.concatenate([results[index] for results in apart]))
    assert env.episode_stats(2) == alone[2].episode_stats()


def test_the_state_does_not_hold_prepared_episodes() -> None:
    """Also when tasks have different numbers of converters."""
    tasks = random_tasks(np.random.default_rng(12), count=4)
    env, generator = MettaGridEnv(tasks, 9, seed=2), np.random.default_rng(0)
    env.reset()
    actions = [random_actions(generator, env.config, env.agents) for _ in range(80)]
    again = MettaGridEnv(tasks, 9, seed=0)
    for step, acts in enumerate(actions):
        if step % 20 == 10:
            again.load_state(env.state())
        env.step(acts)
        if step >= 10:
            again.step(acts)
    ours, theirs = env.state(), again.state()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_new_seed_discards_prepared_episodes() -> None:
    """With more worlds than the pool holds: when one ends, the last few have their next episodes prepared."""
    env = MettaGridEnv(small(max_steps=50), 100, seed=0)
    env.reset()
    left = np.full(100, 40)
    left[0], left[80:] = 1, 5
    env.load_state(env.state() | {"steps": 50 - left})
    *_, info = env.step(idle(env))
    assert [summary.world for summary in info.episodes] == [0]
    assert np.array_equal(env.reset(seed=9)[0], MettaGridEnv(small(max_steps=50), 100, seed=9).reset()[0])


def test_a_batch_of_thousands_equals_its_shards() -> None:
    """Beyond the sizes at which observations are chunked and lock tables are folded."""
    tasks, generator = random_tasks(np.random.default_rng(77)), np.random.default_rng(0)
    agents = tasks[0].game.num_agents
    worlds = -(-2500 // agents)
    whole = MettaGridEnv(tasks, worlds, seed=1)
    shards = [MettaGridEnv(tasks, count, seed=1, first_world=first) for first, count in ((0, 7), (7, worlds - 7))]
    assert np.array_equal(whole.reset()[0], np.concatenate([shard.reset()[0] for shard in shards]))
    for _ in range(25):
        actions = random_actions(generator, whole.config, whole.agents)
        parts = actions[: 7 * agents], actions[7 * agents :]
        expected: Any = whole.step(actions)[:4]
        one, other = (shard.step(part)[:4] for shard, part in zip(shards, parts, strict=True))
        for array, *pieces in zip(expected, one, other, strict=True):
            assert np.array_equal(array, np.concatenate(pieces))
