"""The categorical distribution over actions: sampling, log-probability and entropy of logits."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Sample one action index per row of `logits [agents, actions]`: `[agents] int64`.

    Uses inverse transform sampling with one uniform number per agent. The numbers are drawn on the CPU, so that they do
    not depend on the device. Actions of probability 0 are never sampled.
    """
    cumulative = torch.softmax(logits, -1).cumsum(-1)
    uniform = torch.rand(len(logits), 1, generator=generator).to(logits.device)
    below = cumulative <= uniform * cumulative[:, -1:]
    return below.sum(-1).clamp(max=logits.shape[-1] - 1)


def log_prob(logits: Tensor, action_index: Tensor) -> Tensor:
    """log pi(action), `[...]`, for `logits [..., actions]` and `action_index [...] int64`."""
    return torch.log_softmax(logits, -1).gather(-1, action_index.unsqueeze(-1)).squeeze(-1)


def log_prob_and_entropy(logits: Tensor, action_index: Tensor) -> tuple[Tensor, Tensor]:
    """log pi(action) and the entropy -sum pi log pi in nats, both `[...]`, for `logits [..., actions]`."""
    log_probs = torch.log_softmax(logits, -1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(-1, action_index.unsqueeze(-1)).squeeze(-1), entropy
