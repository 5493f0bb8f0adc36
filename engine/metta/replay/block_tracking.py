"""Block tracking: follow each swappable wall ("block") from step to step, which the simulator does not identify."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig


class BlockTracker:
    """The positions of a world's blocks, each with an identity.

    The simulator only keeps which cells hold a block, and blocks of a type are alike, so identities are a convention: a
    block whose cell still holds its type has not moved; the others are matched to the newly occupied cells, closest
    pairs first.
    """

    def __init__(self, config: EnvConfig, cells: NDArray[np.int16]):
        """`cells [rows, cols]`: the map at the start of the episode, encoded as by `build_map`."""
        swappable = [kind.type_id for kind in config.object_types.values() if kind.swappable]
        self._shape = cells.shape
        self._cell_indices = np.flatnonzero(np.isin(cells, np.array(swappable, cells.dtype)))
        self._type_ids = cells.ravel()[self._cell_indices]

    @property
    def positions(self) -> NDArray[np.int64]:
        """`[blocks, 2]`, (row, col); at the start of the episode in row-major order."""
        return self._positions_of(self._cell_indices)

    def update(self, cells: NDArray[np.int16]) -> None:
        """Move the blocks to where they stand in `cells [rows, cols]`."""
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
    """`[blocks]`: for each of `old [blocks, 2]` the index of its match in `new [blocks, 2]`.

    Pairs are matched greedily by Manhattan distance.
    """
    distances = np.abs(old[:, None] - new[None]).sum(axis=2)
    matches = np.full(len(old), -1)
    for pair in np.argsort(distances, axis=None, kind="stable").tolist():
        old_index, new_index = divmod(pair, len(new))
        if matches[old_index] < 0 and new_index not in matches:
            matches[old_index] = new_index
    return matches
