"""Save the state of Worlds as a dictionary of arrays and integers, and load it; compatibility with older formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from metta.errors import CheckpointError
from metta.world.state.counters import InvalidCounts
from metta.world.state.worlds import Worlds

STATE_FORMAT = 1

PART_PREFIX = "parts."
"""Prefix of the names of part arrays in a saved state."""


def save_worlds(worlds: Worlds) -> dict[str, Any]:
    """A copy of the state of the worlds, by name. Values are arrays and integers."""
    arrays = {name: getattr(worlds, name).copy() for name in Worlds.ARRAYS}
    # stored as int64, since torch has little support for uint64
    arrays["turn_stream"] = arrays["turn_stream"].view(np.int64)
    arrays |= {f"{PART_PREFIX}{name}": array.copy() for name, array in worlds.part_arrays.items()}
    # in the order of worlds, so that it does not depend on the order in which the worlds of a batch are stepped
    counted = sorted(worlds.invalid.items(), key=lambda entry: entry[0][0] // worlds.num_agents)
    invalid = [(row, what == "invalid_type", *pair, n) for (row, what, *pair), n in counted]
    return arrays | {
        "format": STATE_FORMAT,
        "clock": worlds.clock,
        "converter_slots": worlds.converter_slots,
        "invalid": np.array(invalid, np.int64).reshape(-1, 5),
    }


def completed(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the state with defaults for entries that earlier versions did not save, and tensors as arrays.

    Raises CheckpointError for an unknown format.
    """
    found = state.get("format") if isinstance(state, Mapping) else None
    if not isinstance(found, int | np.ndarray) or np.ndim(found) or found != STATE_FORMAT:
        raise CheckpointError(
            f"the environment state has format {found}; this version of metta reads format {STATE_FORMAT}"
        )
    state = {name: np.asarray(value) if hasattr(value, "__array__") else value for name, value in state.items()}
    # earlier versions had one ruleset per task, and all their episodes started at step 0
    first_step = np.zeros_like(state.get("steps"))
    # and no objects of registered types
    no_states = np.zeros((len(state.get("converter_cell", ())), 0), np.uint8)
    defaults = {
        **{"task": state.get("ruleset"), "shares_rulesets": 0, "first_step": first_step},
        "converter_state": no_states,
    }
    return defaults | {"has_token" if name == "listed" else name: value for name, value in state.items()}


def load_worlds(worlds: Worlds, state: Mapping[str, Any]) -> None:
    """Load a state into `worlds`. It must be checked by `check_worlds` first."""
    saved = {name: np.asarray(state[name]) for name in Worlds.ARRAYS}
    slots = int(state["converter_slots"])
    worlds.allocate_converters(slots)
    for name, array in saved.items():
        getattr(worlds, name)[...] = array.view(np.uint64) if name == "turn_stream" else array
    for name in [name for name in worlds.part_arrays if PART_PREFIX + name not in state]:
        worlds.part_arrays[name][...] = 0
    for name, array in state.items():
        if name.startswith(PART_PREFIX):
            worlds.part_arrays[name.removeprefix(PART_PREFIX)] = np.array(array)
    worlds.lay_floor()
    worlds.clock = int(state["clock"])
    worlds.invalid = InvalidCounts()
    for row, is_type, action, argument, times in np.asarray(state["invalid"]).tolist():
        worlds.invalid[row, "invalid_type" if is_type else "invalid_arg", action, argument] = times
