"""An episode in the MettaScope format, version 1: every object with its properties, constant or as lists of changes."""

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

GridObject = dict[str, Any]
"""Properties by name. One that changes holds `[[step, value], ...]`, first step 0; all others hold their value."""


def mettascope_file(replay: Replay) -> bytes:
    """The content of a `.json.z` file."""
    return zlib.compress(compact_json(document(replay, replay.steps)))


def compact_json(value: object) -> bytes:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def document(replay: Replay, times: int) -> dict[str, Any]:
    """The episode as MettaScope reads it, with the first `times` states.

    The state at a step is that before its action; action, action_success, reward and total_reward of the step stand at
    the same number. So there is one state less than `replay` has: with `times = steps + 1` the last one is in too.
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
        "config": resolved_config(replay),
    }


def resolved_config(replay: Replay) -> dict[str, Any]:
    """The environment's config with nothing left open: all object types are in it, with their recipes and type ids."""
    config = replay.config
    objects = [kind.model_dump(mode="json") for kind in config.object_types.values()]
    return config.model_dump(mode="json") | {"objects": objects}


def _grid_objects(replay: Replay, times: int) -> list[GridObject]:
    """Everything on the map, by row-major order at the beginning, with ids from 1."""
    kinds = {kind.type_id: kind for kind in replay.config.object_types.values()}
    agents, converters, blocks = _agents(replay, times), _converters(replay, times), _blocks(replay, times)
    entities = []
    for thing_id, (row, col) in enumerate(np.argwhere(replay.cells).tolist(), 1):
        code = int(replay.cells[row, col])
        kind = kinds.get(code)
        entity = {
            "id": thing_id,
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


def _agents(replay: Replay, times: int) -> Iterator[GridObject]:
    group_ids = replay.config.spec.group_ids
    totals = replay.total_rewards
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
            # a list, so always as a list of changes: a constant could not be told from one
            "action": _changes(replay.actions[:, agent]),
            "action_success": _over_time(replay.action_success[:, agent]),
            "reward": _over_time(replay.rewards[:, agent]),
            "total_reward": _over_time(totals[:, agent]),
        }


def _converters(replay: Replay, times: int) -> Iterator[GridObject]:
    for index in range(replay.converter_is_busy.shape[1]):
        yield {
            "converting": _over_time(replay.converter_is_busy[:times, index].astype(int)),
            **_inventory(replay, replay.converter_inventories[:times, index]),
        }


def _blocks(replay: Replay, times: int) -> Iterator[GridObject]:
    for index in range(replay.block_positions.shape[1]):
        rows, cols = replay.block_positions[:times, index].T
        yield {"r": _over_time(rows), "c": _over_time(cols)}


def _inventory(replay: Replay, amounts: NDArray[np.uint8]) -> GridObject:
    """Each item that is ever held. `amounts [times, items]`."""
    items = replay.config.game.inventory_item_names
    return {f"inv:{items[item]}": _over_time(amounts[:, item]) for item in np.flatnonzero(amounts.any(axis=0)).tolist()}


def _over_time(values: NDArray[Any]) -> Any:
    """The value if it never changes, else its changes. `values [times]`."""
    changes = _changes(values)
    return changes[0][1] if len(changes) == 1 else changes


def _changes(values: NDArray[Any]) -> list[list[Any]]:
    """`[step, value]` at step 0 and wherever the value is another than before. `values [times, ...]`."""
    differs = values[1:] != values[:-1]
    steps = [0, *(np.flatnonzero(differs if differs.ndim == 1 else differs.any(axis=1)) + 1).tolist()]
    return [[step, value] for step, value in zip(steps, _plain(values[steps]), strict=True)]


def _plain(values: NDArray[Any]) -> Sequence[Any]:
    """As JSON has them; a float32 as the shortest decimal that reads back as the same float32."""
    return [float(str(value)) for value in values] if values.dtype == np.float32 else values.tolist()
