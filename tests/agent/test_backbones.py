"""The cnn backbone computes the same as plain PyTorch layers over the dense encoding, with the same weights."""

from __future__ import annotations

import pytest
import torch
from token_encodings import dense_encoding
from torch import nn

from metta.agent import convolutions
from metta.agent.backbones import CnnBackbone
from metta.config.agent import AgentModelConfig
from metta.world.make_environment import make_environment

WINDOWS = [(11, 11), (15, 13), (7, 9), (15, 3), (1, 5)]


def set_up(height: int, width: int) -> tuple[CnnBackbone, torch.Tensor, torch.Tensor]:
    """A backbone, observations and their dense encoding; one agent has no tokens."""
    torch.manual_seed(0)
    env = make_environment(
        num_agents=5, width=18, height=18, observation_height=height, observation_width=width, seed=0
    )
    backbone = CnnBackbone(env.spec, AgentModelConfig(hidden_dim=8))
    observations = torch.from_numpy(env.reset(seed=4)[0]).clone()
    observations[2] = 255
    return backbone, observations, dense_encoding(backbone.codes, observations).unflatten(2, (height, width))


def plain(backbone: CnnBackbone) -> nn.Sequential:
    """The plain layers, with the backbone's weights."""
    first, second, linear = backbone.convolution, backbone.layers[1], backbone.layers[4]
    layers = nn.Sequential(
        nn.Conv2d(first.in_channels, 64, first.kernel_size, first.stride, first.padding),
        nn.ReLU(),
        nn.Conv2d(64, 64, second.kernel_size),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(linear.in_features, linear.out_features),
        nn.ReLU(),
    )
    layers.load_state_dict(dict(zip(layers.state_dict(), backbone.state_dict().values(), strict=True)))
    return layers


def test_layer_sizes_for_the_default_window():
    layers = plain(set_up(11, 11)[0])
    assert [tuple(weight.shape)[-3:] for weight in layers.parameters() if weight.ndim == 4] == [(66, 5, 5), (64, 3, 3)]
    assert (layers[0].stride, layers[0].padding, layers[5].in_features) == ((3, 3), (0, 0), 64)


@pytest.mark.parametrize(("height", "width"), WINDOWS)
def test_outputs_and_gradients_are_those_of_plain_layers(height, width):
    backbone, observations, dense = set_up(height, width)
    layers = plain(backbone)
    expected, fast = layers(dense), backbone(observations)
    torch.testing.assert_close(fast, expected, rtol=1e-4, atol=1e-5)
    assert fast.std() > 1e-3
    incoming = torch.randn_like(expected)
    plain_gradients = torch.autograd.grad(expected, list(layers.parameters()), incoming)
    gradients = torch.autograd.grad(fast, list(backbone.parameters()), incoming)
    torch.testing.assert_close(gradients, plain_gradients, rtol=1e-4, atol=1e-4)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(("height", "width"), WINDOWS)
@pytest.mark.parametrize("is_fast", [False, True])
def test_autocast_differs_by_bfloat16_rounding(height, width, is_fast, monkeypatch):
    monkeypatch.setattr(convolutions, "cpu_has_bfloat16", lambda: is_fast)
    backbone, observations, _ = set_up(height, width)
    whole = backbone(observations)
    # not compared with nn.Conv2d: in bfloat16 that of torch 2.13 returns NaN on some CPUs
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone(observations)
    torch.testing.assert_close(half.float(), whole, rtol=0.05, atol=0.02)
    assert not torch.equal(half.float(), whole)  # the linear layer is in bfloat16 anyway
    incoming = torch.randn_like(whole)
    exact = torch.autograd.grad(whole, list(backbone.parameters()), incoming)
    rough = torch.autograd.grad(half.float(), list(backbone.parameters()), incoming)
    for one, other in zip(rough, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.05 * other.norm()


def test_bfloat16_sums_are_rounded_once(monkeypatch):
    monkeypatch.setattr(convolutions, "cpu_has_bfloat16", lambda: True)
    convolution = convolutions.GridConvolution(1, (3, 3))
    torch.nn.init.constant_(convolution.weight, 2.0**-10)
    torch.nn.init.zeros_(convolution.bias)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        convolution.weight[0, 0, 0, 0] = 1.0
        total = convolution(torch.ones(9, 1))
    assert total.item() == 1 + 8 * 2.0**-10  # which would have stayed 1 had each sum been rounded
