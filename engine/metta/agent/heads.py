"""The layers after the memory, and how weights begin."""

from __future__ import annotations

import math

from torch import Tensor, nn

POLICY_GAIN = 0.01
"""A policy that begins almost uniform explores (Andrychowicz et al. 2021, arXiv:2006.05990, section 3.2)."""

VALUE_GAIN = 0.1
"""First values are small: advantages are normalised, so that noise in the values is learned from as if it were reward
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
        initialise(self.hidden)
        nn.init.orthogonal_(self.output.weight, gain)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Tensor) -> Tensor:
        """`[..., hidden]` to `[..., outputs]`."""
        outputs: Tensor = self.output(self.hidden(features))
        return outputs


def initialise(module: nn.Module) -> None:
    """Orthogonal weights (Saxe et al. 2013, arXiv:1312.6120) and zero biases, as is usual for PPO.

    Gain sqrt 2 before the ReLU of linear and convolutional layers, 1 in the LSTM, whose forget gates begin half open
    towards remembering (bias 1; Gers et al. 2000).
    """
    for layer in module.modules():
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
