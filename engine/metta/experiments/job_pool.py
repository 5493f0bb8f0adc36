"""JobPool: trains runs in child processes, a few at a time, and reports their events and how each of them ended."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Pipe, wait
from typing import IO, Final, Self

from metta.config.plan.worker_count import available_cores, supports_workers
from metta.config.run import RunConfig
from metta.errors import UsageError
from metta.experiments.job import JobError
from metta.job_environment import THREAD_VARIABLES
from metta.run.events import Event, RunBegan, RunEnded
from metta.run.signals import StopSignals
from metta.world.processes.worker_processes import blocked_stop_signals, exit_reason

_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from metta.experiments.job import main; main(*map(int, sys.argv[3:]))"
)
"""Starts `job.main` with the paths of this process. `sys.argv[1]` only names the process in lists of processes."""

_POLL_SECONDS: Final = 0.2
_OUTPUT_BYTES: Final = 10_000
"""Most bytes of the output of a failed process that are kept: its end."""


@dataclass(frozen=True)
class Job:
    """A run to train: a new one, or one to resume if `config.run.run_dir` already holds it (see `train_run`)."""

    name: str
    """name in events; different for each job of a pool"""
    config: RunConfig
    """with a `run.run_dir`"""


@dataclass(frozen=True)
class JobEvent:
    """An event of the run of a job."""

    name: str
    event: Event


@dataclass(frozen=True)
class JobEnded:
    """The process of a job ended; the last event of the job."""

    name: str
    run: RunEnded | None
    """how the run ended, finished or interrupted; None if it failed"""
    error: str = ""
    """why the run failed"""
    output: str = ""
    """the end of what the process printed, such as a traceback, if it ended without reporting its error"""
    was_killed: bool = False
    """whether a signal ended the process, so that the run can be resumed from its newest checkpoint"""


class JobPool:
    """Trains runs in child processes, at most `max_jobs` at once. A context manager, which kills those still running.

    `events` yields what happens, and ends when no job is left; jobs can be submitted and stopped meanwhile:

        with JobPool(max_jobs=2) as pool:
            for job in jobs:
                pool.submit(job)
            for event in pool.events():
                ...

    A failed job does not stop the others. A stop signal, such as Ctrl-C, lets all runs save and stop, and no other job
    begin (see `StopSignals`); a second one raises KeyboardInterrupt. The child processes end with this process, however
    that ends.
    """

    def __init__(self, max_jobs: int, on_stop: Callable[[str], None] = lambda signal_name: None, threads: int = 0):
        """`on_stop` is called with the name of a stop signal, inside its handler: it must return quickly.

        `threads` are those of each job, by default its share of the cores: see `threads_per_job`.
        """
        if max_jobs < 1:
            raise UsageError(f"the number of jobs must be at least 1; got {max_jobs}")
        if not supports_workers():
            raise UsageError("training several runs at once needs Linux or macOS, and a Python interpreter")
        self.max_jobs = max_jobs
        self.threads = threads or threads_per_job(max_jobs)
        """threads of each job; 0: as many as the run has alone"""
        self._waiting: deque[Job] = deque()
        self._running: dict[str, _Process] = {}
        self._signals = StopSignals(on_stop)

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._signals.__exit__(*exception)
        for process in self._running.values():
            process.kill()
        self._running.clear()

    @property
    def is_stopping(self) -> bool:
        """Whether a signal has requested a stop."""
        return self._signals.requested

    @property
    def num_left(self) -> int:
        """Number of jobs that wait or run."""
        return len(self._waiting) + len(self._running)

    def submit(self, job: Job) -> None:
        """Add a job, which begins as soon as fewer than `max_jobs` run while `events` is read."""
        if job.name in self._running or any(job.name == other.name for other in self._waiting):
            raise UsageError(f"the job {job.name} is already waiting or running")
        if not job.config.run.run_dir:
            raise UsageError(f"the job {job.name} needs a run directory, run.run_dir")
        self._waiting.append(job)

    def stop(self, name: str) -> None:
        """Let the run of a job save and stop. Its JobEnded follows; a job that has not begun is dropped without one."""
        self._waiting = deque(job for job in self._waiting if job.name != name)
        if name in self._running:
            self._running[name].stop()

    def events(self) -> Iterator[JobEvent | JobEnded]:
        """Start jobs and yield what happens, in the order in which it happens to each job, until none is left.

        After a stop signal, ends when the runs have been saved; jobs that had not begun are dropped.
        """
        while self._waiting or self._running:
            if self.is_stopping:
                self._waiting.clear()
                for process in self._running.values():
                    process.stop()
            while self._waiting and len(self._running) < self.max_jobs:
                job = self._waiting.popleft()
                self._running[job.name] = _Process(job, self.threads)
            ready = wait([process.events for process in self._running.values()], _POLL_SECONDS)
            for name, process in list(self._running.items()):
                if process.events in ready or process.has_ended:
                    for event in process.received():
                        yield JobEvent(name, event)
                if process.ended is not None:
                    del self._running[name]
                    yield process.ended


def threads_per_job(max_jobs: int) -> int:
    """Threads of each of `max_jobs` processes that share the cores; 0, as many as alone, for a single one.

    At least two if there are two cores, so that two jobs on two cores have the results of the same runs alone: with
    another number of threads, torch adds in another order, and results differ in their last bits. At most
    `OMP_NUM_THREADS`, if that is set.
    """
    if max_jobs == 1:
        return 0
    cores = available_cores()
    share = max(min(2, cores), cores // max_jobs)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(limit)) if limit.isdecimal() and int(limit) else share


class _Process:
    """The child process of a job."""

    def __init__(self, job: Job, threads: int):
        self._name = job.name
        self.ended: JobEnded | None = None
        """set once the process has ended and all its events were received"""
        self._run_ended: RunEnded | None = None
        self._error = ""
        self._has_begun = False
        self._is_stopping = False
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # open until the process has ended
        self.events, child_end = Pipe(duplex=False)
        # a thread other than the main one may end before this process
        is_main = threading.current_thread() is threading.main_thread()
        paths = json.dumps([path for path in sys.path if isinstance(path, str)])
        warnings = [f"-W{option}" for option in sys.warnoptions]
        command = [sys.executable, "-u", *warnings, "-c", _PROGRAM, f"metta-job-{job.name}", paths]
        arguments = (os.getpid(), child_end.fileno(), int(is_main))
        with child_end, tempfile.TemporaryFile() as config, blocked_stop_signals():
            pickle.dump(job.config, config)
            config.seek(0)
            self._process = subprocess.Popen(
                [*command, *map(str, arguments)],
                stdin=config,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(child_end.fileno(),),
                env=os.environ | (dict.fromkeys(THREAD_VARIABLES, str(threads)) if threads else {}),
            )

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended; its last events may not have been received yet."""
        return self._process.poll() is not None

    def received(self) -> Iterator[Event]:
        """The events that have arrived. At the end of the process, sets `ended`."""
        has_ended = self.has_ended
        try:
            while self.events.poll():
                message = self.events.recv()
                if isinstance(message, JobError):
                    self._error = message.text
                    continue
                if isinstance(message, RunBegan):
                    self._has_begun = True
                    self._send_stop()
                if isinstance(message, RunEnded):
                    self._run_ended = message
                yield message
        except (EOFError, OSError):  # closed, perhaps within a message
            has_ended = True
        if has_ended:
            self.ended = self._end()

    def stop(self) -> None:
        """Let the run save and stop: at once, or as soon as it has begun."""
        if not self._is_stopping:
            self._is_stopping = True
            self._send_stop()

    def _send_stop(self) -> None:
        if self._is_stopping and self._has_begun:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process, which saves nothing, and wait until it has ended."""
        self._process.kill()
        self._end()

    def _end(self) -> JobEnded:
        """Wait for the process, free what belongs to it, and return how the run ended."""
        code = self._process.wait()
        self.events.close()
        with self._output as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _OUTPUT_BYTES))
            output = file.read().decode(errors="replace")
        if self._run_ended is not None:
            return JobEnded(self._name, self._run_ended)
        if self._error:
            return JobEnded(self._name, None, self._error)
        error = f"its process {exit_reason(code)}"
        if code > 0 and (last := output.strip().rpartition("\n")[2]):
            error += f": {last}"
        return JobEnded(self._name, None, error, output, was_killed=code < 0)
