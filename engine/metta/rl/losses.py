"""Terms and diagnostics of the PPO loss, as pure functions of tensors: Schulman et al. 2017, arXiv:1707.06347.

`weights [segments]` are importance weights of prioritized sampling; without them, every segment has the weight 1.
Other tensors are `[horizon, segments] float32` unless stated otherwise; losses are scalars.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from metta.agent.devices import exact_dtype


def policy_loss(log_ratio: Tensor, advantages: Tensor, clip_coef: float, weights: Tensor | None = None) -> Tensor:
    """Clipped surrogate loss: mean max(-A rho, -A clip(rho, 1 - eps, 1 + eps)), rho = exp(log_ratio).

    This is equation 7 of the paper, negated, with eps = `clip_coef`.
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_coef, 1 + clip_coef)
    return weighted_mean(torch.maximum(-advantages * ratio, -advantages * clipped), weights)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_coef: float | None, weights: Tensor | None = None
) -> Tensor:
    """Value loss: 1/2 mean max((V - R)^2, (V_clipped - R)^2), V_clipped = V_old + clip(V - V_old, -eps, eps).

    eps is `clip_coef`; if that is None, the loss is 1/2 mean (V - R)^2. As in ppo2 of OpenAI Baselines.
    """
    squares = (values - returns).square()
    if clip_coef is not None:
        clipped = old_values + (values - old_values).clamp(-clip_coef, clip_coef)
        squares = torch.maximum(squares, (clipped - returns).square())
    return 0.5 * weighted_mean(squares, weights)


def teacher_divergence(teacher_probs: Tensor, logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """KL(teacher, policy), nats: mean sum_a pi_T(a) (log pi_T(a) - log pi(a)).

    `teacher_probs` and `logits` are `[horizon, segments, actions] float32`. Terms with pi_T(a) = 0 are 0, also where
    log pi(a) is infinite. The gradient equals that of the cross entropy in Schmitt et al. 2018 (arXiv:1803.03835,
    section 3.1), but the divergence of equal policies is 0.
    """
    log_probs = logits.log_softmax(-1).masked_fill(teacher_probs == 0, 0.0)
    divergences = (torch.xlogy(teacher_probs, teacher_probs) - teacher_probs * log_probs).sum(-1)
    return weighted_mean(divergences, weights)


def weighted_mean(terms: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of weights * terms."""
    return terms.mean() if weights is None else (terms * weights).mean()


def normalize_advantages(
    advantages: Tensor,
    weights: Tensor | None = None,
    all_gather: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """(A - mean A) / (std A + 1e-8); a single advantage is returned unchanged, since it has no standard deviation.

    With `weights`, mean and standard deviation are weighted, which estimates those of the whole batch. Both are
    computed in float64: rounding errors of float32 exceed 1e-8, so equal advantages would not become 0.

    With `all_gather`, they are those of all processes, each of which must have equally many advantages. `all_gather`
    concatenates the tensors `[1, 3]` of all processes along the first axis. The moments of the processes are merged
    (Chan, Golub, LeVeque 1979), so that one collective operation is enough.
    """
    exact = advantages.to(exact_dtype(advantages.device))
    expanded = (torch.ones_like(exact[0]) if weights is None else weights.to(exact.dtype)).expand_as(exact)
    total = expanded.sum()
    mean = (expanded * exact).sum() / total
    moments = torch.stack([total, mean, (expanded * (exact - mean).square()).sum()]).unsqueeze(0)
    if all_gather is not None:
        moments = all_gather(moments)
    totals, means, squares = moments.unbind(1)
    count, total = advantages.numel() * len(moments), totals.sum()
    if count < 2:
        return advantages
    mean = (totals * means).sum() / total
    variance = (squares + totals * (means - mean).square()).sum() / total * (count / (count - 1))
    return ((exact - mean) / (variance.sqrt() + 1e-8)).to(advantages.dtype)


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Unbiased estimate of KL(old policy, new policy), nats: mean(rho - 1 - log rho) >= 0 (Schulman 2020)."""
    return (log_ratio.exp() - 1 - log_ratio).mean()


def clip_fraction(log_ratio: Tensor, clip_coef: float) -> Tensor:
    """Fraction of samples whose probability ratio is outside 1 +- `clip_coef`."""
    return ((log_ratio.exp() - 1).abs() > clip_coef).float().mean()


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 - var(R - V) / var(R): 1 for exact values, 0 for constant values; also 0 if the returns are constant."""
    exact = exact_dtype(returns.device)  # in float32, equal returns have a variance above 0
    values, returns = values.to(exact), returns.to(exact)
    variance = returns.var(correction=0)
    return torch.where(variance > 0, 1 - (returns - values).var(correction=0) / variance, 0.0)


def l2_loss(model: nn.Module, reference: Mapping[str, Tensor] | None = None) -> Tensor:
    """Sum of squared weights, or of squared differences from `reference` (Kumar et al. 2023, arXiv:2308.11958).

    `reference` has a tensor for each name in `model.named_parameters()`.
    """
    squares = [
        (weight if reference is None else weight - reference[name]).square().sum()
        for name, weight in model.named_parameters()
    ]
    return torch.stack(squares).sum()
