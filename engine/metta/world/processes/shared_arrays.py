"""Shared arrays: the actions, observations and results of batches of worlds, in memory that processes share.

The memory has no name: it is passed on to child processes as an open file, and freed when the last of them has ended,
however that ends. It does not count against the size of /dev/shm, which is small in containers.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from metta.world.observation.packed import PackedObservations

_ALIGNMENT: Final = 4096
"""Batches begin on different pages, and arrays on different cache lines."""
_CACHE_LINE: Final = 64


@dataclass(frozen=True)
class BatchShape:
    """Sizes of a batch of worlds."""

    num_worlds: int
    num_agents: int
    """agents per world"""
    num_tokens: int
    num_actions: int
    """number of (action, argument) pairs"""
    num_workers: int

    @property
    def agents(self) -> int:
        """Agents of all worlds."""
        return self.num_worlds * self.num_agents


@dataclass(frozen=True)
class BatchArrays:
    """The shared arrays of a batch of worlds, or of some consecutive worlds of it."""

    actions: NDArray[np.int64]
    """`[agents, 2]`: written by the policy's process; all others by the workers"""
    tokens: NDArray[np.uint8]
    """`[agents * tokens, 3]`: packed observations; those of a worker begin at the tokens of its first agent"""
    token_counts: NDArray[np.int64]
    """`[agents]`"""
    action_masks: NDArray[np.bool_]
    """`[agents, actions]`"""
    rewards: NDArray[np.float32]
    """`[agents]`"""
    terminated: NDArray[np.bool_]
    """`[agents]`"""
    truncated: NDArray[np.bool_]
    """`[agents]`"""
    groups: NDArray[np.int64]
    """`[agents]`"""
    tasks: NDArray[np.int64]
    """`[worlds]`"""
    step_times: NDArray[np.float64]
    """`[workers, 2]`: when the last step of each share began and ended, by `time.perf_counter`, in seconds"""

    @classmethod
    def of(cls, memory: SharedMemory, offset: int, shape: BatchShape) -> BatchArrays:
        """The arrays of a batch whose part of the memory begins at `offset`."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, (sizes, dtype) in _layout(shape).items():
            count = int(np.prod(sizes))
            arrays[name] = np.frombuffer(memory.buffer, dtype, count, offset).reshape(sizes)
            offset += _aligned(count * np.dtype(dtype).itemsize, _CACHE_LINE)
        return cls(**arrays)

    def share(self, worlds: slice, num_agents: int, worker: int) -> BatchArrays:
        """Views of the arrays of the consecutive `worlds`, which `worker` steps."""
        rows = slice(worlds.start * num_agents, worlds.stop * num_agents)
        num_tokens = len(self.tokens) // len(self.token_counts)
        parts = {name: array[rows] for name, array in vars(self).items()}
        others = {
            "tokens": self.tokens[rows.start * num_tokens : rows.stop * num_tokens],
            "tasks": self.tasks[worlds],
            "step_times": self.step_times[worker : worker + 1],
        }
        return BatchArrays(**parts | others)

    @property
    def observations(self) -> PackedObservations:
        """The packed observations, in these arrays."""
        agents = len(self.token_counts)
        return PackedObservations(agents, len(self.tokens) // agents, self.tokens, self.token_counts)


def _layout(shape: BatchShape) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
    agents = shape.agents
    return {
        "actions": ((agents, 2), np.int64),
        "tokens": ((agents * shape.num_tokens, 3), np.uint8),
        "token_counts": ((agents,), np.int64),
        "action_masks": ((agents, shape.num_actions), np.bool_),
        "rewards": ((agents,), np.float32),
        "terminated": ((agents,), np.bool_),
        "truncated": ((agents,), np.bool_),
        "groups": ((agents,), np.int64),
        "tasks": ((shape.num_worlds,), np.int64),
        "step_times": ((shape.num_workers, 2), np.float64),
    }


def batch_bytes(shape: BatchShape) -> int:
    """Bytes of the part of the memory that the arrays of a batch need."""
    arrays = _layout(shape).values()
    sizes = (int(np.prod(sizes)) * np.dtype(dtype).itemsize for sizes, dtype in arrays)
    return _aligned(sum(_aligned(size, _CACHE_LINE) for size in sizes), _ALIGNMENT)


def _aligned(size: int, unit: int) -> int:
    return -(-size // unit) * unit


class SharedMemory:
    """Memory that is shared with child processes that inherit its file descriptor.

    As a context manager, it closes the descriptor at the end, when all child processes were started; the memory stays.
    """

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self.buffer = mmap.mmap(descriptor, os.fstat(descriptor).st_size)

    @classmethod
    def allocate(cls, size: int) -> SharedMemory:
        """New memory of `size` bytes, all 0. Pages are taken from the system when they are first written."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("metta-worlds")
        else:  # macOS: a file that has been deleted already
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        try:
            os.ftruncate(descriptor, size)
            return cls(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.descriptor)
