"""`SparseTokens`, the tokens of a batch as one flat list, and `token_sums`, a linear layer over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


@dataclass(frozen=True)
class SparseTokens:
    """The tokens of all agents in one flat list: agent i has the entries `offsets[i]` to `offsets[i + 1]`."""

    rows: Tensor
    """`[entries] int32`: row of the weight matrix, in most layers cell * channels + channel"""
    magnitudes: Tensor
    """`[entries] float32`: factor of that row"""
    offsets: Tensor
    """`[agents] int32`: the first entry of each agent"""

    def agent_index(self) -> Tensor:
        """`[entries] int64`: the agent to which each entry belongs."""
        ends = torch.cat([self.offsets[1:], self.offsets.new_full((1,), len(self.rows))])
        agents = torch.arange(len(self.offsets), device=self.offsets.device)
        return agents.repeat_interleave(ends - self.offsets, output_size=len(self.rows))


def token_sums(weight: Tensor, tokens: SparseTokens) -> Tensor:
    """`[agents, width]`: for each agent the sum of its rows of `weight [rows, width]`, each times its magnitude.

    Equals the matrix product of the dense encoding `[agents, rows]`, which is nearly all zeros, and `weight`.
    """
    sums: Tensor = _TokenSums.apply(weight, tokens)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    return sums


class _TokenSums(torch.autograd.Function):
    """Two calls of `embedding_bag`: forward sums weight rows by agent, backward sums gradient rows by weight row."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: SparseTokens) -> Tensor:
        ctx.tokens, ctx.num_rows = tokens, len(weight)
        return functional.embedding_bag(
            tokens.rows, weight, tokens.offsets, mode="sum", per_sample_weights=tokens.magnitudes.to(weight.dtype)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        tokens: SparseTokens = ctx.tokens
        fits_int16 = ctx.num_rows <= torch.iinfo(torch.int16).max  # int16 is sorted four times as fast
        rows, order = (tokens.rows.to(torch.int16) if fits_int16 else tokens.rows).sort(stable=True)
        offsets = torch.searchsorted(rows, torch.arange(ctx.num_rows, dtype=rows.dtype, device=rows.device))
        weight_gradient = functional.embedding_bag(
            tokens.agent_index().index_select(0, order),
            gradient.contiguous(),
            offsets,
            mode="sum",
            per_sample_weights=tokens.magnitudes.index_select(0, order).to(gradient.dtype),
        )
        return weight_gradient, None


def nonzero_indices(mask: Tensor) -> Tensor:
    """`int64`: indices of the nonzero elements of the flattened `mask`.

    On a CPU NumPy computes them several times as fast as torch.
    """
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().squeeze(1)


def lower_bounds(ascending: Tensor, values: Tensor) -> Tensor:
    """`int32`: for each of the `values`, the first index in `ascending` whose element is at least as large.

    Both are in ascending order. On a CPU NumPy is twice as fast as torch: it starts each search where the last ended.
    """
    if ascending.device.type == "cpu":
        return torch.from_numpy(np.searchsorted(ascending.numpy(), values.numpy()).astype(np.int32))
    return torch.searchsorted(ascending, values, out_int32=True)
