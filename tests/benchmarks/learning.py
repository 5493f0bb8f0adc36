"""Does a preset learn? By hand: `python tests/benchmarks/learning.py PRESET [SEED ...]`.

Trains the preset as a user does, once per seed (0, 1, 2 by default), and measures what the policy earns on fresh maps
beside the scripted and the random policy. Curves and scores go to `learning_PRESET.json` beside this file; seeds that
it has from the same preset file are kept. Exits 1 if any seed falls short of half of the scripted policy's reward.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from metta.api import find_preset

ENOUGH = 0.5
EPISODES = "20"
FRESH = "1000"
"""Seed of the maps that are measured on; training's seeds are small."""
POINTS = 60
"""Points of a kept curve."""


def metta(*arguments: str) -> list[dict[str, Any]]:
    """The JSON lines that a command prints."""
    command = [sys.executable, "-m", "metta_cli", *arguments, "--json"]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def curve(events: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Reward over agent steps and seconds, the mean over stretches of epochs in which episodes ended."""
    epochs = [event for event in events if event["event"] == "epoch" and event["episodes"]]
    size = max(1, -(-len(epochs) // POINTS))
    points = []
    for begin in range(0, len(epochs), size):
        stretch = epochs[begin : begin + size]
        episodes = sum(epoch["episodes"] for epoch in stretch)
        reward = sum(epoch["reward"] * epoch["episodes"] for epoch in stretch) / episodes
        last = stretch[-1]
        seconds = round(last["seconds"], 1)
        points.append({"agent_step": last["agent_step"], "seconds": seconds, "reward": round(reward, 3)})
    return points


def measure(preset: str, seed: str, folder: Path) -> dict[str, Any]:
    """Train with one seed; the curve, and what the trained policy earns on fresh maps."""
    events = metta("train", preset, "--seed", seed, "--run-dir", str(folder))
    (result,) = metta("eval", events[-1]["checkpoint"], "--episodes", EPISODES, "--seed", FRESH, "--no-baseline")
    points = curve(events)
    scores = result["policy"]
    return {
        "reward": round(scores["mean_reward"], 3),
        "hearts": round(scores["stats"].get("heart.gained", 0.0), 3),
        "agent_steps": points[-1]["agent_step"],
        "seconds": points[-1]["seconds"],
        "curve": points,
    }


def main(preset: str, seeds: list[str]) -> int:
    """Measure, print and keep; 1 if a seed is not good enough."""
    path = Path(__file__).with_name(f"learning_{preset}.json")
    digest = hashlib.sha256(find_preset(preset).text.encode()).hexdigest()[:16]
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("preset_sha256") != digest:
        (scale,) = metta("eval", "scripted", "--env", preset, "--episodes", EPISODES, "--seed", FRESH)
        kept = {
            "preset": preset,
            "preset_sha256": digest,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "episodes": int(EPISODES),
            "scripted": round(scale["scripted"]["mean_reward"], 3),
            "random": round(scale["random"]["mean_reward"], 3),
            "seeds": {},
        }
    for seed in seeds:
        with tempfile.TemporaryDirectory() as runs:
            kept["seeds"][seed] = measured = measure(preset, seed, Path(runs, seed))
        path.write_text(json.dumps(kept, indent=1) + "\n")
        for point in measured["curve"][:: max(1, len(measured["curve"]) // 10)]:
            print(f"  {point['agent_step']:>11,} agent steps  {point['seconds']:5.0f} s  reward {point['reward']:.2f}")
        share = measured["reward"] / kept["scripted"]
        print(f"seed {seed}: {measured['reward']:.2f}, {share:.0%} of the scripted policy's {kept['scripted']:.2f}")
    return 0 if all(kept["seeds"][seed]["reward"] >= ENOUGH * kept["scripted"] for seed in seeds) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:] or ["0", "1", "2"]))
