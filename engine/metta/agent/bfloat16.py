"""What bfloat16 is worth on this CPU, by its instructions: a trial would differ from run to run."""

from __future__ import annotations

from functools import cache

import torch


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself, which takes AVX-512; others only imitate it."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def cpu_is_fast_in_bfloat16() -> bool:
    """Whether it does so at twice the speed of float32.

    Those do that have AVX-VNNI as well, the narrow instructions that came with full units (AMD since Zen 5, Intel since
    Sapphire Rapids). Measured: on Zen 5 an LSTM takes 0.55 of its time in float32, on an older CPU half as long again.
    """
    told = getattr(torch.cpu, "get_capabilities", None)  # which older torch lacks
    return cpu_has_bfloat16() and told is not None and bool(told().get("avx_vnni", False))
