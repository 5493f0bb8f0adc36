"""Plain values: tensors, numbers and text in nested dictionaries and lists, the content of files and messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from metta.errors import UsageError


def plain(value: Any, where: str) -> Any:
    """A copy of `value` that torch's restricted unpickler loads: tensors on the CPU, exact built-in types.

    Raises UsageError, naming the place from `where` on, for a value of another type.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()  # a view would be saved with its whole storage
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
    raise UsageError(f"{where} is a {kind}; files of metta hold only tensors, numbers, text, lists and dicts of them")


def arrays_to_tensors(value: Any) -> Any:
    """Nested values with NumPy arrays copied to tensors, and NumPy scalars to numbers."""
    if isinstance(value, Mapping):
        return {key: arrays_to_tensors(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [arrays_to_tensors(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value


def tensors_to_arrays(value: Any) -> Any:
    """The inverse of `arrays_to_tensors`: nested values with tensors as NumPy arrays."""
    if isinstance(value, Mapping):
        return {key: tensors_to_arrays(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [tensors_to_arrays(entry) for entry in value]
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
