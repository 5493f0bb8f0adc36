"""Could worlds have come to this by play? What a saved state says of them, judged before any of it is believed.

A state that breaks what the simulator counts on (an agent in no cell, a type that is not there) would not fail here but
somewhere in the middle of a step, or train on with nonsense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.errors import UsageError
from metta.world.state.compiled_config import NEVER
from metta.world.state.worlds import CONVERTER_ARRAYS, COOLING, IDLE, OUTSIDE, Worlds

MOST = 2**53
"""Of anything that is counted in 64 bits."""

Arrays = Mapping[str, NDArray[Any]]

_BOUNDS: Mapping[str, tuple[int, int]] = {
    "steps": (0, MOST),
    "first_step": (0, MOST),
    "episode": (-1, MOST),
    "object_counts": (0, MOST),
    "orientation": (0, 3),
    "color": (0, 255),
    "freeze": (-1, 2**31),
    "inventory": (0, 255),
    "agent_counters": (0, 2**31 - 1),
    "tokens_written": (0, MOST),
    "tokens_dropped": (0, MOST),
    "converter_inventory": (0, 255),
    "converter_phase": (IDLE, COOLING),
    "converter_counters": (0, 2**31 - 1),
}
"""Lowest and highest value of the arrays that need no other to be judged."""


def check_worlds(worlds: Worlds, state: Mapping[str, Any]) -> None:
    """Raise UsageError, saying which part, unless `state` is one that worlds like these can be in.

    `worlds` themselves stay as they are.
    """
    slots = _number(state, "converter_slots", worlds.slot)
    clock = _number(state, "clock", MOST)
    arrays = {name: _array(worlds, state, name, slots) for name in Worlds.ARRAYS}
    for name, (lowest, highest) in _BOUNDS.items():
        _check(_within(arrays[name], lowest, highest), f"{name} must be {lowest} to {highest}")
    for name, array in arrays.items():
        _check(array.dtype.kind != "f" or bool(np.isfinite(array).all()), f"{name} is not finite")
    _check_tasks(worlds, arrays)
    _check_invalid(worlds, state)
    _check_converters(worlds, arrays, slots, clock)
    if (arrays["episode"] >= 0).all():  # else nothing stands there yet
        _check_grid(worlds, arrays, slots)


def check_streams(state: Mapping[str, Any], num_tasks: int) -> None:
    """Raise UsageError, saying which part, unless what `state` says beside the worlds can be."""
    for name, most in (("seed", 2**128), ("first_world", MOST), ("has_begun", 1), ("shares_rulesets", 1)):
        _number(state, name, most)
    shares, episode = np.asarray(state["task_shares"]), np.asarray(state["episode"])
    is_list = shares.shape == (num_tasks,) and shares.dtype == np.float64
    _check(
        is_list and _within(np.diff(shares, prepend=0.0), 0, 1) and shares[-1] == 1, "task_shares are no shares of 1"
    )
    _check(episode.dtype == np.int64 and (episode >= 0).all() == state["has_begun"], "has_begun and episode disagree")


def _number(state: Mapping[str, Any], name: str, most: int) -> int:
    value = state[name]
    is_whole = type(value) is int or (isinstance(value, np.ndarray) and value.shape == () and value.dtype.kind in "iu")
    _check(is_whole and 0 <= int(value) <= most, f"{name} must be a whole number from 0 to {most}")
    return int(value)


def _array(worlds: Worlds, state: Mapping[str, Any], name: str, slots: int) -> NDArray[Any]:
    """An array of the state, of the kind and shape that the worlds have."""
    array, own = np.asarray(state[name]), getattr(worlds, name)
    kind = np.dtype(np.int64) if name == "turn_stream" else own.dtype
    shape = (worlds.num_worlds * slots, *own.shape[1:]) if name in CONVERTER_ARRAYS else own.shape
    found = f"{array.dtype} {list(array.shape)}"
    _check((array.dtype, array.shape) == (kind, shape), f"{name} is {found}, not {kind} {list(shape)}")
    return array


def _check_tasks(worlds: Worlds, arrays: Arrays) -> None:
    """Tasks that are there, with their rules, and groups of those rules."""
    compiled = worlds.compiled
    task, ruleset = arrays["task"], arrays["ruleset"]
    _check(_within(task, 0, len(compiled.tasks) - 1), f"task must be 0 to {len(compiled.tasks) - 1}")
    _check((ruleset == compiled.ruleset_of_task[task]).all(), "ruleset is not that of the task")
    own = arrays["group_row"] // compiled.num_groups == ruleset[worlds.world]
    _check(own.all() or bool((arrays["episode"] < 0).any()), "group_row is of no group of the task")
    _check(_within(arrays["group_row"], 0, len(compiled.groups.names) - 1), "group_row is of no group")


def _check_invalid(worlds: Worlds, state: Mapping[str, Any]) -> None:
    invalid = np.asarray(state["invalid"])
    is_table = invalid.dtype == np.int64 and invalid.ndim == 2 and invalid.shape[1] == 5
    _check(is_table, "invalid must be int64 [times, 5]")
    row, is_type, _, _, times = invalid.T
    sound = (row >= 0) & (row < worlds.agents) & (is_type >= 0) & (is_type <= 1) & (times > 0)
    _check(sound.all(), "invalid counts what cannot be")


def _check_converters(worlds: Worlds, arrays: Arrays, slots: int, clock: int) -> None:
    """What is being made ends in time, and what is not there makes nothing."""
    types = worlds.compiled.types
    kind, cell, due = arrays["converter_type"], arrays["converter_cell"], arrays["converter_due"]
    _check(_within(kind, 0, max(0, len(types.names) - 1)), "converter_type is of no object")
    is_there, rests = cell >= 0, arrays["converter_phase"] == IDLE
    _check(_within(cell, -1, worlds.globals_start - 1), "converter_cell is in no world")
    _check((kind[is_there] >= types.static).all(), "converter_type is of a wall")
    world = np.arange(len(kind)) // max(1, slots)
    of_task = worlds.compiled.rulesets.type_row[arrays["ruleset"][world], types.type_id[kind]] == kind
    _check(of_task[is_there].all(), "converter_type is of no object of the task")
    _check((rests == (due == NEVER)).all() and rests[~is_there].all(), "converter_due does not go with converter_phase")
    longest = max(int(types.conversion_ticks.max(initial=0)), int(types.cooldown.max(initial=0)))
    _check(_within(due[~rests], clock, clock + longest), "converter_due is not near the clock")


def _check_grid(worlds: Worlds, arrays: Arrays, slots: int) -> None:
    """Each thing is in its own world, where it says it is, and nothing else is anywhere."""
    compiled, types = worlds.compiled, worlds.compiled.types
    grid, cell, converter_cell = arrays["grid"], arrays["cell"], arrays["converter_cell"]
    entities, own_globals = grid[: worlds.globals_start], grid[worlds.globals_start :]
    end = worlds.first_converter + len(converter_cell)
    known = (entities == OUTSIDE) | (entities == 0) | ((entities >= worlds.first_swappable) & (entities < end))
    _check(known.all(), "grid holds a thing that is not there")
    _check((own_globals == worlds.first_global + worlds.everyone).all(), "grid has other globals")

    slot = entities.reshape(worlds.num_worlds, worlds.slot_rows, worlds.stride)
    rows = np.array([config.game.height for config in compiled.tasks])[arrays["task"]][:, None, None] + worlds.pad
    cols = np.array([config.game.width for config in compiled.tasks])[arrays["task"]][:, None, None] + worlds.pad
    row, col = np.arange(worlds.slot_rows)[:, None], np.arange(worlds.stride)
    inside = (row >= worlds.pad) & (row < rows) & (col >= worlds.pad) & (col < cols)
    _check(((slot != OUTSIDE) == inside).all(), "grid is of another size than the task's map")

    _check(_within(cell, 0, worlds.globals_start - 1), "cell is in no world")
    _check((cell // worlds.slot == worlds.world).all(), "cell is in another world")
    stands = grid[cell] == worlds.first_agent + worlds.everyone
    is_agent = (entities >= worlds.first_agent) & (entities < worlds.first_plain)
    _check(stands.all() and is_agent.sum() == worlds.agents, "cell and grid disagree on where agents are")

    standing = np.flatnonzero(converter_cell >= 0)
    place = converter_cell[standing]
    _check((place // worlds.slot == standing // max(1, slots)).all(), "converter_cell is in another world")
    agree = (grid[place] == worlds.first_converter + standing).all()
    is_converter = entities >= worlds.first_converter
    _check(agree and is_converter.sum() == len(standing), "converter_cell and grid disagree on where converters are")

    walls = np.flatnonzero((entities > 0) & ~is_agent & ~is_converter)
    is_plain = entities[walls] >= worlds.first_plain
    first = np.where(is_plain, worlds.first_plain, worlds.first_swappable - types.plain_walls)
    kind = entities[walls] - first
    ruleset = arrays["ruleset"][walls // worlds.slot]
    _check(
        (compiled.rulesets.type_row[ruleset, types.type_id[kind]] == kind).all(), "grid holds a wall of another task"
    )


def _within(array: NDArray[Any], lowest: int, highest: int) -> bool:
    return bool(((array >= lowest) & (array <= highest)).all())


def _check(is_so: object, otherwise: str) -> None:
    if not is_so:
        raise UsageError(f"the environment state does not fit: {otherwise}")
