"""Map builders that tests register; worker processes import this module."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from metta.config.env.map_generators import MAP_BUILDERS


class StrangeError(Exception):
    """An error that cannot be pickled."""

    def __reduce__(self) -> str:
        raise TypeError("not to be pickled")


@MAP_BUILDERS.register("striped")
def striped(rows: int, cols: int, generator: np.random.Generator, settings: dict[str, Any]) -> np.ndarray:
    """Every third column is a wall, with a gap."""
    floor = np.ones((rows, cols), np.bool_)
    floor[1:, 2::3] = False
    return floor


@MAP_BUILDERS.register("wrong shape")
def wrong_shape(rows: int, cols: int, generator: np.random.Generator, settings: dict[str, Any]) -> np.ndarray:
    """Not a map of this size."""
    return np.ones((rows + 1, cols), np.bool_)


@MAP_BUILDERS.register("bug")
def bug(rows: int, cols: int, generator: np.random.Generator, settings: dict[str, Any]) -> np.ndarray:
    """A mistake in the user's program."""
    return np.full((rows, cols), bool(rows // 0))


@MAP_BUILDERS.register("strange error")
def strange_error(rows: int, cols: int, generator: np.random.Generator, settings: dict[str, Any]) -> np.ndarray:
    """An error that cannot be sent to another process."""
    raise StrangeError("not to be pickled")


@MAP_BUILDERS.register("exits")
def exits(rows: int, cols: int, generator: np.random.Generator, settings: dict[str, Any]) -> np.ndarray:
    """Ends the process."""
    os._exit(7)
