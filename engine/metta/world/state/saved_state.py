"""All that worlds are at a moment as arrays and integers, and back: what a checkpoint holds of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from metta.errors import UsageError
from metta.world.state.counters import InvalidCounts
from metta.world.state.worlds import Worlds

STATE_FORMAT = 1


def save_worlds(worlds: Worlds) -> dict[str, Any]:
    """A copy of everything that changes."""
    arrays = {name: getattr(worlds, name).copy() for name in Worlds.ARRAYS}
    # unsigned keys travel as int64, which every tensor library knows
    arrays["turn_stream"] = arrays["turn_stream"].view(np.int64)
    invalid = [(row, what == "invalid_type", *pair, n) for (row, what, *pair), n in worlds.invalid.items()]
    return arrays | {
        "format": STATE_FORMAT,
        "clock": worlds.clock,
        "converter_slots": worlds.converter_slots,
        "invalid": np.array(invalid, np.int64).reshape(-1, 5),
    }


def completed(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state with what those of the first versions lack. Raises UsageError for one of another format."""
    if state["format"] != STATE_FORMAT:
        raise UsageError(f"this environment state has format {state['format']}; this version reads {STATE_FORMAT}")
    # in states of versions that knew no tasks of the same rules, the ruleset is the task; all episodes began at 0
    lacking = {"task": state["ruleset"], "shares_rulesets": 0, "first_step": np.zeros_like(state["steps"])}
    return lacking | {"has_token" if name == "listed" else name: value for name, value in state.items()}


def load_worlds(worlds: Worlds, state: Mapping[str, Any]) -> None:
    """Make `worlds` what was saved, in a state that `check_worlds` has found sound."""
    saved = {name: np.asarray(state[name]) for name in Worlds.ARRAYS}
    slots = int(state["converter_slots"])
    worlds.allot_converters(slots)
    for name, array in saved.items():
        getattr(worlds, name)[...] = array.view(np.uint64) if name == "turn_stream" else array
    worlds.clock = int(state["clock"])
    worlds.invalid = InvalidCounts()
    for row, is_type, action, argument, times in np.asarray(state["invalid"]).tolist():
        worlds.invalid[row, "invalid_type" if is_type else "invalid_arg", action, argument] = times
