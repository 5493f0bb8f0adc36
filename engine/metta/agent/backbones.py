"""From tokens to features, three ways: `cnn`, `mlp`, `attention`."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from metta.agent.token_bag import token_sums
from metta.agent.tokens import TokenCodes
from metta.config.agent import AgentModelConfig
from metta.config.spec import EnvSpec

CONV_CHANNELS: Final = 64
LATENTS: Final = 4
TYPICAL_TOKENS: Final = 50
"""Tokens of an ordinary observation; the first layer's initial weights are scaled for as many."""


class CnnBackbone(nn.Module):
    """The window as a box of channels, a 5x5 convolution of stride 3, a 3x3 one, a linear layer.

    Kernels shrink to smaller windows; zeros are added around windows that stride 3 does not cover evenly.
    """

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__()
        self.codes = TokenCodes(spec, config)
        self.window = (spec.observation_height, spec.observation_width)
        kernels, strides, paddings = zip(*map(_first_convolution, self.window), strict=True)
        sizes = [
            (size + 2 * padding - kernel) // stride + 1
            for size, kernel, stride, padding in zip(self.window, kernels, strides, paddings, strict=True)
        ]
        second = [min(3, size) for size in sizes]
        left = math.prod(size - kernel + 1 for size, kernel in zip(sizes, second, strict=True))
        self.convolution = nn.Conv2d(self.codes.num_channels, CONV_CHANNELS, kernels, strides, paddings)
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
        box = self.codes.box(observations)
        features: Tensor = self.layers(self.convolution(box.view(len(box), -1, *self.window)))
        return features


def _first_convolution(size: int) -> tuple[int, int, int]:
    """Kernel, stride and padding along an axis of `size` cells, such that every cell is covered."""
    kernel = min(5, size)
    padding = next(padding for padding in range(3) if (size + 2 * padding - kernel) % 3 == 0)
    return kernel, 3, padding


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
