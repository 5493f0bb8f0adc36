"""The first layer of a network over tokens: a sum of table rows, with a gradient as cheap as the sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from metta.agent.tokens import SparseTokens


def token_sums(table: Tensor, bag: SparseTokens) -> Tensor:
    """`[agents, width]`: for each agent the sum of `table [rows, width]` rows, each times its magnitude.

    The same as the box of channels, flattened, times the table; but the box is nearly all zeros.
    """
    sums: Tensor = _TokenSums.apply(table, bag)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    return sums


class _TokenSums(torch.autograd.Function):
    """Both ways are a bag of rows: forward the table's, by agent; backward the gradient's, by row of the table."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, bag: SparseTokens) -> Tensor:
        ctx.bag, ctx.num_rows = bag, len(table)
        return functional.embedding_bag(
            bag.rows, table, bag.offsets, mode="sum", per_sample_weights=bag.magnitudes.to(table.dtype)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        bag: SparseTokens = ctx.bag
        short = ctx.num_rows <= torch.iinfo(torch.int16).max  # sorted four times as fast
        rows, order = (bag.rows.to(torch.int16) if short else bag.rows).sort(stable=True)
        first = torch.searchsorted(rows, torch.arange(ctx.num_rows, dtype=rows.dtype, device=rows.device))
        return (
            functional.embedding_bag(
                bag.owners().index_select(0, order),
                gradient.contiguous(),
                first,
                mode="sum",
                per_sample_weights=bag.magnitudes.index_select(0, order).to(gradient.dtype),
            ),
            None,
        )
