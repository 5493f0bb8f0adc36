"""Divide the saved state of a batch of worlds among smaller batches, and join such states to that of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metta.config.env.env_config import EnvConfig
from metta.world.state.compiled_config import CompiledConfig
from metta.world.state.saved_state import completed, load_worlds, save_worlds
from metta.world.state.worlds import EMPTY, Worlds

States = Sequence[Mapping[str, Any]]


def divide_state(configs: Sequence[EnvConfig], state: Mapping[str, Any], counts: Sequence[int]) -> list[dict[str, Any]]:
    """The states of consecutive shares of `counts [shares]` worlds, from a state that `MettaGridEnv.state` returned.

    `configs` are those of the environment. The state must be one that the environment can load (`check_state`).
    """
    state = completed(state)
    compiled = CompiledConfig(configs, bool(state["shares_rulesets"]))
    whole = Worlds(compiled, sum(counts))
    load_worlds(whole, state)
    states, first = [], 0
    for count in counts:
        share = Worlds(compiled, count)
        copy_worlds(whole, range(first, first + count), share, 0)
        own = {"first_world": int(state["first_world"]) + first}
        states.append({**state, **save_worlds(share), **own})
        first += count
    return states


def join_states(configs: Sequence[EnvConfig], states: States, counts: Sequence[int]) -> dict[str, Any]:
    """The inverse of `divide_state`: the state of all worlds, as one environment would save it."""
    first_state = completed(states[0])
    compiled = CompiledConfig(configs, bool(first_state["shares_rulesets"]))
    whole, first = Worlds(compiled, sum(counts)), 0
    for state, count in zip(states, counts, strict=True):
        share = Worlds(compiled, count)
        load_worlds(share, state)
        copy_worlds(share, range(count), whole, first)
        first += count
    return {**first_state, **save_worlds(whole)}


def copy_worlds(source: Worlds, chosen: range, target: Worlds, first: int) -> None:
    """Copy the worlds `chosen` of `source` to the consecutive worlds of `target` from `first` on.

    Cells and entity ids are translated. Both have the same compiled config.
    """
    slots = max(source.converter_slots, target.converter_slots)
    source.reserve_converters(slots)
    target.reserve_converters(slots)
    target.clock = source.clock
    from_, to = slice(chosen.start, chosen.stop), slice(first, first + len(chosen))
    for name in Worlds.ARRAYS:
        target.by_world(name)[to] = source.by_world(name)[from_]
    target.match_part_arrays(source)
    source.match_part_arrays(target)
    for name in target.part_arrays:
        target.part_by_world(name)[to] = source.part_by_world(name)[from_]
    target.by_world("grid")[to] = target.translate(source.by_world("grid")[from_], source)
    if target.compiled.types.has_walkable:
        target.by_world("floor")[to] = EMPTY
    if (source.episode[from_] >= 0).all():  # before their first episode, worlds are empty
        shift = (first - chosen.start) * target.slot_size
        rows = slice(to.start * target.num_agents, to.stop * target.num_agents)
        target.cell[rows] += shift
        target.grid[target.cell[rows]] = target.first_agent + target.all_agents[rows]
        converter_cell = target.converter_cell[to.start * slots : to.stop * slots]
        converter_cell[converter_cell >= 0] += shift
        placed = to.start * slots + np.flatnonzero(converter_cell >= 0)
        target.place_converters(placed)

    moved_rows = (first - chosen.start) * target.num_agents
    for (row, what, action, argument), times in source.invalid.items():
        if row // source.num_agents in chosen:
            target.invalid[row + moved_rows, what, action, argument] = times
