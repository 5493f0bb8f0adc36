"""How much is learned in ten minutes, by metta and by PufferLib? By hand, on a quiet machine:

    python tests/benchmarks/bench_learning.py --pufferlib PYTHON [--minutes 10] [--seeds 3]

The same task, network, sizes and coefficients (hearts_24.toml), the same machine, the same time from the start of each
process, one after the other on all cores, or `--side-by-side`, each on a core of its own. Both anneal the learning rate
over the agent steps that they have time for, by the speed of a first run of `--trial` seconds. Then both policies play
the same fresh maps.

metta's way to the task is its own: `MEANS`, documented settings that leave network, sizes and coefficients what they
are, and a curriculum of `EASIER` worlds before the task's. With `--alike` it has none of them. PufferLib's way is what
it always does, V-trace and prioritized segments among it. It is `tuned`: with metta's allocator and convolutions as
matrix products, or as it is `--written`. Rewards and curves go to bench_learning.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from learning import metta, train

from metta.api import dump_config, load_config

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TASK = str(HERE / "hearts_24.toml")
FIGURES = HERE / "bench_learning.json"
FRESH = 1000
"""Seed of the maps that are measured on; training's seeds are small."""
BAR = 2.0
UNWATCHED = ("simulation.evaluate_interval=0", "simulation.replay_interval=0")
MEANS = (
    "agent.egocentric=true",
    "experience.stagger_episodes=true",
    "normalization.values=true",
    "prioritized_sampling.enabled=true",
    "vtrace.enabled=true",
)
QUICK = """env.objects=[
    {{ name = "mine_red", type = "mine", cooldown = 10 }},
    {{ name = "generator_red", type = "generator", cooldown = 2 }},
    {{ name = "altar", type = "converter", input = {{ battery_red = {price} }}, cooldown = 2, initial_items = 0 }},
]"""
SMALL = ("env.map_builder.room.width=15", "env.map_builder.room.height=15")
EASIER = {"easy": (*SMALL, QUICK.format(price=1)), "quick": (*SMALL, QUICK.format(price=3))}
"""What the scenes before the task's own change of it, as those of the preset `hearts` do; its rewards stay."""
SHARE = 0.23
"""Of all agent steps: when a scene is left at the latest."""


def curriculum(folder: Path, total_timesteps: int) -> list[str]:
    """The settings for easier worlds first; their files are written to the folder."""
    for name, changes in EASIER.items():
        (folder / f"{name}.toml").write_text(dump_config(load_config(TASK, changes)), encoding="utf-8")
    scenes = [*(str(folder / f"{name}.toml") for name in EASIER), TASK]
    return [
        "curriculum.type=progressive",
        f"curriculum.scenes={json.dumps(scenes)}",
        "curriculum.thresholds=[8.0, 6.0]",
        "curriculum.earlier_share=0.2",
        f"curriculum.agent_steps={round(SHARE * total_timesteps)}",
    ]


def learned_by_metta(seed: int, seconds: float, episodes: int, settings: Sequence[str], alike: bool) -> dict[str, Any]:
    """What `metta train` learns until it is interrupted, by `metta eval`."""
    with tempfile.TemporaryDirectory() as folder:
        if not alike:
            total_timesteps = load_config(TASK, settings).run.total_timesteps
            settings = [*settings, *MEANS, *curriculum(Path(folder), total_timesteps)]
        options = [part for setting in (*settings, *UNWATCHED) for part in ("--set", setting)]
        events, spent = train(TASK, str(seed), Path(folder, "run"), seconds / 60, *options)
        if not events or "checkpoint" not in events[-1]:
            raise SystemExit(f"metta had not begun to train after {seconds:.0f} seconds; give it more")
        fresh = ("--episodes", str(episodes), "--seed", str(FRESH), "--no-baseline")
        (result,) = metta("eval", events[-1]["checkpoint"], *fresh)
    epochs = [event for event in events if event["event"] == "epoch" and event["episodes"]]
    rewards = [epoch["reward"] if alike else epoch["task_rewards"].get(TASK) for epoch in epochs]
    return {
        "reward": result["policy"]["mean_reward"],
        "agent_steps": events[-1]["agent_step"],
        "seconds": spent,
        "curve": [
            [epoch["agent_step"], round(epoch["clock"], 1), round(reward, 3)]
            for epoch, reward in zip(epochs, rewards, strict=True)
            if reward is not None
        ],
    }


def learned_by_pufferlib(
    python: str, kind: str, seed: int, seconds: float, episodes: int, settings: Sequence[str]
) -> dict[str, Any]:
    """What PufferLib learns in the time, by metta's evaluation."""
    how = ("learn", str(seconds), str(episodes), str(FRESH))
    command = [python, str(HERE / "trainer_pufferlib.py"), TASK, str(seed), kind, *how, *settings]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "engine")])
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths})
    learned: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return learned


def on_core(core: int, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do it with a core of its own: processes that a thread starts run where it runs."""
    os.sched_setaffinity(0, {core})
    return work()


def main() -> None:
    """Train both with each seed, one after the other or side by side; print and keep what they learned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pufferlib", metavar="PYTHON", required=True, help="an interpreter: see bench_train.py")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=20, help="fresh maps that each policy plays")
    parser.add_argument("--trial", type=float, default=60, help="seconds of the run that tells how fast each is")
    parser.add_argument("--side-by-side", action="store_true", help="at once, each on a core of its own")
    parser.add_argument("--alike", action="store_true", help="metta without means of its own")
    parser.add_argument("--written", action="store_true", help="PufferLib as anyone gets it")
    parser.add_argument("--json", metavar="FILE", default=str(FIGURES))
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    threads = 1 if options.side_by_side else len(cores)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    kind = "written" if options.written else "tuned"
    trainers: dict[str, Callable[[int, float, Sequence[str]], dict[str, Any]]] = {
        "metta": lambda seed, seconds, given: learned_by_metta(seed, seconds, options.episodes, given, options.alike),
        "PufferLib": lambda seed, seconds, given: learned_by_pufferlib(
            options.pufferlib, kind, seed, seconds, options.episodes, given
        ),
    }

    def both(seed: int, seconds: float, settings: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
        works = {
            name: (lambda train=train, name=name: train(seed, seconds, settings[name]))
            for name, train in trainers.items()
        }
        if not options.side_by_side:
            return {name: work() for name, work in works.items()}
        with ThreadPoolExecutor(len(works)) as pool:
            begun = {
                name: pool.submit(on_core, core, work) for core, (name, work) in zip(cores, works.items(), strict=False)
            }
            return {name: future.result() for name, future in begun.items()}

    steady = {name: ["lr_schedule.anneal_lr=false"] for name in trainers}
    trial = both(0, options.trial, steady)
    settings = {
        name: [f"run.total_timesteps={round(60 * options.minutes * first['agent_steps'] / first['seconds'])}"]
        for name, first in trial.items()
    }
    kept: dict[str, Any] = {
        "task": "hearts-24",
        "minutes": options.minutes,
        "episodes": options.episodes,
        "PufferLib": kind,
        "metta": "alike" if options.alike else [*MEANS, "a curriculum of easier worlds"],
        "machine": f"{platform.processor() or platform.machine()}, {len(cores)} cores, {threads} threads each",
        "at once": options.side_by_side,
        "settings": settings,
        "seeds": {},
    }
    for seed in range(options.seeds):
        kept["seeds"][seed] = learned = both(seed, 60 * options.minutes, settings)
        Path(options.json).write_text(json.dumps(kept) + "\n")
        told = [f"{name} {one['reward']:.3f} after {one['agent_steps']:,} agent steps" for name, one in learned.items()]
        print(f"seed {seed}: {'; '.join(told)}", flush=True)
    means = {name: statistics.mean(kept["seeds"][seed][name]["reward"] for seed in kept["seeds"]) for name in trainers}
    ratio = means["metta"] / means["PufferLib"] if means["PufferLib"] > 0 else float("inf")
    kept |= {"mean rewards": means, "ratio": ratio, "bar": BAR}
    Path(options.json).write_text(json.dumps(kept) + "\n")
    told = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
    print(f"mean over seeds: {told}; {ratio:.2f} times, where {BAR:g} is the bar")


if __name__ == "__main__":
    main()
