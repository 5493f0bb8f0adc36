"""The two convolutions of the cnn backbone: one over sparse tokens, one over a small grid.

Both compute the same as `nn.Conv2d` on the dense encoding of the window, with the same weights, but faster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from metta.agent import devices
from metta.agent.matmul_backend import cpu_has_bfloat16
from metta.agent.sparse_tokens import PackedTokens, SparseTokens, token_sums
from metta.agent.tokens import TokenCodes
from metta.config.plan.network_size import CONV_CHANNELS


@dataclass(frozen=True)
class ConvolutionAxis:
    """Sizes of a convolution along one axis of the window, in cells."""

    size: int
    """of the window"""
    kernel: int
    stride: int
    padding: int

    @classmethod
    def covering(cls, size: int) -> ConvolutionAxis:
        """A kernel of at most 5 cells with stride 3 and the smallest padding with which it covers all `size` cells."""
        kernel = min(5, size)
        padding = next(padding for padding in range(3) if (size + 2 * padding - kernel) % 3 == 0)
        return cls(size, kernel, 3, padding)

    @property
    def num_outputs(self) -> int:
        """Number of output positions along the axis."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def starts(self) -> list[int]:
        """The first cell under the kernel at each output position; negative in the padding."""
        return [position * self.stride - self.padding for position in range(self.num_outputs)]

    def is_covered(self) -> Tensor:
        """`[output positions, cells] bool`: whether a cell is under the kernel."""
        offset = torch.arange(self.size) - torch.tensor(self.starts).unsqueeze(1)
        return (offset >= 0) & (offset < self.kernel)


class TokenConvolution(nn.Conv2d):
    """The convolution of the window's dense encoding `[agents, channels, rows, cols]`, computed from sparse tokens.

    The weights are read as a matrix `[channels * kernel rows * kernel cols, outputs]`. The output at a position is the
    sum of one row for each token under the kernel: a few percent of the multiplications of the dense convolution.
    """

    is_covered: Tensor
    """`[output positions, 256] bool`: whether a cell is under the kernel, by location byte"""
    positions: Tensor
    """`[256] int16` or int32: the output positions with a cell under the kernel, as bits, by location byte"""
    weight_of_location: Tensor
    """`[256] int32`: `row * kernel cols + col`, the kernel weight over a cell if the kernel starts at cell (0, 0)"""
    weight_shifts: Tensor
    """`[output positions] int32`: subtracted from `weight_of_location` for the kernel weight at a position"""

    def __init__(self, num_channels: int, rows: ConvolutionAxis, cols: ConvolutionAxis):
        super().__init__(
            num_channels,
            CONV_CHANNELS,
            (rows.kernel, cols.kernel),
            (rows.stride, cols.stride),
            (rows.padding, cols.padding),
        )
        self.rows, self.cols = rows, cols
        covers = (rows.is_covered()[:, None, :, None] & cols.is_covered()[None, :, None, :]).flatten(0, 1)
        is_covered, weights = torch.zeros(len(covers), 256, dtype=torch.bool), torch.zeros(256, dtype=torch.int32)
        for row, col in product(range(rows.size), range(cols.size)):
            is_covered[:, row << 4 | col] = covers[:, row, col]
            weights[row << 4 | col] = row * cols.kernel + col
        bits = is_covered.int() << torch.arange(len(covers)).unsqueeze(1)
        positions = bits.sum(0, dtype=torch.int32).to(torch.int16 if len(covers) < 16 else torch.int32)
        self.register_buffer("is_covered", is_covered, persistent=False)
        self.register_buffer("positions", positions, persistent=False)
        self.register_buffer("weight_of_location", weights, persistent=False)
        shifts = [row * cols.kernel + col for row, col in product(rows.starts, cols.starts)]
        self.register_buffer("weight_shifts", torch.tensor(shifts, dtype=torch.int32), persistent=False)

    def forward(self, tokens: PackedTokens, codes: TokenCodes) -> Tensor:  # type: ignore[override]  # not a dense tensor
        """`[output positions * agents, outputs]`, ordered by output position (row-major), then by agent."""
        # contiguous rows are summed six times as fast
        matrix = self.weight.permute(1, 2, 3, 0).reshape(-1, self.out_channels).contiguous()
        sums = token_sums(matrix, self._tokens_by_position(tokens, codes))
        sums += self.bias  # type: ignore[arg-type]  # Conv2d has a bias by default
        return sums  # not a view: the gradient of a view that is changed in place is copied three times

    def _tokens_by_position(self, tokens: PackedTokens, codes: TokenCodes) -> SparseTokens:
        """The tokens under the kernel, ordered by output position, then by agent."""
        location, channel, magnitudes = codes.look_up(tokens.tokens)
        rows = channel * self.weight[0, 0].numel() + self.weight_of_location.index_select(0, location)
        if devices.is_host(location.device):
            positions = self.positions.index_select(0, location) * (magnitudes != 0)
            return self._gather(tokens, positions, rows, magnitudes)
        # all tokens at all positions, in few kernels
        is_under = self.is_covered.index_select(1, location)
        first = torch.arange(len(is_under), device=location.device, dtype=torch.int32).unsqueeze(1) * len(location)
        return SparseTokens(
            ((rows - self.weight_shifts.unsqueeze(1)) * is_under).flatten(),
            (magnitudes * is_under).flatten(),
            (tokens.offsets[:-1].int() + first).flatten(),
        )

    def _gather(self, tokens: PackedTokens, positions: Tensor, rows: Tensor, magnitudes: Tensor) -> SparseTokens:
        """The tokens under the kernel, from the `positions`, weight rows and magnitudes of each, all in host memory."""
        bits, agent_index = positions.numpy(), tokens.agent_index.numpy()
        entries = [np.flatnonzero(bits & bits.dtype.type(1 << n) != 0) for n in range(len(self.is_covered))]
        total, end = sum(map(len, entries)), 0
        chosen_rows, chosen_magnitudes = np.empty(total, np.int32), np.empty(total, np.float32)
        output_index = np.empty(total, np.int64)
        for position, (entry, shift) in enumerate(zip(entries, self.weight_shifts.tolist(), strict=True)):
            part = slice(end, end := end + len(entry))
            rows.numpy().take(entry, out=chosen_rows[part], mode="wrap")  # no index is out of range; the fastest mode
            chosen_rows[part] -= shift
            magnitudes.numpy().take(entry, out=chosen_magnitudes[part], mode="wrap")
            agent_index.take(entry, out=output_index[part], mode="wrap")
            output_index[part] += position * len(tokens)
        counts = np.bincount(output_index, minlength=len(entries) * len(tokens))
        starts = (counts.cumsum() - counts).astype(np.int32)
        return SparseTokens(*map(torch.from_numpy, (chosen_rows, chosen_magnitudes, starts)))


class GridConvolution(nn.Conv2d):
    """A convolution with a kernel of at most 3x3 over a grid of few cells, without padding.

    On a CPU it is computed as one matrix product per output position and kernel weight. Under autocast, on CPUs with
    bfloat16 instructions, it is one bfloat16 product per output position. On a GPU it is `nn.Conv2d`.
    """

    def __init__(self, channels: int, grid: tuple[int, int]):
        kernel = (min(3, grid[0]), min(3, grid[1]))
        super().__init__(channels, channels, kernel)
        self.grid = grid
        self.output_grid = (grid[0] - kernel[0] + 1, grid[1] - kernel[1] + 1)
        self.num_outputs = math.prod(self.output_grid)
        self.products = [
            (
                (row + kernel_row) * grid[1] + col + kernel_col,
                row * self.output_grid[1] + col,
                kernel_row * kernel[1] + kernel_col,
            )
            for row, col in product(range(self.output_grid[0]), range(self.output_grid[1]))
            for kernel_row, kernel_col in product(range(kernel[0]), range(kernel[1]))
        ]
        """(input cell, output position, kernel weight) of each matrix product"""

    def forward(self, inputs: Tensor) -> Tensor:
        """Map `[cells * agents, channels]` to `[output positions, agents, channels]`."""
        by_row_and_col = inputs.view(*self.grid, -1, self.in_channels)
        if inputs.device.type == "cpu" and torch.is_autocast_enabled("cpu") and cpu_has_bfloat16():
            return self._bfloat16_forward(by_row_and_col)
        if inputs.device.type == "cpu":
            weights = self.weight.permute(2, 3, 1, 0).reshape(-1, self.in_channels, self.out_channels)
            outputs: Tensor = _SumOfProducts.apply(  # type: ignore[no-untyped-call]  # torch leaves it unannotated
                by_row_and_col.flatten(0, 1), weights, self.bias, self.products, self.num_outputs
            )
            return outputs
        convolved = super().forward(by_row_and_col.permute(2, 3, 0, 1))
        return convolved.permute(2, 3, 0, 1).flatten(0, 1)

    def _bfloat16_forward(self, inputs: Tensor) -> Tensor:
        """Map `[rows, cols, agents, channels]` to `[output positions, agents, channels] bfloat16`, under autocast."""
        height, width = self.kernel_size
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        outputs = []
        for row, col in product(*map(range, self.output_grid)):
            patch = inputs[row : row + height, col : col + width].permute(2, 0, 1, 3)
            patch = patch.to(torch.bfloat16, memory_format=torch.contiguous_format).flatten(1)
            outputs.append(functional.linear(patch, weight, self.bias))
        return torch.stack(outputs)


class _SumOfProducts(torch.autograd.Function):
    """outputs[j] = bias + sum of inputs[i] @ weights[k] over all products (i, j, k)."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weights: Tensor, bias: Tensor, products: list[tuple[int, int, int]], num_outputs: int
    ) -> Tensor:
        ctx.products = products
        ctx.save_for_backward(inputs, weights)
        outputs = bias.repeat(num_outputs, inputs.shape[1], 1)
        for i, j, k in products:
            outputs[j].addmm_(inputs[i], weights[k])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        inputs, weights = ctx.saved_tensors
        input_gradient, weight_gradient = torch.empty_like(inputs), torch.empty_like(weights)
        written: set[tuple[str, int]] = set()
        for i, j, k in ctx.products:
            for key, total, left, right in (
                (("inputs", i), input_gradient[i], gradient[j], weights[k].t()),
                (("weights", k), weight_gradient[k], inputs[i].t(), gradient[j]),
            ):
                total.addmm_(left, right, beta=1 if key in written else 0)
                written.add(key)
        return input_gradient, weight_gradient, gradient.sum((0, 1)), None, None


class FlattenGrid(nn.Module):
    """Map `[positions, agents, channels]` to `[agents, channels * positions]`, in the order of `nn.Flatten`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The flattened features."""
        return inputs.permute(1, 2, 0).flatten(1)
