"""Processes that play the pairs of a tournament. They end with the process that started them, however that ends."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import BinaryIO, Final

import torch

from metta.config.env.env_config import EnvConfig
from metta.errors import MettaError, TrainingError
from metta.experiments.tournament.entrants import Entrant
from metta.experiments.tournament.games import PairGames, play_games
from metta.job_environment import THREAD_VARIABLES
from metta.world.processes.worker_processes import exit_reason

_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from metta.experiments.tournament.workers import main; main(*map(int, sys.argv[2:]))"
)
_ENVIRONMENT: Final = dict.fromkeys(THREAD_VARIABLES, "1")


@dataclass(frozen=True)
class PairTask:
    """The arguments of `play_games`, for another process."""

    first: Entrant
    second: Entrant
    env_config: EnvConfig
    num_games: int
    seed: int
    device: torch.device

    def play(self) -> PairGames:
        """Play the games in this process."""
        return play_games(self.first, self.second, self.env_config, self.num_games, self.seed, self.device)


class TournamentError(TrainingError):
    """A process that played a pair has died."""


def play_tasks(tasks: Sequence[PairTask], jobs: int) -> Generator[tuple[int, PairGames], None, None]:
    """Yield (index, games) of each task when it ends. `jobs` processes play them; with 1, this process does.

    Raises what playing raises, TournamentError if a process dies.
    """
    if jobs == 1 or len(tasks) < 2:
        for index, task in enumerate(tasks):
            yield index, task.play()
        return
    idle: SimpleQueue[_Worker] = SimpleQueue()
    workers = [_Worker() for _ in range(min(jobs, len(tasks)))]
    for worker in workers:
        idle.put(worker)

    def play(task: PairTask) -> PairGames:
        worker = idle.get()
        try:
            return worker.play(task)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(len(workers))
    try:
        futures = {pool.submit(play, task): index for index, task in enumerate(tasks)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        for worker in workers:
            worker.end()  # so that the threads that wait for it end
        pool.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()


class _Worker:
    """A process that plays one pair at a time."""

    def __init__(self) -> None:
        paths = json.dumps([path for path in sys.path if isinstance(path, str)])
        child_reads, parent_writes = os.pipe()
        parent_reads, child_writes = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, paths, str(child_reads), str(child_writes)],
            stdin=subprocess.DEVNULL,
            pass_fds=(child_reads, child_writes),
            env=os.environ | _ENVIRONMENT,
            start_new_session=True,  # Ctrl-C in the terminal does not reach it
        )
        os.close(child_reads)
        os.close(child_writes)
        self._requests, self._replies = os.fdopen(parent_writes, "wb"), os.fdopen(parent_reads, "rb")

    def play(self, task: PairTask) -> PairGames:
        """The games of the pair. Raises what playing raises, TournamentError if the process dies."""
        try:
            pickle.dump(task, self._requests)
            self._requests.flush()
            reply = pickle.load(self._replies)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            raise TournamentError(
                f"a process that played {task.first.name} against {task.second.name} "
                f"{exit_reason(self._process.wait())}; "
                "finished pairs are saved: repeat the command to play the others"
            ) from None
        if isinstance(reply, MettaError):
            raise reply
        assert isinstance(reply, PairGames)
        return reply

    def end(self) -> None:
        """End the process at once."""
        self._process.kill()

    def close(self) -> None:
        """Close the connection with a process that has ended."""
        self._process.wait()
        self._replies.close()
        with suppress(BrokenPipeError):  # a request that it has not read
            self._requests.close()


def main(reads: int, writes: int) -> None:
    """The program of a worker: plays the pairs that it reads from a descriptor and writes their games to another."""
    replies = os.fdopen(writes, "wb")
    warnings.simplefilter("ignore")  # the process that started this one has loaded the same policies and warned
    tasks: SimpleQueue[PairTask] = SimpleQueue()
    threading.Thread(target=_read_tasks, args=(os.fdopen(reads, "rb"), tasks), daemon=True).start()
    while True:
        result: PairGames | MettaError
        try:
            result = tasks.get().play()
        except MettaError as error:
            result = error
        pickle.dump(result, replies)
        replies.flush()


def _read_tasks(requests: BinaryIO, tasks: SimpleQueue[PairTask]) -> None:
    """Read tasks until the other process has ended, then end this one, also while it plays."""
    while True:
        try:
            tasks.put(pickle.load(requests))
        except EOFError:
            os._exit(0)
