"""Nested values as tensors, numbers and text alone, which files and messages between processes may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from metta.errors import UsageError


def plain(value: Any, where: str) -> Any:
    """`value` in what the restricted unpickler reads back: tensors on the CPU, exact built-in types."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()  # a clone, since a view would bring its whole storage along
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
