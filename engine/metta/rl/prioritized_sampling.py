"""Prioritized sampling of whole segments (Schaul et al. 2016, arXiv:1511.05952)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metta.errors import TrainingError

SMALLEST_PRIORITY = 1e-6
"""Added to each mean |advantage|, so that nothing is never drawn."""


@dataclass(frozen=True)
class PrioritizedSampling:
    """How segments are drawn: P(i) ~ p_i^alpha, p_i the mean of |A| over the steps of segment i."""

    alpha: float
    beta: float
    """as it is now, annealed"""

    def draw(self, advantages: Tensor, horizon: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` segments, drawn with replacement, and their importance weights; both `[count]`, on the CPU.

        `advantages [steps, agents]`; segment n is round n // agents of agent n % agents. The weights
        w_i = (N P(i))^-beta, N the number of segments, are not divided by their maximum as in the paper: with beta 1
        the weighted mean over a minibatch then has the mean over the batch as its expectation.
        Raises TrainingError if an advantage is not finite.
        """
        chances = self.probabilities(advantages, horizon)
        if not bool(chances.isfinite().all()):
            raise TrainingError("an advantage is not finite; the policy was left as it is")
        chosen = torch.multinomial(chances, count, replacement=True, generator=generator)
        return chosen, (len(chances) * chances[chosen]).pow(-self.beta)

    def probabilities(self, advantages: Tensor, horizon: int) -> Tensor:
        """`[segments] float32`: P(i), on the CPU."""
        segments = advantages.abs().view(-1, horizon, advantages.shape[1])  # rounds, horizon, agents
        priorities = (segments.mean(1).flatten().cpu() + SMALLEST_PRIORITY).pow(self.alpha)
        return priorities / priorities.sum()


def annealed(beta: float, progress: float) -> float:
    """beta on its straight way to 1, where `progress` of the run, 0 to 1, is done."""
    return beta + (1 - beta) * min(1.0, progress)
