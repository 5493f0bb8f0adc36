"""Checks of the arrays that are given to MettaGridEnv."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.config.env.token_features import NO_TOKEN
from metta.errors import UsageError


def checked_actions(actions: NDArray[np.integer[Any]], agents: int) -> NDArray[np.int64]:
    """Actions `[agents, 2]`. Raises UsageError for another shape or type."""
    given = np.asarray(actions)
    if given.shape != (agents, 2) or given.dtype.kind not in "iu":
        raise UsageError(f"actions must be integers [agents, 2] = [{agents}, 2]; got {given.dtype} {list(given.shape)}")
    return given.astype(np.int64, copy=False)


def checked_mask(mask: NDArray[np.bool_], num_worlds: int) -> NDArray[np.bool_]:
    """A mask `[worlds]`. Raises UsageError for another shape or type."""
    given = np.asarray(mask)
    if given.shape != (num_worlds,) or given.dtype != np.bool_:
        raise UsageError(f"worlds must be bool [worlds] = [{num_worlds}]; got {given.dtype} {list(given.shape)}")
    return given


def output_array(out: NDArray[np.uint8] | None, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """`out`, or a new array of unused tokens. Raises UsageError unless `out` is contiguous uint8 of this shape."""
    if out is None:
        return np.full(shape, NO_TOKEN, np.uint8)
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise UsageError(f"out must be contiguous uint8 {list(shape)}; got {out.dtype} {list(out.shape)}")
    return out
