"""Custom rules: rewards, features and ends of episodes that a program registers, and those of metta."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import numpy as np
import pytest
import registered_parts  # registers the rules

from metta.baselines.scripted import ScriptedPolicy
from metta.config.env.env_config import EnvConfig
from metta.config.parts.registries import ACTIONS, FEATURES, OBJECTS, REWARDS
from metta.errors import CheckpointError, ConfigError, UsageError
from metta.evaluation.evaluate import evaluate
from metta.world.env import MettaGridEnv
from metta.world.parts.distances import DistanceFields, city_block_fields, walking_fields
from metta.world.parts.editor import WorldsEditor
from metta.world.parts.part_call import PartCall
from metta.world.parts.view import Per, WorldsView
from metta.world.processes.process_worlds import ProcessWorlds, make_worlds

GAME = {"num_agents": 4, "width": 11, "height": 9, "max_steps": 30, "observation_width": 5, "observation_height": 5}
ALL_PARTS: dict[str, Any] = {
    "game": GAME,
    "map_builder": {"border_width": 1, "objects": {"altar": 2, "wall": 6, "mine_red": 3}},
    "rewards": [
        {"type": "test.near", "name": "near", "weight": 0.25, "settings": {"within": 2}},
        {"type": "test.new cells", "name": "new"},
        {"type": "exploration", "settings": {"shared": True}},
        {"type": "distance", "weight": 0.5, "settings": {"to": "altar", "gamma": 0.9}},
    ],
    "features": [
        {"type": "nearest_seen", "settings": {"to": "mine_red", "holding": "ore_red"}},
        {"type": "test.last action", "name": "mine"},
        {"type": "test.facing", "name": "facing"},
        {"type": "test.trail", "name": "trail"},
    ],
    "terminations": [
        {"type": "test.random", "name": "rare"},
        {"type": "test.random", "name": "other", "truncates": True, "settings": {"probability": 0.02}},
    ],
}
CONFIG = EnvConfig.model_validate(ALL_PARTS)


def actions(step: int, agents: int = 16) -> np.ndarray:
    """The random actions of all agents in a step."""
    generator = np.random.default_rng(step)
    return np.stack([generator.integers(0, 8, agents), generator.integers(0, 2, agents)], axis=1)


def outputs(env: MettaGridEnv, rows: slice, steps: range) -> list[np.ndarray]:
    """Everything that steps return."""
    found: list[np.ndarray] = []
    for step in steps:
        observations, rewards, terminated, truncated, info = env.step(actions(step)[rows])
        found += [observations.copy(), rewards, terminated, truncated]
        found += [np.array(sorted(episode.reward_terms.items())).ravel() for episode in info.episodes]
    return found


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def env_of(**tables: Any) -> MettaGridEnv:
    env = MettaGridEnv(EnvConfig.model_validate({**ALL_PARTS, **tables}), 2, seed=1)
    env.reset()
    return env


# -- rewards ---------------------------------------------------------------------------------------------------------


def test_a_reward_has_weight_and_groups_and_comes_before_sharing() -> None:
    groups = {"a": {"id": 0, "group_reward_pct": 0.5}, "b": {"id": 1}}
    reward = {"type": "test.near", "name": "near", "weight": 2.0, "groups": ["a"], "settings": {"within": 99}}
    game = {**GAME, "groups": groups, "time_punishment": 0.0, "heart_reward": 0.0, "ore_red_reward": 0.0}
    builder = {**ALL_PARTS["map_builder"], "agents": {"a": 2, "b": 2}}
    env = env_of(game=game, map_builder=builder, rewards=[reward], features=[], terminations=[])
    for step in range(30):
        observations, rewards, _, truncated, info = env.step(actions(step)[:8])
        if not truncated.any():
            is_a = env.groups == 0
            np.testing.assert_array_equal(env.individual_rewards, np.where(is_a, 2, 0))
            np.testing.assert_array_equal(rewards, np.where(is_a, 2, 0))  # each gives half to the two of its group
            last_reward = env.spec.feature_names.index("last_reward")
            np.testing.assert_array_equal((observations[:, :, 1:] == [last_reward, 200]).all(2).any(1), is_a)
    assert [episode.reward_terms for episode in info.episodes] == [{"near": 30.0}] * 2  # mean over a (60) and b (0)


def test_distance_is_potential_based() -> None:
    """The discounted sum over an episode is the difference of two potentials, whatever the agent does."""
    reward = {"type": "distance", "settings": {"to": "altar", "gamma": 0.9}}
    env = env_of(rewards=[reward], features=[], terminations=[])
    before = -WorldsView(env._worlds).distances("altar")
    total, earlier = np.zeros(8), np.zeros(8)
    env.auto_reset = False
    for step in range(30):
        env.step(actions(step)[:8])
        terms = env._worlds.part_arrays["reward_terms"][:, 0].copy()
        total += 0.9**step * (terms - earlier)
        earlier = terms
    after = -WorldsView(env._worlds).distances("altar")
    np.testing.assert_allclose(total, 0.9**30 * after - before, rtol=1e-4, atol=1e-4)
    assert len(np.unique(before)) > 1


def test_the_potential_is_0_after_an_episode_that_terminates() -> None:
    reward = {"type": "distance", "settings": {"to": "altar", "gamma": 0.5}}
    end = {"type": "test.random", "settings": {"probability": 1.0}}
    for truncates in (False, True):
        env = env_of(rewards=[reward], features=[], terminations=[{**end, "truncates": truncates}])
        env.auto_reset = False
        before = WorldsView(env._worlds).distances("altar")
        env.step(np.zeros((8, 2), int))
        after = WorldsView(env._worlds).distances("altar") if truncates else 0
        np.testing.assert_allclose(env._worlds.part_arrays["reward_terms"][:, 0], before - 0.5 * after, rtol=1e-6)


def test_exploration_counts_cells() -> None:
    rewards = [{"type": "exploration"}, {"type": "exploration", "name": "shared", "settings": {"shared": True}}]
    env = env_of(rewards=rewards, features=[], terminations=[])
    env.auto_reset = False
    visited = [{tuple(position)} for position in env.positions.tolist()]
    for step in range(30):
        env.step(actions(step)[:8])
        for agent, position in enumerate(env.positions.tolist()):
            visited[agent].add(tuple(position))
    terms = env._worlds.part_arrays["reward_terms"]
    np.testing.assert_array_equal(terms[:, 0], [len(cells) - 1 for cells in visited])
    for world in range(2):
        together = set().union(*visited[4 * world : 4 * world + 4])
        assert terms[4 * world : 4 * world + 4, 1].sum() == len(together) - 4


def test_supply_pays_who_fills_an_empty_object() -> None:
    """A generator that still holds ore pays nothing for more of it; once it has used up its ore, it pays again."""
    mine = {"name": "mine_red", "type": "mine", "conversion_ticks": 3, "cooldown": 0, "initial_items": 2}
    generator = {"name": "generator_red", "type": "generator", "conversion_ticks": 9, "cooldown": 0}
    config = EnvConfig.model_validate(
        {
            "game": {
                "num_agents": 1,
                "max_steps": 100,
                "time_punishment": 0.0,
                "ore_red_reward": 0.0,
                "battery_red_reward": 0.0,
            },
            "objects": [mine | {"max_output": 5}, generator | {"initial_items": 0, "max_output": 5}],
            "map_builder": {"type": "Ascii", "map": "#####\n#r@R#\n#####"},
            "rewards": [{"type": "supply", "settings": {"to": "generator_red", "item": "ore_red"}}],
        }
    )
    env = MettaGridEnv(config, seed=0)
    env.reset()
    noop, rotate, put, get = map(config.spec.action_names.index, ("noop", "rotate", "put_recipe_items", "get_output"))
    bring = [(rotate, 2), (get, 0), (rotate, 3), (put, 0)]  # 2 is left, 3 is right
    paid = []
    for step, action in enumerate([*bring * 3, *[(noop, 0)] * 40, *bring]):
        _, rewards, *_ = env.step(np.array([action]))
        if rewards[0]:
            paid.append((step, float(rewards[0])))
    assert paid == [(3, 1.0), (7, 1.0), (55, 1.0)]  # in step 11 the generator converts one unit and holds another


# -- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truncates", [False, True])
def test_a_goal_ends_the_episode_once(truncates: bool) -> None:
    goal = {"type": "goal", "truncates": truncates, "settings": {"stat": "action.noop.success", "amount": 12}}
    env = env_of(rewards=[], features=[], terminations=[goal])
    for step in range(1, 7):
        _, _, terminated, is_truncated, info = env.step(np.zeros((8, 2), int))
        assert (terminated if not truncates else is_truncated).all() == (step % 3 == 0)
        assert not (is_truncated if not truncates else terminated).any()
        assert [episode.length for episode in info.episodes] == ([3, 3] if step % 3 == 0 else [])
        assert all(episode.terminated != truncates for episode in info.episodes)


def test_without_auto_reset_an_episode_ends_once_and_its_flag_stays() -> None:
    goal = {"type": "goal", "settings": {"stat": "action.noop.success", "amount": 12}}
    env = env_of(rewards=[], features=[], terminations=[goal])
    env.auto_reset = False
    for step in range(1, 35):
        _, _, terminated, truncated, info = env.step(np.zeros((8, 2), int))
        assert terminated.all() == (step >= 3)
        assert not truncated.any()
        assert len(info.episodes) == (2 if step == 3 else 0)


# -- features --------------------------------------------------------------------------------------------------------


def test_features_are_where_they_belong() -> None:
    env = MettaGridEnv(CONFIG, 3, seed=1)
    observations, _ = env.reset()
    names = env.spec.feature_names
    assert names[-3:] == ["mine", "facing", "trail"]
    assert env.spec.feature_scales[-3:] == [8.0, 1.0, 255.0]
    seen: set[str] = set()
    for step in range(25):
        values = {name: env._worlds.part_arrays[f"features.{name}:values"] for name in names[-3:]}
        for agent, (row, col) in enumerate(env.positions.tolist()):
            world = agent // 4
            tokens: dict[str, dict[tuple[int, int], int]] = {"mine": {}, "facing": {}, "trail": {}}
            order = []
            for location, feature, value in observations[agent].tolist():
                if location != 255:
                    place = ((location >> 4) - 2, (location & 15) - 2)
                    tokens.setdefault(names[feature], {})[place] = value
                    order.append((abs(place[0]) + abs(place[1]), place[0], -place[1], feature))
            assert [feature for *_, feature in order[:6]] == [8, 9, 10, 11, *range(len(names) - 4, len(names) - 2)]
            assert order[6:] == sorted(order[6:])  # cells in token order, features ascending within a cell
            window = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
            others = {
                tuple((env.positions[other] - [row, col]).tolist()): other for other in range(4 * world, 4 * world + 4)
            }
            assert tokens["mine"] == {(0, 0): values["mine"][agent]}
            assert tokens["facing"] == {
                place: 1 for place in window if place in others and values["facing"][others[place]]
            }
            cells = np.pad(values["trail"][world], 2)
            trail = {(down, right): cells[row + down + 2, col + right + 2] for down, right in window}
            assert tokens["trail"] == {place: value for place, value in trail.items() if value}
            seen |= {name for name, found in tokens.items() if found}
        observations = env.step(actions(step, 12))[0]
    assert {"mine", "facing", "trail"} <= seen
    grid = env.feature_grid(1)
    np.testing.assert_array_equal(grid[:, :, names.index("trail")], values_of(env, "trail")[1])


def values_of(env: MettaGridEnv, name: str) -> np.ndarray:
    values: np.ndarray = env._worlds.part_arrays[f"features.{name}:values"]
    return values


def test_the_scripted_policy_ignores_custom_features() -> None:
    plain = EnvConfig.model_validate({**ALL_PARTS, "features": []})
    scores = [
        evaluate(ScriptedPolicy(config), MettaGridEnv(config, seed=4), num_episodes=3, seed=4).episode_rewards
        for config in (plain, CONFIG)
    ]
    np.testing.assert_array_equal(*scores)


# -- state, shards, workers ------------------------------------------------------------------------------------------


def test_shards_are_the_same_worlds() -> None:
    whole, first, second = (
        MettaGridEnv(CONFIG, 4, 3),
        MettaGridEnv(CONFIG, 1, 3),
        MettaGridEnv(CONFIG, 3, 3, first_world=1),
    )
    for env in (whole, first, second):
        env.reset()
    for step in range(60):
        expected = whole.step(actions(step))
        parts = first.step(actions(step)[:4]), second.step(actions(step)[4:])
        for index in range(4):
            np.testing.assert_array_equal(np.concatenate([part[index] for part in parts]), expected[index])


@pytest.mark.parametrize("saved", [0, 1, 17])
def test_a_saved_state_continues_bit_for_bit(saved: int) -> None:
    env, loaded = MettaGridEnv(CONFIG, 4, seed=3), MettaGridEnv(CONFIG, 4, seed=9)
    env.reset()
    loaded.reset()
    outputs(env, slice(None), range(saved))
    outputs(loaded, slice(None), range(5))
    loaded.load_state(env.state())
    twin = copy.deepcopy(env)
    expected = outputs(env, slice(None), range(saved, saved + 40))
    assert_same(outputs(loaded, slice(None), range(saved, saved + 40)), expected)
    assert_same(outputs(twin, slice(None), range(saved, saved + 40)), expected)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("parts.rewards.new.visited", np.zeros((3, 9, 11), bool), "must be an array with an entry for each"),
        ("parts.reward_terms", np.zeros((16, 4)), "must be float32"),
        ("parts.reward_terms", np.full((16, 4), np.nan, np.float32), "not finite"),
        ("parts.x", np.array(["a"] * 16), "must not be <U1"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(name: str, value: np.ndarray, problem: str) -> None:
    env = MettaGridEnv(CONFIG, 4, seed=3)
    env.reset()
    with pytest.raises(CheckpointError, match=problem):
        env.load_state(env.state() | {name: value})


def test_worker_processes_have_the_rules() -> None:
    env = MettaGridEnv(CONFIG, 4, seed=3)
    workers = make_worlds(env, [4], 3, 0, 2)[0]
    assert isinstance(workers, ProcessWorlds)
    env.reset()
    workers.reset()
    for step in range(40):
        workers.start_step(actions(step))
        found, expected = workers.finish_step(), env.step(actions(step))
        for index in (1, 2, 3):
            np.testing.assert_array_equal(found[index], expected[index])
        terms = [[episode.reward_terms for episode in info.episodes] for info in (found[4], expected[4])]
        assert terms[0] == terms[1]
        if step == 20:
            state = workers.state()
            for name, value in env.state().items():
                np.testing.assert_array_equal(state[name], value)
            workers.load_state(state)
    workers.close()


def test_worlds_without_a_rule_do_not_have_it() -> None:
    """In a curriculum, a rule is called for the worlds of the tasks that list it."""
    rewards = [{"type": "test.near", "name": "near", "settings": {"within": 99}}]
    plain = EnvConfig.model_validate({**ALL_PARTS, "rewards": []})
    near = EnvConfig.model_validate({**ALL_PARTS, "rewards": rewards})
    env = MettaGridEnv([plain, near], 6, seed=2)
    env.reset()
    finished: set[int] = set()
    for step in range(60):
        for episode in env.step(actions(step, 24))[4].episodes:
            assert episode.reward_terms["near"] == episode.length * episode.task
            finished.add(episode.task)
    assert finished == {0, 1}


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("shape", r"must return float32 \[8\] \(\[agents\]\), but returned float32 \[3\] in step 3"),
        ("dtype", r"must return float32 \[8\] \(\[agents\]\), but returned float64 \[8\] in step 3"),
        ("nan", "must return finite numbers, but returned nan for agent 3 of world 0 in step 3"),
        ("infinite", "must return finite numbers, but returned inf for agent 0 of world 0 in step 3"),
        ("list", "but returned list in step 3"),
        ("none", "but returned NoneType in step 3"),
    ],
)
def test_a_wrong_result_is_named_with_rule_and_step(kind: str, problem: str) -> None:
    env = env_of(
        rewards=[{"type": "test.result", "name": "mine", "settings": {"kind": kind, "step": 3}}], terminations=[]
    )
    env.step(actions(0)[:8])
    env.step(actions(1)[:8])
    with pytest.raises(UsageError, match=f'the reward "mine" {problem}|the reward "mine" .*{problem}'):
        env.step(actions(2)[:8])


def test_a_wrong_result_is_named_with_its_world_where_some_worlds_have_the_rule() -> None:
    tables = {"terminations": [], "features": []}
    plain = EnvConfig.model_validate({**ALL_PARTS, **tables, "rewards": []})
    wrong = {"type": "test.result", "name": "mine", "settings": {"kind": "nan", "step": 1}}
    env = MettaGridEnv([plain, EnvConfig.model_validate({**ALL_PARTS, **tables, "rewards": [wrong]})], 4, seed=2)
    env.reset()
    world = int(env.tasks.argmax())
    assert world > 0
    with pytest.raises(UsageError, match=f"nan for agent 3 of world {world} in step 1"):
        env.step(actions(0))


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({"rewards": {"distance": {"settings": {"too": "altar"}}}}, "rewards.distance.settings.to *is missing"),
        ({"rewards": {"distance": {"settings": {"to": 3}}}}, "rewards.distance.settings.to *must be a string; got 3"),
        ({"rewards": {"distance": {"settings": {"to": "altar", "gamma": 2}}}}, "gamma *must be at most 1; got 2"),
        ({"rewards": {"exploration": {"settings": {"sharde": True}}}}, 'sharde *unknown key; did you mean "shared"'),
        ({"rewards": {"exploration": {"groups": ["agnt"]}}}, 'groups.0. *unknown group "agnt"; did you mean "agent"'),
        ({"rewards": [{"type": "exploration"}] * 2}, r'rewards\[1\].name *must be unique; "exploration" is used twice'),
        ({"rewards": [{"type": "explroation"}]}, 'got "explroation"; did you mean "exploration"'),
        ({"rewards": [{"type": "test.new cells"}]}, r"rewards\[0\].name *must be set, since the type"),
        ({"rewards": [{"type": "sunshine"}]}, 'got "sunshine": install the package that provides this reward'),
        ({"rewards": {"sunshine": {"weight": 0.1}}}, 'got "sunshine": install the package that provides this reward'),
        ({"rewards": {"test.escort": {"settings": {"group": "agnt"}}}}, 'unknown group "agnt"; did you mean "agent"'),
        ({"features": [{"type": "test.trail", "name": "hp"}]}, 'must not be the built-in feature "hp"'),
        ({"terminations": [{"type": "goal", "settings": {"by": "most"}}]}, 'by *must be one of "sum", "any", "all"'),
    ],
)
def test_a_mistake_in_the_file_is_named(tables: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        EnvConfig().override(**tables)


def test_a_rule_without_types_is_named() -> None:
    with pytest.raises(UsageError, match='the option "at" of a feature must be'):
        FEATURES.register("test.elsewhere", at="there")
    with pytest.raises(UsageError, match=r'the reward "test\.x" cannot be registered: got an unexpected keyword'):
        REWARDS.register("test.x", scale=1.0)
    with pytest.raises(UsageError, match='"distance" is a built-in reward of metta; choose another name'):
        REWARDS.register("distance")(lambda worlds: None)


def test_a_function_may_have_several_names_with_options_of_their_own() -> None:
    FEATURES.register("test.first name", at="self", scale=2.0)(registered_parts.last_action)
    FEATURES.register("test.second name", at="agents")(registered_parts.last_action)
    found = {name: FEATURES.options(f"test.{name}") for name in ("first name", "second name", "last action")}
    assert {name: (options.at, options.scale) for name, options in found.items()} == {
        "first name": ("self", 2.0),
        "second name": ("agents", 255.0),
        "last action": ("self", 8.0),
    }
    with pytest.raises(UsageError):  # a name that is taken changes no options
        FEATURES.register("test.first name", scale=3.0)(registered_parts.last_action)
    assert FEATURES.options("test.first name").scale == 2.0


def test_a_memory_of_a_feature_may_have_any_name() -> None:
    @FEATURES.register("test.counted")
    def counted(worlds: WorldsView) -> np.ndarray:
        steps = worlds.memory("values", dtype=np.uint8)
        steps += 1
        return np.full(worlds.agents, 7, np.uint8)

    env = env_of(features=[{"type": "test.counted", "name": "counted"}])
    for step in range(3):
        env.step(actions(step, env.agents))
    before = env._worlds.part_arrays["features.counted.values"].copy()
    env.step(actions(3, env.agents))
    np.testing.assert_array_equal(env._worlds.part_arrays["features.counted.values"], before + 1)


@pytest.mark.parametrize(
    ("raising", "when"),
    [
        ("reward", 'the reward "mine" was called in step 1'),
        ("act", 'the action "mine" was called in step 1'),
        ("touches", 'the action "mine" was called in step 1'),
        ("possible", 'the action "mine" was called in step 0'),
        ("__init__", 'the object "thing" was made'),
        ("step", 'the object "thing" was called in step 1'),
        ("use", 'the object "thing" was used in step 1'),
    ],
)
def test_an_exception_in_a_rule_has_a_note_of_the_rule(raising: str, when: str) -> None:
    name = f"test.{raising}"

    def fail(worlds: WorldsView, agents: Any = None, rows: Any = None) -> None:
        if raising in ("touches", "possible"):  # these must not change the worlds
            assert not isinstance(worlds, WorldsEditor)
        raise ZeroDivisionError

    def succeed(worlds: WorldsView, agents: Any, arguments: Any) -> None:
        pass

    actions, rewards = [{"key": "use", "type": "use"}], []
    if raising == "reward":
        REWARDS.register(name)(lambda worlds: fail(worlds) if worlds.steps.any() else np.zeros(worlds.agents, "f4"))
        rewards = [{"type": name, "name": "mine"}]
    elif raising in ("act", "touches", "possible"):
        ACTIONS.register(name, **({} if raising == "act" else {raising: fail}))(fail if raising == "act" else succeed)
        actions = [{"key": "mine", "type": name}]
    else:
        method = (lambda self: fail(self)) if raising == "__init__" else staticmethod(fail)
        OBJECTS.register(name)(type("Thing", (), {raising: method}))
    thing = {"name": "thing", "type": name if raising in ("__init__", "step", "use") else "wall"}
    world = {"type": "Ascii", "map": "###\n#t#\n#a#\n###", "legend": {"a": "agent", "t": "thing"}}  # facing the thing
    tables = {"objects": [thing], "actions": actions, "rewards": rewards, "map_builder": world}

    def play() -> None:
        env = MettaGridEnv(EnvConfig.model_validate({"game": {"num_agents": 1}, **tables}), seed=0)
        env.reset()
        if raising == "possible":
            env.action_masks()
        env.step(np.array([[0, 0]]))

    with pytest.raises(ZeroDivisionError) as caught:
        play()
    assert caught.value.__notes__ == [when]


def test_a_state_of_a_rule_that_the_worlds_do_not_have_is_rejected() -> None:
    state = env_of(rewards=[{"type": "test.new cells", "name": "new"}], terminations=[]).state()
    with pytest.raises(CheckpointError, match="belongs to a custom rule that these worlds do not have"):
        env_of(rewards=[], terminations=[]).load_state(state)


def test_an_action_without_the_setting_of_its_arguments_is_named() -> None:
    ACTIONS.register("test.no count", arguments="count")(lambda worlds, agents, arguments: None)
    with pytest.raises(UsageError, match='takes its number of arguments from the setting "count", which it does not'):
        EnvConfig.model_validate({"actions": [{"key": "mine", "type": "test.no count"}]})


def test_an_unknown_name_in_a_rule_is_named_with_the_rule() -> None:
    with pytest.raises(UsageError, match='the reward "near": unknown object "altr"; did you mean "altar"'):
        env_of(rewards=[{"type": "test.near", "name": "near", "settings": {"to": "altr"}}])


# -- the view --------------------------------------------------------------------------------------------------------


def test_distances_agree_with_a_breadth_first_search() -> None:
    generator = np.random.default_rng(0)
    targets = generator.random((5, 7, 9)) < 0.04
    free = generator.random((5, 7, 9)) < 0.7
    walking, straight, kept = walking_fields(targets, free), city_block_fields(targets), DistanceFields()
    np.testing.assert_array_equal(kept.get("x", targets, free), walking)
    for world in range(5):
        goals = np.argwhere(targets[world])
        for row, col in np.ndindex(7, 9):
            distance = np.abs(goals - [row, col]).sum(axis=1).min(initial=10**9)
            assert straight[world, row, col] == (distance if distance < 10**9 else np.inf)
        expected = np.full((7, 9), np.inf)
        queue = deque((row, col, 0) for row, col in goals.tolist())
        while queue:
            row, col, moves = queue.popleft()
            if 0 <= row < 7 and 0 <= col < 9 and moves < expected[row, col]:
                expected[row, col] = moves
                if moves == 0 or free[world, row, col]:
                    queue += [
                        (row + down, col + right, moves + 1) for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1))
                    ]
        np.testing.assert_array_equal(walking[world], expected)
    targets = targets.copy()
    targets[2] = np.roll(targets[2], 1)
    np.testing.assert_array_equal(kept.get("x", targets, free), walking_fields(targets, free))


def test_kept_distances_are_those_of_a_new_view() -> None:
    """Over episodes that start at different steps, with and without walls that swap, through open doors and not."""
    door = {"type": "door", "name": "door", "settings": {"steps_open": 3}}
    for swaps, doors in [(False, 0), (True, 0), (False, 5)]:
        kinds = ["noop", "move", "rotate", "get_items", *(["swap"] if swaps else [])]
        builder = {"border_width": 1, "objects": {"altar": 2, "block": 6, "door": doors}}
        tables = {"objects": [door], "actions": [{"type": kind, "key": kind} for kind in kinds]}
        env = env_of(**tables, map_builder=builder, features=[])
        opened = 0
        for step in range(40):
            acts = np.random.default_rng(step).integers(0, [len(kinds), 1], (8, 2))
            env.step(acts)
            kept = WorldsView(env._worlds, fields=env._parts._fields if env._parts else None)
            for through_walls in (False, True):
                expected = WorldsView(env._worlds).distance_fields("altar", through_walls)
                np.testing.assert_array_equal(kept.distance_fields("altar", through_walls), expected)
            opened += sum(int(env.converters(world)["states"].sum()) for world in range(2))
        assert (opened > 0) == (doors > 0)


SOME = np.array([1, 3])
"""worlds of four"""
VIEW_CALLS: dict[str, tuple[Any, ...]] = {
    "in_group": ("agent",),
    "inventory": ("heart",),
    "did": ("move",),
    "stat": ("action.move.success",),
    "find": ("agent",),
    "stock": ("heart",),
    "state_cells": ("open",),
    "faces": ("door",),
    "distances": ("altar",),
    "distance_fields": ("altar",),
    "memory": ("m",),
    "random": (),
}
"""Functions of a view without arrays as arguments, and arguments for them."""
OBJECT_CALLS: dict[str, tuple[Any, ...]] = {
    "state": ("open",),
    "object_worlds": (),
    "object_positions": (),
    "object_random": (),
    "agents_on": (),
    "count_near": ("open", 3),
}
"""Functions of objects, and arguments after them."""
ARRAY_CALLS = {"at", "by_world", "per_agent", "place"}
"""functions of arrays of the view"""
OF_ALL_WORLDS = {"num_worlds", "agents", "num_agents", "items", "group_names", "action_names", "shape", "window"}
FOR_CALLERS = {"begin", "end", "forget"}


def views_of_all_and_some() -> tuple[WorldsView, WorldsView]:
    """Views of four worlds with open and closed doors, agents and an object of each type among them, and of `SOME`."""
    door = {"type": "door", "name": "door", "settings": {"steps_open": 9}}
    kinds = ["use", "move", "rotate", "get_items"]
    builder = {"border_width": 1, "objects": {"altar": 4, "mine_red": 4, "door": 12}}
    tables = {"objects": [door], "actions": [{"type": kind, "key": kind} for kind in kinds], "map_builder": builder}
    env = MettaGridEnv(EnvConfig.model_validate({**ALL_PARTS, **tables, "features": []}), 4, seed=3)
    env.reset()
    for step in range(25):
        env.step(np.random.default_rng(step).integers(0, [len(kinds), 2], (16, 2)))
    views = WorldsView(env._worlds), WorldsView(env._worlds, SOME)
    for view in views:
        view.begin(PartCall("a.b", "a", "a.b"))
    return views


def of_some(values: np.ndarray) -> np.ndarray:
    """The rows of `SOME` in an array of agents or worlds."""
    by_world = values.reshape(4, len(values) // 4, *values.shape[1:])
    return by_world[SOME].reshape(-1, *values.shape[1:])


def test_a_view_of_some_worlds_has_their_rows() -> None:
    """All that a view offers, row by row; worlds and rows of agents count from 0 among the worlds of the view."""
    whole, some = views_of_all_and_some()
    public = {name for name in dir(WorldsView) if not name.startswith("_")} | (vars(whole).keys() & OF_ALL_WORLDS)
    arrays = public - VIEW_CALLS.keys() - OBJECT_CALLS.keys() - ARRAY_CALLS - OF_ALL_WORLDS - FOR_CALLERS
    own_row = np.full(16, -1)  # of agents, then of worlds
    own_row[np.r_[4:8, 12:16]] = np.arange(8)
    renumbered = {"faced_agents": own_row, "agents_on": own_row, "world": np.array([-1, 0, -1, 1])}
    renumbered["object_worlds"] = renumbered["world"]

    def check(name: str, found: np.ndarray, expected: np.ndarray) -> None:
        if name in renumbered:
            expected = np.where(expected < 0, -1, renumbered[name][expected])
        np.testing.assert_array_equal(found, expected, err_msg=name)

    for name in arrays:
        check(name, getattr(some, name), of_some(getattr(whole, name)))
    for name, arguments in VIEW_CALLS.items():
        check(name, getattr(some, name)(*arguments), of_some(getattr(whole, name)(*arguments)))
    doors = np.flatnonzero(whole._worlds.compiled.types.is_custom[whole._worlds.converter_type])
    doors = doors[whole._worlds.converter_cell[doors] >= 0]
    is_in = np.isin(whole.object_worlds(doors), SOME)
    for name, arguments in OBJECT_CALLS.items():
        check(name, getattr(some, name)(doors[is_in], *arguments), getattr(whole, name)(doors, *arguments)[is_in])
    assert (whole.agents_on(doors[is_in]) >= 0).any()
    assert (whole.count_near(doors[is_in], "open", 3) > 0).any()
    places: tuple[Per, ...] = ("world", "cell")
    for per in places:
        numbers = whole.random(per)
        np.testing.assert_array_equal(some.random(per), numbers[SOME])
        assert ((numbers >= 0) & (numbers < 1)).all()
        assert len(np.unique(numbers)) == numbers.size
    np.testing.assert_array_equal(some.at(some.cells), whole.at(whole.cells)[np.r_[4:8, 12:16]])
    np.testing.assert_array_equal(some.place(7), whole.place(7)[SOME])
    for array in (whole.positions, whole.inventories, whole.cells, whole.rewards):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_tasks_need_the_same_features() -> None:
    plain = EnvConfig.model_validate({**ALL_PARTS, "features": []})
    with pytest.raises(ConfigError, match=r"a world that .*; env\.features has nearest_seen, mine, facing, trail"):
        MettaGridEnv([plain, CONFIG])


# -- changes by rules ------------------------------------------------------------------------------------------------


def test_an_editor_keeps_inventories_and_cells_consistent() -> None:
    env = MettaGridEnv(CONFIG, 2, seed=3)
    env.reset()
    editor = WorldsEditor(env._worlds)
    editor.begin(PartCall("actions.x", 'the action "x"', "actions.x"))
    np.testing.assert_array_equal(editor.add_items([0, 5], "heart", [3, 300 - 45]), [3, 255])
    assert editor.inventory("heart")[[0, 5]].tolist() == [3, 255]
    assert editor.stat("heart.gained")[[0, 5]].tolist() == [3, 255]
    np.testing.assert_allclose(env.individual_rewards[[0, 5]], [3, 255])
    np.testing.assert_array_equal(editor.transfer_items([0, 5], [1, 6], "heart", [5, 2]), [3, 2])
    assert editor.inventory("heart").tolist() == [0, 3, 0, 0, 0, 253, 2, 0]
    np.testing.assert_array_equal(editor.transfer_items([1], [5], "heart", 3), [2])  # up to the limit of 255
    empty = np.argwhere(editor.find("empty")[0])[:2]
    before = editor.positions.copy()
    moved = editor.move([0, 1, 2, 3], [empty[0], empty[0], before[3], [-1, 0]])
    assert moved.tolist() == [True, False, False, False]
    assert editor.positions[:4].tolist() == [empty[0].tolist(), *before[1:4].tolist()]
    editor.turn([0], 3)
    editor.freeze([1], -1)
    editor.paint([2], [200])
    assert (env.orientations[0], env.freeze_counters[1], env.colors[2]) == (3, -1, 200)
    env.check_state(env.state())
    env.step(actions(0, 8))


OF_NO_OBJECT: tuple[Any, ...] = (
    lambda editor: editor.state([-1], "hp"),
    lambda editor: editor.object_worlds([-1]),
    lambda editor: editor.object_positions([-1]),
    lambda editor: editor.object_random([-1]),
    lambda editor: editor.agents_on([-1]),
    lambda editor: editor.count_near([-1], "hp", 1),
    lambda editor: editor.set_state([-1], "hp", 0),
)
"""Calls with what `faced_objects` has for an agent that faces none."""


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda editor: editor.add_items([0, 0], "heart", 1), "agents must be distinct rows"),
        (lambda editor: editor.add_items([8], "heart", 1), "agents must be rows from 0 to 7"),
        (lambda editor: editor.add_items([0.5], "heart", 1), "agents must be rows .n., integers; got float64"),
        (lambda editor: editor.add_items([0], "hart", 1), 'unknown item "hart"; did you mean "heart"'),
        (lambda editor: editor.add_items([0], "heart", [1, 2]), "change must be an integer or integers .1.; got int64"),
        (lambda editor: editor.turn([0], 4), "orientations must be from 0 to 3"),
        (lambda editor: editor.transfer_items([0], [0], "heart"), "agents must be distinct rows"),
        (lambda editor: editor.memory("m", "row"), 'per must be "agent", "world" or "cell"; got .row.'),
        (lambda editor: editor.memory("m", dtype=complex), "the dtype of a memory must be bool"),
        (lambda editor: (editor.memory("m"), editor.memory("m", shape=2)), 'the memory "m" is float32 .8., but was'),
        *((call, r"objects must be integers from 0 to \d+; got int64 from -1 to -1") for call in OF_NO_OBJECT),
        (lambda editor: editor.object_worlds([0.5]), "objects must be integers from 0 to .*; got float64 from 0.5"),
        (lambda editor: editor.stat("heart.gaind"), 'unknown statistic "heart.gaind"; did you mean "heart.gained"'),
        (lambda editor: editor.in_group("red"), 'unknown group "red"; known: agent'),
    ],
)
def test_a_wrong_argument_is_named_with_the_rule(call: Any, problem: str) -> None:
    env = MettaGridEnv(CONFIG, 2, seed=3)
    env.reset()
    editor = WorldsEditor(env._worlds)
    editor.begin(PartCall("actions.x", 'the action "x"', "actions.x"))
    with pytest.raises(UsageError, match=f'the action "x": .*{problem}'):
        call(editor)


@pytest.mark.parametrize("change", ["move", "turn"])
@pytest.mark.parametrize(("rule", "may"), [("action", False), ("moving action", True), ("use", False), ("step", True)])
def test_only_rules_that_may_move_others_can_do_so(rule: str, may: bool, change: str) -> None:
    def act(worlds: WorldsEditor, agents: Any = None, rows: Any = None) -> np.ndarray | None:
        if change == "move":
            worlds.move([1], [[3, 1]])
        else:
            worlds.turn([1], 3)
        return None if rows is None else np.ones(len(agents), bool)

    name = f"test.{rule} {change}"
    tables: dict[str, Any] = {"actions": [{"key": "noop", "type": "noop"}, {"key": "mine", "type": "use"}]}
    if "action" in rule:
        ACTIONS.register(name, touches=lambda worlds, agents, _: worlds.positions[agents] + 1, moves_others=may)(act)
        tables["actions"][1]["type"] = name
    else:
        method = act if rule == "use" else lambda worlds, objects: act(worlds)
        OBJECTS.register(name)(type("Thing", (), {rule: staticmethod(method)}))
    thing = {"name": "thing", "type": "wall" if "action" in rule else name}
    world = {"type": "Ascii", "map": "#####\n#.t.#\n#.a.#\n#.a.#\n#####", "legend": {"a": "agent", "t": "thing"}}
    config = {"game": {"num_agents": 2}, **tables, "objects": [thing], "map_builder": world}
    env = MettaGridEnv(EnvConfig.model_validate(config), seed=0)
    env.reset()
    if may:
        env.step(np.array([[1, 0], [0, 0]]))
        assert (env.positions[1].tolist(), env.orientations[1]) == {"move": ([3, 1], 0), "turn": ([3, 2], 3)}[change]
    else:
        with pytest.raises(
            UsageError,
            match=f'"{"mine" if "action" in rule else "thing"}": moves or turns agents other than those that act',
        ):
            env.step(np.array([[1, 0], [0, 0]]))


def test_the_turns_of_agents_that_are_turned_before_are_taken_in_turn_order() -> None:
    """The first agent turns the second one toward an empty cell, into which the second moves before the third one."""

    def turn_left(worlds: WorldsEditor, agents: Any, arguments: Any) -> np.ndarray:
        others = worlds.faced_agents[agents]
        worlds.turn(others[others >= 0], 2)
        return np.asarray(others >= 0)

    ACTIONS.register("test.turn left", moves_others=True)(turn_left)
    world = {"type": "Ascii", "map": "#####\n##..#\n#.@.#\n#@@.#\n#####"}
    actions_ = [{"key": "turn", "type": "test.turn left"}, {"key": "move", "type": "move"}]
    config = EnvConfig.model_validate({"game": {"num_agents": 3}, "actions": actions_, "map_builder": world})
    env = MettaGridEnv(config, seed=0, auto_reset=False)
    for order, expected in (([2, 0, 1], [[2, 1], [3, 1], [3, 2]]), ([2, 1, 0], [[2, 2], [2, 1], [3, 2]])):
        env.reset()
        env.step(np.array([[1, 0], [1, 0], [0, 0]]), order=np.array(order))
        assert env.positions.tolist() == expected


def test_each_object_and_action_of_a_file_has_its_own_memory_and_random_numbers() -> None:
    def count(worlds: WorldsEditor) -> None:
        worlds.memory("count", "world", dtype=int)[:] += 1
        worlds.memory("drawn", "world", dtype=float)[:] = worlds.random("world")

    def act(worlds: WorldsEditor, agents: Any, arguments: Any) -> np.ndarray:
        count(worlds)
        return np.ones(len(agents), bool)

    OBJECTS.register("test.counter")(type("Counter", (), {"step": staticmethod(lambda worlds, objects: count(worlds))}))
    ACTIONS.register("test.counted", touches="self")(act)
    tables = {
        "objects": [{"name": name, "type": "test.counter"} for name in ("a", "b")],
        "actions": [{"key": name, "type": "test.counted"} for name in ("c", "d")],
        "map_builder": {"type": "Ascii", "map": "####\n#@a#\n#@b#\n####", "legend": {"a": "a", "b": "b"}},
    }
    env = MettaGridEnv(EnvConfig.model_validate({"game": {"num_agents": 2}, **tables}), seed=0)
    env.reset()
    for _ in range(3):
        env.step(np.array([[0, 0], [1, 0]]))
    arrays = env._worlds.part_arrays
    rules = ("objects.a", "objects.b", "actions.c", "actions.d")
    assert [arrays[f"{rule}.count"].tolist() for rule in rules] == [[3]] * 4
    assert len({float(arrays[f"{rule}.drawn"][0]) for rule in rules}) == 4
