"""The program of a child process that trains one run of an experiment, and sends the run's events to its parent."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from metta.allocator import keep_freed_memory
from metta.config.run import RunConfig
from metta.errors import ConfigWarning, MettaError, SkippedFileWarning
from metta.job_environment import STOP_SIGNALS
from metta.run.events import Event, Notice, StopRequested
from metta.run.train import train_run
from metta.world.processes.worker import end_with_parent


@dataclass(frozen=True)
class JobError:
    """The message of the MettaError that ended a run; the last message of its process."""

    text: str


def main(parent: int, events: int, ends_with_thread: int) -> None:
    """Train the run whose pickled config is on stdin, for the process `parent`.

    `events` is a file descriptor to which events are written. `ends_with_thread`: see `end_with_parent`.
    """
    end_with_parent(parent, bool(ends_with_thread))
    os.set_inheritable(events, False)
    _ignore_stop_signals()  # outside of the training, there is nothing to save
    config: RunConfig = pickle.load(sys.stdin.buffer)
    keep_freed_memory()
    with Connection(events, readable=False) as connection, _sender(connection) as send:
        _send_warnings_as_notices(send)

        def listener(event: Event) -> None:
            if isinstance(event, StopRequested):
                _ignore_stop_signals()  # both the terminal and the parent may send one
            send.put(event)

        try:
            train_run(config, listener, or_resume=True)
        except MettaError as error:
            send.put(JobError(str(error)))


def _ignore_stop_signals() -> None:
    """Ignore signals that stop a run, which are blocked when this process starts."""
    numbers = {signal.Signals[name] for name in STOP_SIGNALS}
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


@contextmanager
def _sender(connection: Connection) -> Iterator[queue.SimpleQueue[Any]]:
    """A queue whose messages a thread sends: a signal may interrupt the thread that trains, but no message."""
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def send_all() -> None:
        with suppress(BrokenPipeError):  # the parent has ended, and so will this process
            while (message := messages.get()) is not None:
                connection.send(message)

    thread = threading.Thread(target=send_all, name="events")
    thread.start()
    try:
        yield messages
    finally:
        messages.put(None)
        thread.join()


def _send_warnings_as_notices(send: queue.SimpleQueue[Any]) -> None:
    """Send each warning meant for the user once as a Notice; others are printed as usual."""
    show = warnings.showwarning

    def send_notice(message: Warning | str, category: type[Warning], *location: Any, **options: Any) -> None:
        if issubclass(category, ConfigWarning | SkippedFileWarning):
            send.put(Notice(str(message)))
        else:
            show(message, category, *location, **options)

    warnings.showwarning = send_notice
