"""Matrix multiplication on CPUs: oneDNN for float32 where it is exact, and detection of fast bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch


@contextmanager
def fast_matmul(device: torch.device) -> Iterator[None]:
    """Context manager: multiply float32 matrices on a CPU with oneDNN instead of MKL, if that loses no precision.

    On many CPUs oneDNN is twice as fast. PyTorch uses it at float32 matmul precision "medium", which also allows CPUs
    with bfloat16 matrix units to round to bfloat16. If a test product shows that this CPU rounds, the precision is left
    unchanged. The setting is global and is restored on exit.
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
    """Whether products at precision "medium" preserve 1 + 2^-12, which bfloat16 cannot represent."""
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
    """Whether this CPU has instructions for bfloat16 products (AVX-512); otherwise torch emulates bfloat16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def cpu_is_fast_in_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 at twice the speed of float32.

    Assumed for CPUs that also have AVX-VNNI, whose bfloat16 units have full width (AMD since Zen 5, Intel since
    Sapphire Rapids). It is not measured, because timings vary, and results must not vary with them. Measurements:
    tests/benchmarks.
    """
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)  # missing in older versions of torch
    return cpu_has_bfloat16() and get_capabilities is not None and bool(get_capabilities().get("avx_vnni", False))
