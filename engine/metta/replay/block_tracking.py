"""Which swappable wall is which: the simulator keeps only what stands where, a replay follows each one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig


class BlockTracker:
    """The swappable walls of a world as individuals.

    Walls of a type are all alike, so who went where is a choice: those that can stay keep their places, and of the
    others each goes to the nearest place that is new.
    """

    def __init__(self, config: EnvConfig, cells: NDArray[np.int16]):
        """`cells [rows, cols]`: the map at the beginning, encoded as by `build_map`."""
        swappable = [kind.type_id for kind in config.object_types.values() if kind.swappable]
        self._shape = cells.shape
        self._places = np.flatnonzero(np.isin(cells, np.array(swappable, cells.dtype)))
        self._type_ids = cells.ravel()[self._places]

    @property
    def positions(self) -> NDArray[np.int64]:
        """`[blocks, 2]`, (row, col); at first in row-major order."""
        return self._rows_cols(self._places)

    def follow(self, cells: NDArray[np.int16]) -> None:
        """Move each block to where it stands in `cells`."""
        flat = cells.ravel()
        has_gone = flat[self._places] != self._type_ids
        for type_id in np.unique(self._type_ids[has_gone]):
            gone = np.flatnonzero(has_gone & (self._type_ids == type_id))
            came = np.setdiff1d(np.flatnonzero(flat == type_id), self._places[~has_gone])
            self._places[gone] = came[_nearest_pairs(self._rows_cols(self._places[gone]), self._rows_cols(came))]

    def _rows_cols(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.stack(np.unravel_index(places, self._shape), axis=1)


def _nearest_pairs(old: NDArray[np.int64], new: NDArray[np.int64]) -> NDArray[np.int64]:
    """`[n]`: for each of `old` `[n, 2]` the index of its own one of `new` `[n, 2]`, the closest pairs first."""
    distances = np.abs(old[:, None] - new[None]).sum(axis=2)
    chosen = np.full(len(old), -1)
    for pair in np.argsort(distances, axis=None, kind="stable").tolist():
        one, other = divmod(pair, len(new))
        if chosen[one] < 0 and other not in chosen:
            chosen[one] = other
    return chosen
