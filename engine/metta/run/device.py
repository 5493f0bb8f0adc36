"""Choice of the torch device of a run or an evaluation."""

from __future__ import annotations

import torch

from metta.errors import UsageError
from metta.job_environment import local_rank, local_size


def find_device(name: str) -> torch.device:
    """The device for "auto", "cpu", "cuda" or "cuda:INDEX"; "auto" is CUDA if available, otherwise the CPU.

    With "cuda", a process gets the GPU of its local rank. A GPU becomes torch's current device. Raises UsageError for
    another name, or if there is no such GPU for this process.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (name != kind and not (kind == "cuda" and index.isdecimal())):
        raise UsageError(f'device must be auto, cpu, cuda or a GPU such as cuda:1; got "{name}"')
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(f'device is "{name}", but torch finds no CUDA device; use "auto" or "cpu"')
    device = torch.device("cuda", _gpu_index(index))
    torch.cuda.set_device(device)
    return device


def gpu_memory(device: torch.device) -> int | None:
    """Bytes that a GPU has, used or not; None for the CPU."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None


def _gpu_index(index: str) -> int:
    """The index of the GPU of this process: `index`, or its local rank if that is empty."""
    count = torch.cuda.device_count()
    if not index:
        if local_rank() >= count:
            raise UsageError(
                f"no GPU for local rank {local_rank()}: this machine has {count}; start at most one process per GPU"
            )
        return local_rank()
    if int(index) >= count:
        names = ", ".join(f"cuda:{gpu}" for gpu in range(count))
        raise UsageError(f'device is "cuda:{index}", but this machine has only {names}')
    if local_size() > 1:
        raise UsageError(
            f'device is "cuda:{index}", but each of {local_size()} processes needs its own GPU; use "cuda"'
        )
    return int(index)
