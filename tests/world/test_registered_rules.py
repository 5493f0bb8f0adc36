"""Registered actions and objects in random worlds: conservation, same bytes however worlds are divided, all front ends.

What single actions and objects do is compared with the reference simulator in test_differential.py.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from functools import cache

import numpy as np
import pytest
from custom_rules import CUSTOM_OBJECTS
from random_worlds import random_actions, random_tasks
from rich.console import Console
from tiny_runs import tiny_config

from metta.api import EpisodePlayer, action_words
from metta.baselines.random_policy import RandomPolicy
from metta.baselines.scripted import ScriptedPolicy
from metta.config.batch_plan import plan_batch
from metta.config.env.env_config import EnvConfig
from metta.config.loading.load import load_tasks
from metta.config.plan.memory_estimate import memory_parts
from metta.replay.mettascope import mettascope_document
from metta.replay.recording import Replay, record_episode
from metta.world.action_failures import failure_reason
from metta.world.env import MettaGridEnv
from metta.world.processes.process_worlds import ProcessWorlds, make_worlds
from metta_cli.interactive import WATCH_KEYS
from metta_cli.key_bindings import KeyBindings
from metta_cli.views.world_view import WorldView

SEEDS = range(6)


@cache
def tasks(seed: int, num_agents: int | None = None) -> tuple[EnvConfig, ...]:
    """Two random tasks with all kinds of rules."""
    return tuple(random_tasks(np.random.default_rng(seed), with_rules=True, num_agents=num_agents))


def make(seed: int, num_worlds: int = 4, first_world: int = 0, auto_reset: bool = True) -> MettaGridEnv:
    return MettaGridEnv(tasks(seed), num_worlds, seed, first_world=first_world, auto_reset=auto_reset)


def actions(env: MettaGridEnv, step: int, agents: int) -> np.ndarray:
    return random_actions(np.random.default_rng(step), env.config, agents)


def played(env: MettaGridEnv, agents: int, steps: range, rows: slice = slice(None)) -> list[np.ndarray]:
    """All that steps return and the states of objects, with the actions of `rows` of so many agents."""
    found: list[np.ndarray] = []
    for step in steps:
        observations, rewards, terminated, truncated, info = env.step(actions(env, step, agents)[rows])
        found += [observations.copy(), rewards, terminated, truncated, env.action_success, env.action_masks().copy()]
        found += [np.array(sorted(episode.reward_terms.items())) for episode in info.episodes]
        found += [env.converters(world)["states"] for world in range(env.num_worlds)]
    return found


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# -- properties --------------------------------------------------------------------------------------------------------


def test_entities_and_items_are_conserved_and_a_cell_has_one_entity() -> None:
    assert sum(map(covered_objects, SEEDS)) > 50


def covered_objects(seed: int) -> int:
    """How often something stood on an object, in worlds whose entities and items are counted."""
    env = make(seed, auto_reset=False)
    env.reset()
    kinds = [{kind.type_id: kind for kind in config.object_types.values()} for config in env.configs]
    fixed, moving, objects = [], [], []
    for world in range(env.num_worlds):
        known = kinds[int(env.tasks[world])]
        cells, placed = env.cells(world), env.converters(world)
        objects.append(
            [
                (place, int(type_id))
                for place, type_id in zip(map(tuple, placed["position"].tolist()), placed["type_id"], strict=True)
            ]
        )
        walls = {place: value for place, value in np.ndenumerate(cells) if value > 0 and known[value].type == "wall"}
        fixed.append({place: value for place, value in walls.items() if not known[value].swappable})
        moving.append(Counter(value for value in walls.values() if known[value].swappable))
        moving[-1] += Counter(cells[cells < 0].tolist())
    covered = 0
    for step in range(60):
        env.step(actions(env, step, env.agents))
        for world in range(env.num_worlds):
            known, cells = kinds[int(env.tasks[world])], env.cells(world)
            rows = slice(world * env.num_agents, (world + 1) * env.num_agents)
            positions = env.positions[rows]
            assert len(np.unique(positions, axis=0)) == env.num_agents
            np.testing.assert_array_equal(cells[tuple(positions.T)], -1 - env.groups[rows])
            assert all(cells[place] == value for place, value in fixed[world].items())
            left = Counter(moving[world])
            for place, type_id in objects[world]:
                if cells[place] != type_id:  # something stands on it
                    assert known[type_id].options is not None
                    assert known[type_id].options.walkable
                    covered += 1
            for value in cells.ravel().tolist():
                if value < 0 or (value > 0 and known[value].swappable):
                    left[value] -= 1
            assert not any(left.values())
            placed = env.converters(world)
            assert [tuple(place) for place in placed["position"].tolist()] == [place for place, _ in objects[world]]
    for world in range(env.num_worlds):
        rows = slice(world * env.num_agents, (world + 1) * env.num_agents)
        names = env.config.game.inventory_item_names
        for row, stats in zip(range(rows.start, rows.stop), env.episode_stats(world)["agent"], strict=True):
            changes = [stats.get(f"{name}.gained", 0) - stats.get(f"{name}.lost", 0) for name in names]
            np.testing.assert_array_equal(env.inventories[row], changes)
        caps = [env.configs[int(env.tasks[world])].game.group_settings(name) for name in env.config.game.groups]
        limits = np.array([[group.item_cap(name) for name in names] for group in caps])
        assert ((env.inventories[rows] >= 0) & (env.inventories[rows] <= limits[env.groups[rows]])).all()
    return covered


@pytest.mark.parametrize("seed", SEEDS)
def test_masked_actions_fail(seed: int) -> None:
    """In the order in which the agent acts first, and with no other agent acting."""
    env = MettaGridEnv(tasks(seed)[0], 1, seed, auto_reset=False)
    env.reset()
    flat, tried = np.array(env.spec.flat_actions), 0
    for step in range(30):
        masks = env.action_masks()
        if step % 10 == 9:
            for row in range(0, env.agents, 2):
                for column in np.flatnonzero(~masks[row]):
                    assert failure_reason(env, row, tuple(flat[column].tolist())) is not None
                    tried += 1
        env.step(actions(env, step, env.agents))
    assert tried


# -- the same worlds in other ways -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_seed_gives_the_same_bytes_whole_divided_and_loaded(seed: int) -> None:
    whole, again, first, second = make(seed), make(seed), make(seed, 1), make(seed, 3, first_world=1)
    for env in (whole, again, first, second):
        env.reset()
    agents, split = whole.agents, whole.num_agents
    assert_same(played(again, agents, range(25)), played(whole, agents, range(25)))
    for step in range(25):
        some = actions(whole, step, agents)
        first.step(some[:split])
        second.step(some[split:])
    loaded, twin = make(seed), copy.deepcopy(whole)
    loaded.reset(seed=99)
    loaded.load_state(whole.state())
    expected = played(whole, agents, range(25, 60))
    assert_same(played(loaded, agents, range(25, 60)), expected)
    assert_same(played(twin, agents, range(25, 60)), expected)
    again.step(actions(again, 25, agents))
    for step in range(25, 60):
        some = actions(whole, step, agents)
        first.step(some[:split])
        second.step(some[split:])
    for name in ("positions", "inventories", "orientations", "freeze_counters", "action_success"):
        parts = np.concatenate([getattr(first, name), getattr(second, name)])
        np.testing.assert_array_equal(parts, getattr(whole, name))
    states = [first.converters()["states"], *(second.converters(world)["states"] for world in range(3))]
    assert_same(states, [whole.converters(world)["states"] for world in range(4)])


def test_worker_processes_play_the_same_worlds() -> None:
    env = make(1)
    workers = make_worlds(env, [4], 1, 0, 2)[0]
    assert isinstance(workers, ProcessWorlds)
    env.reset()
    workers.reset()
    for step in range(40):
        some = actions(env, step, env.agents)
        workers.start_step(some)
        found, expected = workers.finish_step(), env.step(some)
        for index in (1, 2, 3):
            np.testing.assert_array_equal(found[index], expected[index])
    state = workers.state()
    for name, value in env.state().items():
        np.testing.assert_array_equal(state[name], value)
    workers.close()


def test_a_curriculum_varies_rules_and_check_counts_their_memory() -> None:
    plain = tiny_config("", "env.rewards={exploration={}}")
    weights, shared = "{values=[0.1, 0.5]}", "{values=[true, false]}"
    buckets = f'{{"rewards.exploration.weight"={weights}, "rewards.exploration.settings.shared"={shared}}}'
    varied = tiny_config(
        "", "env.rewards={exploration={}}", "curriculum.type='low_reward'", f"curriculum.buckets={buckets}"
    )
    envs = load_tasks(varied).env_configs
    rewards = {(env.rewards[0].weight, env.rewards[0].settings["shared"]) for env in envs}
    assert rewards == {(weight, shared) for weight in (0.1, 0.5) for shared in (True, False)}
    field = 'env.objects={field={type="field", settings={item="heart"}}}'
    more = tiny_config("", "env.rewards={exploration={}}", field)
    sizes = [
        next(part.bytes for part in memory_parts(config, config.env, 64) if part.name == "worlds")
        for config in (plain, more)
    ]
    num_worlds = plan_batch(plain.experience, plain.env.game.num_agents).num_worlds
    assert sizes[1] - sizes[0] == num_worlds * 64 * 8


# -- front ends --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replay() -> Replay:
    return record_episode(RandomPolicy(tasks(2)[0].spec), tasks(2)[0], seed=2)


def test_a_replay_has_the_states_of_objects_and_the_actions(replay: Replay) -> None:
    document = json.loads(json.dumps(mettascope_document(replay, replay.steps + 1)))
    assert document["action_names"] == replay.config.spec.action_names
    kinds = {kind.type_id: kind for kind in replay.config.object_types.values()}
    seen = set()
    for entity in document["grid_objects"]:
        kind = kinds.get(entity["type"])
        if kind is not None and kind.options is not None:
            assert all(name in entity for name in kind.options.states)
            seen.add(kind.type)
    assert {"field"} <= seen <= set(CUSTOM_OBJECTS)
    assert np.unique(replay.converter_states).size > 1


def test_watch_shows_and_play_binds_registered_actions_and_objects() -> None:
    config = tasks(2)[0]
    player = EpisodePlayer(ScriptedPolicy(config), config)
    for _ in range(15):
        player.step()
    with open("/dev/null", "w", encoding="utf-8") as null:
        console = Console(file=null, width=120, height=60, record=True, color_system=None)
        console.print(WorldView(console, player, "a world").render("3 steps/s", WATCH_KEYS))
        text = console.export_text()
    assert any(name in text for name in CUSTOM_OBJECTS)
    bindings = KeyBindings(config)
    words = {word for _, word in bindings.help}
    signal = next(action.key for action in config.actions if action.type == "signal")
    assert any(word.startswith(signal.replace("_", " ")) for word in words), words
    assert len(action_words(config)[config.spec.action_names.index(signal)]) == 4


def test_pettingzoo_plays_the_world() -> None:
    pytest.importorskip("pettingzoo")
    world = MettaGridEnv(tasks(3)[0], seed=3, auto_reset=False)
    env = copy.deepcopy(world).to_pettingzoo()
    env.reset(seed=3)
    world.reset(seed=3)
    for step in range(20):
        if not env.agents:  # the episode has ended
            env.reset()
            world.reset()
        some = actions(world, step, world.agents)
        found = env.step(dict(zip(env.agents, some, strict=True)))
        expected = world.step(some)
        np.testing.assert_array_equal(np.stack(list(found[0].values())), expected[0])
        assert list(found[1].values()) == expected[1].tolist()
