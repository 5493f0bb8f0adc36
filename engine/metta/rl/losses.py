"""Terms of the PPO objective, as pure functions of tensors: Schulman et al. 2017, arXiv:1707.06347."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def policy_loss(log_ratio: Tensor, advantages: Tensor, clip_coef: float, weights: Tensor | None = None) -> Tensor:
    """mean max(-A rho, -A clip(rho, 1 - eps, 1 + eps)), rho = exp(log_ratio) (equation 7, negated)."""
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_coef, 1 + clip_coef)
    return weighted_mean(torch.maximum(-advantages * ratio, -advantages * clipped), weights)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_coef: float | None, weights: Tensor | None = None
) -> Tensor:
    """1/2 mean max((V - R)^2, (V_clipped - R)^2), V_clipped = V_old + clip(V - V_old, -eps, eps).

    Without clipping (`clip_coef` None) 1/2 mean (V - R)^2. As in OpenAI's baselines, ppo2.
    """
    squares = (values - returns).square()
    if clip_coef is not None:
        clipped = old_values + (values - old_values).clamp(-clip_coef, clip_coef)
        squares = torch.maximum(squares, (clipped - returns).square())
    return 0.5 * weighted_mean(squares, weights)


def teacher_divergence(teacher_log_probs: Tensor, logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """mean KL(teacher, policy) = mean sum_a pi_T(a) (log pi_T(a) - log pi(a)), over `[horizon, segments, actions]`.

    Its gradient is that of the cross entropy which Schmitt et al. 2018 (arXiv:1803.03835, section 3.1) minimize; unlike
    the cross entropy, it is 0 for a policy equal to the teacher.
    """
    divergences = (teacher_log_probs.exp() * (teacher_log_probs - logits.log_softmax(-1))).sum(-1)
    return weighted_mean(divergences, weights)


def weighted_mean(terms: Tensor, weights: Tensor | None) -> Tensor:
    """mean w x over `terms [horizon, segments]`, with importance weights `weights [segments]`; None: all are 1."""
    return terms.mean() if weights is None else (terms * weights).mean()


def normalize_advantages(
    advantages: Tensor,
    weights: Tensor | None = None,
    all_gather: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """(A - mean A) / (std A + 1e-8); zeros for a single advantage.

    With importance weights `weights [segments]`, mean and standard deviation are those of the weighted advantages,
    which estimate those of the whole batch. Among several processes, with equally many advantages in each, they are
    those of all: the moments of each process are merged (Chan, Golub, LeVeque 1979), which takes one exchange instead
    of two in sequence. `all_gather` returns the rows `[1, 3]` of all processes, concatenated.
    """
    expanded = (torch.ones_like(advantages[0]) if weights is None else weights).expand_as(advantages)
    total = expanded.sum()
    mean = (expanded * advantages).sum() / total
    moments = torch.stack([total, mean, (expanded * (advantages - mean).square()).sum()]).unsqueeze(0)
    if all_gather is not None:
        moments = all_gather(moments)
    totals, means, squares = moments.unbind(1)
    count, total = advantages.numel() * len(moments), totals.sum()
    if count < 2:
        return torch.zeros_like(advantages)
    mean = (totals * means).sum() / total
    variance = (squares + totals * (means - mean).square()).sum() / total * (count / (count - 1))
    return (advantages - mean) / (variance.sqrt() + 1e-8)


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """mean(rho - 1 - log rho), an unbiased estimate of KL(old, new) that is never negative (Schulman 2020)."""
    return (log_ratio.exp() - 1 - log_ratio).mean()


def clip_fraction(log_ratio: Tensor, clip_coef: float) -> Tensor:
    """The fraction of samples whose ratio lies outside 1 +- clip_coef."""
    return ((log_ratio.exp() - 1).abs() > clip_coef).float().mean()


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - var(R - V) / var(R): 1 is perfect, 0 no better than a constant; 0 also if the returns are constant."""
    variance = returns.var(correction=0)
    if not variance > 0:
        return 0.0
    return float(1 - (returns - values).var(correction=0) / variance)


def l2_loss(model: nn.Module, reference: Mapping[str, Tensor] | None = None) -> Tensor:
    """The sum of squared weights, or of squared distances from `reference` (Kumar et al. 2023, arXiv:2308.11958)."""
    squares = [
        (weight if reference is None else weight - reference[name]).square().sum()
        for name, weight in model.named_parameters()
    ]
    return torch.stack(squares).sum()
