"""Presets that are tasks: each world requires the skill that its comments name."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

import numpy as np
import pytest
import torch

from metta.baselines.random_policy import RandomPolicy
from metta.baselines.scripted import ScriptedPolicy
from metta.config.env.map_builder import AsciiConfig, ChoiceConfig
from metta.config.loading.load import load_config
from metta.config.loading.suites import SUITES
from metta.evaluation.evaluate import evaluate
from metta.geometry import STEPS
from metta.world.env import MettaGridEnv
from metta.world.parts.editor import WorldsEditor

TASKS = sorted(set(SUITES["all"].worlds) - {"hearts", "quickstart"})
GET = 4


@pytest.mark.parametrize("name", TASKS)
def test_the_scripted_policy_finds_what_random_play_does_not(name: str) -> None:
    """Whole episodes, with rewards to be had and to be missed."""
    config = load_config(name).env
    env = MettaGridEnv(config, seed=1)
    scripted = evaluate(ScriptedPolicy(config), env, 6)
    by_chance = evaluate(RandomPolicy(config.spec), env, 6)
    assert set(scripted.episode_lengths) == {config.game.max_steps}
    assert scripted.reward_interval.low > by_chance.reward_interval.high


@pytest.mark.parametrize("name", TASKS)
def test_a_run_is_small(name: str) -> None:
    config = load_config(name)
    assert config.agent.backbone == "mlp"
    assert config.run.total_timesteps <= 10_000_000  # ten minutes on two cores


def test_navigation_has_each_heart_once() -> None:
    config = load_config("navigation").env
    altar = config.object_types["altar"]
    assert not altar.input
    assert (altar.initial_items, altar.max_output) == (1, 1)
    assert altar.conversion_ticks is not None
    assert altar.conversion_ticks > config.game.max_steps


def test_memory_needs_what_is_out_of_sight_when_it_matters() -> None:
    """In each of the mazes the mine beneath the start tells the side of the altar; the crossing shows neither."""
    config = load_config("memory").env
    builder = config.map_builder
    assert isinstance(builder, AsciiConfig)
    rows = builder.rows
    starts = [(r, c) for r, row in enumerate(rows) for c, glyph in enumerate(row) if glyph == "@"]
    assert len(starts) == config.game.num_agents
    sides = []
    for row, col in starts:
        crossing = row
        while rows[crossing - 1][col] != "#":
            crossing -= 1
        arms = rows[crossing]
        left, right = arms.rindex("#", 0, col) + 1, arms.index("#", col) - 1
        assert {arms[left], arms[right]} == {"_", "."}
        sides.append(arms[left] == "_")
        assert (rows[row + 1][col] == "r") == sides[-1]
        sight = config.game.observation_width // 2
        assert row + 1 - crossing > sight
        assert col - left == right - col > sight
        # up, turn, along, take; the other arm first costs the way to where its end is in sight, and back
        up, along = row - crossing, col - left - 1
        direct = up + 1 + along + 1
        assert direct <= config.game.max_steps < direct + 2 * (along - sight + 1) + 1
    assert sorted(sides) == [False, False, True, True]


def test_foraging_pays_half_of_a_berry_to_the_family() -> None:
    config = load_config("foraging").env.override(
        width=6,
        height=2,
        map_builder={
            "type": "Ascii",
            "map": "n.....\nABABAB",
            "legend": {"A": "agent.fox", "B": "agent.owl"},
        },
    )
    env = MettaGridEnv(config, seed=0)
    env.reset()
    actions = np.zeros((6, 2), np.int32)
    actions[0, 0] = GET
    _, rewards, *_ = env.step(actions)
    np.testing.assert_allclose(rewards, [0.5 + 0.5 / 3, 0, 0.5 / 3, 0, 0.5 / 3, 0], rtol=1e-5)


def test_cooperation_gives_nothing_to_a_room_alone() -> None:
    """No way between the rooms; and with one of them standing still, nobody has a heart."""
    config = load_config("cooperation").env
    env = MettaGridEnv(config, num_worlds=4, seed=2)
    policy = ScriptedPolicy(config)
    for idle in ("left", "right"):
        observations, _ = env.reset()
        is_idle = env.groups == list(config.game.groups).index(idle)
        memory = policy.initial_memory(env.agents)
        hearts = 0.0
        for _ in range(config.game.max_steps):
            decision = policy.act(torch.from_numpy(observations), memory)
            memory = decision.memory
            actions = decision.actions.numpy()
            actions[is_idle] = 0
            observations, *_, info = env.step(actions)
            hearts += sum(episode.stats.get("heart.gained", 0.0) for episode in info.episodes)
        assert hearts == 0
    assert evaluate(policy, env, 4).stats["heart.gained"] > 1


def test_predators_alone_can_bite_and_a_bite_takes_what_was_gathered() -> None:
    drawn = {"type": "Ascii", "map": "lr\nAB", "legend": {"A": "agent.predator", "B": "agent.prey", "l": "lasery"}}
    config = load_config("predator_prey").env.override(
        num_agents=2, width=2, height=2, map_builder=drawn, time_punishment=0.0
    )
    names = config.spec.action_names
    get, rotate, bite = names.index("get_output"), names.index("rotate"), names.index("attack_nearest")
    env = MettaGridEnv(config, seed=0)
    env.reset()
    earned = []
    for predator, prey in [
        ((get, 0), (get, 0)),  # teeth, and an ore
        ((rotate, 3), (rotate, 2)),
        ((0, 0), (bite, 0)),  # no teeth: nothing happens
        ((bite, 0), (0, 0)),
    ]:
        _, rewards, *_ = env.step(np.array([predator, prey], np.int32))
        earned.append([round(float(reward), 3) for reward in rewards])
    assert earned == [[0.2, 0.2], [0, 0], [0, 0], [0.2, -0.2]]


def test_an_arena_is_for_two_even_teams() -> None:
    env = MettaGridEnv(load_config("arena_small").env, seed=0)
    env.reset()
    assert np.bincount(env.groups).tolist() == [4, 4]


def test_one_policy_plays_every_scene_of_the_curriculum() -> None:
    config = load_config("curriculum")
    scenes = [load_config(scene).env for scene in config.curriculum.scenes]
    assert len(scenes) >= 3
    assert all(not scene.spec.differing_fields(config.env.spec) for scene in scenes)


# -- worlds with custom rules --------------------------------------------------------------------------------


def drawings(name: str) -> list[AsciiConfig]:
    """The maps of a preset, one of which is chosen for each episode."""
    builder = load_config(name).env.map_builder
    assert isinstance(builder, ChoiceConfig)
    return [each for each in builder.builders if isinstance(each, AsciiConfig)]


def test_keys_and_doors_has_a_key_for_each_heart_and_as_many_doors_without() -> None:
    config = load_config("keys_and_doors").env
    for number in range(len(drawings("keys_and_doors"))):
        text = "\n".join(drawings("keys_and_doors")[number].rows)
        assert text.count("c") == text.count("_") == text.count("D") // 2 == 6
    env = MettaGridEnv(config, 8, seed=0, auto_reset=False)
    env.reset()
    generator = np.random.default_rng(0)
    masks = env.action_masks()
    for _ in range(config.game.max_steps):
        flat = (masks * generator.random(masks.shape)).argmax(axis=1)
        env.step(np.array(env.spec.flat_actions)[flat])
        masks = env.action_masks()
    stats = [agent for world in range(8) for agent in env.episode_stats(world)["agent"]]
    opened = sum(env.converters(world)["states"].sum() for world in range(8))
    assert opened == sum(agent.get("key.lost", 0) for agent in stats) > 0
    assert (env.inventories[:, 0] <= 1).all()


def test_a_harvest_ends_if_all_is_taken_and_goes_on_if_some_is_left() -> None:
    config = load_config("harvest").env
    left = []
    for every in (1, 2):
        env = MettaGridEnv(config, 4, seed=0)
        env.reset()
        editor = WorldsEditor(env._worlds)
        fields = np.flatnonzero(env._worlds.converter_cell >= 0)
        editor.set_state(fields[::every], "ripe", 0)
        for _ in range(60):
            env.step(np.zeros((env.agents, 2), np.int32))
        left.append(sum(int(env.converters(world)["states"].sum()) for world in range(4)) / len(fields))
    assert left[0] == 0
    assert left[1] > 0.8


def test_a_listener_needs_the_signal() -> None:
    """Without it, no plan finds the heart in more than one of the three maps; with it, it is found in time."""
    config = load_config("signals").env
    maps = [each.rows for each in drawings("signals")]
    listeners = [(row, col) for row, line in enumerate(maps[0]) for col, glyph in enumerate(line) if glyph == "l"]
    assert len(listeners) == 2

    def glyph(number: int, row: int, col: int) -> str:
        return maps[number][row][col].replace("l", ".")

    def sight(number: int, row: int, col: int) -> str:
        return "".join(glyph(number, row + down, col + right) for down in (-1, 0, 1) for right in (-1, 0, 1))

    @cache
    def found(possible: tuple[int, ...], row: int, col: int, facing: int, steps: int) -> int:
        """In how many of the possible maps a listener gets the heart, if it plays as well as it can."""
        if steps == 0:
            return 0
        ahead = (row + STEPS[facing][0], col + STEPS[facing][1])
        plans = [sum(glyph(number, *ahead) == "_" for number in possible)]
        for turned, step in [(turned, 0) for turned in range(4)] + [(facing, 1), (facing, -1)]:
            place = (row + step * STEPS[facing][0], col + step * STEPS[facing][1])
            is_free = glyph(possible[0], *place) == "."
            seen: dict[str, list[int]] = defaultdict(list)
            for number in possible:
                assert (glyph(number, *place) == ".") == is_free
                seen[sight(number, *(place if is_free else (row, col)))].append(number)
            after = (*(place if is_free else (row, col)), turned, steps - 1)
            plans.append(sum(found(tuple(numbers), *after) for numbers in seen.values()))
        return max(plans)

    for place in listeners:
        assert not set("123_") & set("".join(sight(number, *place) for number in range(3)))
        assert found((0, 1, 2), *place, 0, config.game.max_steps) == 1
        assert found((0, 1, 2), *place, 0, 2 * config.game.max_steps) == 3
        # the signal of the first step is seen before the second one
        assert all(found((number,), *place, 0, config.game.max_steps - 1) == 1 for number in range(3))
