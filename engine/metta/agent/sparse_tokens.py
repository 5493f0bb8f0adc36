"""Tokens of a batch as one flat list: `PackedTokens`, their bytes; `SparseTokens` and `token_sums`, a linear layer.

On a CPU, lists are shortened to the entries that matter. A GPU would have to be waited for to learn how many these are,
so there the other entries stay, with values that change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from metta.agent import devices
from metta.config.env.token_features import NO_TOKEN


@dataclass(frozen=True)
class PackedTokens:
    """Observations without padding: the tokens of all agents in one flat list, those of the first agent first.

    They are the used tokens of padded observations `[agents, tokens, 3] uint8`, in the same order.
    """

    tokens: Tensor
    """`[tokens, 3] uint8`: (location, feature, value); on a GPU also padding, with location 255"""
    offsets: Tensor
    """`[agents + 1] int64`: agent i has the tokens `offsets[i]` to `offsets[i + 1] - 1`"""

    @classmethod
    def pack(cls, observations: PackedTokens | Tensor) -> PackedTokens:
        """The used tokens of `[agents, tokens, 3] uint8`; observations that are packed already are returned."""
        if isinstance(observations, PackedTokens):
            return observations
        if not devices.is_host(observations.device):
            agents, capacity, _ = observations.shape
            ends = torch.arange(0, (agents + 1) * capacity, capacity, device=observations.device)
            return cls(observations.reshape(-1, 3), ends)
        is_used = observations[:, :, 0] != NO_TOKEN
        tokens = observations.reshape(-1, 3).index_select(0, nonzero_indices(is_used))
        return cls(tokens, functional.pad(is_used.sum(1).cumsum(0), (1, 0)))

    def __len__(self) -> int:
        """The number of agents."""
        return len(self.offsets) - 1

    @property
    def device(self) -> torch.device:
        """The device of the tokens."""
        return self.tokens.device

    @cached_property
    def agent_index(self) -> Tensor:
        """`[tokens] int64`: the agent to which each token belongs."""
        return self.per_token(torch.arange(len(self), device=self.device))

    def per_token(self, values: Tensor) -> Tensor:
        """`[tokens]`: for each token the entry of its agent in `values [agents]`."""
        return repeat(values, self.offsets.diff(), len(self.tokens))

    def to(self, device: torch.device) -> PackedTokens:
        """The same tokens on another device; from host memory, copied without waiting."""
        return PackedTokens(devices.to_device(self.tokens, device), devices.to_device(self.offsets, device))

    def filter(self, is_kept: Tensor) -> PackedTokens:
        """Only the tokens that `is_kept [tokens] bool` marks; the others become padding on a GPU."""
        if not devices.is_host(self.device):
            return PackedTokens(self.tokens.masked_fill(~is_kept.unsqueeze(1), NO_TOKEN), self.offsets)
        return PackedTokens(self.tokens.index_select(0, nonzero_indices(is_kept)), kept_offsets(is_kept, self.offsets))

    def values_at(self, location: int, features: Sequence[int]) -> Tensor:
        """`[features, agents] int32`: the largest value among an agent's tokens of a feature there; -1 without one."""
        if devices.is_host(self.device):
            return torch.from_numpy(self._host_values_at(location, features))
        is_there, values = self.tokens[:, 0] == location, 1 + self.tokens[:, 2].int()
        largest = torch.zeros(len(features), len(self), dtype=torch.int32, device=self.device)
        for row, feature in zip(largest, features, strict=True):
            row.scatter_reduce_(0, self.agent_index, values * (is_there & (self.tokens[:, 1] == feature)), "amax")
        return largest - 1

    def _host_values_at(self, location: int, features: Sequence[int]) -> NDArray[np.int32]:
        """`values_at` in NumPy, whose calls cost less than torch's: a small batch has few tokens to pass over."""
        tokens, largest = self.tokens.numpy(), np.full((len(features), len(self)), -1, np.int32)
        there = np.flatnonzero(tokens[:, 0] == location)
        of_feature = tokens[there, 1]
        for row, feature in zip(largest, features, strict=True):
            found = there[of_feature == feature]
            agents = np.searchsorted(self.offsets.numpy(), found, side="right") - 1
            np.maximum.at(row, agents, tokens[found, 2].astype(np.int32))
        return largest

    def select(self, agents: Tensor) -> PackedTokens:
        """The tokens of some agents, `agents [selected] int64`, in this order; copied."""
        offsets, agents = self.offsets.cpu(), agents.cpu()
        starts = offsets[agents]
        selected = functional.pad((offsets[agents + 1] - starts).cumsum(0), (1, 0))
        return PackedTokens(copied_lists(self.tokens, starts, selected), devices.to_device(selected, self.device))

    def padded(self, num_tokens: int) -> Tensor:
        """`[agents, num_tokens, 3] uint8`: the first `num_tokens` tokens of each agent; location 255 is padding."""
        index = self.offsets[:-1, None] + torch.arange(num_tokens, device=self.device)
        index.masked_fill_(index >= self.offsets[1:, None], len(self.tokens))
        padding = self.tokens.new_full((1, 3), NO_TOKEN)
        return torch.cat([self.tokens, padding]).index_select(0, index.flatten()).view(len(self), num_tokens, 3)


Observations = PackedTokens | Tensor
"""Observations of some agents: packed, or padded as `[agents, tokens, 3] uint8`."""


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
        return repeat(agents, ends - self.offsets, len(self.rows))

    def filter(self, is_kept: Tensor) -> SparseTokens:
        """Only the entries that `is_kept [entries] bool` marks; on a GPU the others get row 0 and magnitude 0."""
        if not devices.is_host(self.rows.device):
            return SparseTokens(self.rows * is_kept, self.magnitudes * is_kept, self.offsets)
        kept = nonzero_indices(is_kept)  # NumPy scans booleans six times as fast as floats
        ends = torch.cat([self.offsets, self.offsets.new_full((1,), len(self.rows))])
        return SparseTokens(
            self.rows.index_select(0, kept),
            self.magnitudes.index_select(0, kept),
            kept_offsets(is_kept, ends)[:-1].int(),
        )


def token_sums(weight: Tensor, tokens: SparseTokens) -> Tensor:
    """`[agents, width]`: for each agent the sum of its rows of `weight [rows, width]`, each times its magnitude.

    Equals the matrix product of the dense encoding `[agents, rows]`, which is nearly all zeros, and `weight`.
    """
    if weight.device.type == "mps":
        return added_rows(weight, tokens)
    sums: Tensor = _TokenSums.apply(weight, tokens)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    return sums


def added_rows(weight: Tensor, tokens: SparseTokens) -> Tensor:
    """`token_sums` without `embedding_bag`, which torch lacks on MPS in older versions."""
    rows = weight.index_select(0, tokens.rows) * tokens.magnitudes.unsqueeze(1)
    return weight.new_zeros(len(tokens.offsets), weight.shape[1]).index_add(0, tokens.agent_index(), rows)


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
        on_host = devices.is_host(gradient.device)
        rows = tokens.rows if on_host else tokens.rows.where(tokens.magnitudes != 0, ctx.num_rows)
        rows, order = (rows.to(torch.int16) if fits_int16 else rows).sort(stable=True)
        offsets = torch.searchsorted(rows, torch.arange(ctx.num_rows + 1, dtype=rows.dtype, device=rows.device))
        agents = tokens.agent_index().index_select(0, order)
        magnitudes = tokens.magnitudes.index_select(0, order).to(gradient.dtype)
        sums = _sums_of_lists if on_host else _sums_of_long_lists
        return sums(agents, gradient.contiguous(), offsets, magnitudes), None


def _sums_of_lists(index: Tensor, table: Tensor, offsets: Tensor, factors: Tensor) -> Tensor:
    """`[lists, width]`: the sum of the rows `index [entries]` of `table`, each times its factor, of each list.

    List i has the entries `offsets[i]` to `offsets[i + 1] - 1`.
    """
    return functional.embedding_bag(index, table, offsets[:-1], mode="sum", per_sample_weights=factors)


def _sums_of_long_lists(index: Tensor, table: Tensor, offsets: Tensor, factors: Tensor) -> Tensor:
    """`_sums_of_lists` with lists cut into parts, whose sums are summed.

    A GPU sums a list one entry after the other, and the longest lists, such as those of the agent's own cell, have an
    entry for each agent. Unlike atomic additions, this gives the same sums every time.
    """
    longest_part = max(32, math.isqrt(len(table)))
    cuts = torch.cat([torch.arange(0, len(index), longest_part, device=index.device), offsets]).sort().values
    parts = functional.embedding_bag(index, table, cuts, mode="sum", per_sample_weights=factors)
    part_index = torch.arange(len(cuts), device=cuts.device)
    first_part = torch.searchsorted(cuts, offsets)
    return functional.embedding_bag(part_index, parts, first_part, mode="sum", include_last_offset=True)


def repeat(values: Tensor, counts: Tensor, total: int) -> Tensor:
    """`[total]`: each of `values` as often as `counts` says, together `total` times.

    On a CPU NumPy is ten times as fast as torch.
    """
    if devices.is_host(values.device):
        return torch.from_numpy(np.repeat(values.numpy(), counts.numpy()))
    return values.repeat_interleave(counts, output_size=total)


def copied_lists(tokens: Tensor, starts: Tensor, offsets: Tensor) -> Tensor:
    """`[offsets[-1], 3] uint8`: lists of tokens, copied one after the other.

    List i begins at `starts[i]` in `tokens`, and its copy at `offsets[i]`, where that of list i - 1 ends. Both are in
    host memory, so that the size of the result is known without waiting for a GPU.
    """
    total = int(offsets[-1])
    shift, counts = (devices.to_device(each, tokens.device) for each in (starts - offsets[:-1], offsets.diff()))
    source = repeat(shift, counts, total)
    source += torch.arange(total, device=tokens.device)
    if devices.is_host(tokens.device):
        return torch.from_numpy(tokens.numpy().take(source.numpy(), axis=0))
    return tokens.index_select(0, source)


def nonzero_indices(mask: Tensor) -> Tensor:
    """`int64`: indices of the nonzero elements of the flattened `mask` in host memory.

    NumPy computes them several times as fast as torch.
    """
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def kept_offsets(is_kept: Tensor, offsets: Tensor) -> Tensor:
    """`[lists + 1] int64`: the offsets of lists of which only the entries remain that `is_kept [entries] bool` marks.

    `offsets [lists + 1] int64` are those of the whole lists. Both are in host memory.
    """
    return torch.from_numpy(np.searchsorted(np.flatnonzero(is_kept.numpy()), offsets.numpy()))
