"""Checks of the arguments that are given to MettaGridEnv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.config.env.token_features import NO_TOKEN
from metta.errors import UsageError
from metta.world.observation.packed import Observations, PackedObservations


def checked_actions(actions: NDArray[np.integer[Any]], agents: int) -> NDArray[np.int64]:
    """Actions `[agents, 2]`. Raises UsageError for another shape or type."""
    given = np.asarray(actions)
    if given.shape != (agents, 2) or given.dtype.kind not in "iu":
        raise UsageError(f"actions must be integers [agents, 2] = [{agents}, 2]; got {given.dtype} {list(given.shape)}")
    return given.astype(np.int64, copy=False)


def checked_order(order: NDArray[np.integer[Any]], num_worlds: int, num_agents: int) -> NDArray[np.int64]:
    """A turn order `[agents]` as `[worlds, agents of a world]`.

    Raises UsageError for another shape or type, and unless each world has each of its agents once.
    """
    given = np.asarray(order)
    if given.shape != (num_worlds * num_agents,) or given.dtype.kind not in "iu":
        raise UsageError(
            f"order must be integers [agents] = [{num_worlds * num_agents}]; got {given.dtype} {list(given.shape)}"
        )
    by_world = given.astype(np.int64).reshape(num_worlds, num_agents)
    if not (np.sort(by_world, axis=1) == np.arange(num_agents)).all():
        raise UsageError(f"order must have each agent of a world once, 0 to {num_agents - 1}")
    return by_world


def checked_mask(mask: NDArray[np.bool_], num_worlds: int) -> NDArray[np.bool_]:
    """A mask `[worlds]`. Raises UsageError for another shape or type."""
    given = np.asarray(mask)
    if given.shape != (num_worlds,) or given.dtype != np.bool_:
        raise UsageError(f"worlds must be bool [worlds] = [{num_worlds}]; got {given.dtype} {list(given.shape)}")
    return given


def output_array(out: Observations | None, shape: tuple[int, ...]) -> Observations:
    """`out`, or a new array of unused tokens. Raises UsageError unless `out` fits observations of this shape."""
    if out is None:
        return np.full(shape, NO_TOKEN, np.uint8)
    if isinstance(out, PackedObservations):
        if (len(out), out.num_tokens) != shape[:2]:
            raise UsageError(
                f"out must hold {shape[0]} agents with at most {shape[1]} tokens; got {len(out)} agents with "
                f"{out.num_tokens}: make it with PackedObservations(env.agents, env.spec.num_observation_tokens)"
            )
    elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise UsageError(f"out must be contiguous uint8 {list(shape)}; got {out.dtype} {list(out.shape)}")
    return out


def cumulative_shares(weights: Sequence[float], tasks: int) -> NDArray[np.float64]:
    """Cumulative probabilities `[tasks]` of tasks with these relative weights.

    Raises UsageError unless there is one finite weight of at least 0 per task, and their sum is positive.
    """
    values = np.asarray(weights, np.float64)
    with np.errstate(over="ignore"):  # an infinite sum raises UsageError below
        shares: NDArray[np.float64] = np.cumsum(values)
    if not (values.shape == (tasks,) and bool((values >= 0).all()) and 0 < shares[-1] < np.inf):
        raise UsageError(
            f"task_weights must be {tasks} finite numbers of at least 0 with a positive sum; got {values.tolist()}"
        )
    shares /= shares[-1]
    return shares
