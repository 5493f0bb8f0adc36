"""Divide the saved state of a batch of worlds among smaller batches, and join such states to that of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metta.config.env.env_config import EnvConfig
from metta.world.state.compiled_config import CompiledConfig
from metta.world.state.copied_worlds import copy_worlds
from metta.world.state.saved_state import completed, load_worlds, save_worlds
from metta.world.state.worlds import Worlds

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
        _copy(whole, first, share, 0, count)
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
        _copy(share, 0, whole, first, count)
        first += count
    return {**first_state, **save_worlds(whole)}


def _copy(source: Worlds, first: int, target: Worlds, target_first: int, count: int) -> None:
    """Copy `count` consecutive worlds, and the clock of their batch."""
    target.reserve_converters(source.converter_slots)
    target.clock = source.clock
    copied = np.arange(count)
    copy_worlds(source, first + copied, target, target_first + copied)
