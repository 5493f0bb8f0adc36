"""Map builders that tests register, and worker processes import."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from metta.config.env.map_generators import MAP_BUILDERS


class StrangeError(Exception):
    """An error that cannot be pickled."""

    def __reduce__(self) -> str:
        raise TypeError("not to be pickled")


def striped(rows: int, cols: int, generator: np.random.Generator, settings: dict[str, Any]) -> np.ndarray:
    """Every third column is a wall, with a gap."""
    floor = np.ones((rows, cols), np.bool_)
    floor[1:, 2::3] = False
    return floor


def wrong_shape(rows: int, cols: int, generator: np.random.Generator, settings: dict[str, Any]) -> np.ndarray:
    """Not a map of this size."""
    return np.ones((rows + 1, cols), np.bool_)


def bug(rows: int, cols: int, generator: np.random.Generator, settings: dict[str, Any]) -> np.ndarray:
    """A mistake in the user's program."""
    return np.full((rows, cols), bool(rows // 0))


def strange_error(rows: int, cols: int, generator: np.random.Generator, settings: dict[str, Any]) -> np.ndarray:
    """An error that cannot be sent to another process."""
    raise StrangeError("not to be pickled")


def exits(rows: int, cols: int, generator: np.random.Generator, settings: dict[str, Any]) -> np.ndarray:
    """Ends the process."""
    os._exit(7)


@pytest.fixture(autouse=True)
def registered_builders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers them during a test, in the modules that import this fixture."""
    builders = {
        "striped": striped,
        "wrong shape": wrong_shape,
        "bug": bug,
        "strange error": strange_error,
        "exits": exits,
    }
    monkeypatch.setattr(MAP_BUILDERS, "_registered", MAP_BUILDERS._registered | builders)
