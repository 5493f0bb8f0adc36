"""Conversion of nested values to the types that `torch.load(weights_only=True)` reads, and of arrays to tensors.

Checkpoints, trainer states and messages between processes contain these plain values only: tensors, numbers, text, and
dictionaries and lists of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from metta.agent.devices import HostCopy, is_host
from metta.errors import UsageError


def plain(value: Any, where: str) -> Any:
    """A copy of `value` with tensors on the CPU and built-in types only, which `torch.load(weights_only=True)` reads.

    NumPy arrays become tensors. Raises UsageError for a value of another type; the message gives its location, which
    starts with `where`.
    """
    if isinstance(value, torch.Tensor):
        copied = HostCopy(value.detach()).wait()
        return copied.clone() if is_host(value.device) else copied  # torch.save writes the whole storage of a view
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {plain(key, where): plain(entry, f"{where}, {key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = [plain(entry, f"{where}, {index}") for index, entry in enumerate(value)]
        return entries if isinstance(value, list) else tuple(entries)
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    kind = type(value).__name__
    raise UsageError(
        f"{where} is a {kind}; it must be a tensor, an array, a number, text, None, or a list or dict of these"
    )


def arrays_to_tensors(value: Any) -> Any:
    """Nested values with NumPy arrays copied to tensors, NumPy scalars to numbers, and tuples to lists."""
    if isinstance(value, Mapping):
        return {key: arrays_to_tensors(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [arrays_to_tensors(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value


def tensors_to_arrays(value: Any) -> Any:
    """Nested values with tensors as NumPy arrays: the inverse of `arrays_to_tensors`."""
    if isinstance(value, Mapping):
        return {key: tensors_to_arrays(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [tensors_to_arrays(entry) for entry in value]
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
