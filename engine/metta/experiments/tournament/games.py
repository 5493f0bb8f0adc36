"""Games of two policies: each map is played twice, with exchanged sides, and the larger total reward wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.evaluation.confidence_intervals import Interval, mean_interval
from metta.evaluation.match import play_match, two_sides
from metta.experiments.tournament.entrants import Entrant
from metta.world.env import MettaGridEnv

DRAW_MARGIN: Final = 1e-5
"""Largest difference of rewards that is a draw: sums of float32 rewards depend on their order in the last digits."""


@dataclass(frozen=True)
class PairGames:
    """The games of two policies."""

    rewards: NDArray[np.float64]
    """`[sides, policies, games]`: mean reward per agent and episode of both policies on each map. Of the axis `sides`,
    index 0 is the episode in which the first policy has the first side, 1 that in which it has the second"""

    @property
    def differences(self) -> NDArray[np.float64]:
        """Reward of the first policy minus that of the second in each game, mean over both sides. `[games]`"""
        means = self.rewards.mean(axis=0)
        return np.asarray(means[0] - means[1])

    @property
    def scores(self) -> NDArray[np.float64]:
        """Result of each game for the first policy: 1 for a win, 0.5 for a draw, 0 for a loss. `[games]`"""
        differences = self.differences
        return np.where(np.abs(differences) <= DRAW_MARGIN, 0.5, differences > 0)

    @property
    def score(self) -> float:
        """Mean of `scores`."""
        return float(self.scores.mean())

    @property
    def counts(self) -> tuple[int, int, int]:
        """Wins, draws and losses of the first policy."""
        wins, draws, losses = (int((self.scores == result).sum()) for result in (1.0, 0.5, 0.0))
        return wins, draws, losses

    @property
    def difference_interval(self) -> Interval:
        """Mean of `differences` with its 95 % confidence interval (Student's t over games)."""
        return mean_interval(self.differences)

    @property
    def exchanged(self) -> PairGames:
        """The same games, with the second policy as the first one."""
        return PairGames(self.rewards[::-1, ::-1])


def play_games(
    first: Entrant, second: Entrant, env_config: EnvConfig, num_games: int, seed: int, device: torch.device
) -> PairGames:
    """Play `num_games` maps, each of them twice, with exchanged sides.

    The seed determines maps, turn orders and sides, which are the same for all pairs. On CPUs the result depends on
    nothing else than the arguments: torch uses one thread meanwhile.
    """
    (side, _), env = two_sides(env_config), MettaGridEnv(env_config, seed=seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with several, sums may be rounded differently
    try:
        one, other = first.load(env_config, device), second.load(env_config, device)
        there = play_match(one, other, env, num_games, seed, groups=side)
        back = play_match(other, one, env, num_games, seed, groups=side)
    finally:
        torch.set_num_threads(threads)
    return PairGames(
        np.array([[there.policy_rewards, there.opponent_rewards], [back.opponent_rewards, back.policy_rewards]])
    )
