"""Copy worlds from one batch to another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.world.state.compiled_config import NEVER
from metta.world.state.worlds import AGENT_ARRAYS, CONVERTER_ARRAYS, EMPTY, WORLD_ARRAYS, Worlds

Indices = NDArray[np.int64]


def copy_worlds(
    source: Worlds, chosen: Indices, target: Worlds, replaced: Indices, walls: NDArray[np.int32] | None = None
) -> None:
    """Copy the worlds `chosen [n]` of `source` over the worlds `replaced [n]` of `target`, another batch.

    Both have the same compiled config. Cells, entity ids and times of events are translated; `walls` is the result of
    `target.wall_ids_of(source)`, if it is known. The target must have enough converter slots. Either all chosen worlds
    have an episode, or none.
    """
    slots = target.converter_slots
    source.reserve_converters(slots)
    from_, to = _index(chosen), _index(replaced)
    for name in WORLD_ARRAYS:
        getattr(target, name)[to] = getattr(source, name)[from_]
    from_rows, to_rows = _agents(source, from_), _agents(target, to)
    for name in AGENT_ARRAYS:
        getattr(target, name)[to_rows] = getattr(source, name)[from_rows]
    target.match_part_arrays(source)
    source.match_part_arrays(target)
    for name in target.part_arrays:
        target.part_by_world(name)[to] = source.part_by_world(name)[from_]
    for name in CONVERTER_ARRAYS:
        target.by_world(name)[to] = source.by_world(name)[from_, :slots]
    # entity ids of walls are translated by a table; those of agents and converters are computed
    target.by_world("grid")[to] = target.translate(source.by_world("grid")[from_], source, walls)
    if target.compiled.types.has_walkable:
        target.by_world("floor")[to] = EMPTY
    if (source.episode[from_] >= 0).all():  # before their first episode, worlds are empty
        shift = target.slot_start[replaced] - source.slot_start[chosen]
        target.cell[to_rows] += shift.repeat(target.num_agents)
        target.grid[target.cell[to_rows]] = target.first_agent + target.all_agents[to_rows]
        target.items_changed[to_rows] = True
        _place_converters(target, replaced, shift, target.clock - source.clock)
    _copy_invalid_counts(source, chosen, target, replaced)


def _index(worlds: Indices) -> slice | Indices:
    """The worlds as a slice if they are consecutive, since that copies faster."""
    first, count = int(worlds[0]), len(worlds)
    is_consecutive = count == 1 or (worlds == np.arange(first, first + count)).all()
    return slice(first, first + count) if is_consecutive else worlds


def _agents(worlds: Worlds, chosen: slice | Indices) -> slice | Indices:
    """The rows of the agents of worlds, that of `_index`."""
    if isinstance(chosen, slice):
        return slice(chosen.start * worlds.num_agents, chosen.stop * worlds.num_agents)
    return worlds.rows_of_worlds(chosen)


def _place_converters(target: Worlds, replaced: Indices, shift: Indices, delay: int) -> None:
    """Move the cells of converters by the `shift [n]` of their worlds and their events by `delay` steps, and write
    the converters to the grid.
    """
    slots = replaced[:, None] * target.converter_slots + np.arange(target.converter_slots)
    is_used = target.converter_cell[slots] >= 0
    placed = slots[is_used]
    target.converter_cell[placed] += shift.repeat(np.count_nonzero(is_used, axis=1))
    due = target.converter_due[placed]
    target.converter_due[placed] = np.where(due == NEVER, due, due + delay)
    target.place_converters(placed)


def _copy_invalid_counts(source: Worlds, chosen: Indices, target: Worlds, replaced: Indices) -> None:
    """Copy the counts of invalid actions, which are stored in a Counter instead of an array."""
    agents = target.num_agents
    if target.invalid:
        ended = set(replaced.tolist())
        for key in [key for key in target.invalid if key[0] // agents in ended]:
            del target.invalid[key]
    if source.invalid:
        moved = dict(zip(chosen.tolist(), ((replaced - chosen) * agents).tolist(), strict=True))
        for (row, *action), times in source.invalid.items():
            if row // agents in moved:
                target.invalid[row + moved[row // agents], *action] = times
