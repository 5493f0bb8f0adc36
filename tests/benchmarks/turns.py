"""What a trainer in a process of its own and the benchmark say to each other, so that trainers take turns."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

PARTS = ("simulate", "infer", "learn")


@dataclass
class Progress:
    """What a trainer did in a batch."""

    agent_steps: int
    seconds: dict[str, float]
    """since the beginning, by part: simulate, infer, learn"""
    rewards: list[float] = field(default_factory=list)
    """of each episode that ended: the mean over its agents"""


class Turns:
    """Answers each line, a number of seconds, with what whole batches for about that long brought, as JSON.

    Until the next line comes the trainer stands still, inside `begin` or `after_batch`; both are False once there is
    none.
    """

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some trainers draw on it
        self.before = dict.fromkeys(PARTS, 0.0)
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        """that train together, each as much as the first, which alone takes turns"""

    def begin(self) -> bool:
        """Say that the trainer is ready, and wait for the first turn."""
        print("ready", file=self.answers, flush=True)
        return self._wait()

    def after_batch(self, progress: Progress) -> bool:
        """Count a batch; when the turn is over, answer and wait for the next."""
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


def serve(train_batch: Callable[[], Progress]) -> None:
    """Take turns until there are no more."""
    turns = Turns()
    is_on = turns.begin()
    while is_on:
        is_on = turns.after_batch(train_batch())
