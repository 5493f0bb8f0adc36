"""Custom features of observations: their values by feature id, and the tokens of cells that have values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.world.state.worlds import EMPTY, Worlds


class CustomFeatures:
    """The custom features at some places: "self", "offset", "agents" or "cells"."""

    def __init__(self, worlds: Worlds, *places: str):
        self._worlds = worlds
        self._arrays: dict[int, list[str]] = {}
        for feature in worlds.compiled.parts.features_at(*places):
            self._arrays.setdefault(feature.feature_id, []).append(feature.array)
        self.ids = sorted(self._arrays)
        """feature ids, ascending"""

    def values(self) -> list[NDArray[Any]]:
        """The values of each feature, in the order of `ids`.

        `[agents] uint8`, `[agents, 3] int16` with offsets, or `[worlds, rows, cols] uint8` of cells. A feature with
        other settings in other rulesets has an array for each, which is 0 in the worlds of the others.
        """
        arrays = [[self._worlds.part_arrays[name] for name in self._arrays[feature]] for feature in self.ids]
        return [np.add.reduce(variants) if variants[1:] else variants[0] for variants in arrays]


class CellTokens:
    """Tokens of the cells of all worlds that have values of custom features.

    `layer` is an array like the grid. Its entity ids follow those of the grid: one for each cell of the grid.
    """

    def __init__(self, worlds: Worlds):
        self._worlds = worlds
        self._features = CustomFeatures(worlds, "cells")
        rows, cols = worlds.slot_rows - 2 * worlds.pad, worlds.stride - 2 * worlds.pad
        in_slot = (np.arange(rows) + worlds.pad)[:, None] * worlds.stride + np.arange(cols) + worlds.pad
        self._cells = (worlds.slot_start[:, None] + in_slot.ravel()).ravel()  # indices into the grid
        self._ids = np.array(self._features.ids, np.uint16)
        self.clear()

    def clear(self) -> None:
        """Forget all values, after the token table was cleared."""
        self.layer = np.full(len(self._worlds.grid), EMPTY, np.int32)
        self._last = np.zeros((len(self._cells), len(self._ids)), np.uint8)

    def update(self, tokens: NDArray[np.uint16], counts: NDArray[np.int64]) -> None:
        """Write the tokens of the cells whose values have changed. `tokens [entities, slots]`, `counts [entities]`"""
        values = np.stack([values.ravel() for values in self._features.values()], axis=1)
        changed = (values != self._last).any(axis=1).nonzero()[0]
        if not changed.size:
            return
        new, cells = values[changed], self._cells[changed]
        has_token = new > 0
        entities = self._worlds.num_entity_ids + cells
        position, feature = has_token.nonzero()
        slot = has_token.cumsum(axis=1)[position, feature] - 1
        tokens[entities[position], slot] = self._ids[feature] + (new[position, feature].astype(np.uint16) << 8)
        counts[entities] = has_token.sum(axis=1)
        self.layer[cells] = np.where(has_token.any(axis=1), entities, EMPTY)
        self._last = values
