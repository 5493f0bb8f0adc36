"""Attacks of the scripted policy: whom it attacks, with which actions, and that it wins against one that does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metta.baselines.scripted import ScriptedPolicy
from metta.config.env.env_config import EnvConfig
from metta.config.env.token_features import FEATURE_IDS, NO_TOKEN
from metta.config.loading.load import load_config
from metta.evaluation.evaluate import evaluate
from metta.evaluation.match import play_match
from metta.geometry import DOWN, LEFT, RIGHT, UP
from metta.world.env import MettaGridEnv

ACTIONS = [
    {"type": "move", "key": "move"},
    {"type": "rotate", "key": "rotate"},
    {"type": "get_items", "key": "get"},
    {"type": "put_items", "key": "put"},
]


def arena(attack=None, actions=ACTIONS, **game) -> EnvConfig:
    """Two teams, a mine of hearts and one of ore, without value if `game` does not say otherwise."""
    teams = {"red": {"id": 3}, "blue": {"id": 5}}
    game = {"ore_red_reward": 0.0, "battery_red_reward": 0.0, "time_punishment": 0.0, "groups": teams, **game}
    mine = {"type": "mine", "name": "heart_mine", "output": {"heart": 1}}
    return EnvConfig(
        game=game,
        actions=[*actions, {"type": "attack", "key": "attack", **(attack or {})}],
        objects=[mine],
        map_builder={
            "type": "Ascii",
            "map": "1.h.r.l.2",
            "legend": {"1": "agent.red", "2": "agent.blue", "h": "heart_mine"},
        },
    )


def choices(config: EnvConfig, *others, facing=UP, **held) -> dict[str, float]:
    """Probability by label of what an agent does that holds `held` and sees `others`, and no object.

    Each of them is (row, col, group, is_frozen, items) with the cell relative to the agent.
    """
    spec, tokens = config.spec, []
    middle = spec.observation_height // 2, spec.observation_width // 2

    def add(row, col, **values):
        location = (middle[0] + row) << 4 | (middle[1] + col)
        for name, value in values.items():
            feature = FEATURE_IDS.get(name.replace("agent_", "agent:"), -1)
            tokens.append((location, feature if feature >= 0 else spec.feature_names.index(f"inv:{name}"), value))

    add(0, 0, type_id=0, agent_group=3, agent_orientation=facing, **held)
    for row, col, group, is_frozen, items in others:
        add(row, col, type_id=0, agent_group=group, agent_frozen=int(is_frozen), agent_orientation=0, **items)
    observation = np.full((1, spec.num_observation_tokens, 3), NO_TOKEN, np.uint8)
    observation[0, : len(tokens)] = tokens
    policy = ScriptedPolicy(config)
    output = policy.act(torch.from_numpy(observation), policy.initial_memory(1))
    assert output.logits is not None
    chosen = tuple(output.actions[0].tolist())
    probabilities = output.logits[0].exp().tolist()
    labels = {
        (spec.action_names[action] + f" {argument}" * (spec.max_action_args[action] > 0)): probability
        for (action, argument), probability in zip(spec.flat_actions, probabilities, strict=True)
        if probability > 0
    }
    assert spec.action_names[chosen[0]] in " ".join(labels)
    return labels


def rival(row, col, is_frozen=False, group=5, **items):
    return row, col, group, is_frozen, items or {"heart": 2}


LASER = {"consumed_resources": {"laser": 1}, "defense_resources": {"armor": 1}}


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([rival(-1, 0)], {"attack 2", "attack_nearest"}),
        ([rival(-1, -1)], {"attack 1", "attack_nearest"}),
        ([rival(-3, 1)], {"attack 9", "attack_nearest"}),
        # the nearest one has nothing, or is of the own team
        ([rival(-1, 0, heart=0), rival(-2, 1)], {"attack 6"}),
        ([rival(-1, 0, group=3), rival(-2, 1)], {"attack 6"}),
        # the richer one; both of them
        ([rival(-1, 0, heart=1), rival(-2, 1, heart=5)], {"attack 6"}),
        ([rival(-1, 1), rival(-2, 1)], {"attack 3", "attack 6", "attack_nearest"}),
    ],
)
def test_it_attacks_the_victim_that_is_worth_most(others, expected):
    labels = choices(arena(), *others)
    assert set(labels) == expected
    assert all(value == pytest.approx(1 / len(expected)) for value in labels.values())


@pytest.mark.parametrize(
    ("facing", "row", "col", "action"),
    [(UP, -2, -1, "attack 4"), (DOWN, 2, 1, "attack 4"), (LEFT, 1, -2, "attack 4"), (RIGHT, -1, 2, "attack 4")],
)
def test_targets_turn_with_the_agent(facing, row, col, action):
    assert set(choices(arena(), rival(row, col), facing=facing)) == {action, "attack_nearest"}


@pytest.mark.parametrize(
    ("config", "other", "held", "attacks"),
    [
        (arena(), rival(-1, 0), {}, True),
        (arena(), rival(-1, 0, group=3), {}, False),
        (arena(), rival(-1, 0, is_frozen=True), {}, False),
        (arena(freeze_duration=-1), rival(-1, 0, is_frozen=True), {}, True),
        (arena(), rival(-1, 0, ore_red=9), {}, False),  # of no value
        (arena(heart_reward=0.0), rival(-1, 0), {}, False),
        (arena(heart_max=3), rival(-1, 0, heart=3), {"heart": 3}, False),
        (arena(heart_max_reward=3.0), rival(-1, 0, heart=3), {"heart": 3}, False),
        (arena(heart_max=3), rival(-1, 0), {"heart": 2}, True),
        (arena(reward_sharing_groups={"blue": {"red": 0.5}}), rival(-1, 0), {}, False),
        (arena({"enabled": False}), rival(-1, 0), {}, False),
        (arena(LASER), rival(-1, 0), {}, False),
        (arena(LASER), rival(-1, 0), {"laser": 1}, True),
        (arena(LASER), rival(-1, 0, heart=2, armor=1), {"laser": 1}, False),
        (arena(LASER, item_rewards={"laser": 3.0}), rival(-1, 0), {"laser": 1}, False),  # costs more than it gains
        (arena({"required_resources": {"laser": 1}}, item_rewards={"laser": 3.0}), rival(-1, 0), {"laser": 1}, True),
    ],
)
def test_it_attacks_only_if_it_can_and_gains(config, other, held, attacks):
    assert any("attack" in label for label in choices(config, other, **held)) == attacks


@pytest.mark.parametrize(
    ("config", "other", "held", "attacks"),
    [
        (arena(), rival(-1, 0, heart=0), {"heart": 2}, True),
        (arena(), rival(-1, 0, heart=0), {}, False),  # nothing to lose
        (arena(), rival(-1, 0, group=3, heart=0), {"heart": 2}, False),
        (arena(), rival(-1, 0, is_frozen=True, heart=0), {"heart": 2}, False),
        (arena(freeze_duration=0), rival(-1, 0, heart=0), {"heart": 2}, False),
        (arena(LASER), rival(-1, 0, heart=0), {"heart": 2, "laser": 1}, False),  # it has no laser
        (arena(LASER), rival(-1, 0, laser=1), {"heart": 2, "laser": 1}, True),
        (arena(LASER), rival(-1, 0, laser=1, armor=1), {"heart": 2, "laser": 1}, False),
        (arena(LASER), rival(-1, 0, laser=1), {"heart": 2, "laser": 1, "armor": 1}, False),
        (
            arena(LASER, heart_max=2),
            rival(-1, 0, laser=1, heart=2),
            {"heart": 2, "laser": 1},
            False,
        ),  # cannot take more
    ],
)
def test_it_freezes_who_could_rob_it(config, other, held, attacks):
    assert any("attack" in label for label in choices(config, other, **held)) == attacks


def test_it_turns_to_a_victim_in_reach_and_walks_to_one_in_sight():
    assert choices(arena(), rival(0, 3), facing=UP) == {"rotate 3": 1.0}
    assert choices(arena(), rival(-1, 2), facing=UP) == {"rotate 3": 1.0}  # also one step nearer if it moved up
    assert choices(arena(), rival(0, 5), facing=RIGHT) == {"move 0": 1.0}


def test_what_an_attack_needs_has_the_value_of_loot():
    """Lasers, and the ore they are made of, are worth something only to those who can rob others."""
    assert {"lasery", "mine_red"} <= set(ScriptedPolicy(arena(LASER)).recipes.names)
    assert ScriptedPolicy(arena({"enabled": False})).recipes.names == ["heart_mine"]


@pytest.mark.parametrize(("preset", "team"), [("arena_small", ["team_1"]), ("predator_prey", ["predator"])])
def test_it_wins_against_one_that_does_not_attack(preset, team):
    config = load_config(preset).env
    attacker, peaceful = ScriptedPolicy(config), ScriptedPolicy(config)
    peaceful._attacks = None
    match = play_match(attacker, peaceful, MettaGridEnv(config), 2, seed=1, groups=team)
    assert match.policy_rewards.mean() > 4 * match.opponent_rewards.mean()


@pytest.mark.parametrize("preset", ["arena_small", "predator_prey"])
def test_its_attacks_never_fail(preset):
    config = load_config(preset, ["env.game.max_steps=120"]).env
    stats = evaluate(ScriptedPolicy(config), MettaGridEnv(config), 4, seed=2).stats
    assert stats["action.attack.success"] > 0
    assert not {name for name in stats if "attack" in name and name.endswith("failed")}
