"""Validation of a saved environment state before it is loaded: shapes, dtypes, finite numbers and valid indices.

The checks reject states of other environments, and malicious states with indices outside of arrays. Accidental damage
is detected by the checksums of the file (checkpoint/file_format.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.errors import CheckpointError
from metta.world.state.compiled_config import NEVER
from metta.world.state.compiled_rules import NOT_WALKABLE
from metta.world.state.saved_state import PART_PREFIX
from metta.world.state.worlds import CONVERTER_ARRAYS, COOLING, EMPTY, IDLE, MEMORY_DTYPES, OUTSIDE, Worlds

MAX_COUNT = 2**53
"""Upper bound of 64-bit counts, such as steps and episodes."""

UNKNOWN_SEED = -1
"""Seed in the state of an environment that has drawn none yet."""

Arrays = Mapping[str, NDArray[Any]]


def check_worlds(worlds: Worlds, state: Mapping[str, Any]) -> None:
    """Raise CheckpointError, naming the invalid entry, unless `load_worlds` can load `state` into `worlds`.

    `worlds` is not modified.
    """
    slots = _integer(state, "converter_slots", worlds.slot_size)
    clock = _integer(state, "clock", MAX_COUNT)
    arrays = {name: _array(worlds, state, name, slots) for name in Worlds.ARRAYS}
    for name, (lowest, highest) in _bounds(worlds, slots).items():
        is_within = ((arrays[name] >= lowest) & (arrays[name] <= highest)).all()
        _check(is_within, f"{name} must be from {lowest} to {highest}")
    for name in state:
        if str(name).startswith(PART_PREFIX):
            _check_part_array(worlds, name, state[name])
    due, is_idle = arrays["converter_due"], arrays["converter_phase"] == IDLE
    _check(
        (due >= clock).all() and (is_idle == (due == NEVER)).all(), "converter_due is inconsistent with converter_phase"
    )
    invalid = state.get("invalid")
    is_table = isinstance(invalid, np.ndarray) and invalid.dtype == np.int64 and invalid.shape[1:] == (5,)
    _check(is_table, "invalid must be int64 [invalid actions, 5]")
    if state["has_begun"]:
        _check_positions(worlds, arrays)


def check_streams(state: Mapping[str, Any], num_tasks: int) -> None:
    """Raise CheckpointError, naming the invalid entry, unless seed, `first_world`, flags and task shares are valid."""
    for name, highest in (("first_world", MAX_COUNT), ("has_begun", 1), ("shares_rulesets", 1)):
        _integer(state, name, highest)
    _integer(state, "seed", 2**128, lowest=0 if state["has_begun"] else UNKNOWN_SEED)
    shares = state.get("task_shares")
    is_list = isinstance(shares, np.ndarray) and shares.shape == (num_tasks,) and shares.dtype == np.float64
    is_valid = is_list and (np.diff(state["task_shares"], prepend=0.0) >= 0).all() and state["task_shares"][-1] == 1
    _check(
        is_valid,
        f"task_shares must be float64 [{num_tasks}], cumulative: at least 0, not decreasing, and ending with 1",
    )


def _bounds(worlds: Worlds, slots: int) -> dict[str, tuple[int, int]]:
    """(lowest, highest) valid value of arrays of integers, by name."""
    compiled, last_cell = worlds.compiled, worlds.globals_start - 1
    return {
        "grid": (OUTSIDE, worlds.first_converter + worlds.num_worlds * slots - 1),
        "task": (0, len(compiled.tasks) - 1),
        "ruleset": (0, int(compiled.ruleset_of_task.max())),
        "episode": (-1, MAX_COUNT),
        "cell": (0, last_cell),
        "orientation": (0, 3),
        "color": (0, 255),
        "group_row": (0, len(compiled.groups.names) - 1),
        "converter_type": (0, max(0, len(compiled.types.names) - 1)),
        "converter_cell": (-1, last_cell),
        "converter_phase": (IDLE, COOLING),
    }


def _integer(state: Mapping[str, Any], name: str, highest: int, lowest: int = 0) -> int:
    value = state.get(name)
    is_scalar = isinstance(value, np.ndarray) and value.shape == () and value.dtype.kind in "iu"
    is_valid = (type(value) is int or is_scalar) and lowest <= int(value or 0) <= highest
    _check(is_valid, f"{name} must be an integer from {lowest} to {highest}")
    return int(state[name])


def _array(worlds: Worlds, state: Mapping[str, Any], name: str, slots: int) -> NDArray[Any]:
    """An array of the state. Raises CheckpointError unless it is finite and has the dtype and shape of `worlds`."""
    array, own = state.get(name), getattr(worlds, name)
    dtype = np.dtype(np.int64) if name == "turn_stream" else own.dtype
    shape = (worlds.num_worlds * slots, *own.shape[1:]) if name in CONVERTER_ARRAYS else own.shape
    found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "missing"
    _check(found == f"{dtype} {list(shape)}", f"{name} must be {dtype} {list(shape)}, but is {found}")
    checked = np.asarray(array)
    _check(dtype.kind != "f" or np.isfinite(checked).all(), f"{name} has values that are not finite")
    return checked


def _check_part_array(worlds: Worlds, name: str, array: object) -> None:
    """Raise CheckpointError unless it is a finite array of custom rules, like that of `worlds` if they have it."""
    is_array = isinstance(array, np.ndarray) and array.ndim > 0 and len(array) in (worlds.num_worlds, worlds.agents)
    _check(is_array, f"{name} must be an array with an entry for each world or agent")
    checked, own = np.asarray(array), worlds.part_arrays.get(name.removeprefix(PART_PREFIX))
    found = f"{checked.dtype} {list(checked.shape)}"
    if own is not None:
        expected = f"{own.dtype} {list(own.shape)}"
        _check(found == expected, f"{name} must be {expected}, but is {found}")
    _check(checked.dtype in MEMORY_DTYPES, f"{name} must not be {checked.dtype}")
    _check(np.isfinite(checked).all(), f"{name} has values that are not finite")
    rules = tuple(f"{PART_PREFIX}{key}." for key in worlds.compiled.part_keys)
    is_known = own is not None or name.startswith(rules)  # the memory of a rule is made when the rule asks for it
    _check(is_known, f"{name} belongs to a custom rule that these worlds do not have")


def _check_positions(worlds: Worlds, arrays: Arrays) -> None:
    """Raise CheckpointError if `grid` is inconsistent with map sizes or with positions of agents and converters."""
    grid, cell, converter_cell = arrays["grid"], arrays["cell"], arrays["converter_cell"]
    tasks = worlds.compiled.tasks
    slot = grid[: worlds.globals_start].reshape(worlds.num_worlds, worlds.slot_rows, worlds.stride)
    rows = np.array([config.game.height for config in tasks])[arrays["task"]][:, None, None] + worlds.pad
    cols = np.array([config.game.width for config in tasks])[arrays["task"]][:, None, None] + worlds.pad
    row, col = np.arange(worlds.slot_rows)[:, None], np.arange(worlds.stride)
    inside = (row >= worlds.pad) & (row < rows) & (col >= worlds.pad) & (col < cols)
    _check(((slot != OUTSIDE) == inside).all(), "grid does not have the size of the task's map")
    _check((grid[worlds.globals_cell] == worlds.first_global + worlds.all_agents).all(), "grid has no global tokens")
    _check(
        (grid[cell] == worlds.first_agent + worlds.all_agents).all(), "cell and grid have different positions of agents"
    )
    placed = np.flatnonzero(converter_cell >= 0)
    found, types = grid[converter_cell[placed]], worlds.compiled.types
    is_covered = (types.walkable[arrays["converter_type"][placed]] != NOT_WALKABLE) & (found > EMPTY)
    is_covered &= worlds.may_be_vacated(found)
    is_same = ((found == worlds.first_converter + placed) | is_covered).all()
    num_converters = np.count_nonzero(slot >= worlds.first_converter) + np.count_nonzero(is_covered)
    _check(is_same and num_converters == len(placed), "converter_cell and grid have different positions of converters")


def _check(is_valid: object, problem: str) -> None:
    if not is_valid:
        raise CheckpointError(f"the environment state does not fit: {problem}")
