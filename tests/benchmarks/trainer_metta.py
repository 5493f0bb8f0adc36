"""metta's own trainer, for bench_train.py: `trainer_metta.py FILE.toml SEED [KEY=VALUE ...]`."""

from __future__ import annotations

import sys

from metta.allocator import keep_freed_memory
from metta.config.load import load_config
from metta.rl.curriculum import Curriculum
from metta.rl.training_run import TrainingRun
from tests.benchmarks.turns import Progress, serve


def main() -> None:
    source, seed, *settings = sys.argv[1:]
    keep_freed_memory()  # as `metta train` does
    config = load_config(source, [*settings, f"run.seed={seed}"])
    run = TrainingRun(config, Curriculum.of_run(config))
    seconds = {"simulate": 0.0, "infer": 0.0, "learn": 0.0}

    def train_batch() -> Progress:
        batch = run.collect()
        metrics = run.report(batch, run.update())
        for part in seconds:
            seconds[part] += getattr(metrics, f"seconds_{part}")
        return Progress(batch.total_env_steps, dict(seconds), batch.episode_returns or [])

    serve(train_batch)


if __name__ == "__main__":
    main()
