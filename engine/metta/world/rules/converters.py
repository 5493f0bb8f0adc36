"""Converters (mines, generators, altars): conversions and cooldowns, and the actions put_items, get_items and use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.random_streams import SPLITMIX64_STEP, splitmix64
from metta.world.rules.inventory import Rows, update_items
from metta.world.state.compiled_config import ABSENT, NEVER, SAMPLED
from metta.world.state.worlds import CONVERTING, COOLING, IDLE, Worlds

MAX_HELD = 255
"""Maximum number of units of each item in a converter."""

SAMPLED_KEY = np.uint64(0xD1B54A32D192ED03)
"""Combined with the key of an episode, so that sampled values do not depend on its turn orders."""

Converters = NDArray[np.int64]
"""Rows of converters in the converter arrays, distinct."""


def sampled_values(worlds: Worlds, name: str, converters: Converters) -> NDArray[np.int64]:
    """One of SAMPLED for each converter: that of its type, sampled for its episode if it is a range. `[converters]`

    Sampled values are a function of the episode's key, the type and the value's name, and therefore not part of the
    state.
    """
    types, type_rows = worlds.compiled.types, worlds.converter_type[converters]
    lowest: NDArray[np.int64] = getattr(types, name)[type_rows]
    if name not in types.spans:
        return lowest
    episode_key = splitmix64(worlds.turn_stream[converters // worlds.converter_slots] ^ SAMPLED_KEY)
    number = (types.type_id[type_rows] * len(SAMPLED) + SAMPLED.index(name)).astype(np.uint64)
    uniform = splitmix64(episode_key + number * SPLITMIX64_STEP)
    return lowest + (uniform % (types.spans[name][type_rows] + 1).astype(np.uint64)).astype(np.int64)


def advance_converters(worlds: Worlds) -> None:
    """Finish all conversions and cooldowns that are due, repeatedly, since these can start others of zero duration."""
    while (due := (worlds.converter_due <= worlds.clock).nonzero()[0]).size:
        phase = worlds.converter_phase[due]
        _finish_conversions(worlds, due[phase == CONVERTING])
        _end_cooldowns(worlds, due[phase == COOLING])


def start_conversions(worlds: Worlds, converters: Converters) -> None:
    """Start a conversion in each idle converter that has all inputs and whose outputs are below `max_output`."""
    types, columns = worlds.compiled.types, worlds.converter_columns
    idle = converters[worlds.converter_phase[converters] == IDLE]
    if not idle.size:
        return
    type_rows = worlds.converter_type[idle]
    held = worlds.converter_inventory[idle]

    output_units = (held * (types.output[type_rows] > 0)).sum(axis=1)
    limit = sampled_values(worlds, "max_output", idle)
    is_full = (limit >= 0) & (output_units >= limit)
    lacks_input = ~is_full & (held < types.input[type_rows]).any(axis=1)
    worlds.count_converters(idle[is_full], columns.output_full)
    worlds.count_converters(idle[lacks_input], columns.insufficient_input)

    starts = ~is_full & ~lacks_input
    starting, inputs = idle[starts], types.input[type_rows[starts]]
    worlds.converter_inventory[starting] -= inputs.astype(np.int16)
    worlds.count_converters(starting, columns.of_items(columns.consumed), inputs)
    worlds.count_converters(starting, columns.conversions_started)
    worlds.converter_phase[starting] = CONVERTING
    worlds.converter_due[starting] = worlds.clock + sampled_values(worlds, "conversion_ticks", starting)
    worlds.converter_changed[starting] = True


def _finish_conversions(worlds: Worlds, converters: Converters) -> None:
    if not converters.size:
        return
    types, columns = worlds.compiled.types, worlds.converter_columns
    type_rows = worlds.converter_type[converters]
    produced = types.output[type_rows]
    # units above MAX_HELD are discarded, but counted as produced
    worlds.converter_inventory[converters] = np.minimum(worlds.converter_inventory[converters] + produced, MAX_HELD)
    worlds.count_converters(converters, columns.of_items(columns.produced), produced)
    worlds.count_converters(converters, columns.conversions_completed)

    cooldown = sampled_values(worlds, "cooldown", converters)
    worlds.converter_phase[converters] = np.where(cooldown > 0, COOLING, IDLE)
    worlds.converter_due[converters] = np.where(cooldown > 0, worlds.clock + cooldown, NEVER)
    worlds.count_converters(converters[cooldown > 0], columns.cooldown_started)
    worlds.converter_changed[converters] = True
    start_conversions(worlds, converters[cooldown == 0])


def _end_cooldowns(worlds: Worlds, converters: Converters) -> None:
    if not converters.size:
        return
    worlds.converter_phase[converters] = IDLE
    worlds.converter_due[converters] = NEVER
    worlds.count_converters(converters, worlds.converter_columns.cooldown_completed)
    worlds.converter_changed[converters] = True
    start_conversions(worlds, converters)


# -- actions: agent `rows[i]` acts on `converters[i]`; rows are distinct, and so are converters -----------------------


def put_items(worlds: Worlds, rows: Rows, converters: Converters) -> NDArray[np.bool_]:
    """Put inputs into each converter, up to those of one conversion. Returns whether any item moved. `[rows] bool`"""
    types = worlds.compiled.types
    success = np.zeros(len(rows), np.bool_)
    for items in types.input_items[worlds.converter_type[converters]].T:
        has_some = ((items != ABSENT) & (worlds.inventory[rows, items] > 0)).nonzero()[0]
        if not has_some.size:
            continue
        agents, targets, put = rows[has_some], converters[has_some], items[has_some]
        wanted = np.minimum(types.input[worlds.converter_type[targets], put], worlds.inventory[agents, put])
        amount = np.minimum(wanted, MAX_HELD - worlds.converter_inventory[targets, put])
        worlds.converter_inventory[targets, put] += amount.astype(np.int16)
        worlds.converter_changed[targets] = True
        worlds.count_converters(targets, worlds.converter_columns.added + put, amount)
        start_conversions(worlds, targets)  # even where the converter has no space
        fitted = amount > 0
        update_items(worlds, agents[fitted], put[fitted], -amount[fitted])
        worlds.count(agents[fitted], worlds.agent_columns.put + put[fitted], amount[fitted])
        success[has_some] |= fitted
    return success


def get_items(worlds: Worlds, rows: Rows, converters: Converters) -> NDArray[np.bool_]:
    """Take outputs, limited by the caps of each agent. Returns whether any item moved. `[rows] bool`"""
    types = worlds.compiled.types
    success = np.zeros(len(rows), np.bool_)
    for items in types.output_items[worlds.converter_type[converters]].T:
        has_some = ((items != ABSENT) & (worlds.converter_inventory[converters, items] > 0)).nonzero()[0]
        if not has_some.size:
            continue
        agents, sources, got = rows[has_some], converters[has_some], items[has_some]
        amount = update_items(worlds, agents, got, worlds.converter_inventory[sources, got].astype(np.int64))
        worlds.count(agents, worlds.agent_columns.got + got, amount)
        taken = amount > 0
        sources, got, amount = sources[taken], got[taken], amount[taken]
        worlds.converter_inventory[sources, got] -= amount.astype(np.int16)
        worlds.converter_changed[sources] = True
        worlds.count_converters(sources, worlds.converter_columns.removed + got, amount)
        start_conversions(worlds, sources)
        success[has_some] |= taken
    return success


def use_converter(worlds: Worlds, rows: Rows, converters: Converters) -> NDArray[np.bool_]:
    """Take outputs if the agent can hold any, otherwise put inputs. Returns whether any item moved. `[rows] bool`"""
    outputs = worlds.compiled.types.output[worlds.converter_type[converters]] > 0
    room = worlds.inventory[rows] < worlds.compiled.groups.cap[worlds.group_row[rows]]
    can_take = (outputs & room & (worlds.converter_inventory[converters] > 0)).any(axis=1)
    success = np.zeros(len(rows), np.bool_)
    success[can_take] = get_items(worlds, rows[can_take], converters[can_take])
    success[~can_take] = put_items(worlds, rows[~can_take], converters[~can_take])
    return success
