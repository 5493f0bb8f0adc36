"""Does a search find better settings than random ones? The same number of trials of `quickstart` with both samplers.

    python tests/benchmarks/sweep_search.py DIRECTORY

Sweeps over three settings with "tpe" and with "random", repeated with other seeds of the sampler. Prints the best score
after each quarter of the trials. Repeating the command resumes what was interrupted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from metta.api import is_sweep, sweep_summary

SWEEP = """
[sweep]
name = "{name}"
base = "quickstart"
trials = {trials}
metric = "evaluation/mean_reward"
sampler = "{sampler}"
pruner = "hyperband"
seed = {seed}

[sweep.parameters]
"optimizer.learning_rate" = {{ low = 1e-4, high = 1e-2, log = true }}
"ppo.gamma" = {{ low = 0.9, high = 0.999 }}
"ppo.ent_coef" = {{ low = 1e-4, high = 1e-1, log = true }}

[run]
total_timesteps = {steps}

[simulation]
evaluate_interval = 0
replay_interval = 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400_000, help="agent steps of a trial")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    bests: dict[str, list[list[float]]] = {"tpe": [], "random": []}
    quarters = [max(1, options.trials * quarter // 4) for quarter in (1, 2, 3, 4)]
    for seed in range(options.repetitions):
        for sampler, found in bests.items():
            root = train(options, sampler, seed)
            summary = sweep_summary(root)
            scores = {trial.number: trial.score for trial in summary.trials if trial.score is not None}
            found.append([max((scores[n] for n in scores if n < end), default=np.nan) for end in quarters])
            states = [trial.state for trial in summary.trials]
            seconds = sum(trial.seconds for trial in summary.trials)
            print(
                f"seed {seed}  {sampler:6}  best after {quarters}: {np.round(found[-1], 2)}  "
                f"{states.count('complete')} complete, {states.count('pruned')} pruned, "
                f"{seconds / 60:.1f} minutes"
            )
    for sampler, found in bests.items():
        print(f"{sampler:6}  mean of {options.repetitions}: {np.round(np.nanmean(found, axis=0), 2)}")


def train(options: argparse.Namespace, sampler: str, seed: int) -> Path:
    """Train or resume a sweep, and return its directory."""
    root: Path = options.directory / f"{sampler}_{seed}"
    command = [sys.executable, "-m", "metta_cli"]
    if is_sweep(root):
        command += ["resume", str(root)]
    else:
        file = options.directory / f"{sampler}_{seed}.toml"
        file.write_text(
            SWEEP.format(name=file.stem, trials=options.trials, sampler=sampler, seed=seed, steps=options.steps)
        )
        command += ["sweep", str(file), "--run-dir", str(root)]
    subprocess.run([*command, "--jobs", str(options.jobs), "--quiet"], check=True)
    return root


if __name__ == "__main__":
    main()
