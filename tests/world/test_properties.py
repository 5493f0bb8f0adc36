"""What holds in every world, whatever its config, its map and what its agents do."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from conformance import engine_state, engine_statistics
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_worlds import random_actions, random_tasks

from metta.config.env import EnvConfig
from metta.config.objects import ObjectConfig
from metta.world.env import MettaGridEnv

SEEDS = st.integers(0, 2**32 - 1)
STEPS = st.integers(1, 40)
WORLDS = st.integers(1, 4)

# the same examples in every run, and none kept on disk
worlds_at_random = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def endless(seed: int, num_worlds: int, with_costs: bool = True) -> MettaGridEnv:
    """Random tasks on an environment that does not reset, so that one episode can be followed."""
    tasks = random_tasks(np.random.default_rng(seed), with_costs=with_costs)
    env = MettaGridEnv(tasks, num_worlds, seed, auto_reset=False)
    env.reset()
    return env


def play(env: MettaGridEnv, seed: int, steps: int) -> None:
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        env.step(random_actions(generator, env.config, env.agents))


def rows_of(env: MettaGridEnv, world: int) -> slice:
    return slice(world * env.num_agents, (world + 1) * env.num_agents)


def game_of(env: MettaGridEnv, world: int) -> EnvConfig:
    return env.configs[int(env.tasks[world])]


class TestPlaces:
    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, WORLDS)
    def test_one_thing_in_a_cell_and_nothing_comes_or_goes(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        env = endless(seed, worlds)
        before = [engine_state(env, world) for world in range(worlds)]
        things = [Counter(state["cells"].ravel().tolist()) for state in before]
        fixed = [self._fixed(env, world) for world in range(worlds)]
        generator = np.random.default_rng(acts)
        for _ in range(steps):
            env.step(random_actions(generator, env.config, env.agents))
            for world in range(worlds):
                cells, positions = env.cells(world), env.positions[rows_of(env, world)]
                assert Counter(cells.ravel().tolist()) == things[world]
                assert len({tuple(place) for place in positions.tolist()}) == env.num_agents
                for place, value in fixed[world].items():
                    assert cells[place] == value

    def _fixed(self, env: MettaGridEnv, world: int) -> dict[tuple[int, int], int]:
        """The cells of walls and converters, which never move."""
        kinds = {kind.type_id: kind for kind in game_of(env, world).object_types.values()}
        return {
            (row, col): int(value)
            for (row, col), value in np.ndenumerate(env.cells(world))
            if value > 0 and not kinds[int(value)].swappable
        }

    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, WORLDS)
    def test_agents_stand_where_the_grid_has_them(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        env = endless(seed, worlds)
        groups = env.groups.copy()
        play(env, acts, steps)
        assert np.array_equal(env.groups, groups)
        for world in range(worlds):
            rows = rows_of(env, world)
            standing = env.cells(world)[tuple(env.positions[rows].T)]
            assert np.array_equal(standing, -1 - groups[rows])

    @worlds_at_random
    @given(SEEDS, WORLDS)
    def test_agents_are_numbered_in_reading_order(self, seed: int, worlds: int) -> None:
        env = endless(seed, worlds)
        for world in range(worlds):
            places = np.argwhere(env.cells(world) < 0)
            assert np.array_equal(places, env.positions[rows_of(env, world)])


class TestItems:
    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, WORLDS)
    def test_only_recipes_and_caps_make_and_destroy_items(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        env = endless(seed, worlds, with_costs=False)
        play(env, acts, steps)
        for world in range(worlds):
            counted = engine_statistics(env, world)
            held = env.inventories[rows_of(env, world)].astype(int)
            stock = env.converters(world)["inventory"].astype(int)
            for index, item in enumerate(env.config.game.inventory_item_names):
                handed_out = sum(c.get(f"{item}.removed", 0) - c.get(f"{item}.added", 0) for c in counted["converter"])
                assert held[:, index].sum() == handed_out
                for number, counters in enumerate(counted["converter"]):
                    change = counters.get(f"{item}.added", 0) - counters.get(f"{item}.removed", 0)
                    made = counters.get(f"{item}.produced", 0) - counters.get(f"{item}.consumed", 0)
                    kind = self._kind(env, world, number)
                    first = (kind.initial_items or 0) if (kind.output or {}).get(item, 0) > 0 else 0
                    expected = first + change + made
                    assert stock[number, index] <= expected
                    if first + counters.get(f"{item}.added", 0) + counters.get(f"{item}.produced", 0) <= 255:
                        assert stock[number, index] == expected  # nothing can ever have been cut off

    def _kind(self, env: MettaGridEnv, world: int, converter: int) -> ObjectConfig:
        type_id = int(env.converters(world)["type_id"][converter])
        return next(kind for kind in game_of(env, world).object_types.values() if kind.type_id == type_id)

    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, WORLDS)
    def test_caps_hold(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        env = endless(seed, worlds)
        play(env, acts, steps)
        items = env.config.game.inventory_item_names
        for world in range(worlds):
            game, rows = game_of(env, world).game, rows_of(env, world)
            names = list(game.groups)
            caps = {name: [game.group_settings(name).item_cap(item) for item in items] for name in names}
            for held, group in zip(env.inventories[rows], env.groups[rows], strict=True):
                assert (held >= 0).all()
                assert (held <= caps[names[int(group)]]).all()
            stock = env.converters(world)["inventory"]
            assert ((stock >= 0) & (stock <= 255)).all()
        assert ((env.orientations >= 0) & (env.orientations < 4)).all()
        assert ((env.colors >= 0) & (env.colors <= 255)).all()
        assert (env.freeze_counters >= -1).all()


class TestSums:
    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, WORLDS)
    def test_every_action_is_counted_once(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        env = endless(seed, worlds)
        names = env.config.spec.action_names
        successes = np.zeros(env.agents, int)
        generator = np.random.default_rng(acts)
        for _ in range(steps):
            env.step(random_actions(generator, env.config, env.agents))
            successes += env.action_success
        for world in range(worlds):
            for row, counters in zip(
                range(env.agents)[rows_of(env, world)], engine_statistics(env, world)["agent"], strict=True
            ):
                done = sum(counters.get(f"action.{name}.success", 0) for name in names)
                failed = sum(counters.get(f"action.{name}.failed", 0) for name in names)
                unknown = counters.get("action.invalid_type", 0) / 2
                wrong = counters.get("action.invalid_arg", 0)
                lost = counters.get("status.frozen.ticks", 0)
                assert done == successes[row]
                assert failed == counters.get("action.failure_penalty", 0)
                assert done + failed + unknown + wrong + lost == steps
                told = Counter[str]()
                for key, count in counters.items():
                    if key.startswith("action.invalid_") and key.count(".") > 1:
                        told[key.split(".")[1]] += int(count)
                assert told == {key: n for key, n in (("invalid_type", unknown * 2), ("invalid_arg", wrong)) if n}

    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, WORLDS)
    def test_what_one_gains_another_loses(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        env = endless(seed, worlds)
        play(env, acts, steps)
        for world in range(worlds):
            counted = engine_statistics(env, world)
            groups = list(game_of(env, world).game.groups)
            total: Counter[str] = Counter()
            for counters in counted["agent"]:
                total.update(counters)
            machines: Counter[str] = Counter()
            for counters in counted["converter"]:
                machines.update(counters)
            held = env.inventories[rows_of(env, world)]
            for index, item in enumerate(env.config.game.inventory_item_names):
                assert total[f"{item}.gained"] - total[f"{item}.lost"] == held[:, index].sum()
                assert total[f"{item}.get"] == machines[f"{item}.removed"]
                assert total[f"{item}.put"] == machines[f"{item}.added"]
                stolen = sum(total[f"{item}.stolen.{group}"] for group in groups)
                assert stolen == sum(total[f"{item}.stolen_from.{group}"] for group in groups)
            for a in groups:
                for b in groups:
                    assert total[f"attack.win.{a}.{b}"] == total[f"attack.loss.{b}.{a}"]
                assert total[f"attack.win.{a}"] == sum(total[f"attack.win.{a}.{b}"] for b in groups)
            working = env.converters(world)["is_busy"].sum()
            started, done = machines["conversions.started"], machines["conversions.completed"]
            cooling = machines["cooldown.started"] - machines["cooldown.completed"]
            assert started - done + cooling == working

    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, WORLDS)
    def test_tokens_add_up(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        env = endless(seed, worlds)
        capacity = env.spec.num_observation_tokens
        generator = np.random.default_rng(acts)
        written = (env.reset(env.seed)[0][:, :, 0] != 0xFF).reshape(worlds, -1).sum(1)
        for _ in range(steps):
            observations = env.step(random_actions(generator, env.config, env.agents))[0]
            used = observations[:, :, 0] != 0xFF
            assert (used[:, :-1] >= used[:, 1:]).all()  # nothing after the first unused one
            assert (observations[~used] == 0xFF).all()
            self._same_in_compact_form(env, observations, used)
            written += used.reshape(worlds, -1).sum(1)
        for world in range(worlds):
            game = env.episode_stats(world)["game"]
            assert game["tokens_written"] == written[world]
            assert game["tokens_free_space"] == (steps + 1) * env.num_agents * capacity - written[world]

    def _same_in_compact_form(self, env: MettaGridEnv, observations: np.ndarray, used: np.ndarray) -> None:
        compact = env.compact_observations()
        location, feature, value = np.moveaxis(observations[used].astype(int), -1, 0)
        assert np.array_equal(compact.indices, location * len(env.spec.feature_names) + feature)
        assert np.array_equal(compact.values, value)
        assert np.array_equal(compact.offsets, [0, *used.sum(1).cumsum()])

    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, WORLDS)
    def test_sharing_neither_makes_nor_destroys_reward(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        env = endless(seed, worlds)
        generator = np.random.default_rng(acts)
        for _ in range(steps):
            _, rewards, terminated, truncated, _ = env.step(random_actions(generator, env.config, env.agents))
            over = (terminated | truncated).reshape(worlds, -1)[:, 0]
            shared = rewards.reshape(worlds, -1).sum(1, dtype=float)
            own = env.individual_rewards.reshape(worlds, -1).sum(1, dtype=float)
            size = np.abs(env.individual_rewards).reshape(worlds, -1).sum(1) + 1
            assert (np.abs(shared - own)[~over] < 1e-5 * size[~over]).all()


class TestRepetition:
    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, WORLDS)
    def test_same_seed_same_bytes(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        assert story(seed, acts, steps, worlds) == story(seed, acts, steps, worlds)

    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, st.integers(2, 5), st.data())
    def test_a_world_does_not_depend_on_its_neighbours(
        self, seed: int, acts: int, steps: int, worlds: int, data: st.DataObject
    ) -> None:
        world = data.draw(st.integers(0, worlds - 1))
        tasks = random_tasks(np.random.default_rng(seed))
        batch = MettaGridEnv(tasks, worlds, seed)
        alone = MettaGridEnv(tasks, 1, seed, first_world=world)
        rows = rows_of(batch, world)
        assert np.array_equal(batch.reset()[0][rows], alone.reset()[0])
        generator = np.random.default_rng(acts)
        for _ in range(steps):
            actions = random_actions(generator, batch.config, batch.agents)
            ours: Any = alone.step(actions[rows])[:4]
            theirs: Any = batch.step(actions)[:4]
            assert all(np.array_equal(mine, whole[rows]) for mine, whole in zip(ours, theirs, strict=True))
            assert np.array_equal(alone.action_success, batch.action_success[rows])
        assert alone.episode_stats() == batch.episode_stats(world)

    @settings(worlds_at_random, max_examples=5)
    @given(SEEDS, SEEDS)
    def test_threads_do_not_disturb_each_other(self, seed: int, acts: int) -> None:
        seeds = [seed + number for number in range(4)]
        expected = [story(one, acts, 25, 2) for one in seeds]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda one: story(one, acts, 25, 2), seeds)) == expected


def story(seed: int, acts: int, steps: int, worlds: int) -> bytes:
    """All that comes out of an environment, episodes and their statistics included."""
    env = MettaGridEnv(random_tasks(np.random.default_rng(seed)), worlds, seed)
    generator = np.random.default_rng(acts)
    out = [env.reset()[0].tobytes()]
    for _ in range(steps):
        observations, rewards, terminated, truncated, info = env.step(random_actions(generator, env.config, env.agents))
        out += [array.tobytes() for array in (observations, rewards, terminated, truncated, info.final_observations)]
        out += [repr(sorted(summary.stats.items())).encode() for summary in info.episodes]
    out += [repr(env.episode_stats(world)).encode() for world in range(worlds)]
    return b"".join(out)
