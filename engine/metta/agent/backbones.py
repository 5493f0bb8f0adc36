"""From tokens to features, three ways: `cnn`, `mlp`, `attention`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from metta.agent.token_bag import token_sums
from metta.agent.tokens import TokenBag, TokenCodes, true_positions
from metta.config.agent import AgentModelConfig
from metta.config.spec import EnvSpec

CONV_CHANNELS: Final = 64
LATENTS: Final = 4
TYPICAL_TOKENS: Final = 50
"""Tokens of an ordinary observation; the first layer's initial weights are scaled for as many."""


class CnnBackbone(nn.Module):
    """The window as a box of channels, a 5x5 convolution of stride 3, a 3x3 one, a linear layer.

    Kernels shrink to smaller windows; zeros are added around windows that stride 3 does not cover evenly. The box is
    never built: see `TokenConvolution`.
    """

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__()
        self.codes = TokenCodes(spec, config)
        axes = [_first_convolution(size) for size in (spec.observation_height, spec.observation_width)]
        self.convolution = TokenConvolution(self.codes.num_channels, axes[0], axes[1])
        sizes = self.convolution.output_size
        second = [min(3, size) for size in sizes]
        left = math.prod(size - kernel + 1 for size, kernel in zip(sizes, second, strict=True))
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(CONV_CHANNELS, CONV_CHANNELS, (second[0], second[1])),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(CONV_CHANNELS * left, config.hidden_dim),
            nn.ReLU(),
        )

    def first_layer(self) -> list[nn.Parameter]:
        """The weights that touch the input."""
        return list(self.convolution.parameters())

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

    def taps(self) -> Tensor:
        """`[places, cells] int64`: which weight of the kernel meets each cell, -1 where none does."""
        taps = torch.arange(self.size) + self.padding - torch.arange(self.places).unsqueeze(1) * self.stride
        return taps.where((taps >= 0) & (taps < self.kernel), -1)


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

    kernel_places: Tensor

    def __init__(self, num_channels: int, rows: ConvolutionAxis, cols: ConvolutionAxis):
        super().__init__(
            num_channels,
            CONV_CHANNELS,
            (rows.kernel, cols.kernel),
            (rows.stride, cols.stride),
            (rows.padding, cols.padding),
        )
        self.output_size = (rows.places, cols.places)
        row_taps = rows.taps()[:, None, :, None]
        col_taps = cols.taps()[None, :, None, :]
        places = torch.where((row_taps >= 0) & (col_taps >= 0), row_taps * cols.kernel + col_taps, -1)
        kernel_places = places.view(rows.places * cols.places, rows.size * cols.size).int()
        self.register_buffer("kernel_places", kernel_places, persistent=False)

    def forward(self, bag: TokenBag) -> Tensor:  # type: ignore[override]  # tokens stand for the box
        """`[agents, outputs, rows, cols]` of the convolution."""
        agents, kernel_cells = len(bag.offsets), self.weight[0, 0].numel()
        table = self.weight.permute(1, 2, 3, 0).reshape(-1, self.out_channels)
        sums = token_sums(table, self._bag_by_place(bag, kernel_cells)) + self.bias  # type: ignore[operator]  # there is one by default
        # channels last in memory, which costs the fewest copies and suits the next convolution
        by_agent = sums.view(-1, agents, self.out_channels).transpose(0, 1)
        return by_agent.reshape(agents, *self.output_size, self.out_channels).permute(0, 3, 1, 2)

    def _bag_by_place(self, bag: TokenBag, kernel_cells: int) -> TokenBag:
        """The tokens under the kernel at each of its places, place by place and in each agent by agent."""
        cell = bag.rows // self.in_channels
        first_rows = (bag.rows - cell * self.in_channels) * kernel_cells
        taps = self.kernel_places.index_select(1, cell)
        under = taps >= 0
        entries = true_positions(under)
        token = entries % len(cell)
        before = functional.pad(torch.cumsum(under.flatten(), 0, dtype=torch.int32), (1, 0))
        starts = torch.arange(len(taps), device=cell.device).unsqueeze(1) * len(cell) + bag.offsets
        return TokenBag(
            first_rows.index_select(0, token) + taps.flatten().index_select(0, entries),
            bag.magnitudes.index_select(0, token),
            before.index_select(0, starts.flatten()),
        )


class MlpBackbone(nn.Module):
    """A fully connected layer over the whole box, computed from its few tokens alone, and a second layer."""

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__()
        self.codes = TokenCodes(spec, config)
        self.table = nn.Parameter(torch.empty(self.codes.num_rows, config.hidden_dim))
        self.bias = nn.Parameter(torch.zeros(config.hidden_dim))
        self.layers = nn.Sequential(nn.ReLU(), nn.Linear(config.hidden_dim, config.hidden_dim), nn.ReLU())
        nn.init.normal_(self.table, std=math.sqrt(2 / TYPICAL_TOKENS) / config.obs_scale)

    def first_layer(self) -> list[nn.Parameter]:
        """The weights that touch the input."""
        return [self.table]

    def forward(self, observations: Tensor) -> Tensor:
        """`[agents, tokens, 3] uint8` to `[agents, hidden]`."""
        sums = token_sums(self.table, self.codes.bag(observations))
        features: Tensor = self.layers(sums + self.bias)
        return features


class AttentionBackbone(nn.Module):
    """A few learned queries that attend to the tokens (Jaegle et al. 2021, arXiv:2103.03206), then a linear layer."""

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__()
        self.codes = TokenCodes(spec, config)
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

    def forward(self, observations: Tensor) -> Tensor:
        """`[agents, tokens, 3] uint8` to `[agents, hidden]`."""
        cell, channel, magnitude = self.codes.padded(observations)
        tokens = self.norm(self.channels(channel) * magnitude.unsqueeze(-1) + self.cells(cell))
        keys, values = self.keys_values(tokens).chunk(2, -1)
        agents = len(observations)
        seen = magnitude > 0
        seen = seen | ~seen.any(1, keepdim=True)  # an agent that sees nothing attends to emptiness, not to NaN
        attended = functional.scaled_dot_product_attention(
            self._split(self.latents.to(keys.dtype).expand(agents, -1, -1)),
            self._split(keys),
            self._split(values),
            attn_mask=seen[:, None, None, :],
        )
        features: Tensor = self.layers(attended.transpose(1, 2).flatten(1))
        return features

    def _split(self, vectors: Tensor) -> Tensor:
        return vectors.view(*vectors.shape[:-1], self.heads, -1).transpose(1, 2)


Backbone = CnnBackbone | MlpBackbone | AttentionBackbone

BACKBONES: Final[dict[str, type[Backbone]]] = {"cnn": CnnBackbone, "mlp": MlpBackbone, "attention": AttentionBackbone}
"""The networks by `agent.backbone`."""
