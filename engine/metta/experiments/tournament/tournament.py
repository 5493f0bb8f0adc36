"""Tournament: a round robin of policies in one world, whose finished pairs are kept in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch

from metta.config.env.env_config import EnvConfig
from metta.config.validation.file_paths import user_path
from metta.errors import UsageError
from metta.evaluation.match import two_sides
from metta.experiments.tournament.entrants import Entrant, find_entrants
from metta.experiments.tournament.games import PairGames
from metta.experiments.tournament.ratings import require_openskill
from metta.experiments.tournament.result import TournamentResult, tournament_result
from metta.experiments.tournament.results_file import ResultsFile
from metta.experiments.tournament.workers import PairTask, play_tasks
from metta.run.metrics_file import json_line


@dataclass(frozen=True)
class TournamentProgress:
    """How far a tournament is: at the start, and after each pair."""

    entrants: tuple[Entrant, ...]
    num_pairs: int
    """pairs in total"""
    num_stored: int
    """pairs found in the results file"""
    num_played: int
    """pairs played since the start"""


Listener = Callable[[TournamentProgress], None]


def tournament(
    policies: Sequence[str | Path],
    env_config: EnvConfig | None = None,
    num_episodes: int = 10,
    seed: int = 0,
    out: str | Path = "tournament",
    checkpoints: int = 10,
    jobs: int = 1,
    device: torch.device | None = None,
    listener: Listener | None = None,
) -> TournamentResult:
    """Play a round robin: each two policies play `num_episodes` games, which are two episodes each.

    A game is one map, played from both sides: in the first episode one policy controls the first side, in the second
    the other. The larger mean reward per agent, over both episodes, wins. In a world with several groups of agents, the
    first side is the first half of the groups (rounded down), the second side the others; in a world with one group,
    each side is half of the agents, selected at random for each map. `seed` determines maps, turn orders and sides,
    which are the same for all pairs; training with the same seed uses other maps. Ratings are computed by `rate`.

    `policies` are checkpoint files, registered policies, runs (at most `checkpoints` of the policies of each, evenly
    spaced in time), directories of checkpoints, and directories of runs (the newest policy of each). `env_config` is by
    default the training world of the first policy with a file. `jobs` processes play the pairs; the result is the same
    for any number. Policies compute on `device`, by default the CPU. `listener` is called at the start and after each
    pair.

    The rewards of each finished pair are written to `results.jsonl` in the directory `out`, which is created. They are
    used again for the same policies (checksums of their files), world, `num_episodes`, `seed` and type of device.

    Raises UsageError with all problems if policies do not exist, are the same or cannot play in the world, or if the
    extra `tournament` is not installed; TournamentError if a process dies.
    """
    require_openskill()
    if num_episodes < 1 or jobs < 1:
        raise UsageError(f"num_episodes and jobs must be at least 1; got {num_episodes} and {jobs}")
    entrants, env_config = find_entrants(policies, env_config, checkpoints)
    directory = user_path(out)
    directory.mkdir(parents=True, exist_ok=True)
    tasks = {
        (one, other): PairTask(
            entrants[one], entrants[other], env_config, num_episodes, seed, device or torch.device("cpu")
        )
        for one, other in combinations(range(len(entrants)), 2)
    }
    games = _games(tasks, directory, jobs, listener)
    return tournament_result(entrants, games, num_episodes, seed, two_sides(env_config))


def _games(
    tasks: Mapping[tuple[int, int], PairTask], directory: Path, jobs: int, listener: Listener | None
) -> dict[tuple[int, int], PairGames]:
    """The games of each pair, stored ones and new ones, which are stored."""
    task = next(iter(tasks.values()))
    settings = {
        "world": task.env_config.model_dump(mode="json"),
        "episodes": task.num_games,
        "seed": task.seed,
        "device": task.device.type,
    }
    file = ResultsFile(directory, hashlib.sha256(json_line(settings).encode()).hexdigest(), task.num_games)
    stored = {pair: file.find(task.first, task.second) for pair, task in tasks.items()}
    games = {pair: found for pair, found in stored.items() if found is not None}
    missing = [pair for pair in tasks if pair not in games]
    entrants = tuple(dict.fromkeys(entrant for task in tasks.values() for entrant in (task.first, task.second)))

    def report() -> None:
        if listener is not None:
            num_stored = len(tasks) - len(missing)
            listener(TournamentProgress(entrants, len(tasks), num_stored, len(games) - num_stored))

    report()
    with closing(play_tasks([tasks[pair] for pair in missing], jobs)) as results:  # ends processes also on Ctrl-C here
        for index, played in results:
            pair = missing[index]
            file.append(tasks[pair].first, tasks[pair].second, played)
            games[pair] = played
            report()
    return games
