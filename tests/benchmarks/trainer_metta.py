"""Trainer process with metta for bench_train.py: `trainer_metta.py FILE.toml SEED [KEY=VALUE ...]`.

It does everything that `metta train` does in an epoch, including snapshot, metrics file and checkpoints, but no
evaluations and recordings.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from metta.api import EpochEnded, Event, PhaseBegan, keep_freed_memory, load_config, train_run
from metta.rl.distributed import ProcessGroupError
from tests.benchmarks.trainer_protocol import PARTS, Progress, Turns, run_trainer


class NoMoreTurnsError(Exception):
    """Ends the run from within its listener."""


class TurnTaker:
    """A listener that pauses the run between its turns."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.has_started = False
        self.agent_step = 0

    def __call__(self, event: Event) -> None:
        """Wait for the first turn before the first epoch; count each epoch."""
        if isinstance(event, PhaseBegan) and not self.has_started:
            self.has_started = True
            self._stop_unless(self.turns.begin())
        if isinstance(event, EpochEnded):
            metrics = event.metrics
            for part in PARTS:
                self.seconds[part] += getattr(metrics, f"seconds_{part}")
            collected, self.agent_step = metrics.agent_step - self.agent_step, metrics.agent_step
            rewards = [metrics.reward] * metrics.episodes if metrics.reward is not None else []
            self._stop_unless(self.turns.after_batch(Progress(collected, dict(self.seconds), rewards)))

    def _stop_unless(self, has_turn: bool) -> None:
        if not has_turn:
            raise NoMoreTurnsError


def main() -> None:
    source, seed, *settings = sys.argv[1:]
    keep_freed_memory()  # as `metta train` does
    with tempfile.TemporaryDirectory() as folder:
        own = [f"run.seed={seed}", f'run.run_dir="{Path(folder, "run")}"']
        fixed = ["simulation.evaluate_interval=0", "simulation.replay_interval=0"]
        with suppress(NoMoreTurnsError, ProcessGroupError):  # rank 0 leaves the job, the other ranks lose it
            train_run(load_config(source, [*settings, *own, *fixed]), TurnTaker())


if __name__ == "__main__":
    run_trainer(main)
