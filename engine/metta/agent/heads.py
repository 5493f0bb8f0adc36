"""Policy and value heads, value normalization (PopArt), and weight initialization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from metta.agent.devices import exact_dtype

POLICY_GAIN: Final = 0.01
"""Gain of the policy's output layer: small, so that the initial policy is almost uniform and explores (Andrychowicz et
al. 2021, arXiv:2006.05990, section 3.2)."""

VALUE_GAIN: Final = 0.1
"""Gain of the value's output layer: small, because before the first reward advantages consist only of the noise of
initial values, which normalization amplifies and which lowers the policy's entropy."""

MIN_STD: Final = 1e-4
"""Smallest standard deviation that divides value targets (Hessel et al. 2018, arXiv:1809.04474, section 3)."""

ROUNDING: Final = 1e-12
"""Largest ratio of variance to mean square that rounding in float64 explains."""


class MlpHead(nn.Module):
    """`layers` hidden layers of equal width with ReLU, then a linear layer to `outputs` numbers."""

    def __init__(self, hidden: int, layers: int, outputs: int, gain: float):
        super().__init__()
        hidden_layers: list[nn.Module] = []
        for _ in range(layers):
            hidden_layers += [nn.Linear(hidden, hidden), nn.ReLU()]
        self.hidden = nn.Sequential(*hidden_layers)
        self.output = nn.Linear(hidden, outputs)
        initialize_weights(self.hidden)
        nn.init.orthogonal_(self.output.weight, gain)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map `[..., hidden]` to `[..., outputs]`."""
        outputs: Tensor = self.output(self.hidden(features))
        return outputs


class ValueHead(MlpHead):
    """A head with one output, denormalized by running statistics of the value targets: V = std * output + mean.

    Mean and standard deviation are 0 and 1 until `observe` is called. When they change, the output layer is rescaled so
    that V stays the same (PopArt; van Hasselt et al. 2016, arXiv:1602.07714): PPO uses the values of a batch for
    bootstrapping, as a baseline and for value clipping, which requires that V changes only by training.
    """

    mean: Tensor
    """`[] float32`: running mean of the value targets"""
    std: Tensor
    """`[] float32`: running standard deviation of the value targets"""
    moments: Tensor
    """`[3] float64`: exponential moving averages of the targets, of their squares, and of 1 (to correct the bias)"""

    def __init__(self, hidden: int, layers: int):
        super().__init__(hidden, layers, 1, VALUE_GAIN)
        for name, statistic in initial_statistics().items():
            self.register_buffer(name, statistic)

    def forward(self, features: Tensor) -> Tensor:
        """Map `[..., hidden]` to values `[...] float32`."""
        return super().forward(features).squeeze(-1).float() * self.std + self.mean

    @torch.no_grad()
    def observe(self, targets: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """Update the statistics with value targets of any shape; `decay` is the weight of earlier targets.

        The standard deviation does not change while all targets are equal.
        Returns (scale, shift): the output layer was multiplied by scale, and shift was added to its bias.
        """
        targets = targets.to(exact_dtype(targets.device))
        new = torch.stack([targets.mean(), targets.square().mean(), torch.ones_like(self.moments[2])])
        self.moments.mul_(decay).add_((1 - decay) * new)
        mean, square = self.moments[:2] / self.moments[2]
        variance = square - mean.square()
        # equal targets, such as a single one, have no spread: their variance is 0 but for rounding
        has_spread = variance > ROUNDING * square
        std = torch.where(has_spread, variance.clamp(min=0).sqrt().clamp(min=MIN_STD), self.std)
        scale, shift = (self.std / std).float(), ((self.mean - mean) / std).float()
        self.output.weight.mul_(scale)
        self.output.bias.mul_(scale).add_(shift)
        self.mean.copy_(mean)
        self.std.copy_(std)
        return scale, shift

    @torch.no_grad()
    def fold_statistics(self) -> None:
        """Scale and shift the output layer by the statistics, and reset these; values stay the same."""
        self.output.weight.mul_(self.std)
        self.output.bias.mul_(self.std).add_(self.mean)
        for name, statistic in initial_statistics().items():
            getattr(self, name).copy_(statistic)


def initial_statistics() -> dict[str, Tensor]:
    """The statistics of a value head before the first `observe`, with which V equals the output."""
    return {"mean": torch.zeros(()), "std": torch.ones(()), "moments": torch.zeros(3, dtype=torch.float64)}


def initialize_weights(module: nn.Module, exclude: Sequence[nn.Module] = ()) -> None:
    """Set orthogonal weights (Saxe et al. 2013, arXiv:1312.6120) and zero biases, as is usual for PPO.

    The gain is sqrt 2 in linear and convolutional layers, for the ReLU after them, and 1 in the LSTM, whose forget
    gates have bias 1 (Gers et al. 2000). The submodules `exclude` are not changed.
    """
    excluded = {layer for submodule in exclude for layer in submodule.modules()}
    for layer in module.modules():
        if layer in excluded:
            continue
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LSTM):
            for name, weight in layer.named_parameters():
                if name.startswith("weight"):
                    for gate in weight.data.chunk(4):
                        nn.init.orthogonal_(gate)
                else:
                    nn.init.zeros_(weight)
                    if name.startswith("bias_ih"):
                        nn.init.ones_(weight.data.chunk(4)[1])
