"""Whether bfloat16 is fast on a CPU is decided by its instruction sets."""

from __future__ import annotations

import pytest
import torch

from metta.agent import matmul_backend


@pytest.mark.parametrize(
    ("has_products", "capabilities", "is_fast"),
    [
        (True, {"avx_vnni": True}, True),
        (True, {"avx_vnni": False}, False),  # products at half width
        (True, {"architecture": "aarch64"}, False),  # not measured
        (False, {"avx_vnni": True}, False),  # emulated
    ],
)
def test_bfloat16_is_fast_with_full_width_units(
    has_products: bool, capabilities: dict[str, object], is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul_backend, "cpu_has_bfloat16", lambda: has_products)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert matmul_backend.cpu_is_fast_in_bfloat16.__wrapped__() is is_fast


def test_bfloat16_is_slow_if_torch_does_not_report_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_backend, "cpu_has_bfloat16", lambda: True)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert matmul_backend.cpu_is_fast_in_bfloat16.__wrapped__() is False
