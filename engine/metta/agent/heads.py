"""The layers after the memory, and how weights begin."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

POLICY_GAIN = 0.01
"""A policy that begins almost uniform explores (Andrychowicz et al. 2021, arXiv:2006.05990, section 3.2)."""

VALUE_GAIN = 0.1
"""First values are small: advantages are normalized, so that noise in the values is learned from as if it were reward
until there is any, and costs the policy its entropy."""


class Head(nn.Module):
    """`layers` hidden layers of the same width, then a linear layer to `outputs` numbers."""

    def __init__(self, hidden: int, layers: int, outputs: int, gain: float):
        super().__init__()
        hidden_layers: list[nn.Module] = []
        for _ in range(layers):
            hidden_layers += [nn.Linear(hidden, hidden), nn.ReLU()]
        self.hidden = nn.Sequential(*hidden_layers)
        self.output = nn.Linear(hidden, outputs)
        initialize(self.hidden)
        nn.init.orthogonal_(self.output.weight, gain)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Tensor) -> Tensor:
        """`[..., hidden]` to `[..., outputs]`."""
        outputs: Tensor = self.output(self.hidden(features))
        return outputs


SMALLEST_STD: Final = 1e-4
"""Value targets that hardly vary are not blown up further (Hessel et al. 2018, arXiv:1809.04474, section 3)."""


class ValueHead(Head):
    """A head of one number that may learn at the scale of one whatever the scale of values: V = std * output + mean.

    mean and std are running statistics of what the values are to be, 0 and 1 until `observe` is called. When they
    change, the output layer is rescaled so that V stays what it was (PopArt; van Hasselt et al. 2016,
    arXiv:1602.07714). Running statistics alone would not do for PPO: the values of a batch are bootstrapped from,
    subtracted as a baseline and clipped to, and all this takes for granted that V moves only where it was trained to.
    """

    mean: Tensor
    """`float32`: of value targets"""
    std: Tensor
    """`float32`: of value targets"""
    moments: Tensor
    """`[3] float64`: decaying sums of the targets, of their squares and of 1"""

    def __init__(self, hidden: int, layers: int):
        super().__init__(hidden, layers, 1, VALUE_GAIN)
        for name, statistic in initial_statistics().items():
            self.register_buffer(name, statistic)

    def forward(self, features: Tensor) -> Tensor:
        """`[..., hidden]` to `[...] float32`: values."""
        return super().forward(features).squeeze(-1).float() * self.std + self.mean

    @torch.no_grad()
    def observe(self, targets: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """Count the mean and mean square of `targets`, of which `decay` is left after the next call, and so on.

        Returns a, b: that the output layer is now a times what it was, with b added to the bias.
        """
        targets = targets.double()
        new = [float(targets.mean()), float(targets.square().mean()), 1.0]
        self.moments.mul_(decay).add_((1 - decay) * self.moments.new_tensor(new))
        mean, square = self.moments[:2] / self.moments[2]
        std = (square - mean.square()).clamp(min=0).sqrt().clamp(min=SMALLEST_STD)
        scale, shift = (self.std / std).float(), ((self.mean - mean) / std).float()
        self.output.weight.mul_(scale)
        self.output.bias.mul_(scale).add_(shift)
        self.mean.copy_(mean)
        self.std.copy_(std)
        return scale, shift


def initial_statistics() -> dict[str, Tensor]:
    """The statistics of a value head that has counted nothing: values are its output."""
    return {"mean": torch.zeros(()), "std": torch.ones(()), "moments": torch.zeros(3, dtype=torch.float64)}


def initialize(module: nn.Module, but: nn.Module | None = None) -> None:
    """Orthogonal weights (Saxe et al. 2013, arXiv:1312.6120) and zero biases, as is usual for PPO.

    Gain sqrt 2 before the ReLU of linear and convolutional layers, 1 in the LSTM, whose forget gates begin half open
    towards remembering (bias 1; Gers et al. 2000). The part `but` is left as it is.
    """
    left = set(but.modules()) if but is not None else set()
    for layer in module.modules():
        if layer in left:
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
