"""Number of worker processes of a training process: `experience.workers`, or for "auto" what the machine has."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metta.config.batch_plan import BatchPlan
from metta.config.training import ExperienceConfig
from metta.job_environment import local_size

AUTO_AGENTS: Final = 128
"""Smallest number of agents of a worker's share of a world batch: a step of fewer agents takes hardly less time."""
AUTO_CORES_PER_CPU_WORKER: Final = 8
"""With the policy on the CPU, the worlds take about an eighth of its time, so that one worker keeps up with 8 cores."""
AUTO_OTHER_CORES: Final = 2
"""With the policy on a GPU, cores that are left to the policy's process and the system."""

_CGROUP_QUOTA: Final = ("/sys/fs/cgroup/cpu.max",)
_CGROUP_1_QUOTA: Final = ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us")


@dataclass(frozen=True)
class WorkerCount:
    """A number of worker processes, and why."""

    count: int
    reason: str


def worker_count(experience: ExperienceConfig, plan: BatchPlan, device: str) -> WorkerCount:
    """The number of workers of a process whose policy is on a device of the type `device`, such as cpu or cuda.

    A multiple of the number of world batches gives each worker a share of one of them, any other number a share of each
    of them. Every share has at least one world.
    """
    worlds, batches = plan.num_worlds // plan.num_world_batches, plan.num_world_batches
    if experience.workers != "auto":
        count = _fitting(experience.workers, worlds, batches)
        return WorkerCount(
            count, "processes that step the worlds" if count else "the worlds step in the policy's process"
        )
    cores, processes = available_cores(), local_size()
    own = max(1, cores // processes)
    if device == "cpu":
        wanted = max(1, own // AUTO_CORES_PER_CPU_WORKER) if own > 1 else 0
    else:
        wanted = max(0, own - AUTO_OTHER_CORES)
    if wanted > batches:
        wanted -= wanted % batches
    agents = worlds * plan.num_agents
    count = _fitting(wanted, agents // AUTO_AGENTS, batches) if supports_workers() else 0
    count = _fitting(count, worlds, batches)
    place = "the CPU" if device == "cpu" else "a GPU"
    reason = f"auto: {cores} core{'' if cores == 1 else 's'}"
    reason += f" for {processes} processes" if processes > 1 else ""
    reason += f", policy on {place}" if count == wanted else f", {agents:,} agents per world batch"
    return WorkerCount(count, reason)


def _fitting(workers: int, shares: int, batches: int) -> int:
    """The largest number of at most `workers` that divides no world batch into more than `shares` shares."""
    return next(n for n in range(workers, -1, -1) if (n // batches if n % batches == 0 else n) <= shares)


def supports_workers() -> bool:
    """Whether this system can start worker processes."""
    return os.name == "posix" and bool(sys.executable)


def available_cores() -> int:
    """CPU cores that this process may use: at most those of its affinity mask and of the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in (_CGROUP_QUOTA, _CGROUP_1_QUOTA):
        quota, *period = " ".join(map(_read, files)).split() or ["max"]
        if quota.isdecimal() and period and int(period[0]):
            cores = min(cores, max(1, int(quota) // int(period[0])))
    return cores


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
