"""What a trainer in a process of its own and the benchmark say to each other, so that trainers take turns."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Progress:
    """What a trainer did in a batch."""

    agent_steps: int
    seconds: dict[str, float]
    """since the beginning, by part: simulate, infer, learn"""
    rewards: list[float] = field(default_factory=list)
    """of each episode that ended: the mean over its agents"""


def serve(train_batch: Callable[[], Progress]) -> None:
    """Answer each line, a number of seconds, with what whole batches for about that long brought, as JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some trainers draw on it
    print("ready", file=answers, flush=True)
    before = dict.fromkeys(("simulate", "infer", "learn"), 0.0)
    for line in sys.stdin:
        begin, cpu_begin, agent_steps, rewards = time.perf_counter(), time.process_time(), 0, []
        while time.perf_counter() - begin < float(line) or not agent_steps:
            progress = train_batch()
            agent_steps += progress.agent_steps
            rewards += progress.rewards
        answer = {
            "agent_steps": agent_steps,
            "seconds": time.perf_counter() - begin,
            "cpu_seconds": time.process_time() - cpu_begin,
            "split": {part: progress.seconds[part] - before[part] for part in before},
            "rewards": rewards,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        before = progress.seconds
        print(json.dumps(answer), file=answers, flush=True)
