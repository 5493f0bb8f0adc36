"""metta's own trainer, for bench_train.py: `trainer_metta.py FILE.toml SEED [KEY=VALUE ...]`.

All that `metta train` does in an epoch, snapshot, metrics file and checkpoints too; but no evaluations and recordings.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from metta.api import EpochEnded, Event, PhaseBegan, keep_freed_memory, load_config, train_run
from metta.rl.distributed import LostProcessError
from tests.benchmarks.turns import PARTS, Progress, Turns


class NoMoreTurnsError(Exception):
    """Ends the run from inside its listener."""


class TurnTaker:
    """Listens to a run and holds it up between its turns."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.has_begun = False
        self.agent_step = 0

    def __call__(self, event: Event) -> None:
        """Wait for the first turn before the first epoch, and after each epoch count it."""
        if isinstance(event, PhaseBegan) and not self.has_begun:
            self.has_begun = True
            self._go_on(self.turns.begin())
        if isinstance(event, EpochEnded):
            metrics = event.metrics
            for part in PARTS:
                self.seconds[part] += getattr(metrics, f"seconds_{part}")
            collected, self.agent_step = metrics.agent_step - self.agent_step, metrics.agent_step
            rewards = [metrics.reward] * metrics.episodes if metrics.reward is not None else []
            self._go_on(self.turns.after_batch(Progress(collected, dict(self.seconds), rewards)))

    def _go_on(self, is_on: bool) -> None:
        if not is_on:
            raise NoMoreTurnsError


def main() -> None:
    source, seed, *settings = sys.argv[1:]
    keep_freed_memory()  # as `metta train` does
    with tempfile.TemporaryDirectory() as folder:
        own = [f"run.seed={seed}", f'run.run_dir="{Path(folder, "run")}"']
        unlike = ["simulation.evaluate_interval=0", "simulation.replay_interval=0"]
        with suppress(NoMoreTurnsError, LostProcessError):  # the first of several processes leaves, the others lose it
            train_run(load_config(source, [*settings, *own, *unlike]), TurnTaker())


if __name__ == "__main__":
    main()
