"""ProcessWorlds: a batch of worlds of which worker processes step a share each, with the results of one environment."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.errors import ConfigWarning, TrainingError, UsageError
from metta.extensions import Registry
from metta.spans import Span, add_span
from metta.world.arguments import checked_order
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import StepInfo
from metta.world.processes.shared_arrays import BatchArrays, BatchShape, SharedMemory, batch_bytes
from metta.world.processes.worker import BatchSetup, WorkerSetup
from metta.world.processes.worker_processes import WorkerProcesses
from metta.world.state.divided_state import divide_state, join_states


class ProcessWorlds:
    """A batch of worlds in worker processes, with the methods and properties of MettaGridEnv that training uses.

    Arrays are views of shared memory, which the next `reset` or `start_step` overwrites.
    """

    def __init__(
        self, workers: WorkerProcesses, index: int, setup: BatchSetup, env: MettaGridEnv, memory: SharedMemory
    ):
        """`index` is that of the batch. `env` has the configs of the worlds."""
        self.configs = env.configs
        self.spec = env.spec
        self.num_worlds = setup.shape.num_worlds
        self.num_agents = setup.shape.num_agents
        self.agents = setup.shape.agents
        self._workers = workers
        self._index = index
        self._arrays = BatchArrays.of(memory, setup.offset, setup.shape)
        self.observations = self._arrays.observations
        """the observations after the last `reset` or step"""
        self._shares = setup.shares
        # the workers that step worlds of this batch, in order of these worlds
        members = [worker for worker, worlds in enumerate(setup.shares) if worlds.stop > worlds.start]
        self._ordered = sorted(members, key=lambda worker: setup.shares[worker].start)
        self._pending: dict[int, int] = {}  # by worker: number of the message that started a step
        self._no_episode_ended = StepInfo(
            np.zeros(0, np.int64), np.zeros((0, self.observations.num_tokens, 3), np.uint8), ()
        )

    @property
    def tasks(self) -> NDArray[np.int64]:
        """Task of each world, as an index into `configs`. `[worlds] int64`"""
        return self._arrays.tasks

    @property
    def groups(self) -> NDArray[np.int64]:
        """Group of each agent, as an index into `config.game.groups`. `[agents] int64`"""
        return self._arrays.groups

    def reset(self, staggered: bool = False) -> NDArray[np.uint8]:
        """Start a new episode in every world: see MettaGridEnv. Returns the tokens of `observations`. `[tokens, 3]`"""
        self._call("reset", staggered)
        return self._joined_tokens()

    def start_step(
        self,
        actions: NDArray[np.integer[Any]],
        needs_masks: bool = False,
        order: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        """Start stepping all worlds with `actions [agents, 2]` and `order [agents]`: see `MettaGridEnv.step`.

        `needs_masks`: whether the result has action masks.
        """
        if self._pending:  # an earlier step whose result nobody waited for, since an exception came in between
            self.finish_step()
        self._arrays.actions[:] = actions
        by_world = None if order is None else checked_order(order, self.num_worlds, self.num_agents)
        for worker in self._ordered:
            own = None if by_world is None else by_world[self._shares[worker]].ravel()
            self._pending[worker] = self._workers.send(worker, (self._index, "step", needs_masks, own))

    def finish_step(
        self,
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], StepInfo]:
        """Wait for the step that `start_step` started. Returns what `MettaGridEnv.step` returns with `observations`.

        Raises the error that a step raised, or WorkerError if a worker has died or hangs.
        """
        self._workers.wait(self._pending)  # if Ctrl-C ends the wait, the step can still be finished
        pending, self._pending = self._pending, {}
        infos = self._workers.results(pending)
        arrays = self._arrays
        for worker in self._ordered:
            begin, end = arrays.step_times[worker].tolist()
            add_span(Span("simulate", f"worker {worker + 1}", begin, end))
        return self._joined_tokens(), arrays.rewards, arrays.terminated, arrays.truncated, self._joined(infos)

    def action_masks(self) -> NDArray[np.bool_]:
        """The action masks of the next step: see MettaGridEnv."""
        self._call("write_action_masks")
        return self._arrays.action_masks

    @property
    def stepped_action_masks(self) -> NDArray[np.bool_]:
        """The action masks after a step that was started with `needs_masks`."""
        return self._arrays.action_masks

    def set_task_weights(self, weights: Sequence[float]) -> None:
        """Set the weights of the tasks of future episodes: see MettaGridEnv."""
        self._call("set_task_weights", list(weights))

    def state(self) -> dict[str, Any]:
        """The state that one environment with all these worlds would have: see MettaGridEnv."""
        states = self._call("state")
        return join_states(self.configs, [states[worker] for worker in self._ordered], self._counts)

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise CheckpointError, naming the invalid entry, unless `load_state` can load this state."""
        MettaGridEnv(self.configs, self.num_worlds).check_state(state)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state of one environment with all these worlds. Raises CheckpointError if it does not fit."""
        self.check_state(state)
        states = dict(zip(self._ordered, divide_state(self.configs, state, self._counts), strict=True))
        self._call_each("load_state", {worker: (state,) for worker, state in states.items()})

    def close(self) -> None:
        """End the worker processes, and with them the other batches of worlds."""
        self._workers.close()

    @property
    def _counts(self) -> list[int]:
        """The number of worlds of each share, in order of the worlds."""
        return [self._shares[worker].stop - self._shares[worker].start for worker in self._ordered]

    def _call(self, method: str, *arguments: Any) -> dict[int, Any]:
        """Call a method of all shares. Returns the results by worker."""
        return self._call_each(method, dict.fromkeys(self._ordered, arguments))

    def _call_each(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        numbers = {
            worker: self._workers.send(worker, (self._index, method, *values)) for worker, values in arguments.items()
        }
        return self._workers.results(numbers)

    def _joined_tokens(self) -> NDArray[np.uint8]:
        """The tokens of all shares, after each was moved to the end of those before it."""
        observations, end = self.observations, 0
        for worker in self._ordered:
            worlds = self._shares[worker]
            first, last = worlds.start * self.num_agents, worlds.stop * self.num_agents
            start, count = first * observations.num_tokens, int(observations.counts[first:last].sum())
            if start > end:
                observations.buffer[end : end + count] = observations.buffer[start : start + count]
            end += count
        return observations.buffer[:end]

    def _joined(self, infos: Mapping[int, StepInfo | None]) -> StepInfo:
        """The episodes that ended in all shares, in order of their worlds."""
        ended, observations, episodes = [], [], []
        for worker in self._ordered:
            info, first = infos[worker], self._shares[worker].start
            if info is not None:
                ended.append(info.ended_agents + first * self.num_agents)
                observations.append(info.final_observations)
                episodes += [replace(episode, world=episode.world + first) for episode in info.episodes]
        if not ended:
            return self._no_episode_ended
        return StepInfo(np.concatenate(ended), np.concatenate(observations), tuple(episodes))


def make_worlds(
    env: MettaGridEnv, sizes: Sequence[int], seed: int, first_world: int, workers: int, is_auto: bool = False
) -> Sequence[MettaGridEnv | ProcessWorlds]:
    """Batches of `sizes [batches]` worlds with the configs and task weights of `env`, stepped by `workers` processes.

    `first_world` is the global index of the first world of all (see MettaGridEnv). With 0 `workers`, the worlds are in
    this process. See `worker_count` for the number of workers.

    Raises UsageError if workers could not import a map builder or custom rule that this program registered; if their
    number `is_auto`, the worlds are in this process then, with a ConfigWarning. Raises TrainingError if the system
    cannot start them.
    """
    if workers and is_auto:
        try:
            _registered_extensions(env.configs)
        except UsageError as error:
            warnings.warn(f"no worker processes: {error}", ConfigWarning, stacklevel=2)
            workers = 0
    if workers:
        return _start_workers(env, sizes, seed, first_world, workers)
    starts = [first_world + sum(sizes[:index]) for index in range(len(sizes))]
    return [
        MettaGridEnv(env.configs, size, seed, start, env.task_weights)
        for size, start in zip(sizes, starts, strict=True)
    ]


def _start_workers(
    env: MettaGridEnv, sizes: Sequence[int], seed: int, first_world: int, num_workers: int
) -> list[ProcessWorlds]:
    extensions = _registered_extensions(env.configs)
    spec = env.spec
    batches, offset = [], 0
    for index, size in enumerate(sizes):
        shape = BatchShape(size, spec.num_agents, spec.num_observation_tokens, len(spec.flat_actions), num_workers)
        batches.append(BatchSetup(shape, offset, first_world, _shares(size, num_workers, index, len(sizes))))
        offset += batch_bytes(shape)
        first_world += size
    setup = WorkerSetup(env.configs, seed, env.task_weights, batches, extensions)
    try:
        with SharedMemory.allocate(offset) as memory:
            workers = WorkerProcesses(num_workers, memory, setup)
    except OSError as error:
        raise TrainingError(
            f"{num_workers} worker processes cannot be started: {error.strerror or error}; lower experience.workers"
        ) from error
    return [ProcessWorlds(workers, index, batch, env, memory) for index, batch in enumerate(batches)]


def _shares(num_worlds: int, num_workers: int, batch: int, num_batches: int) -> tuple[slice, ...]:
    """The worlds of a batch that each worker steps; shares differ by at most one world.

    If the number of workers is a multiple of that of the batches, each worker has worlds of one batch only, since a
    step of many worlds takes less time than several of few. Otherwise each has worlds of every batch, and the larger
    shares rotate from batch to batch.
    """
    if num_workers % num_batches:
        members = [(worker + batch) % num_workers for worker in range(num_workers)]
    else:
        size = num_workers // num_batches
        members = list(range(batch * size, (batch + 1) * size))
    edges = [num_worlds * index // len(members) for index in range(len(members) + 1)]
    share_of = dict(zip(members, (slice(*ends) for ends in pairwise(edges)), strict=True))
    return tuple(share_of.get(worker, slice(0, 0)) for worker in range(num_workers))


def _registered_extensions(configs: Sequence[EnvConfig]) -> list[tuple[str, str, bytes]]:
    """The map builders and custom rules of the configs that this program has registered: see WorkerSetup.

    Raises UsageError if another process cannot import one of them.
    """
    used = {(registry.group, name): registry for config in configs for registry, name in config.extensions}
    return [
        (group, name, _pickled_extension(registry, name))
        for (group, name), registry in sorted(used.items())
        if registry.registered(name) is not None
    ]


def _pickled_extension(registry: Registry[Any], name: str) -> bytes:
    try:
        content = pickle.dumps((registry.registered(name), registry.options(name)))
        _ImportableOnly(io.BytesIO(content)).load()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f'worker processes cannot import the registered {registry.kind} "{name}": {error}; define it at the top '
            "level of a module that the program imports, or set experience.workers = 0"
        ) from None
    return content


class _ImportableOnly(pickle.Unpickler):
    """Raises PicklingError for what is defined in the program's main module, which other processes cannot import."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "__main__":
            raise pickle.PicklingError(f"{name} is defined in the program itself (__main__)")
        return super().find_class(module, name)
