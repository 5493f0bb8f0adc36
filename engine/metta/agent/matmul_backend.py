"""Which library multiplies float32 matrices: on many CPUs oneDNN does it twice as fast as PyTorch's default, MKL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch


@contextmanager
def fast_matmul(device: torch.device) -> Iterator[None]:
    """Inside, float32 matrix products on a CPU are oneDNN's, if they are just as precise there.

    PyTorch hands them to oneDNN at its precision "medium". That name allows rounding to bfloat16, which only CPUs with
    matrix units for it do: whether this one does is tried, and if so nothing is changed. The setting is PyTorch's own
    and global; it is put back at the end.
    """
    before = torch.get_float32_matmul_precision()
    if device.type != "cpu" or before != "highest" or not _medium_is_exact():
        yield
        return
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def _medium_is_exact() -> bool:
    """Whether a product that bfloat16 would round (1 + 2^-12 has more digits than it holds) comes out in full."""
    factor = torch.full((128, 128), 1 + 2.0**-12)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        product = factor @ torch.eye(128)
    finally:
        torch.set_float32_matmul_precision(before)
    return bool(torch.equal(product, factor))
