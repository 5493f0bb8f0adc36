"""Rank and world size of this process in a distributed job, from the environment variables that `torchrun` sets."""

from __future__ import annotations

import os


def job_rank() -> int:
    """Rank of this process in the job (`RANK`); 0 outside a job."""
    return int(os.environ.get("RANK", "0"))


def job_size() -> int:
    """Number of processes in the job (`WORLD_SIZE`); 1 outside a job."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_size() -> int:
    """Number of processes of the job on this machine (`LOCAL_WORLD_SIZE`); 1 outside a job."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def local_rank() -> int:
    """Rank of this process on this machine (`LOCAL_RANK`), which is also the index of its GPU; 0 outside a job."""
    return int(os.environ.get("LOCAL_RANK", "0"))
