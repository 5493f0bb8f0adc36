"""Rewards in units of the discounted return's running deviation, as in Gymnasium's NormalizeReward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from metta.errors import TrainingError

EPSILON: Final = 1e-8
"""Added to the variance."""


class RewardScale:
    """What rewards are divided by: the standard deviation of all discounted returns so far, on their way.

    G_t = r_t + gamma (1 - done_{t-1}) G_{t-1},   r'_t = clip(r_t / sqrt(var G + 1e-8), -clip, clip)

    (Engstrom et al. 2020, arXiv:2005.12729, section 3). Rewards keep their sign and are not shifted, so that the best
    policy stays the best. A batch is counted before it is scaled, as a whole: all its rewards have one scale.
    """

    def __init__(self, agents: int, device: torch.device):
        self.returns = torch.zeros(agents, device=device)
        """`[agents] float32`: G of the episodes that are being played"""
        self.count = 0
        """returns counted, one per agent step"""
        self.mean = 0.0
        self.squares = 0.0
        """sum of squared distances from the mean"""

    @property
    def std(self) -> float:
        """What rewards are divided by; 1 as long as returns have not varied."""
        return math.sqrt(self.squares / self.count + EPSILON) if self.squares else 1.0

    def observe(self, rewards: Tensor, done: Tensor, gamma: float) -> None:
        """Count the returns of the next steps: `rewards [steps, agents] float32`, `done [steps, agents] bool`.

        Mean and squares of old and new are joined as by Chan et al. 1979.
        """
        returns = torch.empty_like(rewards)
        current = self.returns
        for t in range(len(rewards)):
            returns[t] = current = rewards[t] + gamma * current
            current = torch.where(done[t], 0.0, current)
        self.returns = current
        new = returns.double()
        count, mean = new.numel(), float(new.mean())
        total, distance = self.count + count, mean - self.mean
        self.squares += float((new - mean).square().sum()) + distance**2 * self.count * count / total
        self.mean += distance * count / total
        self.count = total

    def scaled(self, rewards: Tensor, clip: float) -> Tensor:
        """The rewards over the deviation, clipped to +-`clip`; 0: not clipped. TrainingError if that is not finite."""
        if not math.isfinite(self.std):  # or all rewards would be 0 from now on
            raise TrainingError(
                f"the scale of rewards is {self.std} (normalization.rewards); "
                "look for a reward in env.game that is too large; the policy was left as it is"
            )
        rewards = rewards / self.std
        return rewards.clamp(-clip, clip) if clip else rewards

    def state(self) -> dict[str, Any]:
        """All of it, in tensors and numbers."""
        return {"returns": self.returns.clone(), "count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state()` was taken."""
        self.returns = state["returns"].to(self.returns.device)
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]
