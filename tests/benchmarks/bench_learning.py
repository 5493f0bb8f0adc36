"""What metta and PufferLib learn in ten minutes on the same task, on an idle machine:

    python tests/benchmarks/bench_learning.py --pufferlib PYTHON [--minutes 10] [--seeds 3]

Task, network, sizes and coefficients are those of hearts_24.toml for both. Each trainer gets the same time from the
start of its process: one after the other on all cores, or with `--side-by-side` at the same time on one core each.
Both anneal the learning rate over the agent steps that they can make in that time, estimated by a first run of
`--trial` seconds. Then both policies play the same new maps.

metta additionally uses `OWN_SETTINGS`, which leave network, sizes and coefficients alone, and a curriculum of
`EASIER_WORLDS` before the task; with `--same-settings` it uses neither. PufferLib uses its defaults, which include
V-trace and prioritized sampling. It is `tuned` with metta's allocator settings and convolutions as matrix products;
with `--as-installed` it is not. Rewards and curves are written to bench_learning.json.
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
"""seed of the evaluation maps, different from all training seeds"""
TARGET = 2.0
NO_EVALUATIONS = ("simulation.evaluate_interval=0", "simulation.replay_interval=0")
OWN_SETTINGS = (
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
EASIER_WORLDS = {"easy": (*SMALL, QUICK.format(price=1)), "quick": (*SMALL, QUICK.format(price=3))}
"""changes of the task in the scenes before it, as in the preset `hearts`; rewards stay the same"""
SHARE = 0.23
"""share of all agent steps after which a scene ends in any case"""


def curriculum(folder: Path, total_timesteps: int) -> list[str]:
    """Settings of the curriculum; the files of its scenes are written to the folder."""
    for name, changes in EASIER_WORLDS.items():
        (folder / f"{name}.toml").write_text(dump_config(load_config(TASK, changes)), encoding="utf-8")
    scenes = [*(str(folder / f"{name}.toml") for name in EASIER_WORLDS), TASK]
    return [
        "curriculum.type=progressive",
        f"curriculum.scenes={json.dumps(scenes)}",
        "curriculum.thresholds=[8.0, 6.0]",
        "curriculum.earlier_share=0.2",
        f"curriculum.agent_steps={round(SHARE * total_timesteps)}",
    ]


def learned_by_metta(
    seed: int, seconds: float, episodes: int, settings: Sequence[str], same_settings: bool
) -> dict[str, Any]:
    """Train with metta until `seconds` have passed; the reward by `metta eval` and the curve."""
    with tempfile.TemporaryDirectory() as folder:
        if not same_settings:
            total_timesteps = load_config(TASK, settings).run.total_timesteps
            settings = [*settings, *OWN_SETTINGS, *curriculum(Path(folder), total_timesteps)]
        options = [part for setting in (*settings, *NO_EVALUATIONS) for part in ("--set", setting)]
        events, spent = train(TASK, str(seed), Path(folder, "run"), seconds / 60, *options)
        if not events or "checkpoint" not in events[-1]:
            raise SystemExit(f"metta did not start training within {seconds:.0f} seconds; increase --minutes")
        fresh = ("--episodes", str(episodes), "--seed", str(FRESH), "--no-baseline")
        (result,) = metta("eval", events[-1]["checkpoint"], *fresh)
    epochs = [event for event in events if event["event"] == "epoch" and event["episodes"]]
    rewards = [epoch["reward"] if same_settings else epoch["task_rewards"].get(TASK) for epoch in epochs]
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
    """Train with PufferLib until `seconds` have passed; the reward by metta's evaluation and the curve."""
    how = ("learn", str(seconds), str(episodes), str(FRESH))
    command = [python, str(HERE / "trainer_pufferlib.py"), TASK, str(seed), kind, *how, *settings]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "engine")])
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths})
    learned: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return learned


def on_core(core: int, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do the work on one core: processes inherit the affinity of the thread that starts them."""
    os.sched_setaffinity(0, {core})
    return work()


def main() -> None:
    """Train both with each seed; print and store the rewards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pufferlib",
        metavar="PYTHON",
        required=True,
        help="an interpreter that can import pufferlib, see bench_train.py",
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=20, help="maps that each policy plays")
    parser.add_argument("--trial", type=float, default=60, help="seconds of the first run, which measures speed")
    parser.add_argument("--side-by-side", action="store_true", help="at the same time, on one core each")
    parser.add_argument("--same-settings", action="store_true", help="metta without its own settings and curriculum")
    parser.add_argument("--as-installed", action="store_true", help="PufferLib without metta's tuning")
    parser.add_argument("--json", metavar="FILE", default=str(FIGURES))
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    threads = 1 if options.side_by_side else len(cores)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    kind = "as-installed" if options.as_installed else "tuned"
    trainers: dict[str, Callable[[int, float, Sequence[str]], dict[str, Any]]] = {
        "metta": lambda seed, seconds, given: learned_by_metta(
            seed, seconds, options.episodes, given, options.same_settings
        ),
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
            futures = {
                name: pool.submit(on_core, core, work) for core, (name, work) in zip(cores, works.items(), strict=False)
            }
            return {name: future.result() for name, future in futures.items()}

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
        "metta": "same settings" if options.same_settings else [*OWN_SETTINGS, "a curriculum of easier worlds"],
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
    kept |= {"mean rewards": means, "ratio": ratio, "target": TARGET}
    Path(options.json).write_text(json.dumps(kept) + "\n")
    told = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
    print(f"mean over seeds: {told}; ratio {ratio:.2f}, target {TARGET:g}")


if __name__ == "__main__":
    main()
