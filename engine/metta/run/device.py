"""Choice of the torch device of a run or an evaluation."""

from __future__ import annotations

import torch

from metta.errors import UsageError
from metta.job_environment import local_rank, local_size


def find_device(name: str) -> torch.device:
    """The device for "auto", "cpu", "cuda", "cuda:INDEX" or "mps"; "auto" is CUDA if available, otherwise the CPU.

    With "cuda", a process gets the GPU of its local rank. A CUDA GPU becomes torch's current device. Raises UsageError
    for another name, or if there is no such GPU for this process.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (name != kind and not (kind == "cuda" and index.isdecimal())):
        raise UsageError(f'device must be auto, cpu, cuda, a GPU such as cuda:1, or mps; got "{name}"')
    if kind == "cpu":
        return torch.device("cpu")
    if kind == "mps":
        return _mps()
    if not torch.cuda.is_available():
        raise UsageError(f'device is "{name}", but torch finds no CUDA device; use "auto" or "cpu"')
    device = torch.device("cuda", _gpu_index(index))
    torch.cuda.set_device(device)
    return device


def gpu_memory(device: torch.device) -> int | None:
    """Bytes that a CUDA GPU has, used or not; None for devices that use the memory of the machine."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None


def _mps() -> torch.device:
    """The GPU of an Apple computer (Metal Performance Shaders)."""
    if not torch.backends.mps.is_available():
        raise UsageError('device is "mps", but torch finds no Apple GPU (MPS); use "auto" or "cpu"')
    if local_size() > 1:
        raise UsageError(
            f'device is "mps", but {local_size()} processes cannot share the GPU; start one process, or use "cpu"'
        )
    return torch.device("mps")


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
