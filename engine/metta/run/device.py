"""Choice of the torch device of a run or an evaluation."""

from __future__ import annotations

import torch

from metta.errors import UsageError
from metta.job_environment import local_rank


def find_device(name: str) -> torch.device:
    """The device called "auto", "cpu" or "cuda"; "auto" is CUDA where torch finds it, otherwise the CPU.

    Of several processes on this machine, each gets the GPU of its local rank, which becomes torch's current device.
    Raises UsageError for another name, and for "cuda" without a GPU for this process.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UsageError(f'device must be auto, cpu or cuda; got "{name}"')
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError('device is "cuda", but torch finds no CUDA device here; use "auto" or "cpu"')
    return _local_gpu() if name == "cuda" else torch.device(name)


def _local_gpu() -> torch.device:
    """The GPU of this process among those of the machine; makes it torch's current device."""
    if local_rank() >= torch.cuda.device_count():
        raise UsageError(
            f"process {local_rank()} of this machine has no GPU: there are {torch.cuda.device_count()}; "
            "start as many processes per machine as it has GPUs"
        )
    device = torch.device("cuda", local_rank())
    torch.cuda.set_device(device)
    return device
