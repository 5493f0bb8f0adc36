"""The MettaScope replay format, version 1: JSON with each entity's properties as constants or lists of changes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.replay.recording import Replay

VERSION = 1

AGENT_LAYER, OBJECT_LAYER = 0, 1

Properties = dict[str, Any]
"""An entity's properties by name: `[[step, value], ...]` from step 0 on for one that changes, else its value."""


def mettascope_bytes(replay: Replay) -> bytes:
    """The replay as the content of a `.json.z` file: zlib-compressed JSON."""
    return zlib.compress(json_bytes(mettascope_document(replay, replay.steps)))


def json_bytes(value: object) -> bytes:
    """JSON without white space, encoded in UTF-8."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def mettascope_document(replay: Replay, times: int) -> dict[str, Any]:
    """The replay as a JSON object with the first `times` states.

    The state at a step is the one before its action; action, action_success, reward and total_reward of the step have
    the same index. MettaScope therefore expects `replay.steps` states; `replay.steps + 1` adds the final one.
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
        "grid_objects": _grid_objects(replay, times),
        "config": _resolved_config(replay),
    }


def _resolved_config(replay: Replay) -> dict[str, Any]:
    """The environment's config, in which `objects` lists every object type with its recipe and type id."""
    config = replay.config
    objects = [kind.model_dump(mode="json") for kind in config.object_types.values()]
    return config.model_dump(mode="json") | {"objects": objects}


def _grid_objects(replay: Replay, times: int) -> list[Properties]:
    """All entities with ids from 1, in row-major order of their first positions."""
    kinds = {kind.type_id: kind for kind in replay.config.object_types.values()}
    agents, converters, blocks = _agents(replay, times), _converters(replay, times), _blocks(replay, times)
    entities = []
    for entity_id, (row, col) in enumerate(np.argwhere(replay.cells).tolist(), 1):
        code = int(replay.cells[row, col])
        kind = kinds.get(code)
        entity = {
            "id": entity_id,
            "type": max(code, 0),
            "type_name": kind.name if kind else "agent",
            "r": row,
            "c": col,
            "layer": OBJECT_LAYER if kind else AGENT_LAYER,
            "type_id": max(code, 0),
        }
        if kind is None:
            entity |= next(agents)
        elif kind.type != "wall":
            entity |= {"agent:color": kind.color, **next(converters)}
        elif kind.swappable:
            entity |= {"swappable": 1, **next(blocks)}
        entities.append(entity)
    return entities


def _agents(replay: Replay, times: int) -> Iterator[Properties]:
    group_ids = replay.config.spec.group_ids
    total_rewards = replay.total_rewards
    for agent, group in enumerate(replay.groups.tolist()):
        yield {
            "agent_id": agent,
            "agent:group": group_ids[group],
            "r": _over_time(replay.positions[:times, agent, 0]),
            "c": _over_time(replay.positions[:times, agent, 1]),
            "agent:frozen": _over_time(replay.is_frozen[:times, agent].astype(int)),
            "agent:orientation": _over_time(replay.orientations[:times, agent]),
            "agent:color": _over_time(replay.colors[:times, agent]),
            **_inventory(replay, replay.inventories[:times, agent]),
            # an action is a pair, so a constant one could not be told from a list of changes
            "action": _changes(replay.actions[:, agent]),
            "action_success": _over_time(replay.action_success[:, agent]),
            "reward": _over_time(replay.rewards[:, agent]),
            "total_reward": _over_time(total_rewards[:, agent]),
        }


def _converters(replay: Replay, times: int) -> Iterator[Properties]:
    for index in range(replay.converter_is_busy.shape[1]):
        yield {
            "converting": _over_time(replay.converter_is_busy[:times, index].astype(int)),
            **_inventory(replay, replay.converter_inventories[:times, index]),
        }


def _blocks(replay: Replay, times: int) -> Iterator[Properties]:
    for index in range(replay.block_positions.shape[1]):
        rows, cols = replay.block_positions[:times, index].T
        yield {"r": _over_time(rows), "c": _over_time(cols)}


def _inventory(replay: Replay, amounts: NDArray[np.uint8]) -> Properties:
    """A property for each item that is held at some time. `amounts [times, items]`."""
    items = replay.config.game.inventory_item_names
    return {f"inv:{items[item]}": _over_time(amounts[:, item]) for item in np.flatnonzero(amounts.any(axis=0)).tolist()}


def _over_time(values: NDArray[Any]) -> Any:
    """The value if it is constant, else its changes. `values [times]`."""
    changes = _changes(values)
    return changes[0][1] if len(changes) == 1 else changes


def _changes(values: NDArray[Any]) -> list[list[Any]]:
    """`[step, value]` at step 0 and wherever the value differs from the previous one. `values [times, ...]`."""
    differs = values[1:] != values[:-1]
    steps = [0, *(np.flatnonzero(differs if differs.ndim == 1 else differs.any(axis=1)) + 1).tolist()]
    return [[step, value] for step, value in zip(steps, _json_values(values[steps]), strict=True)]


def _json_values(values: NDArray[Any]) -> Sequence[Any]:
    """Values that JSON can hold; a float32 becomes the shortest decimal that reads back as the same float32."""
    return [float(str(value)) for value in values] if values.dtype == np.float32 else values.tolist()
