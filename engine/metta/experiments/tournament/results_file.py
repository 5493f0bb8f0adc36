"""Results file of a tournament: the rewards of each finished pair, so that a repeated command plays only the others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import numpy as np

from metta.experiments.tournament.entrants import Entrant
from metta.experiments.tournament.games import PairGames
from metta.files import nonblocking_opener

RESULTS: Final = "results.jsonl"


class ResultsFile:
    """Finished pairs, one line of JSON each, appended to a file that several commands may share.

    A pair is found again by the checksums of both policies and of the settings (world, games, seed), in whichever order
    the policies are named. A line that is incomplete, because the process was killed, is not used.
    """

    def __init__(self, directory: Path, settings: str, num_games: int):
        """`settings` is the checksum of the settings. Raises OSError if the file cannot be read."""
        self._path, self._settings, self._num_games = directory / RESULTS, settings, num_games
        self._found: dict[tuple[str, str], PairGames] = {}
        if not self._path.exists():
            return
        with open(self._path, encoding="utf-8", errors="replace", opener=nonblocking_opener) as file:
            for line in file:
                self._read(line)

    def find(self, first: Entrant, second: Entrant) -> PairGames | None:
        """The games of these two, if they have been played with these settings."""
        return self._found.get((first.digest, second.digest))

    def append(self, first: Entrant, second: Entrant, games: PairGames) -> None:
        """Write the games of a pair to disk. Raises OSError if that is not possible."""
        values = {
            "settings": self._settings,
            "policies": [first.digest, second.digest],
            "names": [first.name, second.name],
            "rewards": games.rewards.tolist(),
        }
        line = json.dumps(values).encode() + b"\n"
        with self._path.open("a+b") as file:
            if file.tell() and _last_byte(file.fileno()) != b"\n":  # of a process that was killed
                line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _read(self, line: str) -> None:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(values, dict) or values.get("settings") != self._settings:
            return
        try:
            first, second = values["policies"]
            games = PairGames(np.array(values["rewards"], np.float64))
        except (KeyError, TypeError, ValueError):
            return
        if games.rewards.shape == (2, 2, self._num_games) and np.isfinite(games.rewards).all():
            self._found[str(first), str(second)] = games
            self._found[str(second), str(first)] = games.exchanged


def _last_byte(descriptor: int) -> bytes:
    return os.pread(descriptor, 1, os.fstat(descriptor).st_size - 1)
