"""The network of hearts-24 in its usual form, with dense layers, for the trainers that metta is compared with.

Box of features, conv 64 5x5 stride 3, conv 64 3x3, linear 128, LSTM 128, linear heads. It needs only torch and the
spec of a world, so that it runs in the environments of other trainers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from metta.config.env.env_spec import EnvSpec

HIDDEN = 128
UNUSED = 255

Convolution = Callable[[int, int, int, int], nn.Conv2d]
"""in channels, out channels, kernel, stride"""


class FeatureBox(nn.Module):
    """`[agents, tokens, 3] uint8` to `[agents, features, rows, cols] float32`: one channel per feature."""

    inverse_scales: Tensor

    def __init__(self, spec: EnvSpec):
        super().__init__()
        self.num_channels = len(spec.feature_names)
        self.rows, self.cols = spec.observation_height, spec.observation_width
        self.register_buffer("inverse_scales", 1 / torch.tensor(spec.feature_scales))

    def forward(self, observations: Tensor) -> Tensor:
        longest = int((observations[:, :, 0] != UNUSED).sum(1).max())
        location, feature, value = observations[:, : max(1, longest)].long().unbind(-1)
        used = location != UNUSED
        place = (feature * self.rows + (location >> 4)) * self.cols + (location & 15)
        scaled = value * self.inverse_scales[torch.where(used, feature, 0)]
        size = self.num_channels * self.rows * self.cols
        box = torch.zeros(len(observations), size + 1, device=observations.device)
        box.scatter_(
            1, torch.where(used, place, size), scaled
        )  # unused tokens go into the last element, which is cut off
        return box[:, :size].view(-1, self.num_channels, self.rows, self.cols)


class MatrixConv2d(nn.Conv2d):
    """A convolution computed as a matrix product over patches: faster than the library's for few output cells."""

    def forward(self, inputs: Tensor) -> Tensor:
        rows, cols = self.kernel_size
        patches = inputs.unfold(2, rows, self.stride[0]).unfold(3, cols, self.stride[1])
        agents, _, down, across = patches.shape[:4]
        matrix = patches.permute(0, 2, 3, 1, 4, 5).reshape(agents * down * across, -1)
        outputs = functional.linear(matrix, self.weight.flatten(1), self.bias)
        return outputs.view(agents, down, across, -1).permute(0, 3, 1, 2)


def plain_convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride)


def matrix_convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return MatrixConv2d(inputs, outputs, kernel, stride)


class DenseEncoder(nn.Module):
    """Tokens to features `[agents, 128]`, through a dense box."""

    def __init__(self, box: nn.Module, convolution: Convolution = plain_convolution):
        super().__init__()
        self.box = box
        self.layers = nn.Sequential(
            orthogonal(convolution(box.num_channels, 64, 5, 3)),
            nn.ReLU(),
            orthogonal(convolution(64, 64, 3, 1)),
            nn.ReLU(),
            nn.Flatten(),
            orthogonal(nn.Linear(64, HIDDEN)),
            nn.ReLU(),
        )

    def forward(self, observations: Tensor) -> Tensor:
        return self.layers(self.box(observations))


def orthogonal(layer: nn.Module, gain: float = np.sqrt(2)) -> nn.Module:
    """Initialize a layer with orthogonal weights and zero biases."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
