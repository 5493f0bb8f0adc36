"""MettaScope export: encode a replay as MettaScope JSON (version 1), properties as constants or lists of changes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.config.env.objects import ObjectConfig
from metta.replay.recording import Replay

VERSION = 1
VIEWER_COLORS = ("red", "green", "blue")
"""MettaScope's colors by the index `color` of an object."""

AGENT_LAYER, OBJECT_LAYER = 0, 1

Properties = dict[str, Any]
"""An entity's properties by name: a constant one as its value, a changing one as `[[step, value], ...]` from step 0."""


def mettascope_bytes(replay: Replay) -> bytes:
    """Content of the replay's `.json.z` file: zlib-compressed JSON."""
    return zlib.compress(json_bytes(mettascope_document(replay, replay.steps)))


def json_bytes(value: object) -> bytes:
    """`value` as JSON without white space, UTF-8 encoded. Raises ValueError for NaN and infinities."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def mettascope_document(replay: Replay, num_states: int) -> dict[str, Any]:
    """The first `num_states` states of the replay as a JSON object.

    Index `step` refers to the state before the step, and to the action, action_success, reward and total_reward of the
    step. MettaScope expects `num_states = replay.steps`; `replay.steps + 1` includes the final state.
    """
    spec = replay.config.spec
    rows, cols = replay.cells.shape
    return {
        "version": VERSION,
        "action_names": spec.action_names,
        "inventory_items": replay.config.game.inventory_item_names,
        "object_types": spec.object_type_names,
        "map_size": [cols, rows],
        "num_agents": spec.num_agents,
        "max_steps": replay.steps,
        "grid_objects": _grid_objects(replay, num_states),
        "config": _resolved_config(replay),
    }


def _resolved_config(replay: Replay) -> dict[str, Any]:
    """The env config with defaults filled in: `objects` lists every object type with its recipe and type id.

    `game.objects` repeats them as MettaScope reads them: by name, with a key `input_ITEM` or `output_ITEM` for each
    item of the recipe.
    """
    config = replay.config.model_dump(mode="json")
    objects = [_object_entry(object_type) for object_type in replay.config.object_types.values()]
    game = config["game"] | {"objects": {entry["name"]: _with_flat_recipe(entry) for entry in objects}}
    return config | {"objects": objects, "game": game}


def _object_entry(object_type: ObjectConfig) -> Properties:
    """The object type with, for a registered one, the names of its states and whether agents can enter its cell."""
    options = object_type.options
    known = {} if options is None else {"states": list(options.states), "walkable": options.walkable}
    return object_type.model_dump(mode="json") | known


def _with_flat_recipe(entry: Properties) -> Properties:
    """The object type `entry` with its recipe as keys `input_ITEM` and `output_ITEM`."""
    settings = {key: value for key, value in entry.items() if key not in ("input", "output")}
    for side in ("input", "output"):
        settings |= {f"{side}_{item}": amount for item, amount in (entry[side] or {}).items()}
    return settings


def _grid_objects(replay: Replay, num_states: int) -> list[Properties]:
    """The properties of each entity; ids start at 1, in row-major order of the first positions."""
    object_types = {object_type.type_id: object_type for object_type in replay.config.object_types.values()}
    agents = _agents(replay, num_states)
    converters = iter(range(replay.converter_is_busy.shape[1]))
    blocks = _blocks(replay, num_states)
    entities = []
    for entity_id, (row, col) in enumerate(np.argwhere(replay.cells).tolist(), 1):
        code = int(replay.cells[row, col])
        object_type = object_types.get(code)
        entity = {
            "id": entity_id,
            "type": max(code, 0),
            "type_name": object_type.name if object_type else "agent",
            "r": row,
            "c": col,
            "layer": OBJECT_LAYER if object_type else AGENT_LAYER,
            "type_id": max(code, 0),
        }
        if object_type is None:
            entity |= next(agents)
        elif object_type.type != "wall":
            entity |= {"agent:color": object_type.color, "color": _viewer_color(object_type)}
            entity |= _converter(replay, num_states, next(converters), object_type)
        elif object_type.swappable:
            entity |= {"swappable": 1, **next(blocks)}
        entities.append(entity)
    return entities


def _viewer_color(object_type: ObjectConfig) -> int:
    """Index in MettaScope's colors of the color that the object type is named after, else its color in the config."""
    last_word = object_type.name.rpartition("_")[2]
    return VIEWER_COLORS.index(last_word) if last_word in VIEWER_COLORS else object_type.color or 0


def _agents(replay: Replay, num_states: int) -> Iterator[Properties]:
    game, group_ids = replay.config.game, replay.config.spec.group_ids
    total_rewards = replay.total_rewards
    for agent, group in enumerate(replay.groups.tolist()):
        yield {
            "agent_id": agent,
            "agent:group": group_ids[group],
            "group": group_ids[group],
            "agent:vision_size": max(game.observation_height, game.observation_width),
            "r": _constant_or_changes(replay.positions[:num_states, agent, 0]),
            "c": _constant_or_changes(replay.positions[:num_states, agent, 1]),
            "agent:frozen": _constant_or_changes(replay.is_frozen[:num_states, agent].astype(int)),
            "agent:orientation": _constant_or_changes(replay.orientations[:num_states, agent]),
            "agent:color": _constant_or_changes(replay.colors[:num_states, agent]),
            **_inventory(replay, replay.inventories[:num_states, agent]),
            # always a list of changes: an action is itself a list, so a constant would be ambiguous
            "action": _changes(replay.actions[:, agent]),
            "action_success": _constant_or_changes(replay.action_success[:, agent]),
            "reward": _constant_or_changes(replay.rewards[:, agent]),
            "total_reward": _constant_or_changes(total_rewards[:, agent]),
        }


def _converter(replay: Replay, num_states: int, index: int, object_type: ObjectConfig) -> Properties:
    if object_type.options is not None:
        states = replay.converter_states[:num_states, index]
        return {name: _constant_or_changes(states[:, number]) for number, name in enumerate(object_type.options.states)}
    return {
        "converting": _constant_or_changes(replay.converter_is_busy[:num_states, index].astype(int)),
        **_inventory(replay, replay.converter_inventories[:num_states, index]),
    }


def _blocks(replay: Replay, num_states: int) -> Iterator[Properties]:
    for index in range(replay.block_positions.shape[1]):
        rows, cols = replay.block_positions[:num_states, index].T
        yield {"r": _constant_or_changes(rows), "c": _constant_or_changes(cols)}


def _inventory(replay: Replay, amounts: NDArray[np.uint8]) -> Properties:
    """`inv:ITEM` for each item with a nonzero amount at any time. `amounts [times, items]`"""
    items = replay.config.game.inventory_item_names
    return {
        f"inv:{items[item]}": _constant_or_changes(amounts[:, item])
        for item in np.flatnonzero(amounts.any(axis=0)).tolist()
    }


def _constant_or_changes(values: NDArray[Any]) -> Any:
    """The value if it is the same at all times, else the list of changes. `values [times]`"""
    changes = _changes(values)
    return changes[0][1] if len(changes) == 1 else changes


def _changes(values: NDArray[Any]) -> list[list[Any]]:
    """`[step, value]` at step 0 and at each step whose value differs from the previous one. `values [times, ...]`"""
    differs = values[1:] != values[:-1]
    steps = [0, *(np.flatnonzero(differs if differs.ndim == 1 else differs.any(axis=1)) + 1).tolist()]
    return [[step, value] for step, value in zip(steps, _json_values(values[steps]), strict=True)]


def _json_values(values: NDArray[Any]) -> Sequence[Any]:
    """`values` as Python values for JSON; a float32 as the shortest decimal that converts back to the same float32."""
    return [float(str(value)) for value in values] if values.dtype == np.float32 else values.tolist()
