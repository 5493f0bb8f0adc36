"""Policy and value heads, value normalization (PopArt), and weight initialization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from metta.agent.devices import exact_dtype
from metta.config.agent import Critic

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

    With a `critic` of the group or the world, the input is h + W m: the agent's features h, and the mean m of those of
    all agents of the group or the world (MAPPO; Yu et al. 2022, arXiv:2103.01955). W is zero at first. The gradient of
    m reaches the features of all these agents.
    """

    mean: Tensor
    """`[] float32`: running mean of the value targets"""
    std: Tensor
    """`[] float32`: running standard deviation of the value targets"""
    moments: Tensor
    """`[3] float64`: exponential moving averages of the targets, of their squares, and of 1 (to correct the bias)"""

    def __init__(self, hidden: int, layers: int, critic: Critic = "own", num_groups: int = 1):
        super().__init__(hidden, layers, 1, VALUE_GAIN)
        self.num_groups = num_groups if critic == "group" else 1
        self.summary = nn.Parameter(torch.zeros(hidden, hidden)) if critic != "own" else None
        for name, statistic in initial_statistics().items():
            self.register_buffer(name, statistic)

    def forward(self, features: Tensor, groups: Tensor | None = None) -> Tensor:
        """Map `[..., hidden]` to values `[...] float32`.

        `groups [..., worlds, agents]`, an integer type, are the groups of the agents, whose features are then
        `[..., worlds * agents, hidden]`. Without `groups`, each agent is alone. Only a critic of the group or the world
        reads them.
        """
        if self.summary is not None:
            features = features + self._summary(features, self.summary, groups)
        return super().forward(features).squeeze(-1).float() * self.std + self.mean

    def _summary(self, features: Tensor, weight: Tensor, groups: Tensor | None) -> Tensor:
        """W m of each agent, in the shape of `features`."""
        if groups is None:
            return functional.linear(features, weight)
        if self.num_groups == 1:
            groups = torch.zeros_like(groups)
        numbers = torch.arange(self.num_groups, device=groups.device)
        is_member = (groups.unsqueeze(-1) == numbers).to(features.dtype)  # [..., worlds, agents, groups]
        # products of matrices: unlike index_add, they have the same result each time on a GPU, too
        sums = is_member.transpose(-1, -2) @ features.view(*groups.shape, -1)
        means = sums / is_member.sum(-2).clamp(min=1).unsqueeze(-1)
        return (is_member @ functional.linear(means, weight)).view_as(features)

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
