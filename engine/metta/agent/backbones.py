"""Backbones, the networks that map observation tokens to features: cnn, mlp, attention, base class of custom ones.

Register a custom backbone with the decorator, or as an entry point in the group `metta.backbones`, then name it in
`agent.backbone`:

    @BACKBONES.register("sums")
    class Sums(Backbone):
        ...
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from metta.agent.convolutions import ConvolutionAxis, FlattenGrid, GridConvolution, TokenConvolution
from metta.agent.sparse_tokens import Observations, PackedTokens, token_sums
from metta.agent.tokens import TokenCodes
from metta.config.agent import BACKBONES, AgentModelConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.env.token_features import NO_TOKEN
from metta.config.plan.network_size import CONV_CHANNELS, LATENTS
from metta.errors import UsageError

TYPICAL_TOKENS: Final = 50
"""Number of tokens in a typical observation; sets the scale of the initial weights of the mlp's first layer."""


class Backbone(nn.Module):
    """Base class of backbones: `forward` maps observations `[agents, tokens, 3] uint8` to features `[agents, hidden]`.

    `self.codes` maps each token to its cell, channel and magnitude. A custom backbone must initialize its weights;
    linear and convolutional layers of built-in backbones are initialized by `heads.initialize_weights`.
    """

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__()
        self.codes = TokenCodes(spec, config)

    def first_layer(self) -> list[nn.Parameter]:
        """The weights that are applied directly to the input. With Muon as optimizer, AdamW trains them."""
        return []

    def dense_layers(self) -> list[nn.Module]:
        """The modules that `[compile]` may compile: each maps a tensor to a tensor; only dimension 0 varies in size."""
        return []


@BACKBONES.register("cnn")
class CnnBackbone(Backbone):
    """A 5x5 convolution with stride 3 over the window, a 3x3 convolution, and a linear layer.

    Kernels are smaller in small windows. Windows that stride 3 does not cover evenly are zero-padded.
    """

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__(spec, config)
        rows, cols = map(ConvolutionAxis.covering, (spec.observation_height, spec.observation_width))
        self.convolution = TokenConvolution(self.codes.num_channels, rows, cols)
        second = GridConvolution(CONV_CHANNELS, (rows.num_outputs, cols.num_outputs))
        self.layers = nn.Sequential(
            nn.ReLU(inplace=True),
            second,
            nn.ReLU(inplace=True),
            FlattenGrid(),
            nn.Linear(CONV_CHANNELS * second.num_outputs, config.hidden_dim),
            nn.ReLU(),
        )

    def first_layer(self) -> list[nn.Parameter]:
        """The weights of the first convolution."""
        return list(self.convolution.parameters())

    def dense_layers(self) -> list[nn.Module]:
        """All layers after the first; none on a CPU, where `GridConvolution` would take minutes to compile."""
        return [] if self.convolution.weight.device.type == "cpu" else [self.layers]

    def forward(self, observations: Observations) -> Tensor:
        """Observations, packed or `[agents, tokens, 3] uint8`, to `[agents, hidden]`."""
        features: Tensor = self.layers(self.convolution(PackedTokens.pack(observations), self.codes))
        return features


@BACKBONES.register("mlp")
class MlpBackbone(Backbone):
    """Two fully connected layers over the dense encoding of the window; the first is computed from sparse tokens."""

    def __init__(self, spec: EnvSpec, config: AgentModelConfig):
        super().__init__(spec, config)
        self.table = nn.Parameter(torch.empty(self.codes.num_rows, config.hidden_dim))
        self.bias = nn.Parameter(torch.zeros(config.hidden_dim))
        self.layers = nn.Sequential(nn.ReLU(), nn.Linear(config.hidden_dim, config.hidden_dim), nn.ReLU())
        # Initial weights are divided by the distance from the agent: most cells are distant, and with equal weights
        # their noise would dominate the features early in training.
        rows, cols = torch.arange(spec.observation_height), torch.arange(spec.observation_width)
        distance = abs(rows - spec.observation_height // 2)[:, None] + abs(cols - spec.observation_width // 2)
        nearness = 1 / distance.flatten().clamp(min=1).repeat_interleave(self.codes.num_channels)
        nn.init.normal_(self.table, std=math.sqrt(2 / TYPICAL_TOKENS) / config.obs_scale)
        with torch.no_grad():
            self.table.mul_(nearness.unsqueeze(1))

    def first_layer(self) -> list[nn.Parameter]:
        """The weights of the first fully connected layer."""
        return [self.table]

    def dense_layers(self) -> list[nn.Module]:
        """All layers after the first."""
        return [self.layers]

    def forward(self, observations: Observations) -> Tensor:
        """Observations, packed or `[agents, tokens, 3] uint8`, to `[agents, hidden]`."""
        sums = token_sums(self.table, self.codes.sparse(observations))
        features: Tensor = self.layers(sums + self.bias)
        return features


@BACKBONES.register("attention")
class AttentionBackbone(Backbone):
    """Cross-attention of learned queries to the tokens (Jaegle et al. 2021, arXiv:2103.03206), then a linear layer."""

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
        """The embeddings of channels and cells, and the queries."""
        return [*self.channels.parameters(), *self.cells.parameters(), self.latents]

    def dense_layers(self) -> list[nn.Module]:
        """The layer after the attention; the attention already runs as one fused kernel."""
        return [self.layers]

    def forward(self, observations: Observations) -> Tensor:
        """Observations, packed or `[agents, tokens, 3] uint8`, to `[agents, hidden]`."""
        cell, channel, magnitude = self.codes.padded(observations)
        tokens = self.norm(self.channels(channel) * magnitude.unsqueeze(-1) + self.cells(cell))
        keys, values = self.keys_values(tokens).chunk(2, -1)
        agents = len(cell)
        is_visible = magnitude > 0
        is_visible = is_visible | ~is_visible.any(1, keepdim=True)  # without any, softmax would be NaN
        attended = functional.scaled_dot_product_attention(
            self.split_heads(self.latents.to(keys.dtype).expand(agents, -1, -1)),
            self.split_heads(keys),
            self.split_heads(values),
            attn_mask=is_visible[:, None, None, :],
        )
        features: Tensor = self.layers(attended.transpose(1, 2).flatten(1))
        return features

    def split_heads(self, vectors: Tensor) -> Tensor:
        """Reshape `[agents, entries, width]` to `[agents, heads, entries, width / heads]`."""
        return vectors.view(*vectors.shape[:-1], self.heads, -1).transpose(1, 2)


def make_backbone(spec: EnvSpec, config: AgentModelConfig) -> Backbone:
    """Create the backbone that `agent.backbone` names.

    Raises UsageError if a custom backbone is not a `Backbone` or does not return features `[agents, hidden]`.
    """
    name = config.backbone
    backbone = BACKBONES.find(name)(spec, config)
    if not isinstance(backbone, Backbone):
        raise UsageError(f'the backbone "{name}" is a {type(backbone).__name__}; it must be a metta.api.Backbone')
    if BACKBONES.is_custom(name):
        padding = torch.full((2, spec.num_observation_tokens, 3), NO_TOKEN, dtype=torch.uint8)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            features = backbone.eval()(padding)
        backbone.train()
        if (shape := list(features.shape)) != [2, config.hidden_dim]:
            raise UsageError(
                f'the backbone "{name}" returns features of shape {shape} for 2 agents; '
                f"expected [2, {config.hidden_dim}]: [agents, agent.hidden_dim]"
            )
    return backbone
