"""Reward scaling by the running standard deviation of discounted returns, as in Gymnasium's NormalizeReward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from metta.errors import TrainingError

EPSILON: Final = 1e-8
"""Added to the variance before the square root, as in Gymnasium."""


class RewardScaler:
    """Divides rewards by the standard deviation of the discounted returns observed so far.

    G_t = r_t + gamma (1 - done_{t-1}) G_{t-1},   r'_t = clip(r_t / sqrt(var G + 1e-8), -clip, clip)

    See Engstrom et al. 2020, arXiv:2005.12729, section 3. The mean is not subtracted, so that rewards keep their sign
    and the optimal policy does not change. The statistics are updated from a whole batch before the batch is scaled, so
    that all its rewards have the same divisor. Rewards come from the worlds: everything here is in host memory.
    """

    def __init__(self, agents: int):
        self.returns = torch.zeros(agents)
        """`[agents] float32`: G after the last step; 0 where the episode ended"""
        self.count = 0
        """number of values of G observed, one per agent step"""
        self.mean = 0.0
        """mean of G"""
        self.squares = 0.0
        """sum of squared deviations of G from its mean"""

    @property
    def std(self) -> float:
        """The divisor of rewards; 1 while all observed returns are equal."""
        return math.sqrt(self.squares / self.count + EPSILON) if self.squares else 1.0

    def observe(self, rewards: Tensor, done: Tensor, gamma: float) -> None:
        """Update the statistics with the next steps.

        `rewards` are `[steps, agents] float32`; `done [steps, agents] bool` marks steps that ended an episode. The
        moments of earlier and new returns are merged as in Chan, Golub, LeVeque 1979.
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
        """Rewards divided by `std` and clipped to -`clip` to `clip`; with `clip` 0, they are not clipped.

        Raises TrainingError if `std` is not finite.
        """
        if not math.isfinite(self.std):  # division by infinity would make all later rewards 0
            raise TrainingError(
                f"the scale of rewards is {self.std} (normalization.rewards); "
                "the weights were not changed; look for a reward in env.game that is too large"
            )
        rewards = rewards / self.std
        return rewards.clamp(-clip, clip) if clip else rewards

    def state(self) -> dict[str, Any]:
        """The statistics, and the returns of running episodes, as tensors and numbers."""
        return {"returns": self.returns.clone(), "count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state()` returned."""
        self.returns = state["returns"].cpu()
        self.load_statistics(state)

    def load_statistics(self, state: Mapping[str, Any]) -> None:
        """Restore only the statistics, for other worlds, whose episodes start anew."""
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]
