"""The action `signal`, with which agents show a symbol to all that see them, and the feature `signal` that shows it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.config.parts.registries import ACTIONS, FEATURES
from metta.config.parts.settings import ActionName, PositiveInt
from metta.world.parts.editor import WorldsEditor
from metta.world.parts.view import WorldsView


@ACTIONS.register("signal", arguments="symbols", touches="self")
def signal(
    worlds: WorldsEditor,
    agents: NDArray[np.int64],
    arguments: NDArray[np.int64],
    symbols: PositiveInt = 4,
) -> NDArray[np.bool_]:
    """Signal with one of `symbols` arguments, which always succeeds. The feature `signal` makes it visible."""
    return np.ones(len(agents), np.bool_)


@FEATURES.register("signal", at="agents", scale=1.0)
def shown_signal(worlds: WorldsView, action: ActionName = "signal") -> NDArray[np.uint8]:
    """1 + the argument of each agent's last action if that was `action` and succeeded, else 0. `[agents] uint8`"""
    return np.where(worlds.did(action), worlds.actions[:, 1] + 1, 0).astype(np.uint8)
