"""Environment variables and signals of processes: the job that `torchrun` starts, threads, requests to stop.

A process belongs to a job only if all of `JOB_VARIABLES` are set. Some of them alone, such as a `WORLD_SIZE` left
behind by another program, are ignored. If all are set but a value is wrong, `job_problem` says so.
"""

from __future__ import annotations

import os
import re
from typing import Final

JOB_VARIABLES: Final = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that every process of a job has."""

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables of the libraries that start threads; torch uses the first."""

MAX_PROCESSES: Final = 1_000_000

STOP_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Signals that stop a run: Ctrl-C, a closed terminal, and what batch systems send before a job's time is over.

Windows lacks some of them.
"""


def job_rank() -> int:
    """Rank of this process in the job (`RANK`); 0 outside a job."""
    return _job_value("RANK", 0)


def job_size() -> int:
    """Number of processes in the job (`WORLD_SIZE`); 1 outside a job."""
    return _job_value("WORLD_SIZE", 1)


def local_size() -> int:
    """Number of processes of the job on this machine (`LOCAL_WORLD_SIZE`); 1 outside a job."""
    return _job_value("LOCAL_WORLD_SIZE", 1)


def local_rank() -> int:
    """Rank of this process on this machine (`LOCAL_RANK`), which is also the index of its GPU; 0 outside a job."""
    return _job_value("LOCAL_RANK", 0)


def ignored_job_variables() -> list[str]:
    """Names of variables that are set although this process belongs to no job, since others are missing or empty."""
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # others set an address or a port without a job
    return [] if _is_complete() else [name for name in names if os.environ.get(name)]


def job_problem() -> str | None:
    """What is wrong with the variables of the job; None outside a job or if all are valid."""
    if not _is_complete():
        return None
    if problem := _range_problem("WORLD_SIZE", 1, MAX_PROCESSES):
        return problem
    size = int(os.environ["WORLD_SIZE"])
    if os.environ.get("LOCAL_WORLD_SIZE") and (problem := _range_problem("LOCAL_WORLD_SIZE", 1, size)):
        return problem
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE") or size)
    return (
        _range_problem("RANK", 0, size - 1)
        or _range_problem("LOCAL_RANK", 0, local_size - 1)
        or _range_problem("MASTER_PORT", 1, 65535)
    )


def _is_complete() -> bool:
    return all(os.environ.get(name) for name in JOB_VARIABLES)


def _range_problem(name: str, lowest: int, highest: int) -> str | None:
    """The error message for a variable that is not a whole number of this range."""
    text = os.environ[name]
    if re.fullmatch("[0-9]{1,9}", text) and lowest <= int(text) <= highest:
        return None
    return f"the environment variable {name} must be a whole number from {lowest} to {highest}; got {text!r}"


def _job_value(name: str, outside: int) -> int:
    """The number in a variable of the job; `outside` if it is not set, outside a job, or if the job is invalid."""
    is_valid = _is_complete() and job_problem() is None
    return int(os.environ.get(name) or outside) if is_valid else outside
