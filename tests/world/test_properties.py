"""Properties of every world, checked with random configs, maps and actions (Hypothesis).

`METTA_EXAMPLES=1000 pytest tests/world/test_properties.py` draws a thousand new examples instead of
the same few.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from conformance import engine_state, engine_statistics
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_worlds import random_actions, random_tasks

from metta.config.env.env_config import EnvConfig
from metta.config.env.objects import ObjectConfig
from metta.world.env import MettaGridEnv

SEEDS = st.integers(0, 2**32 - 1)
STEPS = st.integers(1, 40)
WORLDS = st.integers(1, 4)

EXAMPLES = int(os.environ.get("METTA_EXAMPLES", "0"))

# the same examples in every run, and none kept on disk; METTA_EXAMPLES=1000 draws so many others
worlds_at_random = settings(
    max_examples=EXAMPLES or 40,
    deadline=None,
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=list(HealthCheck),
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


class TestPositions:
    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, WORLDS)
    def test_entities_are_conserved_one_per_cell(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        env = endless(seed, worlds)
        before = [engine_state(env, world) for world in range(worlds)]
        entities = [Counter(state["cells"].ravel().tolist()) for state in before]
        fixed = [self._fixed(env, world) for world in range(worlds)]
        generator = np.random.default_rng(acts)
        for _ in range(steps):
            env.step(random_actions(generator, env.config, env.agents))
            for world in range(worlds):
                cells, positions = env.cells(world), env.positions[rows_of(env, world)]
                assert Counter(cells.ravel().tolist()) == entities[world]
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
    def test_positions_agree_with_the_grid(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        env = endless(seed, worlds)
        groups = env.groups.copy()
        play(env, acts, steps)
        assert np.array_equal(env.groups, groups)
        for world in range(worlds):
            rows = rows_of(env, world)
            standing = env.cells(world)[tuple(env.positions[rows].T)]
            assert np.array_equal(standing, -1 - groups[rows])
        # agents are in the grid in the order of their ids, each once
        state = env.state()
        grid, ids = state["grid"], state["grid"][state["cell"]]
        assert np.array_equal(ids - ids[0], np.arange(env.agents))
        assert np.isin(grid, ids).sum() == env.agents

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
    def test_a_frozen_agent_that_is_not_hit_loses_a_turn(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        """Checked in steps without attacks; steps with attacks come between, so that some agents are frozen."""
        env = endless(seed, worlds)
        attacks = [number for number, (_, type_, _) in enumerate(env.config.action_table) if type_.startswith("attack")]
        largest = np.array(env.spec.max_action_args)
        generator = np.random.default_rng(acts)
        for step in range(steps):
            actions = random_actions(generator, env.config, env.agents)
            if step % 3 == 2:
                actions[np.isin(actions[:, 0], attacks)] = [-1, 0]
                number, argument = actions.T
                is_known = (number >= 0) & (number < len(largest))
                is_valid = is_known & (argument >= 0) & (argument <= largest[np.where(is_known, number, 0)])
                before, frozen = self._frozen_ticks(env), env.freeze_counters != 0
                env.step(actions)
                assert np.array_equal(self._frozen_ticks(env) - before, frozen & is_valid)
            else:
                actions[generator.random(env.agents) < 0.5] = [attacks[-1], 0] if attacks else [0, 0]
                env.step(actions)

    def _frozen_ticks(self, env: MettaGridEnv) -> np.ndarray:
        counts = [agent for world in range(env.num_worlds) for agent in env.episode_stats(world)["agent"]]
        return np.array([agent.get("status.frozen.ticks", 0) for agent in counts])

    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, WORLDS)
    def test_hits_and_swaps_are_counted_by_target(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        env = endless(seed, worlds)
        table = [(name, type_) for name, type_, _ in env.config.action_table]
        of_type = {
            kind: np.array([type_.startswith(kind) for _, type_ in table] + [False]) for kind in ("attack", "swap")
        }
        done = {kind: np.zeros(env.agents, int) for kind in of_type}
        generator = np.random.default_rng(acts)
        for _ in range(steps):
            actions = random_actions(generator, env.config, env.agents)
            env.step(actions)
            number = np.where((actions[:, 0] >= 0) & (actions[:, 0] < len(table)), actions[:, 0], len(table))
            for kind, is_kind in of_type.items():
                done[kind] += env.action_success & is_kind[number]
        for world in range(worlds):
            kinds = game_of(env, world).object_types
            groups = list(game_of(env, world).game.groups)
            met = ["agent", *(name for name, kind in kinds.items() if kind.swappable)]
            rows = range(env.agents)[rows_of(env, world)]
            for row, counters in zip(rows, engine_statistics(env, world)["agent"], strict=True):
                own = groups[int(env.groups[row])]
                swaps = [f"action.{name}.{what}" for name, type_ in table if type_ == "swap" for what in met]
                assert sum(counters.get(key, 0) for key in swaps) == done["swap"][row]
                hits = [f"action.{name}.agent" for name, type_ in table if type_.startswith("attack")]
                assert sum(counters.get(key, 0) for key in hits) == done["attack"][row]
                teams = counters.get(f"attack.own_team.{own}", 0) + counters.get(f"attack.other_team.{own}", 0)
                assert teams == done["attack"][row]
                ended = sum(counters.get(f"attack.{how}.{own}", 0) for how in ("win", "lost"))
                blocked = sum(counters.get(f"attack.blocked.{group}", 0) for group in groups)
                assert ended + blocked <= done["attack"][row]

    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, WORLDS)
    def test_defense_is_consumed(self, seed: int, acts: int, steps: int, worlds: int) -> None:
        """Every blocked attack costs its victim the same, and nothing else consumes items."""
        tasks = [with_defense(task, 2) for task in random_tasks(np.random.default_rng(seed), with_costs=False)]
        env = MettaGridEnv(tasks, worlds, seed, auto_reset=False)
        env.reset()
        play(env, acts, steps)
        item = env.config.game.inventory_item_names[0]
        gifts = [name for name, type_, _ in env.config.action_table if type_ == "gift"]
        for world in range(worlds):
            total: Counter[str] = Counter()
            for counters in engine_statistics(env, world)["agent"]:
                total.update(counters)
            groups = game_of(env, world).game.groups
            stolen = sum(total[f"{item}.stolen_from.{group}"] for group in groups)
            given = sum(total[f"action.{name}.success"] for name in gifts)
            blocked = sum(total[f"attack.blocked.{group}"] for group in groups)
            assert total[f"{item}.lost"] - total[f"{item}.put"] - stolen - given == 2 * blocked

    @worlds_at_random
    @given(SEEDS, SEEDS, STEPS, WORLDS)
    def test_dropped_tokens_are_those_of_a_larger_observation(
        self, seed: int, acts: int, steps: int, worlds: int
    ) -> None:
        tasks = random_tasks(np.random.default_rng(seed))
        roomy = [task.override(num_observation_tokens=1500) for task in tasks]
        told = []
        for configs in (tasks, roomy):
            env = MettaGridEnv(configs, worlds, seed, auto_reset=False)
            env.reset()
            play(env, acts, steps)
            told.append([env.episode_stats(world)["game"] for world in range(worlds)])
        for game, whole in zip(*told, strict=True):
            assert whole["tokens_dropped"] == 0
            assert game["tokens_dropped"] == whole["tokens_written"] - game["tokens_written"]

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
    def test_a_world_does_not_depend_on_other_worlds(
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

    @settings(worlds_at_random, max_examples=EXAMPLES or 12)
    @given(SEEDS, SEEDS, st.integers(1, 15), st.integers(2, 150), st.data())
    def test_shards_stepped_by_threads_are_the_whole(
        self, seed: int, acts: int, steps: int, worlds: int, data: st.DataObject
    ) -> None:
        """A batch of any size, split anywhere, with its parts stepped at the same time."""
        cuts = sorted({0, *data.draw(st.lists(st.integers(1, worlds - 1), max_size=3)), worlds})
        parts = list(pairwise(cuts))
        tasks = random_tasks(np.random.default_rng(seed))
        whole = MettaGridEnv(tasks, worlds, seed)
        shards = [MettaGridEnv(tasks, end - start, seed, first_world=start) for start, end in parts]
        generator = np.random.default_rng(acts)
        with ThreadPoolExecutor(len(parts)) as pool:
            firsts = list(pool.map(lambda shard: shard.reset()[0], shards))
            assert np.array_equal(whole.reset()[0], np.concatenate(firsts))
            for _ in range(steps):
                actions = random_actions(generator, whole.config, whole.agents)
                own = [actions[start * whole.num_agents : end * whole.num_agents] for start, end in parts]
                pieces = list(pool.map(lambda shard, acts: shard.step(acts), shards, own))
                *together, info = whole.step(actions)
                for index, array in enumerate(together):
                    assert np.array_equal(array, joined([piece[index] for piece in pieces]))
                assert np.array_equal(
                    info.final_observations, joined([piece[4].final_observations for piece in pieces])
                )
                ended = [summary.stats for piece in pieces for summary in piece[4].episodes]
                assert [summary.stats for summary in info.episodes] == ended

    @settings(worlds_at_random, max_examples=EXAMPLES or 5)
    @given(SEEDS, SEEDS)
    def test_threads_do_not_disturb_each_other(self, seed: int, acts: int) -> None:
        seeds = [seed + number for number in range(4)]
        expected = [story(one, acts, 25, 2) for one in seeds]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda one: story(one, acts, 25, 2), seeds)) == expected


def joined(arrays: Sequence[Any]) -> np.ndarray:
    return np.concatenate(arrays)


def with_defense(task: EnvConfig, amount: int) -> EnvConfig:
    """The same tasks, with attacks blocked by some units of the first item."""
    defense = {task.game.inventory_item_names[0]: amount}
    actions = [
        action.model_copy(update={"defense_resources": defense}) if action.type == "attack" else action
        for action in task.actions
    ]
    return EnvConfig.model_validate(
        task.model_dump(exclude_unset=True) | {"actions": [a.model_dump() for a in actions]}
    )


def story(seed: int, acts: int, steps: int, worlds: int) -> bytes:
    """All results of an environment, with episodes and their statistics."""
    env = MettaGridEnv(random_tasks(np.random.default_rng(seed)), worlds, seed)
    generator = np.random.default_rng(acts)
    out = [env.reset()[0].tobytes()]
    for _ in range(steps):
        observations, rewards, terminated, truncated, info = env.step(random_actions(generator, env.config, env.agents))
        out += [array.tobytes() for array in (observations, rewards, terminated, truncated, info.final_observations)]
        out += [repr(sorted(summary.stats.items())).encode() for summary in info.episodes]
    out += [repr(env.episode_stats(world)).encode() for world in range(worlds)]
    return b"".join(out)
