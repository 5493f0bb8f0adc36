"""What bfloat16 is worth on a CPU is read off its instructions."""

from __future__ import annotations

import pytest
import torch

from metta.agent import matmul_backend


@pytest.mark.parametrize(
    ("has_products", "told", "is_fast"),
    [
        (True, {"avx_vnni": True}, True),
        (True, {"avx_vnni": False}, False),  # products at half width
        (True, {"architecture": "aarch64"}, False),  # not measured
        (False, {"avx_vnni": True}, False),  # imitated
    ],
)
def test_it_is_fast_where_units_are_whole(
    has_products: bool, told: dict[str, object], is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul_backend, "cpu_has_bfloat16", lambda: has_products)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert matmul_backend.cpu_is_fast_in_bfloat16.__wrapped__() is is_fast


def test_a_torch_that_does_not_tell_is_taken_for_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_backend, "cpu_has_bfloat16", lambda: True)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert matmul_backend.cpu_is_fast_in_bfloat16.__wrapped__() is False
