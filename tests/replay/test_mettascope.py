"""The MettaScope file: its keys, its lists of changes, and their agreement with the simulator."""

from __future__ import annotations

import json
import zlib
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from episodes import LIVELY, ScriptedPolicy, drawn, shortest, simulated, unpacked, value_at

from metta.baselines.random_policy import RandomPolicy
from metta.config.env.env_config import EnvConfig
from metta.replay.mettascope import mettascope_bytes
from metta.replay.recording import Replay, record_episode


@pytest.fixture(scope="module")
def content(lively: Replay) -> dict[str, Any]:
    return unpacked(mettascope_bytes(lively))


def test_keys(content: dict[str, Any]) -> None:
    entities = content.pop("grid_objects")
    config = content.pop("config")
    game = {key: value for key, value in config["game"].items() if key != "objects"}  # for the original viewer
    assert content == {
        "version": 1,
        "action_names": LIVELY.spec.action_names,
        "inventory_items": LIVELY.game.inventory_item_names,
        "object_types": LIVELY.spec.object_type_names,
        "map_size": [10, 8],
        "num_agents": 6,
        "max_steps": 90,
    }
    assert EnvConfig.model_validate(config | {"game": game}).spec == LIVELY.spec
    content |= {"grid_objects": entities, "config": config}


def test_the_config_is_resolved(content: dict[str, Any]) -> None:
    objects = {kind["name"]: kind for kind in content["config"]["objects"]}
    assert objects["altar"]["input"] == {"battery_red": 3}
    assert objects["altar"]["type_id"] == 8
    assert content["config"]["game"]["groups"]["hares"]["group_reward_pct"] == 0.5


def test_objects_come_by_row_and_column(content: dict[str, Any], lively: Replay) -> None:
    entities = content["grid_objects"]
    places = [(value_at(entity, "r", 0), value_at(entity, "c", 0)) for entity in entities]
    assert places == [tuple(place) for place in np.argwhere(lively.cells).tolist()]
    assert [entity["id"] for entity in entities] == list(range(1, len(entities) + 1))
    assert [entity["agent_id"] for entity in entities if "agent_id" in entity] == list(range(6))
    for entity in entities:
        assert entity["type_name"] == content["object_types"][entity["type"]]
        assert entity["layer"] == (0 if entity["type_name"] == "agent" else 1)


def test_lists_contain_changes_only(content: dict[str, Any]) -> None:
    lists = 0
    for entity in content["grid_objects"]:
        for key, value in entity.items():
            if isinstance(value, list):
                lists += 1
                steps = [step for step, _ in value]
                assert steps[0] == 0
                assert steps == sorted(set(steps))
                assert steps[-1] < content["max_steps"]
                assert all(before[1] != after[1] for before, after in pairwise(value))
                assert len(value) > 1 or key == "action", "a property that never changes is a constant"
    assert lists > 40


def test_states_and_actions_are_the_simulators(content: dict[str, Any], lively: Replay) -> None:
    agents = [entity for entity in content["grid_objects"] if "agent_id" in entity]
    converters = [entity for entity in content["grid_objects"] if "converting" in entity]
    items = content["inventory_items"]
    totals = np.zeros(6, np.float32)
    for step, env in zip(range(lively.steps), simulated(lively), strict=False):
        group_ids = np.array(LIVELY.spec.group_ids)[env.groups]
        for row, agent in enumerate(agents):
            assert [value_at(agent, key, step) for key in ("r", "c")] == env.positions[row].tolist()
            assert value_at(agent, "agent:orientation", step) == env.orientations[row]
            assert value_at(agent, "agent:frozen", step) == int(env.freeze_counters[row] != 0)
            assert value_at(agent, "agent:color", step) == env.colors[row]
            assert value_at(agent, "agent:group", step) == group_ids[row]
            assert [value_at(agent, f"inv:{item}", step) for item in items] == env.inventories[row].tolist()
            assert value_at(agent, "action", step) == lively.actions[step, row].tolist()
            assert value_at(agent, "action_success", step) is bool(lively.action_success[step, row])
            totals[row] += lively.rewards[step, row]
            assert np.float32(value_at(agent, "reward", step)) == lively.rewards[step, row]
            assert value_at(agent, "total_reward", step) == shortest(totals[row])
        standing = env.converters()
        assert len(converters) == len(standing["type_id"]) == 12
        for row, converter in enumerate(converters):
            assert converter["type"] == standing["type_id"][row]
            assert [value_at(converter, key, step) for key in ("r", "c")] == standing["position"][row].tolist()
            assert value_at(converter, "converting", step) == int(standing["is_busy"][row])
            amounts = [value_at(converter, f"inv:{item}", step) for item in items]
            assert amounts == standing["inventory"][row].tolist()


def as_the_viewer_reads_it(packed: bytes) -> dict[str, Any]:
    """A file of version 1 as the original viewer expands it: every list of changes becomes a value per step."""
    replay: dict[str, Any] = json.loads(zlib.decompress(packed))
    assert replay["version"] == 1
    steps = replay["max_steps"]
    for entity in replay["grid_objects"]:
        for key, value in entity.items():
            if isinstance(value, list) and value and isinstance(value[0], list):
                expanded, index, current = [], 0, None
                for step in range(steps):
                    if index < len(value) and value[index][0] == step:
                        current = value[index][1]
                        index += 1
                    expanded.append(current)
                assert index == len(value), f"{key} changes after the episode, or twice in a step"
                entity[key] = expanded
    return replay


def test_the_original_viewer_would_show_the_states_of_the_simulator(lively: Replay) -> None:
    replay = as_the_viewer_reads_it(mettascope_bytes(lively))
    agents = [entity for entity in replay["grid_objects"] if replay["object_types"][entity["type"]] == "agent"]

    def at(entity: dict[str, Any], key: str, step: int) -> Any:
        """The viewer's lookup: a list is indexed by step, any other value holds at all steps."""
        value = entity.get(key, 0)
        return value[step] if isinstance(value, list) else value

    for step, env in zip(range(lively.steps), simulated(lively), strict=False):
        assert [[at(agent, "r", step), at(agent, "c", step)] for agent in agents] == env.positions.tolist()
        held = [[at(agent, f"inv:{item}", step) for item in replay["inventory_items"]] for agent in agents]
        assert held == env.inventories.tolist()
        assert [at(agent, "action", step) for agent in agents] == lively.actions[step].tolist()
    assert {replay["action_names"][at(agents[0], "action", step)[0]] for step in range(lively.steps)} > {
        "move",
        "rotate",
    }


def test_a_short_episode_worked_by_hand() -> None:
    config = drawn("#r.", "#@.", max_steps=5, ore_red_reward=0.5)
    script = [
        [("get_output", 0)],
        [("move", 0)],  # into the mine: fails
        [("rotate", 3)],
        [("move", 0)],
    ]
    agent_acts = ScriptedPolicy(config.spec, script)
    entities = unpacked(mettascope_bytes(record_episode(agent_acts, config, seed=0)))["grid_objects"]
    walls, (mine, agent) = [entities[0], entities[2]], [entities[1], entities[3]]
    assert walls == [
        {"id": i, "type": 1, "type_name": "wall", "r": row, "c": 0, "layer": 1, "type_id": 1}
        for row, i in enumerate((1, 3))
    ]
    # the first step begins with the end of the conversion that began with the world: there are two ores to take
    assert mine == {
        "id": 2, "type": 2, "type_name": "mine_red", "r": 0, "c": 1, "layer": 1, "type_id": 2,
        "agent:color": 0, "color": 0, "converting": 1, "inv:ore_red": [[0, 1], [1, 0]],
    }  # fmt: skip
    assert agent == {
        "id": 4, "type": 0, "type_name": "agent", "r": 1, "c": [[0, 1], [4, 2]], "layer": 0, "type_id": 0,
        "agent_id": 0, "agent:group": 0, "group": 0, "agent:vision_size": 3,
        "agent:frozen": 0, "agent:orientation": [[0, 0], [3, 3]], "agent:color": 0,
        "inv:ore_red": [[0, 0], [1, 2]],
        "action": [[0, [4, 0]], [1, [1, 0]], [2, [2, 3]], [3, [1, 0]]],
        "action_success": [[0, True], [1, False], [2, True], [4, False]],
        "reward": [[0, 1.0], [1, 0.0]],
        "total_reward": 1.0,
    }  # fmt: skip


def test_an_item_that_vanishes_gets_a_zero() -> None:
    config = drawn("R", "@", "r", max_steps=8)
    script = [[(name, argument)] for name, argument in (
        ("rotate", 1), ("get_output", 0), ("rotate", 0), ("put_recipe_items", 0), ("put_recipe_items", 0), ("noop", 0)
    )]  # fmt: skip
    entities = unpacked(mettascope_bytes(record_episode(ScriptedPolicy(config.spec, script), config, seed=0)))
    agent = next(entity for entity in entities["grid_objects"] if "agent_id" in entity)
    assert agent["inv:ore_red"] == [[0, 0], [2, 2], [4, 1], [5, 0]]


def test_the_same_episode_is_the_same_file() -> None:
    files = [mettascope_bytes(record_episode(RandomPolicy(LIVELY.spec), LIVELY, seed)) for seed in (2, 2, 3)]
    assert files[0] == files[1] != files[2]
