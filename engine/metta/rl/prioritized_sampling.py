"""Prioritized sampling of segments: Schaul et al. 2016, arXiv:1511.05952."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metta.errors import TrainingError

SMALLEST_PRIORITY = 1e-6
"""Added to each mean |advantage|, so that every segment can be sampled."""


@dataclass(frozen=True)
class PrioritizedSampling:
    """Samples segments with P(i) ~ p_i^alpha, p_i the mean of |A| over the steps of segment i."""

    alpha: float
    beta: float
    """exponent of the importance weights, already annealed"""

    def sample(self, advantages: Tensor, horizon: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` segments, sampled with replacement, and their importance weights; both `[count]`, on the CPU.

        `advantages [steps, agents]`; segment n is the agent n % agents in its segment n // agents. The weights
        w_i = (N P(i))^-beta, N the number of segments, are not divided by their maximum as in the paper: with beta 1
        the weighted mean over a minibatch then has the mean over the batch as its expectation.

        Raises TrainingError if an advantage is not finite.
        """
        probabilities = self.probabilities(advantages, horizon)
        if not bool(probabilities.isfinite().all()):
            raise TrainingError("an advantage is not finite; the weights were not changed")
        chosen = torch.multinomial(probabilities, count, replacement=True, generator=generator)
        return chosen, (len(probabilities) * probabilities[chosen]).pow(-self.beta)

    def probabilities(self, advantages: Tensor, horizon: int) -> Tensor:
        """P(i), `[segments] float32`, on the CPU."""
        segments = advantages.abs().view(-1, horizon, advantages.shape[1])  # segments of an agent, horizon, agents
        priorities = (segments.mean(1).flatten().cpu() + SMALLEST_PRIORITY).pow(self.alpha)
        return priorities / priorities.sum()


def annealed_beta(beta: float, progress: float) -> float:
    """beta, annealed linearly to 1 with the `progress` of the run, 0 to 1."""
    return beta + (1 - beta) * min(1.0, progress)
