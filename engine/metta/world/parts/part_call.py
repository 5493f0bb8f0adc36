"""PartCall: what a call of a custom rule has besides the state of the worlds: its memories and random numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import DTypeLike, NDArray

from metta.errors import UsageError
from metta.random_streams import SPLITMIX64_STEP, splitmix64, uniform_numbers
from metta.world.state.worlds import MEMORY_DTYPES, Worlds

MEMORY_TYPES: Final = "bool, int8 to int64, uint8 to uint32, float32 or float64"


@dataclass
class PartCall:
    """A call of a part, for all worlds or for some."""

    key: str = ""
    """prefix of the names of its memories"""
    title: str = "the program"
    """the part, for messages"""
    stream: str = ""
    """name of its random stream in each world"""
    draws: int = 0
    """number of random numbers that were drawn for each agent, cell or object"""
    lent: dict[str, NDArray[Any]] = field(default_factory=dict)
    """copies of the memories of some worlds, by name in `Worlds.part_arrays`"""

    def memory(
        self, worlds: Worlds, selected: NDArray[np.int64] | None, name: str, shape: tuple[int, ...], dtype: DTypeLike
    ) -> NDArray[Any]:
        """The memory of that name, of a `shape` for all worlds. Of `selected` worlds, a copy, for `end`.

        Raises UsageError for another dtype than MEMORY_TYPES, or if it has another shape or dtype.
        """
        dtype, key = np.dtype(dtype), f"{self.key}.{name}"
        if dtype not in MEMORY_DTYPES:
            raise UsageError(f"{self.title}: the dtype of a memory must be {MEMORY_TYPES}; got {dtype}")
        array = worlds.part_arrays.get(key)
        if array is None:
            array = worlds.part_arrays[key] = np.zeros(shape, dtype)
        if array.shape != shape or array.dtype != dtype:
            raise UsageError(
                f'{self.title}: the memory "{name}" is {array.dtype} {list(array.shape)}, but was requested as '
                f"{dtype} {list(shape)}"
            )
        if selected is None:
            return array
        if key not in self.lent:
            chosen = worlds.part_by_world(key)[selected]
            self.lent[key] = chosen.reshape(-1, *chosen.shape[2:])
        return self.lent[key]

    def end(self, worlds: Worlds, selected: NDArray[np.int64] | None) -> None:
        """Store the memories of `selected` worlds."""
        for name, array in self.lent.items():
            of_worlds = worlds.part_by_world(name)
            of_worlds[selected] = array.reshape(-1, *of_worlds.shape[1:])

    def keys(self, turn_streams: NDArray[np.uint64], steps: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The keys of the random numbers of worlds, from the streams of their episodes and their steps. `[worlds]`"""
        part = splitmix64(np.array([crc32(self.stream.encode())], np.uint64) * SPLITMIX64_STEP)
        return splitmix64(splitmix64(turn_streams ^ part) + steps.astype(np.uint64) * SPLITMIX64_STEP)

    def uniform(self, keys: NDArray[np.uint64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Uniform random numbers in [0, 1) of the next draw, `[n] float64`, one for each of `keys` and `numbers [n]`.

        `numbers` count those of a world from 0.
        """
        draws = numbers.astype(np.uint64) + np.uint64(1 + (self.draws << 32))
        self.draws += 1
        return uniform_numbers(keys + draws * SPLITMIX64_STEP)
