"""What the original viewer (MettaScope of July 2025) reads from a replay file: type and meaning of each field.

`FIELDS` lists every field that it reads. `Viewer` reads a file as it does, up to the info panel of an entity on which
the pointer rests, which throws when something that it reads is missing.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from episodes import simulated

from metta.baselines.scripted import ScriptedPolicy
from metta.config.loading.load import load_config
from metta.replay.mettascope import mettascope_bytes
from metta.replay.recording import Replay, record_episode
from metta.world.env import MettaGridEnv

PRESETS = ["quickstart", "arena_small", "predator_prey", "memory", "object_use", "cooperation"]
RECORDED_STEPS = 60
COLOR_NAMES = ["red", "green", "blue"]

Entity = dict[str, Any]


class Panel(NamedTuple):
    """The info panel of an entity: (name, text) of its lines, and (item, amount) of each icon."""

    lines: dict[str, str]
    inventory: dict[str, int]
    recipe: tuple[dict[str, int], dict[str, int]]


class Viewer:
    """A replay file as MettaScope loads it: lists of changes expanded to one value per step, agents by id."""

    def __init__(self, file: bytes):
        self.replay: dict[str, Any] = json.loads(zlib.decompress(file))
        self.steps: int = self.replay["max_steps"]
        for entity in self.replay["grid_objects"]:
            for key, value in entity.items():
                if isinstance(value, list):
                    entity[key] = self._expanded(value)
        self.entities: list[Entity] = self.replay["grid_objects"]
        self.agents = [
            next(entity for entity in self.entities if entity.get("agent_id") == agent)
            for agent in range(self.replay["num_agents"])
        ]
        self.items = {key for entity in self.entities for key in entity if key.startswith("inv:")}

    def _expanded(self, changes: list[Any]) -> list[Any]:
        values, value, at = [], None, 0
        for step in range(self.steps):
            if at < len(changes) and changes[at][0] == step:
                value, at = changes[at][1], at + 1
            values.append(value)
        assert at == len(changes), "a change after the last step, or two in one step"
        return values

    @staticmethod
    def read(entity: Entity, key: str, step: int, default: int = 0) -> Any:
        """A property at a step; a missing one is 0, which the viewer then shows."""
        value = entity.get(key, default)
        return value[step] if isinstance(value, list) else value

    def type_name(self, entity: Entity) -> str:
        return str(self.replay["object_types"][entity["type"]])

    def panel(self, entity: Entity, step: int) -> Panel:
        """The info panel, by the viewer's rules (updateDom in hoverpanels.ts)."""
        lines, inventory = {}, {}
        for key in entity:
            value = self.read(entity, key, step)
            if key.startswith("inv:") and value > 0:
                inventory[key.replace("inv:", "", 1)] = value
            elif key == "type":
                lines[key] = self.replay["object_types"][value]
            elif key == "agent:color" and 0 <= value < len(COLOR_NAMES):
                lines[key] = COLOR_NAMES[value]
            elif key in ("group", "total_reward", "agent_id"):
                lines[key] = str(value) if value == int(value) else f"{value:.3f}"
        # the statement that threw: replay.config.game.objects[type name]; an agent has no entry there
        settings = self.replay["config"]["game"]["objects"].get(self.type_name(entity)) or {}
        assert not {"input_resources", "output_resources"} & set(settings), "keys of a format that replaces this one"
        sides = [
            {key.replace(prefix, "", 1): amount for key, amount in settings.items() if key.startswith(prefix)}
            for prefix in ("input_", "output_")
        ]
        return Panel(lines, inventory, (sides[0], sides[1]))


class State(NamedTuple):
    """A step of the episode: the viewer, and the simulator in the same state."""

    viewer: Viewer
    replay: Replay
    env: MettaGridEnv
    step: int


def _values(state: State, key: str, default: int = 0) -> list[Any]:
    """A property of each agent at the step."""
    return [state.viewer.read(agent, key, state.step, default) for agent in state.viewer.agents]


def _converter_values(state: State, key: str) -> list[Any]:
    converters = [entity for entity in state.viewer.entities if "converting" in entity]
    return [state.viewer.read(entity, key, state.step) for entity in converters]


def _check_positions(state: State) -> None:
    """Each entity stands where the simulator has one of its type."""
    shown = np.full_like(state.env.cells(), 0)
    for entity in state.viewer.entities:
        place = state.viewer.read(entity, "r", state.step), state.viewer.read(entity, "c", state.step)
        assert shown[place] == 0, "two entities in one cell"
        shown[place] = entity["type"] or -1
    np.testing.assert_array_equal(shown, np.maximum(state.env.cells(), -1))


def _check_inventories(state: State) -> None:
    items = state.replay.config.game.inventory_item_names
    assert state.viewer.items <= {f"inv:{item}" for item in items}
    for item, name in enumerate(items):
        assert _values(state, f"inv:{name}") == state.env.inventories[:, item].tolist()
        assert _converter_values(state, f"inv:{name}") == state.env.converters()["inventory"][:, item].tolist()


def _check_total_rewards(state: State) -> None:
    totals = state.replay.total_rewards[state.step]
    np.testing.assert_array_equal(np.array(_values(state, "total_reward"), np.float32), totals)
    assert all(type(value) in (int, float) for value in _values(state, "total_reward"))


def _check_actions(state: State) -> None:
    actions = _values(state, "action")
    assert actions == state.replay.actions[state.step].tolist()
    assert all(0 <= action < len(state.viewer.replay["action_names"]) for action, _ in actions)


def _check_rewards(state: State) -> None:
    rewards = state.replay.rewards[state.step]
    np.testing.assert_array_equal(np.array(_values(state, "reward"), np.float32), rewards)


def _check_recipes(state: State) -> None:
    settings = state.viewer.replay["config"]["game"]["objects"]
    for name, object_type in state.replay.config.object_types.items():
        assert settings[name]["cooldown"] == object_type.cooldown
        assert settings[name]["type_id"] == object_type.type_id


def _check_colors(state: State) -> None:
    """Red, green and blue objects are drawn in their colors."""
    for entity in state.viewer.entities:
        name = state.viewer.type_name(entity).rpartition("_")[2]
        if name in COLOR_NAMES:
            assert COLOR_NAMES[entity["color"]] == name


def _check_windows(state: State) -> None:
    game = state.replay.config.game
    largest = max(game.observation_height, game.observation_width)
    assert set(_values(state, "agent:vision_size", default=11)) == {largest}


def _equal(read: Callable[[State], Any], expected: Callable[[State], Any]) -> Callable[[State], None]:
    def check(state: State) -> None:
        assert read(state) == expected(state)

    return check


def _top(key: str, expected: Callable[[State], Any]) -> Callable[[State], None]:
    return _equal(lambda state: state.viewer.replay[key], expected)


def _agent(key: str, expected: Callable[[State], np.ndarray]) -> Callable[[State], None]:
    return _equal(lambda state: _values(state, key), lambda state: expected(state).tolist())


def _group_ids(state: State) -> np.ndarray:
    return np.array(state.env.spec.group_ids)[state.env.groups]


FIELDS: dict[str, tuple[str, Callable[[State], None]]] = {
    "object_types": (
        "replay.ts, worldmap.ts, minimap.ts, search.ts",
        _top("object_types", lambda s: s.env.spec.object_type_names),
    ),
    "action_names": ("replay.ts, worldmap.ts, traces.ts", _top("action_names", lambda s: s.env.spec.action_names)),
    "num_agents": ("replay.ts, traces.ts", _top("num_agents", lambda s: s.env.num_agents)),
    "max_steps": ("timeline.ts, traces.ts, main.ts", _top("max_steps", lambda s: s.replay.steps)),
    "map_size": ("worldmap.ts, minimap.ts", _top("map_size", lambda s: list(s.env.cells().shape[::-1]))),
    "config.game.objects": ("replay.ts getObjectConfig, for hoverpanels.ts", _check_recipes),
    "id": (
        "hoverpanels.ts, main.ts",
        _equal(lambda s: [e["id"] for e in s.viewer.entities], lambda s: list(range(1, len(s.viewer.entities) + 1))),
    ),
    "type, r, c": ("worldmap.ts, minimap.ts", _check_positions),
    "agent_id": ("replay.ts, agentpanel.ts, traces.ts", _agent("agent_id", lambda s: np.arange(s.env.num_agents))),
    "agent:orientation": ("worldmap.ts, actions.ts", _agent("agent:orientation", lambda s: s.env.orientations)),
    "agent:frozen": (
        "worldmap.ts, timeline.ts, traces.ts",
        _agent("agent:frozen", lambda s: (s.env.freeze_counters != 0).astype(int)),
    ),
    "agent:color": ("hoverpanels.ts", _agent("agent:color", lambda s: s.env.colors)),
    "agent:vision_size": ("worldmap.ts drawVisibility", _check_windows),
    "group": ("hoverpanels.ts", _agent("group", _group_ids)),
    "action": ("worldmap.ts, traces.ts, demomode.ts", _check_actions),
    "action_success": ("worldmap.ts, traces.ts", _agent("action_success", lambda s: s.replay.action_success[s.step])),
    "reward": ("traces.ts", _check_rewards),
    "total_reward": ("worldmap.ts, agentpanel.ts, hoverpanels.ts", _check_total_rewards),
    "inv:ITEM": ("replay.ts, worldmap.ts, traces.ts, hoverpanels.ts", _check_inventories),
    "converting": (
        "worldmap.ts",
        _equal(
            lambda s: _converter_values(s, "converting"), lambda s: s.env.converters()["is_busy"].astype(int).tolist()
        ),
    ),
    "color": ("worldmap.ts drawObject", _check_colors),
}
"""Field -> where the viewer reads it, and the check of its meaning.

It also reads `file_name`, and shows the end of the file's address where that is missing.
"""


@pytest.fixture(scope="module", params=[*PRESETS, "lively"])
def replay(request: pytest.FixtureRequest) -> Replay:
    if request.param == "lively":
        lively: Replay = request.getfixturevalue("lively")
        return lively
    world = load_config(request.param).env
    return record_episode(ScriptedPolicy(world), world, seed=0, max_steps=RECORDED_STEPS)


@pytest.fixture(scope="module")
def viewer(replay: Replay) -> Viewer:
    return Viewer(mettascope_bytes(replay))


def test_every_field_means_what_the_viewer_takes_it_for(replay: Replay, viewer: Viewer) -> None:
    for step, env in enumerate(simulated(replay)):
        if step in (0, 1, 17, 40, replay.steps - 1):
            for field, (_, check) in FIELDS.items():
                try:
                    check(State(viewer, replay, env, step))
                except (KeyError, TypeError) as missing:
                    pytest.fail(f"{field} at step {step}: {missing!r}")


def test_the_info_panel_of_every_entity(replay: Replay, viewer: Viewer) -> None:
    """Everything but walls has a panel: with its recipe, what it holds, and for an agent its id and total reward."""
    config = replay.config
    for step in (0, replay.steps // 2, replay.steps - 1):
        for entity in viewer.entities:
            if (name := viewer.type_name(entity)) == "wall":
                continue
            panel = viewer.panel(entity, step)
            assert panel.lines["type"] == name
            if name == "agent":
                agent = entity["agent_id"]
                total = float(str(replay.total_rewards[step, agent]))
                assert panel.lines["agent_id"] == str(agent)
                assert float(panel.lines["total_reward"]) == pytest.approx(total, abs=0.00051)
                assert int(panel.lines["group"]) == config.spec.group_ids[replay.groups[agent]]
                assert panel.recipe == ({}, {})
                held = dict(
                    zip(config.game.inventory_item_names, replay.inventories[step, agent].tolist(), strict=True)
                )
                assert panel.inventory == {item: amount for item, amount in held.items() if amount}
            else:
                object_type = config.object_types[name]
                assert panel.recipe == (object_type.input or {}, object_type.output or {})


def test_the_altar_of_the_catalog_has_its_recipe_in_the_panel(lively: Replay) -> None:
    viewer = Viewer(mettascope_bytes(lively))
    altar = next(entity for entity in viewer.entities if viewer.type_name(entity) == "altar")
    assert viewer.panel(altar, 0).recipe == ({"battery_red": 3}, {"heart": 1})
    settings = viewer.replay["config"]["game"]["objects"]["altar"]
    assert (settings["input_battery_red"], settings["output_heart"]) == (3, 1)
