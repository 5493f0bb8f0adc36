"""Choice of the torch device of a run or an evaluation."""

from __future__ import annotations

import torch

from metta.errors import UsageError
from metta.job_environment import local_rank


def find_device(name: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda"; "auto" is CUDA if available, otherwise the CPU.

    With "cuda", a process gets the GPU of its local rank, which becomes torch's current device. Raises UsageError for
    another name, or if there is no GPU for this process.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UsageError(f'device must be auto, cpu or cuda; got "{name}"')
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError('device is "cuda", but torch finds no CUDA device; use "auto" or "cpu"')
    return _local_gpu() if name == "cuda" else torch.device(name)


def _local_gpu() -> torch.device:
    """The GPU with the index of this process's local rank; makes it torch's current device."""
    if local_rank() >= torch.cuda.device_count():
        raise UsageError(
            f"no GPU for local rank {local_rank()}: this machine has {torch.cuda.device_count()}; "
            "start at most one process per GPU"
        )
    device = torch.device("cuda", local_rank())
    torch.cuda.set_device(device)
    return device
