"""A process that takes turns with others: it reads lines on stdin and answers with lines on stdout.

If it ends or does not answer, the benchmark ends too, with exit code 1: the message names the process and has the last
lines of its stderr. All processes are stopped when the benchmark ends.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NoReturn

START_SECONDS = 600.0
"""Seconds in which a process has to be ready. Networks may be compiled and worlds built in them."""
SHOWN_LINES = 15


class Peer:
    """The process, started with a command."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None):
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            start_new_session=True,  # it is stopped together with the processes that it starts
        )
        atexit.register(self.stop)
        self._lines: queue.Queue[str] = queue.Queue()
        self._messages: deque[str] = deque(maxlen=SHOWN_LINES)
        for read in (self._read_stdout, self._read_stderr):
            threading.Thread(target=read, daemon=True).start()

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._messages.append(line)
            sys.stderr.write(line)

    def send(self, line: str) -> None:
        """Write a line to its stdin. If it has ended, `receive` says so."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(line, file=self.process.stdin, flush=True)

    def receive(self, seconds: float = START_SECONDS) -> str:
        """The next line of its stdout, which it has to write within `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            has_ended = self.process.poll() is not None
            # processes that it started may hold its stdout open, so that it does not end
            with contextlib.suppress(queue.Empty):
                return self._lines.get(timeout=1.0 if has_ended else 0.2)
            if has_ended:
                self._fail(f"ended with exit code {self.process.returncode}")
        self._fail(f"did not answer within {seconds:.0f} seconds")

    def _fail(self, problem: str) -> NoReturn:
        messages = "".join(f"  {line}" for line in self._messages)
        raise SystemExit(f"{self.name} {problem}" + (f"; its last messages:\n{messages}" if messages else ""))

    def close(self) -> None:
        """Close its stdin; the process then ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=60)
        self.stop()

    def stop(self) -> None:
        """Kill it and the processes that it started."""
        atexit.unregister(self.stop)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
