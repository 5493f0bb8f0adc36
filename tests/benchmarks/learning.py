"""Final scores and learning curves of a preset over several seeds:

    python tests/benchmarks/learning.py PRESET [SEED ...] [--set KEY=VALUE ...] [--minutes M] [--label L] [--keep DIR]
    python tests/benchmarks/learning.py PRESET --compare LABEL LABEL

Trains the preset with `metta train` once per seed (0, 1, 2 by default) and evaluates each policy on 40 new maps
(`metta eval --seed 1000`) of the preset's own world, or of each of the worlds in its goal, next to the scripted and
the random policy. Each policy of a preset with several is also evaluated while the scripted policy plays all other
agents, next to both in its place. With `--minutes`, training is interrupted after that time, measured from the start of
the command, as by Ctrl-C, and the saved policy is evaluated. Exits with 1 if the mean over the seeds, or the training
time, misses the goal of the preset (`GOALS` in tests/support/learning_scores.py).

Curves and scores are written to a column of `learning_PRESET.json`: `teacher` if the settings have a teacher, else
`reward alone`; with `--minutes`, ` after M min` follows. `--label` gives another name, for experiments. Seeds stored
there with the same settings, `--set` and time are kept. `python tests/support/generated_docs.py` renews the tables of
the documentation. With `--keep` the run directories are kept as DIR/PRESET_SEED.

A curve is that of the preset's own world if it is a scene of its curriculum, else that of all scenes. `--compare`
prints the curves of two columns over seconds, with the mean difference over the seeds that both have.
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

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import numpy as np
from learning_scores import ALONE, TEACHER, is_scripted, missed_goals, path_of, places, read_scores

from metta.api import find_preset, load_config, mean_interval

EPISODES = "40"
FRESH = "1000"
"""seed of the evaluation maps, different from all training seeds"""
POINTS = 60
"""points of a stored curve, at most"""
BASELINES = ("scripted", "random")
COMPARED = 12
"""times at which two columns are compared"""
INTERRUPTED = 130
IDENTITY = ("set", "settings_sha256", "minutes", "episodes")
"""entries of a column in which all its seeds agree"""


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
    """Reward over agent steps and seconds, in stretches; that of the preset's own scene if there is one.

    A scene with a reward for supplying, as in `hearts_supply`, has it in its rewards.
    """
    rewards = []
    for event in events:
        if event["event"] == "epoch":
            own_scene = {preset, f"{preset}_supply"} & event["task_probabilities"].keys()
            own = event["task_rewards"].get(own_scene.pop()) if own_scene else event["reward"]
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


def on_new_maps(policy: str, place: str, groups: tuple[str, ...]) -> list[float]:
    """[mean reward, half of its confidence interval] of a policy at one of the `places`."""
    options = ["--env", place.partition(":")[0], "--episodes", EPISODES, "--seed", FRESH, "--no-baseline"]
    if groups:
        options += ["--against", "scripted", *(word for group in groups for word in ("--group", group))]
    (result,) = metta("eval", policy, *options)
    of_policy = result[policy if policy in BASELINES and not groups else "policy"]
    low, high = of_policy["reward_interval"]
    return [round(of_policy["mean_reward"], 3), round((high - low) / 2, 3)]


def measure(preset: str, seed: str, folder: Path, minutes: float | None, sets: list[str]) -> dict[str, Any]:
    """Train with one seed; the curve, and the rewards on new maps."""
    given = [text for setting in sets for text in ("--set", setting)]
    events, seconds = train(preset, seed, folder, minutes, *given)
    return {
        "rewards": {
            place: on_new_maps(events[-1]["checkpoint"], place, groups) for place, groups in places(preset).items()
        },
        "agent_steps": events[-1]["agent_step"],
        "seconds": round(seconds, 1),
        "curve": curve(preset, events),
    }


def column_for(preset: str, minutes: float | None, sets: list[str], stored: dict[str, Any] | None) -> dict[str, Any]:
    """The stored column if it has these settings, else a new one with the rewards of scripted and random policy."""
    settings = json.dumps(tomllib.loads(find_preset(preset).text), sort_keys=True)  # independent of comments
    hashed = hashlib.sha256(settings.encode()).hexdigest()[:16]
    identity = dict(zip(IDENTITY, (sets, hashed, minutes, int(EPISODES)), strict=True))
    if stored and identity.items() <= stored.items():
        return stored
    baselines = {
        place: {name: on_new_maps(name, place, groups) for name in BASELINES}
        for place, groups in places(preset).items()
    }
    return {**identity, "machine": f"{os.cpu_count()} cores, {platform.machine()}", "worlds": baselines, "seeds": {}}


def compare(preset: str, labels: list[str]) -> None:
    """Print reward over seconds of two columns, and the mean difference over their common seeds with its interval."""
    columns = [read_scores(preset)["columns"].get(label) for label in labels]
    if None in columns:
        raise SystemExit(f"{path_of(preset).name} has the columns {', '.join(read_scores(preset)['columns'])}")
    first, second = ({seed: run["curve"] for seed, run in column["seeds"].items()} for column in columns)
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        raise SystemExit("the columns have no seed in common")
    last = min(points[-1]["seconds"] for curves in (first, second) for points in curves.values())
    print(f"{'seconds':>8}  {labels[0]:>14}  {labels[1]:>14}  difference over {len(seeds)} seeds")
    for at in np.linspace(last / COMPARED, last, COMPARED):
        rewards = np.array(
            [
                [
                    np.interp(at, *([point[key] for point in curves[seed]] for key in ("seconds", "reward")))
                    for seed in seeds
                ]
                for curves in (first, second)
            ]
        )
        means, difference = rewards.mean(1), mean_interval(rewards[1] - rewards[0])
        print(f"{at:8.0f}  {means[0]:14.2f}  {means[1]:14.2f}  {difference.mean:+.2f} ± {difference.half_width:.2f}")


def main() -> int:
    """Measure, print and store; 1 if the preset's goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("seeds", nargs="*", default=["0", "1", "2"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting for metta train")
    parser.add_argument("--minutes", type=float, help="training time of each seed, including startup")
    parser.add_argument("--label", help="column of the file")
    parser.add_argument("--keep", metavar="DIR", help="directory for the run directories, which are deleted otherwise")
    parser.add_argument("--compare", nargs=2, metavar="LABEL", help="print the stored curves of two columns")
    options = parser.parse_args()
    preset, seeds, minutes = options.preset, options.seeds, options.minutes
    if options.compare:
        compare(preset, options.compare)
        return 0
    has_teacher = load_config(preset, options.set).kickstarting.teacher
    label = options.label or (TEACHER if has_teacher else ALONE) + (f" after {minutes:g} min" if minutes else "")
    column = column_for(preset, minutes, options.set, read_scores(preset)["columns"].get(label))
    for seed in seeds:
        with tempfile.TemporaryDirectory() as runs:
            folder = Path(options.keep or runs, f"{preset}_{seed}")
            measured = measure(preset, seed, folder, minutes, options.set)
        scores = read_scores(preset)  # another process may have added a column or a seed
        stored = scores["columns"].get(label, {})
        if all(stored.get(key) == column[key] for key in IDENTITY):
            column["seeds"] = stored["seeds"]
        column["seeds"][seed] = measured
        scores["columns"][label] = column
        path_of(preset).write_text(json.dumps(scores, indent=1) + "\n")
        for point in measured["curve"][:: max(1, len(measured["curve"]) // 10)]:
            print(f"  {point['agent_step']:>11,} agent steps  {point['seconds']:5.0f} s  reward {point['reward']:.2f}")
        for world, (reward, half) in measured["rewards"].items():
            scripted = column["worlds"][world]["scripted"][0]
            share = f", {reward / scripted:.0%} of scripted {scripted:.2f}" if is_scripted(world) else ""
            print(f"seed {seed}, {world}: {reward:.2f} ± {half:.2f}{share}")
        print(f"seed {seed}: {measured['agent_steps']:,} agent steps in {measured['seconds']:.0f} s")
    missed = missed_goals(preset, label, column, seeds)
    print("\n".join(missed) or "all goals are met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
