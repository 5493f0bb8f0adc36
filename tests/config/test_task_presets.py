"""Presets that are tasks: each world requires the skill that its comments name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metta.baselines.random_policy import RandomPolicy
from metta.baselines.scripted import ScriptedPolicy
from metta.config.env.map_builder import AsciiConfig
from metta.config.loading.load import load_config
from metta.config.loading.suites import SUITES
from metta.evaluation.evaluate import evaluate
from metta.world.env import MettaGridEnv

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
    assert config.run.total_timesteps <= 3_000_000


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
