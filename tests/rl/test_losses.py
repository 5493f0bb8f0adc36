"""Terms of the PPO objective against numbers worked out by hand and against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch

from metta.agent.heads import ValueHead
from metta.rl import losses
from metta.rl.reward_normalization import RewardScaler

T = torch.tensor


def test_policy_loss_by_hand():
    # ratios 1.5, 1.5, 0.5, 0.5, clipped to 1.2 or 0.8; the larger loss of each pair
    log_ratio = T([1.5, 1.5, 0.5, 0.5]).log()
    advantages = T([1.0, -1.0, 1.0, -1.0])
    expected = (-1.2 + 1.5 - 0.5 + 0.8) / 4
    assert float(losses.policy_loss(log_ratio, advantages, 0.2)) == pytest.approx(expected)


def test_no_gradient_where_the_ratio_is_clipped():
    log_ratio = T([1.5, 1.5, 0.5, 0.5]).log().requires_grad_()
    losses.policy_loss(log_ratio, T([1.0, -1.0, 1.0, -1.0]), 0.2).backward()
    assert [bool(g) for g in log_ratio.grad] == [False, True, True, False]


def test_value_loss_by_hand():
    # first: V - R = 1 is larger than V_clipped - R = (1 + 0.5) - 1 = 0.5; second: V - R = 0.2 is not clipped
    values, old, returns = T([2.0, 1.2]), T([1.0, 1.0]), T([1.0, 1.0])
    assert float(losses.value_loss(values, old, returns, 0.5)) == pytest.approx(0.5 * (1 + 0.04) / 2)
    # V moved towards the return by more than eps: the clipped term (1.5 - 3)^2 is larger and has no gradient
    moved = T([2.9]).requires_grad_()
    loss = losses.value_loss(moved, T([1.0]), T([3.0]), 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * 1.5**2)
    assert float(moved.grad) == 0
    assert float(losses.value_loss(T([2.5]), T([1.0]), T([3.0]), None)) == 0.5 * 0.5**2


def test_like_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    log_ratio, advantages, values, old, returns = torch.randn(5, 200, generator=generator) * 0.5
    policy = value = kl = outside = 0.0
    rows = zip(*(each.tolist() for each in (log_ratio, advantages, values, old, returns)), strict=True)
    for log_rho, a, v, v_old, r in rows:
        rho = math.exp(log_rho)
        policy -= min(a * rho, a * min(max(rho, 0.9), 1.1)) / 200
        clipped = v_old + min(max(v - v_old, -0.1), 0.1)
        value += 0.5 * max((v - r) ** 2, (clipped - r) ** 2) / 200
        kl += (rho - 1 - log_rho) / 200
        outside += (abs(rho - 1) > 0.1) / 200
    assert float(losses.policy_loss(log_ratio, advantages, 0.1)) == pytest.approx(policy, rel=1e-4)
    assert float(losses.value_loss(values, old, returns, 0.1)) == pytest.approx(value, rel=1e-4)
    assert float(losses.approximate_kl(log_ratio)) == pytest.approx(kl, rel=1e-4)
    assert float(losses.clip_fraction(log_ratio, 0.1)) == pytest.approx(outside, rel=1e-4)


def test_normalized_advantages():
    torch.testing.assert_close(losses.normalize_advantages(T([1.0, 2.0, 3.0])), T([-1.0, 0.0, 1.0]))
    assert losses.normalize_advantages(T([4.0, 4.0])).tolist() == [0, 0]
    spread = losses.normalize_advantages(1000 + 1e-3 * T([[0.0, 1.0], [2.0, 3.0]]).double())
    torch.testing.assert_close(spread.flatten().tolist(), [-1.16, -0.39, 0.39, 1.16], atol=0.01, rtol=0)


def test_a_single_advantage_is_not_normalized():
    assert losses.normalize_advantages(T([4.0])).tolist() == [4]
    assert losses.normalize_advantages(T([[-4.0]]), weights=T([0.3])).tolist() == [[-4]]
    # one advantage in each of two processes: they are normalized together
    other = T([[1.0, 6.0, 0.0]]).double()
    found = losses.normalize_advantages(T([4.0]), all_gather=lambda own: torch.cat([own, other]))
    torch.testing.assert_close(found, T([-(0.5**0.5)]))


CONSTANTS = pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, 3.3, -1e-4, 1e4])
COUNTS = pytest.mark.parametrize("count", [2, 3, 7, 64, 1000, 16384])


@CONSTANTS
@COUNTS
def test_rounding_is_no_spread(constant, count):
    """Equal values have the variance 0. In float32 it would be that of rounding errors, which division amplifies."""
    equal = torch.full((count,), constant)
    assert losses.normalize_advantages(equal).abs().max() < 1e-6
    weights = torch.rand(count, generator=torch.Generator().manual_seed(0)) + 0.1
    assert losses.normalize_advantages(equal.unsqueeze(0), weights).abs().max() < 1e-3
    assert losses.explained_variance(torch.linspace(-1, 1, count), equal) == 0
    scaler = RewardScaler(count)
    for _ in range(3):
        scaler.observe(equal.unsqueeze(0), torch.ones(1, count, dtype=torch.bool), 0.9)
    assert scaler.std == 1
    head = ValueHead(4, 1)
    for _ in range(3):
        head.observe(equal, 0.95)
    assert (float(head.std), float(head.mean)) == (1, pytest.approx(constant))


def test_explained_variance():
    returns = T([1.0, 2.0, 3.0, 4.0])
    assert losses.explained_variance(returns, returns) == 1
    assert losses.explained_variance(torch.zeros(4), returns) == 0
    assert losses.explained_variance(-returns, returns) == -3
    assert losses.explained_variance(returns[:1], returns[1:2]) == 0


def test_l2_losses_by_hand():
    layer = torch.nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(T([[1.0, 2.0]]))
        layer.bias.copy_(T([3.0]))
    assert losses.l2_loss(layer).item() == 1 + 4 + 9
    reference = {"weight": T([[1.0, 1.0]]), "bias": T([0.0])}
    assert losses.l2_loss(layer, reference).item() == 0 + 1 + 9
