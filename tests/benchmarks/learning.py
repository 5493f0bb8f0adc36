"""Final scores and learning curves of a preset over several seeds:

    python tests/benchmarks/learning.py PRESET [SEED ...] [--minutes M] [--keep DIR]

Trains the preset with `metta train` once per seed (0, 1, 2 by default) and evaluates each policy on new maps of the
preset's own world, next to the scripted and the random policy. With `--minutes`, training is interrupted after that
time, measured from the start of the command, as by Ctrl-C, and the saved policy is evaluated. Curves and scores are
written to `learning_PRESET.json`; seeds stored there with the same settings and time are kept. With `--keep` the run
directories are kept as DIR/PRESET_SEED. The curve of a curriculum is that of the preset's own world if it is a scene,
else that of all scenes. Exits with 1 if a seed scores less than half of the scripted policy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

from metta.api import find_preset

ENOUGH = 0.5
"""required share of the scripted policy's score"""
EPISODES = "20"
FRESH = "1000"
"""seed of the evaluation maps, different from all training seeds"""
POINTS = 60
"""points of a stored curve, at most"""
INTERRUPTED = 130


def metta(*arguments: str) -> list[dict[str, Any]]:
    """The JSON objects that a command prints."""
    command = [sys.executable, "-m", "metta_cli", *arguments, "--json"]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def train(
    preset: str, seed: str, folder: Path, minutes: float | None, *options: str
) -> tuple[list[dict[str, Any]], float]:
    """The events of a training run, each with its time `clock` in seconds; the seconds of the whole command."""
    begin = time.perf_counter()
    given = [preset, "--seed", seed, "--run-dir", str(folder), *options, "--json"]
    command = [sys.executable, "-m", "metta_cli", "train", *given]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stop = threading.Timer(60 * minutes if minutes else 10**6, process.send_signal, [signal.SIGINT])
    stop.daemon = True
    stop.start()
    assert process.stdout is not None
    events = [json.loads(line) | {"clock": time.perf_counter() - begin} for line in process.stdout]
    stop.cancel()
    if process.wait() not in (0, INTERRUPTED):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return events, time.perf_counter() - begin


def curve(preset: str, events: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Reward over agent steps and seconds, in stretches; that of the scene named like the preset if there is one."""
    rewards = []
    for event in events:
        if event["event"] == "epoch":
            tasks = event["task_rewards"]
            own = tasks.get(preset) if preset in event["task_probabilities"] else event["reward"]
            if event["episodes"] and own is not None:
                rewards.append((event["agent_step"], event["clock"], own))
    size = max(1, -(-len(rewards) // POINTS))
    points = []
    for begin in range(0, len(rewards), size):
        stretch = rewards[begin : begin + size]
        agent_step, clock, _ = stretch[-1]
        reward = sum(reward for _, _, reward in stretch) / len(stretch)
        points.append({"agent_step": agent_step, "seconds": round(clock, 1), "reward": round(reward, 3)})
    return points


def measure(preset: str, seed: str, folder: Path, minutes: float | None) -> dict[str, Any]:
    """Train with one seed; the curve, and the reward on new maps."""
    events, seconds = train(preset, seed, folder, minutes)
    fresh = ("--env", preset, "--episodes", EPISODES, "--seed", FRESH, "--no-baseline")
    (result,) = metta("eval", events[-1]["checkpoint"], *fresh)
    scores = result["policy"]
    return {
        "reward": round(scores["mean_reward"], 3),
        "hearts": round(scores["stats"].get("heart.gained", 0.0), 3),
        "agent_steps": events[-1]["agent_step"],
        "seconds": round(seconds, 1),
        "curve": curve(preset, events),
    }


def main() -> int:
    """Measure, print and store; 1 if a seed scores too low."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("seeds", nargs="*", default=["0", "1", "2"])
    parser.add_argument("--minutes", type=float, help="training time of each seed, including startup")
    parser.add_argument("--keep", metavar="DIR", help="directory for the run directories, which are deleted otherwise")
    options = parser.parse_args()
    preset, seeds, minutes = options.preset, options.seeds, options.minutes
    path = Path(__file__).with_name(f"learning_{preset}.json")
    settings = json.dumps(tomllib.loads(find_preset(preset).text), sort_keys=True)  # independent of comments
    digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
    kept = json.loads(path.read_text()) if path.exists() else {}
    if (kept.get("settings_sha256"), kept.get("minutes")) != (digest, minutes):
        (scale,) = metta("eval", "scripted", "--env", preset, "--episodes", EPISODES, "--seed", FRESH)
        kept = {
            "preset": preset,
            "settings_sha256": digest,
            "minutes": minutes,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "episodes": int(EPISODES),
            "scripted": round(scale["scripted"]["mean_reward"], 3),
            "random": round(scale["random"]["mean_reward"], 3),
            "seeds": {},
        }
    for seed in seeds:
        with tempfile.TemporaryDirectory() as runs:
            folder = Path(options.keep or runs, f"{preset}_{seed}")
            kept["seeds"][seed] = measured = measure(preset, seed, folder, minutes)
        path.write_text(json.dumps(kept, indent=1) + "\n")
        for point in measured["curve"][:: max(1, len(measured["curve"]) // 10)]:
            print(f"  {point['agent_step']:>11,} agent steps  {point['seconds']:5.0f} s  reward {point['reward']:.2f}")
        share = measured["reward"] / kept["scripted"]
        told = f"{measured['agent_steps']:,} agent steps in {measured['seconds']:.0f} s"
        scripted = f"{share:.0%} of the scripted policy's {kept['scripted']:.2f}"
        print(f"seed {seed}: {measured['reward']:.2f}, {scripted}; {told}")
    return 0 if all(kept["seeds"][seed]["reward"] >= ENOUGH * kept["scripted"] for seed in seeds) else 1


if __name__ == "__main__":
    sys.exit(main())
