"""The program of a worker process: steps its share of each batch of worlds when the policy's process asks for it.

Messages are tuples of the index of a batch, the name of a method of `Share` and its arguments. The answer is a `Reply`.
Arrays are exchanged in shared memory.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import StepInfo
from metta.world.processes.channel import Channel
from metta.world.processes.shared_arrays import BatchArrays, BatchShape, SharedMemory

_PARENT_CHECK_SECONDS: Final = 1.0
_SET_PARENT_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG of Linux


@dataclass(frozen=True)
class BatchSetup:
    """A batch of worlds, whose arrays begin at `offset` of the shared memory."""

    shape: BatchShape
    offset: int
    first_world: int
    """global index of the first world (see MettaGridEnv)"""
    shares: tuple[slice, ...]
    """the worlds of each worker; empty for a worker that steps none of them"""


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker has to know before it can make its worlds: the first message that it receives."""

    configs: Sequence[EnvConfig]
    seed: int
    task_weights: Sequence[float]
    batches: Sequence[BatchSetup]
    extensions: Sequence[tuple[str, str, bytes]]
    """what the program has registered and the worlds need: group of the registry, name, pickled (extension, options)"""


class Share:
    """The worlds of one batch that this process steps. Results are written to shared arrays."""

    def __init__(self, env: MettaGridEnv, arrays: BatchArrays):
        self.env = env
        self.arrays = arrays
        self.observations = arrays.observations

    def reset(self, staggered: bool) -> None:
        """Start an episode in every world."""
        self.env.reset(staggered=staggered, out=self.observations)
        self._write_episodes()

    def step(self, needs_masks: bool, order: NDArray[np.integer[Any]] | None) -> StepInfo | None:
        """Step the worlds with the shared actions. Returns the episodes that ended, or None if none did."""
        arrays, begin = self.arrays, time.perf_counter()
        _, arrays.rewards[:], arrays.terminated[:], arrays.truncated[:], info = self.env.step(
            arrays.actions, out=self.observations, order=order
        )
        if needs_masks:
            self.write_action_masks()
        if info.episodes:
            self._write_episodes()
        arrays.step_times[0] = begin, time.perf_counter()
        return info if info.episodes else None

    def write_action_masks(self) -> None:
        """Write the action masks of the next step."""
        self.arrays.action_masks[:] = self.env.action_masks()

    def set_task_weights(self, weights: Sequence[float]) -> None:
        """Set the weights of the tasks of future episodes."""
        self.env.set_task_weights(weights)

    def state(self) -> dict[str, Any]:
        """The state of the worlds."""
        return self.env.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the worlds."""
        self.env.load_state(state)
        self._write_episodes()

    def _write_episodes(self) -> None:
        """Write what changes only when an episode starts."""
        self.arrays.tasks[:] = self.env.tasks
        self.arrays.groups[:] = self.env.groups


@dataclass
class Reply:
    """The result of a message, or the error that it raised. As a context manager, it keeps an error."""

    result: Any = None
    error: bytes | None = None
    """the pickled error; None if there was none, or if it cannot be pickled"""
    traceback: str = field(default="")
    """the text of the traceback; empty without an error"""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            self.traceback = "".join(traceback.format_exception(error))
            self.error = _pickled(error)
        return True


def _pickled(error: BaseException) -> bytes | None:
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError):
        return None
    return content


def main(index: int, parent: int, memory: int, commands: int, replies: int, ends_with_thread: int) -> None:
    """Run worker number `index` of the process `parent` until that closes the connection or ends.

    `memory`, `commands` and `replies` are file descriptors. `ends_with_thread`: whether the thread that started this
    process ends only together with the parent.
    """
    end_with_parent(parent, bool(ends_with_thread))
    channel = Channel(commands, replies)
    try:
        _serve(index, memory, channel)
    except (EOFError, BrokenPipeError):
        os._exit(0)  # the parent closed the connection or ended


def _serve(index: int, descriptor: int, channel: Channel) -> None:
    setup: WorkerSetup = channel.receive()
    shares: dict[int, Share] = {}
    with Reply() as reply:
        shares = _make_shares(setup, index, SharedMemory(descriptor))
    channel.send(reply)
    while True:
        batch, method, *arguments = channel.receive()
        with Reply() as reply:
            reply.result = getattr(shares[batch], method)(*arguments)
        channel.send(reply)


def _make_shares(setup: WorkerSetup, index: int, memory: SharedMemory) -> dict[int, Share]:
    """The shares of this worker, by the index of the batch."""
    registries = {registry.group: registry for config in setup.configs for registry, _ in config.extensions}
    for group, name, content in setup.extensions:
        extension, options = pickle.loads(content)  # may register it, since it imports its module
        registries[group].register_missing(name, extension, options)
    shares = {}
    for number, batch in enumerate(setup.batches):
        worlds = batch.shares[index]
        if worlds.stop == worlds.start:
            continue
        env = MettaGridEnv(
            setup.configs,
            worlds.stop - worlds.start,
            setup.seed,
            batch.first_world + worlds.start,
            setup.task_weights,
        )
        arrays = BatchArrays.of(memory, batch.offset, batch.shape)
        shares[number] = Share(env, arrays.share(worlds, batch.shape.num_agents, index))
    return shares


def end_with_parent(parent: int, ends_with_thread: bool) -> None:
    """End this process soon after its parent, even if a call does not return or another process keeps its pipes open.

    A thread checks regularly whether the parent lives. On Linux, if the thread that started this process ends only
    together with the parent, a signal ends this process at once, even if it is stopped.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_SECONDS)
        os._exit(0)

    if sys.platform == "linux" and ends_with_thread:
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))
    threading.Thread(target=watch, name="parent watch", daemon=True).start()
