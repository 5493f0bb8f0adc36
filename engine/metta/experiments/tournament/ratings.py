"""Ratings of policies from wins, draws and losses, with the Bradley-Terry model of openskill (extra `tournament`)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from metta.errors import UsageError
from metta.evaluation.confidence_intervals import Interval

OPENSKILL: Final = "openskill"
NUM_ORDERS: Final = 10
"""Random orders of the games over which ratings are averaged."""
NORMAL_QUANTILE: Final = 1.959964
"""x with P(|X| <= x) = 95 % for X of the standard normal distribution."""


def require_openskill() -> Any:
    """The models of openskill. Raises UsageError, with the command that installs it, if it is not installed."""
    try:
        return importlib.import_module(f"{OPENSKILL}.models")
    except ImportError:
        raise UsageError("metta tournament needs openskill: pip install 'metta-gridworlds[tournament]'") from None


def rate(num_players: int, scores: Mapping[tuple[int, int], Sequence[float]]) -> list[Interval]:
    """The rating of each player, with its 95 % interval, mean +- 1.96 standard deviations.

    `scores` has, for pairs of players (first, second), the results of their games: 1 if the first has won, 0.5 for a
    draw, 0 if it has lost. All players begin with 25 +- 16.3; the rating is an estimate of the strength mu in the
    Bradley-Terry model, in which a player beats one that is weaker by d with probability 1 / (1 + exp(-d / c)), where
    c^2 = 2 beta^2 + the variances of both ratings and beta = 25 / 6 (Weng and Lin, "A Bayesian Approximation Method for
    Online Ranking", Journal of Machine Learning Research 12, 2011).

    The method updates ratings game by game, and so depends on the order of the games, which means nothing where players
    do not change: means and standard deviations are averages over `NUM_ORDERS` random orders, always the same ones.
    Players gain no uncertainty between games (tau = 0).
    """
    model = require_openskill().BradleyTerryFull(tau=0.0)
    games = [(*pair, score) for pair, results in sorted(scores.items()) for score in results]
    generator = np.random.default_rng(0)
    means, deviations = np.zeros((2, NUM_ORDERS, num_players))
    for order in range(NUM_ORDERS):
        players = [model.rating() for _ in range(num_players)]
        for index in generator.permutation(len(games)).tolist():
            first, second, score = games[index]
            teams = model.rate([[players[first]], [players[second]]], ranks=[1 - score, score])
            (players[first],), (players[second],) = teams
        means[order] = [player.mu for player in players]
        deviations[order] = [player.sigma for player in players]
    return [
        Interval(float(mean), NORMAL_QUANTILE * float(deviation))
        for mean, deviation in zip(means.mean(axis=0), deviations.mean(axis=0), strict=True)
    ]
