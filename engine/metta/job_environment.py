"""Rank and number of processes of a distributed job, from the environment variables that `torchrun` sets."""

from __future__ import annotations

import os


def job_rank() -> int:
    """Rank of this process in its job; 0 without a job."""
    return int(os.environ.get("RANK", "0"))


def job_size() -> int:
    """Number of processes in the job; 1 without a job."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_size() -> int:
    """Number of processes of the job on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def local_rank() -> int:
    """Rank of this process among those of the job on this machine; the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))
