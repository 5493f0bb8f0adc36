"""Explanations for players: what an agent faces, and why one of its actions would fail in the next step."""

from __future__ import annotations

import copy
from typing import Final

import numpy as np

from metta.world.env import MettaGridEnv
from metta.world.rules.combat import NO_AGENT, find_victims
from metta.world.rules.converters import MAX_HELD
from metta.world.rules.custom_rules import act_custom, advance_objects, use_objects
from metta.world.rules.inventory import can_afford
from metta.world.rules.turn_order import Turns
from metta.world.state.compiled_config import CUSTOM_KINDS, NEVER, USES_CONVERTER, TurnKind
from metta.world.state.worlds import CONVERTING, COOLING, EMPTY, OUTSIDE, Worlds

NOTHING_AHEAD: Final = "nothing"
EDGE: Final = "the edge of the map"


def failure_reason(env: MettaGridEnv, agent: int, action: tuple[int, int]) -> str | None:
    """Why an agent's action (id, argument) would fail in the next step if it acted first; None if it would succeed.

    `agent` is a row of the environment's arrays. Agents that act earlier can change the outcome. `env` is left
    unchanged.
    """
    worlds = env._worlds
    worlds = copy.deepcopy(worlds, {id(worlds.compiled): worlds.compiled})
    worlds.clock += 1
    worlds.steps += 1
    advance_objects(worlds)
    actions = np.zeros((worlds.agents, 2), np.int64)
    actions[agent] = action
    return _reason(worlds, agent, Turns(worlds, actions, None))


def view_ahead(env: MettaGridEnv, agent: int) -> str:
    """What an agent faces, such as `wall`, `agent 3, frozen`, or `altar: needs 3 battery_red (holds 1)`."""
    worlds, row = env._worlds, agent
    _, entities = worlds.look_ahead(np.array([row]))
    entity = int(entities[0])
    name = _entity_name(worlds, row, entity)
    if entity >= worlds.first_converter:
        converter = entity - worlds.first_converter
        if worlds.compiled.types.is_custom[worlds.converter_type[converter]]:
            state = _object_state(worlds, converter)
            return f"{name}: {state}" if state else name
        return f"{name}: {_converter_state(worlds, converter)}"
    other = int(worlds.agents_among(entities)[0])
    if other in (NO_AGENT, row):
        return name
    team = f" of {worlds.compiled.groups.names[worlds.group_row[other]]}" if worlds.compiled.num_groups > 1 else ""
    return f"{name}{team}{', frozen' if worlds.freeze[other] else ''}"


def _reason(worlds: Worlds, row: int, turns: Turns) -> str | None:
    rows, kind = np.array([row]), int(turns.kind[row])
    action, argument = int(turns.action[row]), int(turns.argument[row])
    spec, action_row = worlds.compiled.spec, int(turns.action_row[row])
    if kind == TurnKind.UNKNOWN_ACTION:
        return f"there is no action {action}; the last one is {len(spec.action_names) - 1}"
    if kind in (TurnKind.INVALID_ARGUMENT, TurnKind.INVALID_ATTACK):
        return f"the argument must be 0 to {spec.max_action_args[action]}; got {argument}"
    if freeze := int(worlds.freeze[row]):
        return "frozen until the episode ends" if freeze < 0 else f"frozen for {_count(freeze, 'more action')}"
    if not worlds.compiled.actions.possible[action_row]:
        return "disabled in this world"
    if not can_afford(worlds, rows, turns.action_row[rows])[0]:
        return _cost_reason(worlds, row, action_row)
    # paid even if the action then fails
    worlds.inventory[row] -= np.maximum(worlds.compiled.actions.consumed[action_row], 0).astype(np.int16)
    if kind in (TurnKind.ATTACK, TurnKind.ATTACK_NEAREST):
        is_hit = find_victims(worlds, turns, rows)[0] != NO_AGENT
        return None if is_hit else "no agent is in reach" if kind == TurnKind.ATTACK_NEAREST else "no agent is there"
    if USES_CONVERTER[0] <= kind <= USES_CONVERTER[1]:
        return _converter_reason(worlds, row, kind, action_row)
    if kind == TurnKind.MOVE:
        _, entities = worlds.look_toward(rows, worlds.orientation[rows] ^ argument)
        entity = int(entities[0])
        return None if worlds.is_enterable(entities)[0] else f"blocked by {_entity_name(worlds, row, entity)}"
    if kind == TurnKind.SWAP:
        return _swap_reason(worlds, row)
    if kind in CUSTOM_KINDS:
        act_custom(worlds, turns, rows)
        return None if worlds.success[row] else "it has no effect here"
    return _gift_reason(worlds, row, action_row) if kind == TurnKind.GIFT else None


def _cost_reason(worlds: Worlds, row: int, action_row: int) -> str:
    required, held = worlds.compiled.actions.required[action_row], worlds.inventory[row]
    return _needs([(item, int(required[item]), int(held[item])) for item in worlds.compiled.cost_items], worlds)


def _converter_reason(worlds: Worlds, row: int, kind: int, action_row: int) -> str | None:
    _, entities = worlds.look_ahead(np.array([row]))
    entity = int(entities[0])
    name = _entity_name(worlds, row, entity)
    if entity < worlds.first_converter:
        return f"{name} is ahead" if entity in (EMPTY, OUTSIDE) else f"{name} is ahead, which holds no items"
    converter = entity - worlds.first_converter
    type_row = int(worlds.converter_type[converter])
    if kind == TurnKind.USE and not worlds.compiled.actions.usable_types[action_row, type_row]:
        return f"does not work on {name}"
    if worlds.compiled.types.is_custom[type_row]:
        is_used = use_objects(worlds, np.array([row]), np.array([converter]))[0]
        return None if is_used else f"{name}: {_object_state(worlds, converter) or 'it has no effect'}"
    get, put = _get_reason(worlds, row, converter), _put_reason(worlds, row, converter)
    if kind == TurnKind.USE:
        return f"{get}; {put}" if get and put else None
    return get if kind == TurnKind.GET_ITEMS else put


def _put_reason(worlds: Worlds, row: int, converter: int) -> str | None:
    type_row = int(worlds.converter_type[converter])
    needed = worlds.compiled.types.input[type_row]
    inputs = np.flatnonzero(needed)
    name = worlds.compiled.types.names[type_row]
    if not inputs.size:
        return f"{name} takes no items"
    held = [item for item in inputs.tolist() if worlds.inventory[row, item] > 0]
    if not held:
        return _needs([(item, int(needed[item]), 0) for item in inputs.tolist()], worlds, name)
    if all(worlds.converter_inventory[converter, item] >= MAX_HELD for item in held):
        return f"{name} is full: it holds {MAX_HELD} {worlds.compiled.items[held[0]]}"
    return None


def _get_reason(worlds: Worlds, row: int, converter: int) -> str | None:
    type_row = int(worlds.converter_type[converter])
    types, cap = worlds.compiled.types, worlds.compiled.groups.cap[worlds.group_row[row]]
    ready = np.flatnonzero((types.output[type_row] > 0) & (worlds.converter_inventory[converter] > 0)).tolist()
    if not ready:
        return f"{types.names[type_row]}: {_converter_state(worlds, converter)}"
    if all(worlds.inventory[row, item] >= cap[item] for item in ready):
        return f"inventory full: holds {int(worlds.inventory[row, ready[0]])} {worlds.compiled.items[ready[0]]}"
    return None


def _swap_reason(worlds: Worlds, row: int) -> str | None:
    _, entities = worlds.look_ahead(np.array([row]))
    entity, other = int(entities[0]), int(worlds.agents_among(entities)[0])
    name = _entity_name(worlds, row, entity)
    if entity in (EMPTY, OUTSIDE) or other == row:
        return f"{name} is ahead"
    if other >= 0:
        return None if worlds.freeze[other] else f"{name} is not frozen"
    return None if worlds.first_swappable <= entity < worlds.first_agent else f"{name} cannot be moved"


def _gift_reason(worlds: Worlds, row: int, action_row: int) -> str | None:
    _, entities = worlds.look_ahead(np.array([row]))
    other, item = int(worlds.agents_among(entities)[0]), int(worlds.compiled.actions.gift_item[action_row])
    name, item_name = _entity_name(worlds, row, int(entities[0])), worlds.compiled.items[item]
    if other in (NO_AGENT, row):
        return f"no agent is ahead: {name}"
    if not worlds.inventory[row, item]:
        return f"needs 1 {item_name}, holds 0"
    has_room = worlds.inventory[other, item] < worlds.compiled.groups.cap[worlds.group_row[other], item]
    return None if has_room else f"{name} cannot hold more {item_name}"


def _converter_state(worlds: Worlds, converter: int) -> str:
    """What a converter holds and does, such as `2 heart ready` or `cooling down for 4 more steps`."""
    type_row, held = int(worlds.converter_type[converter]), worlds.converter_inventory[converter]
    types, items = worlds.compiled.types, worlds.compiled.items
    texts = [f"{held[item]} {items[item]} ready" for item in np.flatnonzero((types.output[type_row] > 0) & (held > 0))]
    phase, due = int(worlds.converter_phase[converter]), int(worlds.converter_due[converter])
    if phase in (CONVERTING, COOLING) and due != NEVER:
        words = "converting" if phase == CONVERTING else "cooling down"
        texts.append(f"{words} for {_count(due - worlds.clock, 'more step')}")
    needed = types.input[type_row]
    lacking = [item for item in np.flatnonzero(needed).tolist() if held[item] < needed[item]]
    if lacking:
        texts.append(_needs([(item, int(needed[item]), int(held[item])) for item in lacking], worlds))
    return "; ".join(texts) or "nothing ready"


def _object_state(worlds: Worlds, converter: int) -> str:
    """The states of an object of a registered type, such as `open 1`."""
    types, names = worlds.compiled.types, worlds.compiled.spec.feature_names
    features = types.state_features[worlds.converter_type[converter]].tolist()
    values = worlds.converter_state[converter].tolist()
    return ", ".join(
        f"{names[feature]} {value}" for feature, value in zip(features, values, strict=True) if feature >= 0
    )


def _needs(amounts: list[tuple[int, int, int]], worlds: Worlds, name: str = "") -> str:
    """The items that are lacking, given as (item, needed, held)."""
    lacking = [(worlds.compiled.items[item], needed, held) for item, needed, held in amounts if held < needed]
    texts = ", ".join(f"{needed} {item} (holds {held})" for item, needed, held in lacking)
    return f"{name} needs {texts}" if name else f"needs {texts}"


def _entity_name(worlds: Worlds, row: int, entity: int) -> str:
    """The name of the entity in a cell that agent `row` looks at."""
    types = worlds.compiled.types
    if entity == EMPTY:
        return NOTHING_AHEAD
    if entity == OUTSIDE or entity == worlds.first_agent + row:
        return EDGE
    if entity >= worlds.first_converter:
        return types.names[int(worlds.converter_type[entity - worlds.first_converter])]
    if entity >= worlds.first_plain_wall:
        return types.names[entity - worlds.first_plain_wall]
    if entity >= worlds.first_agent:
        return f"agent {(entity - worlds.first_agent) % worlds.num_agents}"
    return types.names[types.num_plain_walls + entity - worlds.first_swappable]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
