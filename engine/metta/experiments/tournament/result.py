"""Result of a tournament: standings with ratings, the games of each pair, and both as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from metta.evaluation.confidence_intervals import Interval, mean_interval
from metta.experiments.tournament.entrants import Entrant
from metta.experiments.tournament.games import PairGames
from metta.experiments.tournament.ratings import rate


@dataclass(frozen=True)
class Standing:
    """A policy with its rating and its results against all others."""

    entrant: Entrant
    rating: Interval
    """rating with its 95 % interval, see `rate`"""
    wins: int
    draws: int
    losses: int
    difference: Interval
    """reward minus that of the opponent, per agent and episode: mean over games, and 95 % interval over maps"""

    @property
    def score(self) -> float:
        """Fraction of games won, a draw counted as half a win."""
        return (self.wins + self.draws / 2) / (self.wins + self.draws + self.losses)


@dataclass(frozen=True)
class TournamentResult:
    """The standings and the games of a tournament."""

    num_games: int
    """games of each pair: episodes from each side"""
    seed: int
    sides: tuple[tuple[str, ...], tuple[str, ...]]
    """groups of agents of the two sides of the world; empty: each is half of the agents, selected at random"""
    standings: tuple[Standing, ...]
    """by decreasing rating"""
    games: Mapping[tuple[int, int], PairGames]
    """games of each two policies, by their indices in `standings`, in both orders"""

    @property
    def progress(self) -> dict[str, list[Standing]]:
        """Directory of each run of which several policies play -> their standings, by agent steps of training."""
        runs: dict[str, list[Standing]] = {}
        for standing in self.standings:
            if standing.entrant.run is not None and standing.entrant.agent_steps is not None:
                runs.setdefault(standing.entrant.run, []).append(standing)
        return {
            run: sorted(runs[run], key=lambda standing: standing.entrant.agent_steps or 0)
            for run in sorted(runs)
            if len(runs[run]) > 1
        }

    def as_json(self) -> dict[str, Any]:
        """Everything as values for JSON. `games` has each pair once."""
        return {
            "episodes_per_side": self.num_games,
            "seed": self.seed,
            "sides": [list(side) for side in self.sides],
            "policies": [_standing_as_json(standing) for standing in self.standings],
            "matrix": [
                [self.games[row, column].score if row != column else None for column in range(len(self.standings))]
                for row in range(len(self.standings))
            ],
            "games": [
                {
                    "first": self.standings[first].entrant.name,
                    "second": self.standings[second].entrant.name,
                    **dict(zip(("wins", "draws", "losses"), games.counts, strict=True)),
                    "reward_difference": games.difference_interval.mean,
                    "reward_difference_interval": _ends(games.difference_interval),
                    "rewards": games.rewards.tolist(),
                }
                for (first, second), games in self.games.items()
                if first < second
            ],
        }


def tournament_result(
    entrants: list[Entrant],
    games: Mapping[tuple[int, int], PairGames],
    num_games: int,
    seed: int,
    sides: tuple[tuple[str, ...], tuple[str, ...]],
) -> TournamentResult:
    """The result; `games` has those of each two entrants once, by their indices (first < second)."""
    canonical = sorted(range(len(entrants)), key=lambda index: entrants[index].digest)
    position = {index: place for place, index in enumerate(canonical)}
    both = dict(games) | {(second, first): played.exchanged for (first, second), played in games.items()}
    # ratings do not depend on the order in which the entrants are named
    scores = {
        (position[one], position[other]): played.scores.tolist()
        for (one, other), played in both.items()
        if position[one] < position[other]
    }
    ratings = rate(len(entrants), scores)
    standings = []
    for index, entrant in enumerate(entrants):
        played = [both[index, other] for other in range(len(entrants)) if other != index]
        wins, draws, losses = np.sum([pair.counts for pair in played], axis=0).tolist()
        # opponents play on the same maps, so only maps are independent
        difference = mean_interval(np.mean([pair.differences for pair in played], axis=0))
        standings.append(Standing(entrant, ratings[position[index]], wins, draws, losses, difference))
    order = sorted(range(len(entrants)), key=lambda index: (-standings[index].rating.mean, position[index]))
    return TournamentResult(
        num_games,
        seed,
        sides,
        tuple(standings[index] for index in order),
        {
            (row, column): both[order[row], order[column]]
            for row in range(len(order))
            for column in range(len(order))
            if row != column
        },
    )


def _standing_as_json(standing: Standing) -> dict[str, Any]:
    entrant = standing.entrant
    return {
        "name": entrant.name,
        "source": entrant.source,
        "sha256": entrant.digest,
        "run": entrant.run,
        "agent_steps": entrant.agent_steps,
        "rating": standing.rating.mean,
        "rating_interval": _ends(standing.rating),
        "score": standing.score,
        "wins": standing.wins,
        "draws": standing.draws,
        "losses": standing.losses,
        "reward_difference": standing.difference.mean,
        "reward_difference_interval": _ends(standing.difference),
    }


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]
