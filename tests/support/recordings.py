"""Recordings of the C++ MettaGrid (`*.npz`), and their configuration and map as an `EnvConfig`.

A recording has its configuration and map in the format of the C++ MettaGrid. Every configuration that it accepts
is translated value by value; nothing here depends on a particular recording.
"""

from __future__ import annotations

import json
import os
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from metta.config.env.env_config import EnvConfig
from metta.config.env.objects import CATALOG

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "traces"
"""The folder of recordings beside the working tree; they are not part of the repository."""

CONVERTER_KEYS = ("max_output", "conversion_ticks", "cooldown", "initial_items")
EMPTY_NAMES = ("empty", ".", " ")
ACTIONS = (
    # the order of the C++ MettaGrid, so that ids are the same: (type, the name of its section, the name in statistics)
    ("noop", "noop", "noop"),
    ("move", "move", "move"),
    ("rotate", "rotate", "rotate"),
    ("put_items", "put_items", "put_recipe_items"),
    ("get_items", "get_items", "get_output"),
    ("attack", "attack", "attack"),
    ("swap", "swap", "swap"),
    ("change_color", "change_color", "change_color"),
)
UNNAMED = "[unknown -- stats tracker not initialized].consumed"
"""The C++ MettaGrid's name for items that converters consume before they know the names of items."""


DERIVED = (".first_step", ".last_step", ".updates", ".rate", ".avg", ".activity_rate", ".min", ".max")
"""Endings of the keys that statistics derive from a counter."""


ARRAYS = (
    *("config", "map", "actions", "order", "obs", "obs_capacity", "rewards", "truncations", "action_success"),
    *("agent_rc", "agent_orientation", "agent_frozen", "agent_color", "agent_inventory", "episode_rewards_steps"),
    *("conv_busy", "conv_inventory", "conv_type", "block_rc", "stats"),
)
"""Arrays that every recording must have."""


class NotARecordingError(Exception):
    """A file that is missing or not a recording."""


class Recording:
    """One recorded episode.

    The first axis of arrays is the step; arrays of states begin with the reset, so they are one longer.
    """

    def __init__(self, path: Path):
        self.path = path
        self.arrays = _arrays(path)
        self.original: dict[str, Any] = json.loads(str(self.arrays["config"]))
        self.map: np.ndarray = self.arrays["map"]
        self.actions: np.ndarray = self.arrays["actions"]
        self.order: np.ndarray = self.arrays["order"]
        self.rewards: np.ndarray = self.arrays["rewards"]
        self.length: int = self.actions.shape[0]
        self.num_agents: int = self.actions.shape[1]

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def config(self) -> EnvConfig:
        """The recorded world as an EnvConfig; its map is drawn with one glyph for each name."""
        return env_config(self.original, self.map)

    @property
    def episode_length(self) -> int:
        """Steps until the episode ends in metta; the C++ MettaGrid can be stepped further."""
        return min(self.length, self.config.game.max_steps or self.length)

    def observations(self, step: int) -> np.ndarray:
        """`[agents, tokens, 3] uint8` after `step` steps, at the full width again."""
        used = self.arrays["obs"][step]
        whole = np.full((self.num_agents, int(self.arrays["obs_capacity"]), 3), 0xFF, np.uint8)
        whole[:, : used.shape[1]] = used
        return whole

    def cells(self, step: int) -> np.ndarray:
        """`[rows, cols] int16` after `step` steps, as the map builder writes cells, agents by their group."""
        cells = self._static.copy()
        for block, (row, col) in enumerate(self.arrays["block_rc"][step]):
            cells[row, col] = self._block_types[block]
        for agent, (row, col) in enumerate(self.arrays["agent_rc"][step]):
            cells[row, col] = self._agent_values[agent]
        return cells

    @cached_property
    def _start(self) -> np.ndarray:
        types = {name: entry.type_id for name, entry in self.config.object_types.items()}
        types |= dict.fromkeys(EMPTY_NAMES, 0)
        types |= {f"agent.{group}": -1 - index for index, group in enumerate(self.config.game.groups)}
        return np.array([[types[str(name)] for name in row] for row in self.map], np.int16)

    @cached_property
    def _block_types(self) -> list[int]:
        return [int(self._start[row, col]) for row, col in self.arrays["block_rc"][0]]

    @cached_property
    def _agent_values(self) -> list[int]:
        return [int(self._start[row, col]) for row, col in self.arrays["agent_rc"][0]]

    @cached_property
    def _static(self) -> np.ndarray:
        cells = self._start.copy()
        for places in (self.arrays["block_rc"][0], self.arrays["agent_rc"][0]):
            for row, col in places:
                cells[row, col] = 0
        return cells

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """The final counters, `{"game": {..}, "agent": [{..}], "converter": [{..}]}`, without what is derived of them.

        Items that a converter consumed at construction are put under their own names.
        """
        told: dict[str, Any] = json.loads(str(self.arrays["stats"]))
        converters = [_counters(counters) for counters in told["converter"]]
        for index, counters in enumerate(converters):
            for key in ("type_id", "location.r", "location.c"):
                counters.pop(key, None)
            if counters.pop(UNNAMED, 0):
                recipe = self.config.object_types[str(self.arrays["conv_type"][index])].input or {}
                for item, amount in recipe.items():
                    counters[f"{item}.consumed"] = counters.get(f"{item}.consumed", 0) + amount
        return {
            "game": _counters(told["game"]),
            "agent": [_counters(counters) for counters in told["agent"]],
            "converter": converters,
        }


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise NotARecordingError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise NotARecordingError(f"{path} is not a recording: it is no .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, ValueError) as error:
        raise NotARecordingError(f"{path} is damaged: {error}") from error
    missing = sorted(set(ARRAYS) - set(arrays))
    if missing:
        raise NotARecordingError(f"{path} is not a recording: it lacks {', '.join(missing)}")
    return arrays


def recordings() -> list[Recording]:
    """Every recording in FOLDER. There may be none, except where CI=true.

    The recordings can be replaced by others of the same format.
    """
    if os.environ.get("CI") == "true":
        if not FOLDER.is_dir():
            raise FileNotFoundError(f"{FOLDER} does not exist; the conformance tests need its recordings")
        if not any(FOLDER.glob("*.npz")):
            raise FileNotFoundError(f"{FOLDER} has no recordings (*.npz); the conformance tests need them")
    return [Recording(path) for path in sorted(FOLDER.glob("*.npz"))]


def _counters(told: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in told.items() if value and not key.endswith(DERIVED)}


def env_config(original: dict[str, Any], cell_names: np.ndarray) -> EnvConfig:
    """The C++ MettaGrid's configuration and map `[rows, cols]` of names as an `EnvConfig`; every value is given."""
    items = original["inventory_item_names"]
    return EnvConfig.model_validate(
        {
            "game": {
                **_agent_settings(original.get("agent", {}), items),
                "num_agents": original["num_agents"],
                "max_steps": original.get("max_steps") or 0,
                "observation_width": original["obs_width"] // 2 * 2 + 1,
                "observation_height": original["obs_height"] // 2 * 2 + 1,
                "num_observation_tokens": original["num_observation_tokens"],
                "inventory_item_names": items,
                "time_punishment": 0.0,
                "episode_lifetime": 0,
                "groups": {
                    name: {
                        "id": group["id"],
                        "sprite": group.get("sprite") or 0,
                        "group_reward_pct": float(group.get("group_reward_pct") or 0),
                        "props": _agent_settings(original.get("agent", {}) | (group.get("props") or {}), items),
                    }
                    for name, group in original["groups"].items()
                },
            },
            "objects": _objects(original["objects"], items),
            "actions": [
                {
                    "type": type_,
                    "key": key,
                    **{
                        field: _known(value, items)
                        for field, value in (original["actions"].get(section) or {}).items()
                        if field.endswith("_resources") and value is not None
                    },
                }
                for type_, section, key in ACTIONS
            ],
            "map_builder": _drawing(cell_names),
        }
    )


def _agent_settings(section: dict[str, Any], items: list[str]) -> dict[str, Any]:
    """The agent section, or that of a group merged with its props, with every value given explicitly."""
    cap = section.get("default_item_max") or 0
    caps = {item: cap if section.get(f"{item}_max") is None else section[f"{item}_max"] for item in items}
    rewards = {key: value for key, value in (section.get("rewards") or {}).items() if value is not None}
    paid = {item: float(rewards.get(item, 0)) for item in items}
    counted = {item: float(rewards.get(f"{item}_max", 1000)) for item in items}
    named = {"ore_red": "ore_red_max", "battery_red": "battery_red_max", "heart": "heart_max_reward"}
    own = {f"{item}_reward": paid.pop(item) for item in named if item in items}  # these have fields of their own
    own |= {field: counted.pop(item) for item, field in named.items() if item in items}
    if "heart" in items:
        own["heart_max"] = caps.pop("heart")
    return {
        "default_item_max": cap,
        "item_max": caps,
        "freeze_duration": section.get("freeze_duration") or 0,
        "action_failure_penalty": float(rewards.get("action_failure_penalty", 0)),
        **own,
        "item_rewards": paid,
        "item_reward_max": counted,
    }


def _known(amounts: dict[str, int], items: list[str]) -> dict[str, int]:
    """Amounts of the items that exist; the C++ MettaGrid ignores others."""
    return {item: amount for item, amount in amounts.items() if item in items}


def _objects(originals: dict[str, dict[str, Any]], items: list[str]) -> list[dict[str, Any]]:
    """Every object of the recording; catalog entries that it does not have get free type ids."""
    objects: list[dict[str, Any]] = []
    for name, original in originals.items():
        common = {"name": name, "type_id": original["type_id"]}
        if not any(key in CONVERTER_KEYS or key.startswith(("input_", "output_")) for key in original):
            objects.append({**common, "type": "wall", "swappable": bool(original.get("swappable") or False)})
            continue
        objects.append(
            {
                **common,
                "type": "converter",
                "color": original.get("color") or 0,
                "input": _known(_recipe(original, "input_"), items),
                "output": _known(_recipe(original, "output_"), items),
                "max_output": original["max_output"],
                "conversion_ticks": original["conversion_ticks"],
                "cooldown": original["cooldown"],
                "initial_items": original["initial_items"],
            }
        )
    taken = {entry["type_id"] for entry in objects}
    free = (type_id for type_id in range(255, 0, -1) if type_id not in taken)
    objects += [{"name": name, "type": "wall", "type_id": next(free)} for name in CATALOG if name not in originals]
    return objects


def _recipe(original: dict[str, Any], prefix: str) -> dict[str, int]:
    return {
        key.removeprefix(prefix): amount
        for key, amount in original.items()
        if key.startswith(prefix) and amount is not None
    }


def _drawing(cell_names: np.ndarray) -> dict[str, Any]:
    """The map as a drawing, with one Greek letter for each name, since these are no predefined glyphs."""
    names = sorted({str(name) for name in cell_names.ravel()})
    glyphs = {name: chr(0x3B1 + index) for index, name in enumerate(names)}
    return {
        "type": "Ascii",
        "map": "\n".join("".join(glyphs[str(name)] for name in row) for row in cell_names),
        "legend": {glyph: "empty" if name in EMPTY_NAMES else name for name, glyph in glyphs.items()},
    }
