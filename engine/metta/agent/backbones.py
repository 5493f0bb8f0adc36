"""From tokens to features, three ways: `cnn`, `mlp`, `attention`; and what a backbone of one's own must be.

    @BACKBONES.register("sums")
    class Sums(Backbone):
        ...

Or an entry point in the group `metta.backbones`; then its name is a value of `agent.backbone`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from metta.agent.bfloat16 import cpu_has_bfloat16
from metta.agent.sparse_tokens import token_sums
from metta.agent.tokens import UNUSED, SparseTokens, TokenCodes, first_positions, true_positions
from metta.config.agent import BACKBONES, AgentModelConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.plan.network_size import CONV_CHANNELS, LATENTS
from metta.errors import UsageError

TYPICAL_TOKENS: Final = 50
"""Tokens of an ordinary observation; the first layer's initial weights are scaled for as many."""


class Backbone(nn.Module):
    """From tokens to features: `forward` maps `[agents, tokens, 3] uint8` to `[agents, hidden]`.

    `self.codes` knows what tokens mean: which channel each lights, in which cell, and how strongly. Weights begin as
    the backbone makes them; of metta's own, linear and convolutional layers begin as `heads.initialize` has it.
    """

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__()
        self.codes = TokenCodes(spec, config)

    def first_layer(self) -> list[nn.Parameter]:
        """The weights that touch the input: Muon leaves them to AdamW."""
        return []

    def dense_layers(self) -> list[nn.Module]:
        """The layers that `[compile]` may compile: from tensors to tensors, of which only the first size varies."""
        return []


@BACKBONES.register("cnn")
class CnnBackbone(Backbone):
    """The window as a box of channels, a 5x5 convolution of stride 3, a 3x3 one, a linear layer.

    Kernels shrink to smaller windows; zeros are added around windows that stride 3 does not cover evenly. The box is
    never built: see `TokenConvolution`.
    """

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__(spec, config)
        axes = [_first_convolution(size) for size in (spec.observation_height, spec.observation_width)]
        self.convolution = TokenConvolution(self.codes.num_channels, axes[0], axes[1])
        second = GridConvolution(CONV_CHANNELS, (axes[0].places, axes[1].places))
        self.layers = nn.Sequential(
            nn.ReLU(inplace=True),
            second,
            nn.ReLU(inplace=True),
            PlacesToChannels(),
            nn.Linear(CONV_CHANNELS * second.num_outputs, config.hidden_dim),
            nn.ReLU(),
        )

    def first_layer(self) -> list[nn.Parameter]:
        """The weights that touch the input."""
        return list(self.convolution.parameters())

    def dense_layers(self) -> list[nn.Module]:
        """All behind the first; none on a CPU, where `GridConvolution` would take minutes to compile."""
        return [] if self.convolution.weight.device.type == "cpu" else [self.layers]

    def forward(self, observations: Tensor) -> Tensor:
        """`[agents, tokens, 3] uint8` to `[agents, hidden]`."""
        features: Tensor = self.layers(self.convolution(self.codes.bag(observations)))
        return features


@dataclass(frozen=True)
class ConvolutionAxis:
    """A convolution along one axis of the window."""

    size: int
    """cells"""
    kernel: int
    stride: int
    padding: int

    @property
    def places(self) -> int:
        """Outputs along the axis."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def begins(self) -> list[int]:
        """The cell where the kernel begins, at each place; below 0 among the zeros around the window."""
        return [place * self.stride - self.padding for place in range(self.places)]

    def covered(self) -> Tensor:
        """`[places, cells] bool`: which cells the kernel covers."""
        tap = torch.arange(self.size) - torch.tensor(self.begins).unsqueeze(1)
        return (tap >= 0) & (tap < self.kernel)


def _first_convolution(size: int) -> ConvolutionAxis:
    """Kernel, stride and padding along an axis of `size` cells, such that every cell is covered."""
    kernel = min(5, size)
    padding = next(padding for padding in range(3) if (size + 2 * padding - kernel) % 3 == 0)
    return ConvolutionAxis(size, kernel, 3, padding)


class TokenConvolution(nn.Conv2d):
    """The convolution of the box of channels, computed from the few tokens that light it.

    Weights and outputs are those of the plain `nn.Conv2d`. Each output sums one row of a table `[channels * kernel
    rows * kernel cols, outputs]`, the weights seen from the input, for each token under its kernel: some percent of the
    products that the box would take.
    """

    covered: Tensor
    """`[places, cells] bool`: which cells the kernel covers at each of its places"""
    weight_of_cell: Tensor
    """`[cells] int32`: the weight, rows before cols, that meets a cell if the kernel begins at the window's corner"""

    def __init__(self, num_channels: int, rows: ConvolutionAxis, cols: ConvolutionAxis):
        super().__init__(
            num_channels,
            CONV_CHANNELS,
            (rows.kernel, cols.kernel),
            (rows.stride, cols.stride),
            (rows.padding, cols.padding),
        )
        self.rows, self.cols = rows, cols
        covered = rows.covered()[:, None, :, None] & cols.covered()[None, :, None, :]
        self.register_buffer("covered", covered.flatten(2).flatten(0, 1), persistent=False)
        weight_of_cell = torch.arange(rows.size).unsqueeze(1) * cols.kernel + torch.arange(cols.size)
        self.register_buffer("weight_of_cell", weight_of_cell.flatten().int(), persistent=False)
        self.begins = [row * cols.kernel + col for row, col in product(rows.begins, cols.begins)]
        """by how much the weight that meets a cell is another one at each place"""

    def forward(self, bag: SparseTokens) -> Tensor:  # type: ignore[override]  # tokens stand for the box
        """`[places * agents, outputs]` of the convolution, place by place, rows before cols."""
        # rows that lie together in memory are summed six times as fast
        table = self.weight.permute(1, 2, 3, 0).reshape(-1, self.out_channels).contiguous()
        sums = token_sums(table, self._bag_by_place(bag))
        sums += self.bias  # type: ignore[arg-type]  # there is one by default
        return sums  # no view of it: the gradient of a view that is changed in place is copied three times

    def _bag_by_place(self, bag: SparseTokens) -> SparseTokens:
        """The tokens under the kernel at each of its places, place by place and in each agent by agent."""
        cell = bag.rows // self.in_channels
        table_rows = (bag.rows - cell * self.in_channels) * self.weight[0, 0].numel()
        table_rows += self.weight_of_cell.index_select(0, cell)
        rows, magnitudes, offsets = [], [], []
        total = 0
        for covered, begin in zip(self.covered, self.begins, strict=True):
            token = true_positions(covered.index_select(0, cell))
            rows.append(table_rows.index_select(0, token) - begin)
            magnitudes.append(bag.magnitudes.index_select(0, token))
            offsets.append(first_positions(token, bag.offsets) + total)
            total += len(token)
        return SparseTokens(torch.cat(rows), torch.cat(magnitudes), torch.cat(offsets))


class GridConvolution(nn.Conv2d):
    """A convolution, 3x3 at most, over few places: so few that it is computed as one matrix product for each weight.

    Weights and outputs are those of the plain `nn.Conv2d`, which computes it on GPUs. Under autocast it is one product
    in bfloat16 for each output, which is rounded once, at its end; where a CPU only imitates bfloat16 all is float32.
    """

    def __init__(self, channels: int, grid: tuple[int, int]):
        kernel = (min(3, grid[0]), min(3, grid[1]))
        super().__init__(channels, channels, kernel)
        self.grid = grid
        self.output_grid = (grid[0] - kernel[0] + 1, grid[1] - kernel[1] + 1)
        self.num_outputs = math.prod(self.output_grid)
        self.steps = [
            ((row + tap_row) * grid[1] + col + tap_col, row * self.output_grid[1] + col, tap_row * kernel[1] + tap_col)
            for row, col in product(range(self.output_grid[0]), range(self.output_grid[1]))
            for tap_row, tap_col in product(range(kernel[0]), range(kernel[1]))
        ]
        """(input place, output place, kernel place) of each product"""

    def forward(self, inputs: Tensor) -> Tensor:
        """`[places, agents, channels]` of `[places * agents, channels]`."""
        by_row_and_col = inputs.view(*self.grid, -1, self.in_channels)
        if inputs.device.type == "cpu" and torch.is_autocast_enabled("cpu") and cpu_has_bfloat16():
            return self._in_bfloat16(by_row_and_col)
        if inputs.device.type == "cpu":
            by_place = self.weight.permute(2, 3, 1, 0).reshape(-1, self.in_channels, self.out_channels)
            outputs: Tensor = _PlacesProduct.apply(  # type: ignore[no-untyped-call]  # torch leaves it unannotated
                by_row_and_col.flatten(0, 1), by_place, self.bias, self.steps, self.num_outputs
            )
            return outputs
        convolved = super().forward(by_row_and_col.permute(2, 3, 0, 1))
        return convolved.permute(2, 3, 0, 1).flatten(0, 1)

    def _in_bfloat16(self, inputs: Tensor) -> Tensor:
        """`[outputs, agents, channels] bfloat16` of `[rows, cols, agents, channels]`, under autocast."""
        height, width = self.kernel_size
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        outputs = []
        for row, col in product(*map(range, self.output_grid)):
            covered = inputs[row : row + height, col : col + width].permute(2, 0, 1, 3)
            covered = covered.to(torch.bfloat16, memory_format=torch.contiguous_format).flatten(1)
            outputs.append(functional.linear(covered, weight, self.bias))
        return torch.stack(outputs)


class _PlacesProduct(torch.autograd.Function):
    """outputs[j] = bias + sum of inputs[i] @ weights[k] over all steps (i, j, k)."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weights: Tensor, bias: Tensor, steps: list[tuple[int, int, int]], num_outputs: int
    ) -> Tensor:
        ctx.steps = steps
        ctx.save_for_backward(inputs, weights)
        outputs = bias.repeat(num_outputs, inputs.shape[1], 1)
        for i, j, k in steps:
            outputs[j].addmm_(inputs[i], weights[k])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        inputs, weights = ctx.saved_tensors
        of_inputs, of_weights = torch.empty_like(inputs), torch.empty_like(weights)
        begun: set[tuple[str, int]] = set()
        for i, j, k in ctx.steps:
            for key, total, left, right in (
                (("inputs", i), of_inputs[i], gradient[j], weights[k].t()),
                (("weights", k), of_weights[k], inputs[i].t(), gradient[j]),
            ):
                total.addmm_(left, right, beta=1 if key in begun else 0)
                begun.add(key)
        return of_inputs, of_weights, gradient.sum((0, 1)), None, None


class PlacesToChannels(nn.Module):
    """`[agents, channels * places]` of `[places, agents, channels]`, channels outermost, as `nn.Flatten` has them."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The flattened features."""
        return inputs.permute(1, 2, 0).flatten(1)


@BACKBONES.register("mlp")
class MlpBackbone(Backbone):
    """A fully connected layer over the whole box, computed from its few tokens alone, and a second layer."""

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__(spec, config)
        self.table = nn.Parameter(torch.empty(self.codes.num_rows, config.hidden_dim))
        self.bias = nn.Parameter(torch.zeros(config.hidden_dim))
        self.layers = nn.Sequential(nn.ReLU(), nn.Linear(config.hidden_dim, config.hidden_dim), nn.ReLU())
        # What is far away begins weak: its many random numbers would long drown what is near, and matters first.
        rows, cols = torch.arange(spec.observation_height), torch.arange(spec.observation_width)
        distance = abs(rows - spec.observation_height // 2)[:, None] + abs(cols - spec.observation_width // 2)
        nearness = 1 / distance.flatten().clamp(min=1).repeat_interleave(self.codes.num_channels)
        nn.init.normal_(self.table, std=math.sqrt(2 / TYPICAL_TOKENS) / config.obs_scale)
        with torch.no_grad():
            self.table.mul_(nearness.unsqueeze(1))

    def first_layer(self) -> list[nn.Parameter]:
        """The weights that touch the input."""
        return [self.table]

    def dense_layers(self) -> list[nn.Module]:
        """All behind the first."""
        return [self.layers]

    def forward(self, observations: Tensor) -> Tensor:
        """`[agents, tokens, 3] uint8` to `[agents, hidden]`."""
        sums = token_sums(self.table, self.codes.bag(observations))
        features: Tensor = self.layers(sums + self.bias)
        return features


@BACKBONES.register("attention")
class AttentionBackbone(Backbone):
    """A few learned queries that attend to the tokens (Jaegle et al. 2021, arXiv:2103.03206), then a linear layer."""

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__(spec, config)
        self.heads = 4
        width = max(self.heads, min(64, config.hidden_dim) // self.heads * self.heads)
        self.channels = nn.Embedding(self.codes.num_channels, width)
        self.cells = nn.Embedding(self.codes.num_cells, width)
        self.norm = nn.LayerNorm(width)
        self.latents = nn.Parameter(torch.randn(LATENTS, width))
        self.keys_values = nn.Linear(width, 2 * width)
        self.layers = nn.Sequential(nn.Linear(LATENTS * width, config.hidden_dim), nn.ReLU())

    def first_layer(self) -> list[nn.Parameter]:
        """The weights that touch the input."""
        return [*self.channels.parameters(), *self.cells.parameters(), self.latents]

    def dense_layers(self) -> list[nn.Module]:
        """All behind attention, which is a kernel of its own."""
        return [self.layers]

    def forward(self, observations: Tensor) -> Tensor:
        """`[agents, tokens, 3] uint8` to `[agents, hidden]`."""
        cell, channel, magnitude = self.codes.padded(observations)
        tokens = self.norm(self.channels(channel) * magnitude.unsqueeze(-1) + self.cells(cell))
        keys, values = self.keys_values(tokens).chunk(2, -1)
        agents = len(observations)
        seen = magnitude > 0
        seen = seen | ~seen.any(1, keepdim=True)  # an agent that sees nothing attends to emptiness, not to NaN
        attended = functional.scaled_dot_product_attention(
            self.split(self.latents.to(keys.dtype).expand(agents, -1, -1)),
            self.split(keys),
            self.split(values),
            attn_mask=seen[:, None, None, :],
        )
        features: Tensor = self.layers(attended.transpose(1, 2).flatten(1))
        return features

    def split(self, vectors: Tensor) -> Tensor:
        """`[agents, heads, entries, width / heads]` of `[agents, entries, width]`."""
        return vectors.view(*vectors.shape[:-1], self.heads, -1).transpose(1, 2)


def make_backbone(spec: EnvSpec, config: AgentModelConfig) -> Backbone:
    """A new network by `agent.backbone`. Raises UsageError, before anything is trained, if it is none."""
    name = config.backbone
    backbone = BACKBONES.find(name)(spec, config)
    if not isinstance(backbone, Backbone):
        raise UsageError(f'the backbone "{name}" is a {type(backbone).__name__}; it must be a metta.api.Backbone')
    if BACKBONES.is_custom(name):
        nothing_seen = torch.full((2, spec.num_observation_tokens, 3), UNUSED, dtype=torch.uint8)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            features = backbone.eval()(nothing_seen)
        backbone.train()
        if (shape := list(features.shape)) != [2, config.hidden_dim]:
            raise UsageError(
                f'the backbone "{name}" makes {shape} of the tokens of 2 agents; it must be [2, {config.hidden_dim}]: '
                "agents x agent.hidden_dim"
            )
    return backbone
