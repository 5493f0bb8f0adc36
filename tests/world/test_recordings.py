"""Reading recordings: configurations of the C++ MettaGrid as EnvConfig, and recordings of unusual worlds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import engine_difference, main
from recordings import ACTIONS, UNNAMED, Recording, env_config
from reference import ReferenceWorld
from reference_entities import IDLE

WALL = {"type_id": 1, "swappable": False}
MINE = {"type_id": 2, "output_ore": 1, "max_output": 5, "conversion_ticks": 1, "cooldown": 3, "initial_items": 1}
KILN = {
    "type_id": 9,
    "input_ore": 1,
    "output_heart": 1,
    "max_output": 5,
    "conversion_ticks": 2,
    "cooldown": 0,
    "initial_items": 0,
}


def original(**changes: Any) -> dict[str, Any]:
    """A small configuration in the format of the C++ MettaGrid."""
    config = {
        "num_agents": 2,
        "num_observation_tokens": 60,
        "inventory_item_names": ["ore", "heart"],
        "obs_width": 5,
        "obs_height": 5,
        "max_steps": 0,
        "agent": {"default_item_max": 9, "freeze_duration": 2, "rewards": {"heart": 0.7, "ore": 0.1, "ore_max": 2}},
        "groups": {"red": {"id": 0, "sprite": 0, "props": {}}, "blue": {"id": 1, "sprite": 1, "props": {}}},
        "objects": {"wall": WALL, "mine": MINE, "kiln": KILN, "block": {"type_id": 7, "swappable": True}},
        "actions": {section: {"enabled": True} for _, section, _ in ACTIONS},
    }
    return config | changes


CELLS = np.array([["agent.red", "mine", "."], ["empty", " ", "agent.blue"]])


class TestConfiguration:
    def test_no_value_is_left_to_a_default(self) -> None:
        game = env_config(original(agent={}), CELLS).game
        assert (game.max_steps, game.episode_lifetime, game.time_punishment) == (0, 0, 0)
        for name in game.groups:
            settings = game.group_settings(name)
            assert [settings.item_cap(item) for item in ("ore", "heart")] == [0, 0]
            assert [settings.item_reward(item) for item in ("ore", "heart")] == [0, 0]
            assert [settings.item_reward_cap(item) for item in ("ore", "heart")] == [1000, 1000]
            assert (settings.freeze_duration, settings.action_failure_penalty) == (0, 0)

    def test_props_replace_whole_sections(self) -> None:
        blue = {"id": 1, "props": {"rewards": {"heart": 2}, "ore_max": 3, "freeze_duration": -1}}
        game = env_config(original(groups={"red": {"id": 4}, "blue": blue}), CELLS).game
        red, other = game.group_settings("red"), game.group_settings("blue")
        assert (red.item_reward("ore"), red.item_reward_cap("ore"), red.item_cap("ore")) == (0.1, 2, 9)
        assert (other.item_reward("ore"), other.item_reward_cap("ore"), other.item_cap("ore")) == (0, 1000, 3)
        assert (red.item_reward("heart"), other.item_reward("heart")) == (0.7, 2)
        assert (red.freeze_duration, other.freeze_duration) == (2, -1)
        assert game.groups["red"].id == 4

    def test_items_with_own_fields_are_optional(self) -> None:
        items = ["battery_red", "coin", "ore_red"]
        rewards = {"ore_red": 0.5, "ore_red_max": 1.5, "coin": 3, "battery_red_max": 7, "action_failure_penalty": 0.25}
        agent = {"default_item_max": 8, "battery_red_max": 200, "rewards": rewards}
        config = env_config(original(inventory_item_names=items, agent=agent, objects={"wall": WALL}), CELLS[:, [0, 2]])
        settings = config.game.group_settings("red")
        assert [settings.item_cap(item) for item in items] == [200, 8, 8]
        assert [settings.item_reward(item) for item in items] == [0, 3, 0.5]
        assert [settings.item_reward_cap(item) for item in items] == [7, 1000, 1.5]
        assert settings.action_failure_penalty == 0.25

    def test_type_ids_of_the_catalog_are_free_for_others(self) -> None:
        objects = {"wall": {"type_id": 5}, "mine": MINE | {"type_id": 8}, "altar": KILN | {"type_id": 1, "color": None}}
        types = env_config(original(objects=objects), CELLS).object_types
        assert [types[name].type_id for name in ("wall", "mine", "altar")] == [5, 8, 1]
        assert (types["altar"].input, types["altar"].output, types["altar"].cooldown) == ({"ore": 1}, {"heart": 1}, 0)
        assert len({kind.type_id for kind in types.values()}) == len(types)

    def test_actions_keep_their_ids(self) -> None:
        actions: dict[str, Any] = {
            "swap": {"enabled": False},
            "attack": {"consumed_resources": {"ore": 1}, "required_resources": {}, "defense_resources": {"heart": 2}},
            "move": {"required_resources": None, "consumed_resources": {"ore": 2}},
        }
        config = env_config(original(actions=actions), CELLS)
        names = "noop move rotate put_recipe_items get_output attack attack_nearest swap change_color"
        assert config.spec.action_names == names.split()
        assert config.spec.max_action_args == [0, 1, 3, 0, 0, 9, 0, 0, 3]
        assert all(config.spec.action_enabled)
        _, _, attack = config.action_table[6]
        assert (attack.required_resources, attack.defense_resources) == ({}, {"heart": 2})
        assert config.action_table[1][2].required_resources is None

    def test_unknown_items_are_ignored(self) -> None:
        """The C++ MettaGrid looks items up in its list and ignores all others."""
        kiln = KILN | {"input_coin": 2, "output_gold": 1, "input_heart": None}
        attack = {"consumed_resources": {"laser": 1, "ore": 1}, "defense_resources": {"armor": 1}}
        config = env_config(
            original(objects={"wall": WALL, "kiln": kiln}, actions={"attack": attack}, max_steps=None), CELLS[:, [0, 2]]
        )
        assert (config.object_types["kiln"].input, config.object_types["kiln"].output) == ({"ore": 1}, {"heart": 1})
        _, _, action = config.action_table[5]
        assert (action.consumed_resources, action.defense_resources) == ({"ore": 1}, {})
        assert config.can_act(action)
        assert config.game.max_steps == 0

    @pytest.mark.parametrize(("width", "height", "seen"), [(8, 6, (9, 7)), (1, 15, (1, 15)), (14, 2, (15, 3))])
    def test_even_windows_are_rounded_up(self, width: int, height: int, seen: tuple[int, int]) -> None:
        game = env_config(original(obs_width=width, obs_height=height), CELLS).game
        assert (game.observation_width, game.observation_height) == seen


def recorded(path: Path, config: dict[str, Any], cells: np.ndarray, steps: int, seed: int = 0) -> Path:
    """A recording in the format of the C++ MettaGrid, made by the reference simulator."""
    meaning = env_config(config, cells)
    types = {name: kind.type_id for name, kind in meaning.object_types.items()} | {"empty": 0, ".": 0, " ": 0}
    types |= {f"agent.{group}": -1 - index for index, group in enumerate(meaning.game.groups)}
    world = ReferenceWorld(meaning, np.array([[types[name] for name in row] for row in cells], np.int16))
    generator = np.random.default_rng(seed)
    agents = meaning.game.num_agents
    actions = generator.integers(0, 10, (steps, agents, 2)).astype(np.int32)
    order = np.stack([generator.permutation(agents) for _ in range(steps)]).astype(np.uint8)
    blocks = [cell for cell, entity in world.grid.items() if getattr(getattr(entity, "kind", None), "swappable", False)]
    block_entities = [world.grid[cell] for cell in blocks]
    observations, states, stepped = [world.reset()], [world.state()], []
    block_places = [[(entity.row, entity.col) for entity in block_entities]]
    success, accumulated = [], []
    for now in range(steps):
        *results, _, truncated = world.step(actions[now], order[now])
        observations.append(results[0])
        stepped.append((results[1], truncated))
        states.append(world.state())
        success.append(list(world.success))
        accumulated.append(states[-1]["accumulated reward of agents"])
        block_places.append([(entity.row, entity.col) for entity in block_entities])
    used = max(1, int((np.array(observations)[..., 0] != 0xFF).sum(2).max()))
    items = len(meaning.game.inventory_item_names)
    stack = {name: np.array([state[name] for state in states]) for name in states[0] if name != "cells"}
    np.savez(
        path,
        config=json.dumps(config),
        map=cells,
        actions=actions,
        order=order,
        obs=np.array(observations)[:, :, :used],
        obs_capacity=meaning.game.num_observation_tokens,
        rewards=np.array([rewards for rewards, _ in stepped], np.float32),
        truncations=np.array([truncated for _, truncated in stepped]),
        action_success=np.array(success),
        episode_rewards_steps=np.array(accumulated, np.float32),
        agent_rc=stack["position of agents"].astype(np.int16),
        agent_orientation=stack["orientation of agents"].astype(np.uint8),
        agent_frozen=stack["frozen of agents"].astype(np.uint8),
        agent_color=stack["color of agents"].astype(np.uint8),
        agent_inventory=stack["inventory of agents"].astype(np.uint8),
        conv_busy=stack["busy of converters"].astype(np.uint8),
        conv_inventory=stack["inventory of converters"].astype(np.uint8).reshape(steps + 1, -1, items),
        conv_type=np.array([converter.kind.name for converter in world.converters], str),
        block_rc=np.array(block_places, np.int16).reshape(steps + 1, -1, 2),
        stats=json.dumps(_as_told(world)),
    )
    return path


def _as_told(world: ReferenceWorld) -> dict[str, Any]:
    """Statistics as the C++ MettaGrid writes them: with derived keys, and unnamed items consumed at construction."""
    told: dict[str, Any] = world.statistics()
    told["game"] |= {"tokens_written.avg": 1.5, "objects.wall.first_step": 1.0}
    for counters, converter in zip(told["converter"], world.converters, strict=True):
        counters |= {"type_id": 1.0, "location.r": converter.row, "location.c": converter.col}
    first = ReferenceWorld(world.config, np.array(world.start))
    for counters, converter in zip(told["converter"], first.converters, strict=True):
        if converter.phase != IDLE and converter.input:
            counters[UNNAMED] = sum(converter.input.values())
            for item, amount in converter.input.items():
                counters[f"{world.items[item]}.consumed"] -= amount
    return told


EMPTY_WORLD = np.array([["agent.red", "empty"], [".", "agent.blue"]])
LARGE = np.array([["wall", "agent.blue", "mine", "kiln", "."], ["block", ".", "agent.red", "block", "temple"]])
TEMPLE = KILN | {"type_id": 200, "input_heart": 1, "output_heart": 3, "initial_items": 2}


class TestUnusualWorlds:
    @pytest.mark.parametrize(
        ("config", "cells"),
        [
            (original(), CELLS),
            (original(), EMPTY_WORLD),
            (original(obs_width=1, obs_height=1, num_observation_tokens=3), CELLS),
            (original(max_steps=30, obs_width=4), CELLS),
            (original(max_steps=12), CELLS),
            (original(num_agents=1), np.array([["agent.blue"]])),
            (original(objects=original()["objects"] | {"temple": TEMPLE}), LARGE),
            (original(groups={"blue": {"id": 3, "group_reward_pct": 1}, "red": {"id": 0, "props": {}}}), CELLS),
        ],
        ids=["plain", "empty", "one cell", "to the limit", "past the limit", "alone", "temple", "ids"],
    )
    def test_agree(self, tmp_path: Path, config: dict[str, Any], cells: np.ndarray) -> None:
        difference = engine_difference(Recording(recorded(tmp_path / "made.npz", config, cells, steps=30)))
        assert difference is None, f"\n{difference}"

    def test_a_rejected_configuration_is_reported(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = recorded(tmp_path / "made.npz", original(), CELLS, steps=2)
        arrays = dict(np.load(path))
        np.savez(path, **(arrays | {"config": json.dumps(original(obs_width=17))}))
        assert main([str(path)]) == 1
        told = capsys.readouterr().out
        assert "made: metta rejects the configuration" in told
        assert "observation_width" in told
