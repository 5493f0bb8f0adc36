"""Worlds of one policy with different actions: the union of their actions, and what cannot be united."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from metta.api import load_policy, make_agent, make_curriculum, save_checkpoint
from metta.baselines.scripted import ScriptedPolicy
from metta.checkpoint.policy_checkpoint import trained_tasks
from metta.config.env.env_config import MAX_ACTIONS, EnvConfig
from metta.config.env.objects import DEFAULT_ITEMS
from metta.config.loading.curriculum_tasks import evaluation_world
from metta.config.loading.load import load_config, load_tasks, parse_config, read_config
from metta.config.plan.check import derived
from metta.config.plan.world_union import WorldUnion, unite_worlds
from metta.errors import ConfigError
from metta.rl.curricula.curriculum import Curriculum
from metta.world.env import MettaGridEnv

NOOP = {"type": "noop", "key": "noop"}
MOVE = {"type": "move", "key": "move"}
ROTATE = {"type": "rotate", "key": "rotate"}
SWAP = {"type": "swap", "key": "swap"}
ATTACK = {"type": "attack", "key": "attack"}
ARMED = {**ATTACK, "consumed_resources": {"laser": 1}, "defense_resources": {"armor": 1}}
TURN = {"type": "rotate", "key": "turn", "delta": 1}
GIFT = {"type": "gift", "key": "gift", "item": "heart"}
OPEN = {"type": "use", "key": "open", "use": "altar"}


def off(action: dict[str, Any]) -> dict[str, Any]:
    return action | {"enabled": False}


def world(*actions: dict[str, Any], **game: Any) -> EnvConfig:
    values = {"num_agents": 4, "width": 10, "height": 10, "max_steps": 30} | game
    return EnvConfig.model_validate({"game": values, "actions": list(actions)})


def objects(*entries: dict[str, Any]) -> EnvConfig:
    return EnvConfig.model_validate(world(NOOP).model_dump(exclude_unset=True) | {"objects": list(entries)})


PAIRS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]] = {
    "same": ([NOOP, MOVE], [NOOP, MOVE], ["noop", "move"]),
    "second lacks": ([NOOP, MOVE, SWAP], [NOOP, MOVE], ["noop", "move", "swap"]),
    "first lacks": ([NOOP, MOVE], [NOOP, MOVE, SWAP], ["noop", "move", "swap"]),
    "both lack": ([NOOP, MOVE, SWAP], [NOOP, ROTATE], ["noop", "move", "swap", "rotate"]),
    "nothing in common": ([MOVE], [ROTATE], ["move", "rotate"]),
    "other order": ([NOOP, MOVE, ROTATE], [ROTATE, NOOP, MOVE], ["noop", "move", "rotate"]),
    "lacks noop": ([MOVE, ROTATE], [NOOP, MOVE], ["move", "rotate", "noop"]),
    "two ids": ([NOOP, ATTACK, MOVE], [NOOP, MOVE], ["noop", "attack", "attack_nearest", "move"]),
    "two ids later": ([NOOP, MOVE], [ATTACK, NOOP, MOVE], ["noop", "move", "attack", "attack_nearest"]),
    "other costs": ([NOOP, ATTACK], [NOOP, ARMED], ["noop", "attack", "attack_nearest"]),
    "costs where absent": ([NOOP], [NOOP, ARMED], ["noop", "attack", "attack_nearest"]),
    "disabled in one": ([NOOP, SWAP], [NOOP, off(SWAP)], ["noop", "swap"]),
    "disabled in both": ([NOOP, off(SWAP)], [NOOP, off(SWAP)], ["noop", "swap"]),
    "disabled or absent": ([NOOP, off(SWAP)], [NOOP], ["noop", "swap"]),
    "relative turn": ([NOOP, TURN], [NOOP, ROTATE], ["noop", "turn", "rotate"]),
    "gift": ([NOOP, MOVE], [NOOP, GIFT], ["noop", "move", "gift"]),
    "other gift": ([NOOP, GIFT | {"item": "laser"}], [NOOP, GIFT], ["noop", "gift"]),
    "use": ([NOOP, OPEN], [NOOP, MOVE], ["noop", "open", "move"]),
    "other use": ([NOOP, OPEN | {"use": "mine"}], [NOOP, OPEN], ["noop", "open"]),
}
"""Actions of two worlds, and the names of the actions of both in the order of their ids."""


@pytest.mark.parametrize("pair", PAIRS)
def test_two_worlds_have_one_list_of_actions(pair: str) -> None:
    ours, theirs, names = PAIRS[pair]
    worlds = world(*ours), world(*theirs)
    united = unite_worlds(worlds)
    assert united[0].spec == united[1].spec
    assert united[0].spec.action_names == names
    sampled = {name for config in worlds for name in _able(config)}
    assert {names[action] for action, _ in united[0].spec.flat_actions} == sampled
    for config, own in zip(united, worlds, strict=True):
        assert _able(config) == _able(own)  # in the same world, the same actions can succeed
        assert EnvConfig.model_validate(config.model_dump(exclude_none=True)) == config  # as in a checkpoint
        assert config.override(max_steps=30).spec == config.spec
        stripped = config.without_reserved
        assert not any(entry.reserved for entry in stripped.actions)
        assert {name for name, _, _ in stripped.action_table} >= set(_able(own)) == set(_able(stripped))
        kept = {entry.key: entry for entry in own.actions if own.can_act(entry)}
        assert kept == {entry.key: entry for entry in config.actions if config.can_act(entry)}  # costs included
    assert unite_worlds(united) == united
    if all(config.spec.action_names == names and config.spec == united[0].spec for config in worlds):
        assert all(config is own for config, own in zip(united, worlds, strict=True))


def _able(config: EnvConfig) -> list[str]:
    """The actions that can succeed."""
    return sorted(name for name, _, action in config.action_table if config.can_act(action))


@pytest.mark.parametrize("pair", PAIRS)
def test_a_united_world_plays_as_before_and_what_it_lacks_fails(pair: str) -> None:
    """The same actions by name, in a world with its own list of actions and with that of two worlds."""
    worlds = [world(*actions) for actions in PAIRS[pair][:2]]
    for own, fitted in zip(worlds, unite_worlds(worlds), strict=True):
        alone, united = MettaGridEnv(own, 3, seed=5), MettaGridEnv(fitted, 3, seed=5)
        alone.reset()
        united.reset()
        ids = {name: action_id for action_id, name in enumerate(alone.spec.action_names)}
        to_own = np.array([ids.get(name, -1) for name in united.spec.action_names])
        able = [name in _able(own) for name in united.spec.action_names]
        rng = np.random.default_rng(0)
        flat = np.array(united.spec.flat_actions)
        for _ in range(40):
            actions = flat[rng.integers(0, len(flat), united.agents)]
            lacked = ~np.array(able)[actions[:, 0]]
            own_actions = actions.copy()
            own_actions[:, 0] = np.where(lacked, 99, to_own[actions[:, 0]])
            rewards, own_rewards = united.step(actions)[1], alone.step(own_actions)[1]
            assert not united.action_success[lacked].any()
            np.testing.assert_array_equal(united.action_success, alone.action_success)
            np.testing.assert_array_equal(united.positions, alone.positions)
            np.testing.assert_array_equal(united.inventories, alone.inventories)
            np.testing.assert_array_equal(rewards, own_rewards)


@pytest.mark.parametrize("pair", PAIRS)
def test_masks_leave_out_what_a_world_lacks(pair: str) -> None:
    worlds = [world(*actions) for actions in PAIRS[pair][:2]]
    env = MettaGridEnv(worlds, 8, seed=3)
    env.reset()
    actions = np.array(env.spec.flat_actions)
    names = np.array(env.spec.action_names)[actions[:, 0]]
    able = np.array([np.isin(names, _able(config)) for config in worlds])
    rng = np.random.default_rng(0)
    for _ in range(70):  # two episodes
        masks = env.action_masks()
        allowed = able[np.repeat(env.tasks, env.num_agents)]
        is_stuck = ~(masks & allowed).any(axis=1)
        assert not (masks & ~allowed)[~is_stuck].any()
        assert masks.any(axis=1).all()
        scores = rng.random(masks.shape) * masks
        env.step(actions[scores.argmax(axis=1)])


CONFLICTS: dict[str, tuple[EnvConfig, EnvConfig, str]] = {
    "arguments": (world(ROTATE), world(TURN | {"key": "rotate"}), 'largest argument of the action "rotate" is 0'),
    "type": (world(NOOP, SWAP), world(NOOP, MOVE | {"key": "swap"}), '"swap" is of type "move", not "swap"'),
    "name of two": (
        world(NOOP, ATTACK),
        world(NOOP, SWAP | {"key": "attack_nearest"}),
        '"attack_nearest" is of type "swap", not "attack_nearest"; rename one of them',
    ),
    "agents": (world(NOOP), world(NOOP, num_agents=3), "env.game.num_agents is 3, not 4"),
    "window": (world(NOOP), world(NOOP, observation_width=5), "env.game.observation_width is 5, not 11"),
    "tokens": (world(NOOP), world(NOOP, num_observation_tokens=9), "env.game.num_observation_tokens is 9, not 200"),
    "groups": (world(NOOP), world(NOOP, groups={"red": {"id": 7}}), "env.game.groups, by id, has 7"),
    "items": (world(NOOP), world(NOOP, inventory_item_names=[*DEFAULT_ITEMS, "coal"]), "item_names has coal"),
    "fewer items": (world(NOOP), world(NOOP, inventory_item_names=DEFAULT_ITEMS[:-1]), "item_names lacks blueprint"),
    "order of items": (
        world(NOOP),
        world(NOOP, inventory_item_names=DEFAULT_ITEMS[::-1]),
        "env.game.inventory_item_names has the same entries with other ids",
    ),
    "objects": (objects(), objects({"type": "wall", "name": "lamp", "type_id": 20}), "env.objects has lamp"),
    "fewer objects": (objects({"type": "wall", "name": "lamp", "type_id": 20}), objects(), "env.objects lacks lamp"),
    "ids of objects": (
        objects({"type": "wall", "name": "lamp", "type_id": 20}),
        objects({"type": "wall", "name": "lamp"}),
        "env.objects has the same entries with other ids",
    ),
    "too many": (
        world(*({"type": "noop", "key": f"a{index}"} for index in range(60))),
        world(*({"type": "noop", "key": f"b{index}"} for index in range(60))),
        f"all worlds together have 120 actions; the limit is {MAX_ACTIONS}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("conflict", CONFLICTS)
def test_what_cannot_be_united_is_named(conflict: str) -> None:
    first, second, message = CONFLICTS[conflict]
    for worlds in ((first, second), (first, first, second)):
        with pytest.raises(ConfigError, match=rf"task {len(worlds) - 1}\" .*{re.escape(message)}"):
            MettaGridEnv(worlds)
        with pytest.raises(ConfigError, match=re.escape(message)):
            make_curriculum(scenes=worlds)
    assert not WorldUnion([first]).covers(second)


def test_the_scene_that_differs_is_named_with_the_one_it_differs_from(tmp_path: Any) -> None:
    for name, actions in {
        "a": '{ type = "noop", key = "noop" }',
        "b": "",
        "c": '{ type = "move", key = "swap" }',
    }.items():
        (tmp_path / f"{name}.toml").write_text(f"env.actions = [{actions}]\n" if actions else "")
    scenes = [str(tmp_path / f"{name}.toml") for name in "abc"]
    with pytest.raises(ConfigError, match=r'c.toml" differs from ".*b.toml": the action "swap" is of type "move"'):
        make_curriculum(scenes=scenes)


def test_a_world_in_which_nothing_can_succeed_keeps_the_actions_of_the_others(tmp_path: Any) -> None:
    curriculum = make_curriculum(scenes=[world(off(NOOP)), world(NOOP, MOVE)])
    env = MettaGridEnv(curriculum.env_configs)
    agent = make_agent(env.single_observation_space, env.single_action_space, [], "cpu")
    save_checkpoint(agent, tmp_path)
    assert load_policy(tmp_path / "checkpoint_000000.pt").agent.spec == env.spec


def test_a_bucket_can_disable_an_action() -> None:
    buckets = 'curriculum.buckets."actions.attack.enabled" = { values = [true, false] }\n'
    tasks = load_tasks(parse_config(f"env.game = {{ num_agents = 4 }}\n{buckets}", "a.toml"))
    enabled, disabled = tasks.env_configs
    assert enabled.spec == disabled.spec == EnvConfig().override(num_agents=4).spec
    assert set(_able(enabled)) - set(_able(disabled)) == {"attack", "attack_nearest"}


def test_a_thousand_maps_beside_a_world_with_other_actions_share_their_rules() -> None:
    scenes = [world(NOOP, MOVE), world(NOOP, MOVE, SWAP)]
    buckets = {"map_builder.border_width": {"values": [0, 1]}, "map_builder.objects.wall": {"range": [1, 8], "bins": 8}}
    tasks = make_curriculum(scenes=scenes, buckets=buckets).tasks
    assert len({id(config.spec) for config in tasks.env_configs[:16]}) == 1
    assert len({config.rules_key for config in tasks.env_configs}) == 2


EVALUATED = {
    "other actions, all in scenes": (world(MOVE, ROTATE), True),
    "an action that no scene has": (world(NOOP, SWAP), False),
    "disabled action that no scene has": (world(NOOP, off(SWAP)), True),
    "other window": (world(NOOP, observation_width=5), False),
    "other number of agents": (world(NOOP, num_agents=3), False),
}


@pytest.mark.parametrize("name", EVALUATED)
def test_the_evaluation_world_is_env_if_the_policy_has_its_actions(name: str) -> None:
    env, is_playable = EVALUATED[name]
    tasks = make_curriculum(scenes=[world(NOOP, MOVE), world(NOOP, ROTATE)]).tasks
    chosen = evaluation_world(env, tasks)
    assert chosen is (env if is_playable else tasks.scenes[-1][1])
    assert tasks.union.fit(chosen).spec == tasks.env_configs[0].spec


def test_a_curriculum_of_presets_with_different_actions_survives_saving() -> None:
    curriculum = make_curriculum(scenes=["hearts_easy", "simple", "hearts_quick"])
    saved = Curriculum.from_state(curriculum.state())
    assert saved.env_configs == curriculum.env_configs
    assert [env.spec for _, env in saved.tasks.scenes] == [
        read_config(scene).env.spec for scene in ("hearts_easy", "simple", "hearts_quick")
    ]
    assert [len(env.spec.flat_actions) for env in saved.tasks.by_name.values()] == [9, 25, 9]


def test_check_counts_the_actions_and_names_those_that_fail() -> None:
    scenes = 'curriculum.scenes=["hearts_easy", "hearts_quick", "simple"]'
    rows = derived(load_config("hearts", [scenes, "agent.mask_actions=false"]))
    actions = {row.name: row.number for row in rows if "actions" in row.name}
    assert actions == {"actions": 25, "actions of the policy": 25}
    lacked = "attack, attack_nearest, swap, change_color"
    assert any(row.is_warning and f"fail in hearts_easy, hearts_quick: {lacked}" in row.reason for row in rows)
    masked = derived(load_config("hearts", [scenes, "agent.mask_actions=true"]))
    assert not any(row.is_warning and lacked in row.reason for row in masked)
    alike = derived(load_config("hearts"))
    assert not any("actions of" in row.name or "actions of" in row.reason for row in alike)


@pytest.mark.parametrize("index", [0, 1])
def test_the_scripted_policy_uses_what_its_world_has(index: int) -> None:
    """In the second world `use` takes the place of the other world's actions at converters."""
    get, put = {"type": "get_items", "key": "get"}, {"type": "put_items", "key": "put"}
    config = unite_worlds([world(MOVE, ROTATE, get, put), world(MOVE, ROTATE, OPEN | {"use": None})])[index]
    env = MettaGridEnv(config, 2, seed=0)
    policy = ScriptedPolicy(config)
    able = {action for action, (_, _, entry) in enumerate(config.action_table) if config.can_act(entry)}
    observations, _ = env.reset()
    memory = policy.initial_memory(env.agents)
    for _ in range(30):
        output = policy.act(torch.from_numpy(observations), memory)
        memory = output.memory
        assert set(output.actions[:, 0].tolist()) <= able
        observations = env.step(output.actions.numpy())[0]


def test_a_checkpoint_is_loaded_for_the_actions_of_its_own_world(tmp_path: Any) -> None:
    """As with `--env` of the same world: the probability of actions that it lacks goes to the others."""
    scenes = [world(NOOP, MOVE), world(NOOP, MOVE, SWAP)]
    curriculum = make_curriculum(scenes=scenes)
    env = MettaGridEnv(curriculum.env_configs)
    agent = make_agent(env.single_observation_space, env.single_action_space, [], "cpu")
    save_checkpoint(agent, tmp_path)
    path = tmp_path / "checkpoint_000000.pt"
    loaded = load_policy(path)
    assert loaded.agent.spec == scenes[0].spec
    assert loaded.missing == ("action swap",)
    assert trained_tasks(path) == {"evaluation world": scenes[0]}
    for config, united in product(scenes, [*curriculum.env_configs]):
        assert load_policy(path, env_config=config).agent.spec == config.spec
        assert load_policy(path, env_config=united).agent.spec == united.spec
