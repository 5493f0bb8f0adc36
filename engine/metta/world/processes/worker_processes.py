"""WorkerProcesses: starts the worker processes, exchanges messages with them, and notices if one dies or hangs."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from metta.errors import TrainingError, UsageError
from metta.job_environment import STOP_SIGNALS, THREAD_VARIABLES
from metta.world.processes.channel import Channel
from metta.world.processes.shared_arrays import SharedMemory
from metta.world.processes.worker import Reply, WorkerSetup

TIMEOUT_SECONDS: Final = 300
"""Seconds without an answer after which a worker counts as hanging."""

_EXIT_SECONDS: Final = 10
"""Seconds until the exit code of a process is known that has closed its connection."""

_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from metta.world.processes.worker import main; main(*map(int, sys.argv[3:]))"
)
"""Starts `worker.main` with the paths of this process. `sys.argv[1]` only names the process in lists of processes."""

_ENVIRONMENT: Final = dict.fromkeys(THREAD_VARIABLES, "1")
"""Workers use no libraries with threads; this keeps NumPy from starting one per core in each of them."""


class WorkerError(TrainingError):
    """A worker process has died or hangs."""


class RemoteTracebackError(Exception):
    """The traceback of an error in a worker process, as the cause of the error that is raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class WorkerProcesses:
    """Worker processes that answer messages in the order in which they were sent.

    They ignore Ctrl-C and signals that stop a run, and end with this process, however that ends. A copy of this process
    (`fork`) cannot use them.
    """

    def __init__(self, count: int, memory: SharedMemory, setup: WorkerSetup):
        """Start `count` workers and wait until they have made their worlds. Raises what making them raises."""
        if os.name != "posix" or not sys.executable:
            raise UsageError("worker processes need Linux or macOS, and a Python interpreter; set workers = 0")
        self.timeout_seconds = TIMEOUT_SECONDS
        self._owner = os.getpid()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._channels: list[Channel] = []
        # by worker: number of messages sent; numbers of those without an answer yet; answers not yet asked for
        self._sent = [0] * count
        self._unread: list[deque[int]] = [deque() for _ in range(count)]
        self._replies: list[dict[int, Reply]] = [{} for _ in range(count)]
        self.close = weakref.finalize(self, _stop, self._owner, self._processes, self._channels)
        """Ends the workers; also called when this object is freed or the program ends."""
        try:
            for index in range(count):
                self._start(index, count, memory)
            for worker in range(count):
                self.send(worker, setup)
            self.results(dict(enumerate(self._sent)))
        except BaseException:
            self.close()
            raise

    @property
    def count(self) -> int:
        """Number of workers."""
        return len(self._processes)

    def __reduce__(self) -> str:
        raise TypeError("worker processes cannot be copied or pickled; save the state() of the experience instead")

    def _start(self, index: int, count: int, memory: SharedMemory) -> None:
        child_reads, parent_writes = os.pipe()
        parent_reads, child_writes = os.pipe()
        inherited = (memory.descriptor, child_reads, child_writes)
        # a thread other than the main one may end before this process
        is_main = threading.current_thread() is threading.main_thread()
        arguments = (index, self._owner, *inherited, int(is_main))
        paths = json.dumps([path for path in sys.path if isinstance(path, str)])
        warnings = [f"-W{option}" for option in sys.warnoptions]
        command = [sys.executable, "-u", *warnings, "-c", _PROGRAM, f"metta-worker-{index + 1}-of-{count}", paths]
        self._channels.append(Channel(parent_reads, parent_writes, self.timeout_seconds))
        try:
            with blocked_stop_signals():
                self._processes.append(
                    subprocess.Popen(
                        [*command, *map(str, arguments)],
                        stdin=subprocess.DEVNULL,
                        pass_fds=inherited,
                        env=os.environ | _ENVIRONMENT,
                    )
                )
        finally:
            os.close(child_reads)
            os.close(child_writes)

    def send(self, worker: int, message: object) -> int:
        """Send a message to a worker (see worker.py). Returns its number, with which `results` waits for the answer."""
        if os.getpid() != self._owner:
            raise UsageError("the worker processes belong to the process that started them; make another experience")
        if not self.close.alive:
            raise UsageError("the worker processes have ended; make another experience")
        try:
            self._channels[worker].send(message)
        except (BrokenPipeError, TimeoutError) as error:
            raise self._lost(worker, error) from None
        self._sent[worker] += 1
        self._unread[worker].append(self._sent[worker])
        return self._sent[worker]

    def wait(self, numbers: Mapping[int, int]) -> None:
        """Wait for the answers to messages, given by worker as the numbers that `send` returned. Raises WorkerError."""
        for worker, number in numbers.items():
            replies = self._replies[worker]
            while number not in replies:
                try:
                    reply = self._channels[worker].receive()
                except (EOFError, TimeoutError) as error:
                    raise self._lost(worker, error) from None
                replies[self._unread[worker].popleft()] = reply

    def results(self, numbers: Mapping[int, int]) -> dict[int, Any]:
        """Wait for the answers to messages, as in `wait`, and return their results by worker.

        Each answer is given once. Raises the error that the first of the messages raised, or WorkerError.
        """
        self.wait(numbers)
        replies = {worker: self._replies[worker].pop(number) for worker, number in numbers.items()}
        for reply in replies.values():
            if reply.traceback:
                raise _error(reply) from RemoteTracebackError(reply.traceback)
        return {worker: reply.result for worker, reply in replies.items()}

    def _lost(self, worker: int, error: Exception) -> WorkerError:
        """The error about a worker that has died or hangs."""
        process = self._processes[worker]
        name = f"worker {worker + 1} of {len(self._processes)} (process {process.pid})"
        if isinstance(error, TimeoutError):
            return WorkerError(
                f"{name} has not answered for {self.timeout_seconds} seconds: it is stopped, or a map takes longer"
            )
        return WorkerError(f"{name} {exit_reason(process.wait(timeout=_EXIT_SECONDS))}")


def exit_reason(code: int) -> str:
    """How a process ended, by its exit code, which is negative for signals: `was killed by SIGTERM`."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + ("; perhaps memory ran out" if -code == signal.SIGKILL else "")


def _error(reply: Reply) -> BaseException:
    """The error of a reply, or a RuntimeError with its text if it could not be pickled."""
    if reply.error is None:
        return RuntimeError(reply.traceback.strip().rpartition("\n")[2])
    error: BaseException = pickle.loads(reply.error)
    return error


@contextmanager
def blocked_stop_signals() -> Iterator[None]:
    """Context in which this thread receives no signals that stop a run. A process started in it never receives them.

    They are delivered to this process afterwards.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.Signals[name] for name in STOP_SIGNALS})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _stop(owner: int, processes: Sequence[subprocess.Popen[bytes]], channels: Sequence[Channel]) -> None:
    """Kill the workers, which have nothing to save, and wait until they have ended."""
    if os.getpid() != owner:  # in a copy of the process
        return
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
    for channel in channels:
        channel.close()
