"""Block tracking: give each swappable wall ("block") an identity that persists from step to step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig


class BlockTracker:
    """The positions of the blocks of a world; a block has the same index at every step.

    The simulator stores which cells contain a block of which type, but does not distinguish blocks of the same type.
    Identities are therefore inferred: a block whose cell still contains its type is assumed not to have moved; the
    others are matched to the newly occupied cells of their type, closest pairs first.
    """

    def __init__(self, config: EnvConfig, cells: NDArray[np.int16]):
        """`cells [rows, cols]`: the map at the start of the episode, in the encoding of `Replay.cells`."""
        swappable = [object_type.type_id for object_type in config.object_types.values() if object_type.swappable]
        self._shape = cells.shape
        self._cell_indices = np.flatnonzero(np.isin(cells, np.array(swappable, cells.dtype)))
        self._type_ids = cells.ravel()[self._cell_indices]

    @property
    def positions(self) -> NDArray[np.int64]:
        """(row, col) of each block, `[blocks, 2]`; at the start of the episode in row-major order."""
        return self._positions_of(self._cell_indices)

    def update(self, cells: NDArray[np.int16]) -> None:
        """Set the positions from the map `cells [rows, cols]` after a step."""
        flat = cells.ravel()
        has_moved = flat[self._cell_indices] != self._type_ids
        for type_id in np.unique(self._type_ids[has_moved]):
            moved = np.flatnonzero(has_moved & (self._type_ids == type_id))
            occupied = np.setdiff1d(np.flatnonzero(flat == type_id), self._cell_indices[~has_moved])
            matches = _match_nearest(self._positions_of(self._cell_indices[moved]), self._positions_of(occupied))
            self._cell_indices[moved] = occupied[matches]

    def _positions_of(self, cell_indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.stack(np.unravel_index(cell_indices, self._shape), axis=1)


def _match_nearest(old: NDArray[np.int64], new: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each position in `old [blocks, 2]`, the index of its match in `new [blocks, 2]`. `[blocks]`

    Matching is greedy: the pair with the smallest Manhattan distance first.
    """
    distances = np.abs(old[:, None] - new[None]).sum(axis=2)
    matches = np.full(len(old), -1)
    for pair in np.argsort(distances, axis=None, kind="stable").tolist():
        old_index, new_index = divmod(pair, len(new))
        if matches[old_index] < 0 and new_index not in matches:
            matches[old_index] = new_index
    return matches
