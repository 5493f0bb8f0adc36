"""The categorical distribution over actions: sampling, log-probability and entropy of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from metta.agent.devices import to_device


def sample(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Sample one action index per row of `logits [agents, actions]`: `[agents] int64`.

    Uses inverse transform sampling with one uniform number per agent. The numbers are drawn on the generator's device,
    those of a CPU generator are the same on every device. Without a generator, the global one of the logits' device is
    used. Actions of probability 0 are never sampled, although the sums of a GPU need not ascend.
    """
    probabilities = torch.softmax(logits, -1)
    cumulative = probabilities.cumsum(-1).masked_fill(probabilities == 0, 0.0)
    device = logits.device if generator is None else generator.device
    uniform = to_device(torch.rand(len(logits), 1, generator=generator, device=device), logits.device)
    exceeds = cumulative > uniform * cumulative.amax(-1, keepdim=True)
    return exceeds.int().argmax(-1)


def masked_logits(logits: Tensor, action_masks: Tensor | None) -> Tensor:
    """`logits [..., actions]` with the smallest finite number where `action_masks [..., actions] bool` is false.

    The probabilities of these actions are exactly 0 (Huang and Ontanon 2022, arXiv:2006.14171); with a finite number,
    unlike with -inf, entropies and divergences stay finite. Without masks, the logits are returned unchanged.

    Raises ValueError for masks of another shape or type.
    """
    if action_masks is None:
        return logits
    if action_masks.shape != logits.shape or action_masks.dtype != torch.bool:
        raise ValueError(
            f"action_masks must be {list(logits.shape)} bool, like the logits; "
            f"got {list(action_masks.shape)} {action_masks.dtype}"
        )
    return logits.masked_fill(~action_masks, torch.finfo(logits.dtype).min)


def log_prob(logits: Tensor, action_index: Tensor) -> Tensor:
    """log pi(action), `[...]`, for `logits [..., actions]` and `action_index [...] int64`."""
    return torch.log_softmax(logits, -1).gather(-1, action_index.unsqueeze(-1)).squeeze(-1)


def log_prob_and_entropy(logits: Tensor, action_index: Tensor) -> tuple[Tensor, Tensor]:
    """log pi(action) and the entropy -sum pi log pi in nats, both `[...]`, for `logits [..., actions]`."""
    log_probs = torch.log_softmax(logits, -1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(-1, action_index.unsqueeze(-1)).squeeze(-1), entropy
