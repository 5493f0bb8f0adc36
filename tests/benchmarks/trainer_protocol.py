"""Protocol between bench_train.py and the trainer processes, which run in turns.

A trainer prints `ready`. For each line on stdin, a number of seconds, it trains whole batches for about that time and
answers with one line of JSON. Between turns it stands still.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

PARTS = ("simulate", "infer", "learn")


@dataclass
class Progress:
    """Result of a batch."""

    agent_steps: int
    seconds: dict[str, float]
    """since the start of the process, by part: simulate, infer, learn"""
    rewards: list[float] = field(default_factory=list)
    """of the episodes that ended, mean over agents"""


class Turns:
    """The trainer's side of the protocol.

    `begin` and `after_batch` wait for the next turn if necessary; they return False when stdin has ended.
    """

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some trainers print a dashboard on stdout
        self.before = dict.fromkeys(PARTS, 0.0)
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        """number of processes of the job; only rank 0 answers, for all of them"""

    def begin(self) -> bool:
        """Report that the trainer is ready, and wait for the first turn."""
        print("ready", file=self.answers, flush=True)
        return self._wait()

    def after_batch(self, progress: Progress) -> bool:
        """Count a batch; at the end of the turn, answer and wait for the next one."""
        self.agent_steps += progress.agent_steps
        self.rewards += progress.rewards
        seconds = time.perf_counter() - self.clock
        if seconds < self.turn:
            return True
        answer = {
            "agent_steps": self.agent_steps,
            "seconds": seconds,
            "cpu_seconds": self.processes * (time.process_time() - self.cpu_clock),
            "split": {part: progress.seconds[part] - self.before[part] for part in PARTS},
            "rewards": self.rewards,
            "peak_mib": self.processes * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        self.before = progress.seconds
        print(json.dumps(answer), file=self.answers, flush=True)
        return self._wait()

    def _wait(self) -> bool:
        line = sys.stdin.readline()
        self.turn = float(line or 0)
        self.clock, self.cpu_clock = time.perf_counter(), time.process_time()
        self.agent_steps = 0
        self.rewards: list[float] = []
        return bool(line)


def run_trainer(main: Callable[[], None]) -> NoReturn:
    """Run a trainer, then end the process, also if threads of the trainer are still running.

    A thread that PufferLib starts would keep a process alive whose training failed.
    """
    code = 1
    try:
        main()
        code = 0
    except BaseException:  # noqa: BLE001  # the process ends here and must say why
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(train_batch: Callable[[], Progress]) -> None:
    """Train in turns until stdin ends."""
    turns = Turns()
    has_turn = turns.begin()
    while has_turn:
        has_turn = turns.after_batch(train_batch())
