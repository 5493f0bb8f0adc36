"""Differences between devices: asynchronous copies to and from host memory, random generators, and float64.

Kernels of a GPU run after the calls that start them, until something waits for a result: a blocking copy, `item()`, an
output whose size depends on values (`nonzero`, boolean masks as indices). Training waits only in `HostCopy.wait`.
"""

from __future__ import annotations

import hashlib
from functools import cache

import torch
from torch import Tensor

from metta.spans import span


def is_host(device: torch.device) -> bool:
    """Whether tensors of the device are in host memory and results are there when a call returns."""
    return device.type == "cpu"


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, from host memory without waiting; the same tensor if it is there already.

    On CUDA it is copied from pinned memory on a stream for copies, and later kernels of the current stream wait for it.
    A tensor that is not in pinned memory is first copied there, so that the caller may change it after the call; one
    that is must not be changed before the copy is done, for example before a result computed from it was fetched.
    """
    if tensor.device == device:
        return tensor
    if device.type != "cuda" or not is_host(tensor.device):
        return tensor.to(device, non_blocking=device.type not in ("cpu", "mps"))  # MPS would read it after the call
    with span("transfer"):
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        current, stream = torch.cuda.current_stream(device), _copy_stream(device)
        with torch.cuda.stream(stream):
            copied = pinned.to(device, non_blocking=True)
        current.wait_stream(stream)
        copied.record_stream(current)  # its memory is not reused for another copy before these kernels are done
    return copied


class HostCopy:
    """A copy of a tensor in host memory, started when it is made; kernels that are started later run meanwhile."""

    def __init__(self, tensor: Tensor):
        self._copy = tensor
        self._is_done: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            stream = _copy_stream(tensor.device)
            stream.wait_stream(torch.cuda.current_stream(tensor.device))
            with torch.cuda.stream(stream):
                self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                self._copy.copy_(tensor, non_blocking=True)
                self._is_done = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
                self._is_done.record(stream)
            tensor.record_stream(stream)

    def wait(self) -> Tensor:
        """The tensor in host memory, after waiting for the kernels that compute it and for the copy."""
        if is_host(self._copy.device) and self._is_done is None:
            return self._copy
        with span("device"):
            if self._is_done is None:
                return self._copy.cpu()
            self._is_done.synchronize()
        return self._copy


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a GPU on which copies to and from host memory run."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it unannotated


def exact_dtype(device: torch.device) -> torch.dtype:
    """float64, for statistics whose rounding errors matter; on MPS, which has no float64, float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def make_generator(seed: int, device: torch.device) -> torch.Generator:
    """A random generator with this seed: of the GPU on CUDA, so that sampling needs no copies; else of the CPU."""
    return torch.Generator(device if device.type == "cuda" else "cpu").manual_seed(seed)


def set_generator_state(generator: torch.Generator, state: Tensor) -> None:
    """Restore a state of `generator.get_state()`. A state of a generator of another type of device becomes the seed."""
    if state.shape == generator.get_state().shape:
        generator.set_state(state.cpu())
    else:
        digest = hashlib.blake2b(state.cpu().numpy().tobytes(), digest_size=8).digest()
        generator.manual_seed(int.from_bytes(digest, "little") >> 1)
