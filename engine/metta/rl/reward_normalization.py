"""Reward scaling by the running standard deviation of discounted returns, as in Gymnasium's NormalizeReward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from metta.errors import TrainingError

EPSILON: Final = 1e-8
"""Added to the variance."""


class RewardScaler:
    """Divides rewards by the standard deviation of all discounted returns so far.

    G_t = r_t + gamma (1 - done_{t-1}) G_{t-1},   r'_t = clip(r_t / sqrt(var G + 1e-8), -clip, clip)

    (Engstrom et al. 2020, arXiv:2005.12729, section 3). Rewards are not shifted, so that they keep their sign and the
    optimal policy stays the same. The statistics are updated with a whole batch before it is scaled, so that all its
    rewards have one scale.
    """

    def __init__(self, agents: int, device: torch.device):
        self.returns = torch.zeros(agents, device=device)
        """`[agents] float32`: G of the running episodes"""
        self.count = 0
        """returns observed, one per agent step"""
        self.mean = 0.0
        self.squares = 0.0
        """sum of squared distances from the mean"""

    @property
    def std(self) -> float:
        """The divisor of rewards; 1 until returns vary."""
        return math.sqrt(self.squares / self.count + EPSILON) if self.squares else 1.0

    def observe(self, rewards: Tensor, done: Tensor, gamma: float) -> None:
        """Update the statistics with the next steps: `rewards [steps, agents] float32`, `done [steps, agents] bool`.

        The moments of old and new returns are merged as in Chan et al. 1979.
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

    def scale(self, rewards: Tensor, clip: float) -> Tensor:
        """The rewards divided by `std` and clipped to +-`clip`, or not clipped if it is 0.

        Raises TrainingError if `std` is not finite.
        """
        if not math.isfinite(self.std):  # all scaled rewards would be 0 from now on
            raise TrainingError(
                f"the scale of rewards is {self.std} (normalization.rewards); "
                "look for a reward in env.game that is too large; the weights were not changed"
            )
        rewards = rewards / self.std
        return rewards.clamp(-clip, clip) if clip else rewards

    def state(self) -> dict[str, Any]:
        """The statistics and the returns of running episodes: tensors and numbers only."""
        return {"returns": self.returns.clone(), "count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state()` returned."""
        self.returns = state["returns"].to(self.returns.device)
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]
