"""Worlds in worker processes that tests can look at like an environment in this process; a program that has some."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metta.config.env.env_config import EnvConfig
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import StepInfo
from metta.world.processes.process_worlds import ProcessWorlds, make_worlds


class WorkerEnv:
    """Steps worlds in worker processes, and shows their state in an environment of this process.

    Has the methods and properties of MettaGridEnv.
    """

    def __init__(
        self,
        configs: EnvConfig | Sequence[EnvConfig],
        num_worlds: int,
        seed: int,
        workers: int = 2,
        task_weights: Sequence[float] | None = None,
    ):
        self._shown = MettaGridEnv(configs, num_worlds, seed, task_weights=task_weights)
        (worlds,) = make_worlds(self._shown, [num_worlds], seed, 0, workers)
        assert isinstance(worlds, ProcessWorlds)
        self.worlds = worlds
        self._is_shown = False

    def reset(self, seed: int | None = None, staggered: bool = False) -> tuple[np.ndarray, StepInfo]:
        self._is_shown = False
        self.worlds.reset(staggered)
        return self.worlds.observations.padded(), StepInfo(np.zeros(0, np.int64), np.zeros(0, np.uint8), ())

    def step(self, actions: np.ndarray, order: np.ndarray | None = None) -> tuple[Any, ...]:
        self._is_shown = False
        self.worlds.start_step(actions, order=order)
        _, *arrays, info = self.worlds.finish_step()
        return self.worlds.observations.padded(), *(np.array(array) for array in arrays), info

    def __getattr__(self, name: str) -> Any:
        if not self._is_shown:
            self._shown.load_state(self.worlds.state())
            self._is_shown = True
        return getattr(self._shown, name)


def is_running(process_id: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def wait_until_ended(process_ids: Sequence[int], seconds: float = 30.0) -> None:
    """Wait until none of the processes is running."""
    deadline = time.monotonic() + seconds
    while any(map(is_running, process_ids)):
        assert time.monotonic() < deadline, f"{[each for each in process_ids if is_running(each)]} still run"
        time.sleep(0.05)


def children_of(parent: int) -> list[int]:
    """The worker processes of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(stat[1]) == parent and b"metta-worker-" in command:
                found.append(int(entry.name))
    return sorted(found)


def main() -> None:
    """Start two workers, print their process ids and wait; with "fork", also a copy of this process that waits."""
    env = WorkerEnv(EnvConfig(), 2, seed=0)
    env.reset()
    ids = children_of(os.getpid())
    if "fork" in sys.argv and os.fork() == 0:
        time.sleep(600)
        os._exit(0)
    print(*ids, flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
