"""Matrix multiplication on CPUs: the faster float32 library, and how well the CPU multiplies bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch


@contextmanager
def fast_matmul(device: torch.device) -> Iterator[None]:
    """Context in which oneDNN multiplies float32 matrices on a CPU, where it is as precise as PyTorch's default, MKL.

    On many CPUs it is twice as fast. PyTorch uses oneDNN at its matmul precision "medium", which also allows rounding
    to bfloat16, as CPUs with matrix units for it do: whether this CPU rounds is tried first, and if it does nothing is
    changed. The setting is global; it is restored at the end.
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
    """Whether precision "medium" keeps 1 + 2^-12, which has more digits than bfloat16."""
    factor = torch.full((128, 128), 1 + 2.0**-12)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        product = factor @ torch.eye(128)
    finally:
        torch.set_float32_matmul_precision(before)
    return bool(torch.equal(product, factor))


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AVX-512); without them torch emulates bfloat16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def cpu_is_fast_in_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 at twice the speed of float32.

    Taken to be so for CPUs that also have AVX-VNNI, whose bfloat16 units have the full width (AMD since Zen 5, Intel
    since Sapphire Rapids): a timing would differ from run to run, and results with it. Figures: tests/benchmarks.
    """
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)  # which older torch lacks
    return cpu_has_bfloat16() and get_capabilities is not None and bool(get_capabilities().get("avx_vnni", False))
