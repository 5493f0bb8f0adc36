"""Prioritized sampling of training segments by |advantage|: Schaul et al. 2016, arXiv:1511.05952."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metta.agent.devices import HostCopy
from metta.errors import TrainingError

SMALLEST_PRIORITY = 1e-6
"""Added to the mean |advantage| of each segment, so that its probability is never 0."""


@dataclass(frozen=True)
class PrioritizedSampling:
    """Samples segment i with P(i) = p_i^alpha / sum_k p_k^alpha, p_i = mean of |A| over its steps + 1e-6.

    Where minibatches keep the segments of a world together, i is a world, and the mean is over all of its segments.
    """

    alpha: float
    beta: float
    """exponent of the importance weights at the current progress of the run (see `annealed_beta`)"""

    def sample(
        self, advantages: Tensor, horizon: int, count: int, generator: torch.Generator, together: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Sample segments with replacement: indices `[count] int64`, importance weights `[count] float32`, on the CPU.

        `advantages` are `[steps, agents]`, and indices are those of `probabilities`. The weights are
        w_i = (N P(i))^-beta, N the number of segments. Unlike in the paper, they are not divided by their maximum, so
        that with beta = 1 the expectation of the weighted mean over a minibatch is the mean over the batch.

        Raises TrainingError if an advantage is not finite.
        """
        probabilities = self.probabilities(advantages, horizon, together)
        if not probabilities.isfinite().all():
            raise TrainingError("an advantage is not finite; the weights were not changed")
        indices = torch.multinomial(probabilities, count, replacement=True, generator=generator)
        return indices, (len(probabilities) * probabilities[indices]).pow(-self.beta)

    def probabilities(self, advantages: Tensor, horizon: int, together: int = 1) -> Tensor:
        """P(i), `[segments / together] float32`, on the CPU; segment index = segment of the agent * agents + agent.

        i is the index of a group of `together` consecutive segments.
        """
        segments = advantages.abs().view(-1, horizon, advantages.shape[1])  # [segments of an agent, horizon, agents]
        means = segments.mean(1).view(-1, together).mean(1)
        priorities = (HostCopy(means).wait() + SMALLEST_PRIORITY).pow(self.alpha)
        return priorities / priorities.sum()


def annealed_beta(beta: float, progress: float) -> float:
    """beta annealed linearly, from `beta` at `progress` 0 (start of the run) to 1 at `progress` 1 (its end)."""
    return beta + (1 - beta) * min(1.0, progress)
