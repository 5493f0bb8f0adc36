"""Does quickstart learn? By hand, eight minutes: `python tests/benchmarks/quickstart.py [SEED ...]`.

Trains the preset as a user does, once per seed (0, 1, 2 by default), and prints the curve and what the policy earns
on fresh maps beside the random policy. Exits 1 if any seed falls short of ten times the random policy's reward.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ENOUGH = 10.0
EPISODES = "100"


def metta(*arguments: str) -> list[dict[str, Any]]:
    """The JSON lines that a command prints."""
    command = [sys.executable, "-m", "metta_cli", *arguments, "--json"]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def ratio(seed: str, folder: Path) -> float:
    """Train with one seed and measure; how many times the random policy's reward it earns."""
    events = metta("train", "quickstart", "--seed", seed, "--run-dir", str(folder))
    epochs = [event for event in events if event["event"] == "epoch" and event["episodes"]]
    for epoch in epochs[:: max(1, len(epochs) // 10)]:
        print(f"  {epoch['agent_step']:>9,} agent steps  {epoch['seconds']:4.0f} s  reward {epoch['reward']:.2f}")
    (result,) = metta("eval", events[-1]["checkpoint"], "--episodes", EPISODES, "--seed", "1000")
    trained, random = result["policy"]["mean_reward"], result["random"]["mean_reward"]
    hearts = result["policy"]["stats"]["heart.gained"]
    print(f"seed {seed}: {trained:.2f} with {hearts:.2f} hearts, random {random:.2f}, {trained / random:.0f} times")
    return float(trained / random)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as runs:
        ratios = [ratio(seed, Path(runs, seed)) for seed in sys.argv[1:] or ["0", "1", "2"]]
    sys.exit(0 if min(ratios) >= ENOUGH else 1)
