"""Training speed of metta, PufferLib and a plain PPO: `python tests/benchmarks/bench_train.py`, on an idle machine.

Measures agent steps per second end to end (simulation, inference, learning) on the task and network of
hearts_24.toml: box of features, conv 64 5x5 stride 3, conv 64 3x3, linear 128, LSTM 128, linear heads. All trainers
play metta's worlds: 64 at once, in batches of 24,576 steps with minibatches of 4,096, because 32,768 steps are not a
multiple of 64 worlds times 24 agents times 16 steps (`--set experience.batch_size=32768` gives 85 worlds and 32,640
steps). Each trainer is a process; they run in turns and medians are printed, so that other load on the machine
affects all alike. On a busy machine processor time is more reliable than wall-clock time. metta does all that `metta
train` does in an epoch. The dense trainers have one channel per feature (22), metta has one per category (66).

PufferLib is measured in this interpreter if it can be imported, else in that of `--pufferlib PYTHON`, which needs
torch, `pufferlib-core` (or `pufferlib`), pydantic and tomli-w. `tuned`: with metta's allocator settings and
convolutions as matrix products. `one process per core`: metta started by `torchrun`, with one thread and a share of
the same batch per process; gradients are the same (tests/rl/test_distributed.py). `half precision`: matrix products,
and on new CPUs the LSTM, in bfloat16 (tests/agent/test_policy.py tests the tolerance).

The figures are written to bench_train.json. `--curves STEPS` instead trains metta and the plain trainer with the same
network (metta's channels) and several seeds for that many agent steps and writes the learning curves. `--memory`
measures the peak memory of two epochs of the default preset's batch with 24 agents.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from peer import START_SECONDS, Peer

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TASK = HERE / "hearts_24.toml"
CURVES = HERE / "curves_hearts_24.json"
FIGURES = HERE / "bench_train.json"
WORLDS_64 = "experience.batch_size=24576"
ONE_PART = "experience.async_factor=1"
"""Threads or processes of the trainer use all cores, so none is free to step other worlds beside inference."""
INSTALL = """PufferLib is not measured, because it is not installed. To install it in a separate environment:
  python3 -m venv puffer && puffer/bin/pip install 'torch>=2.9' numpy setuptools wheel pydantic tomli-w
  puffer/bin/pip install --no-build-isolation --no-binary pufferlib-core pufferlib-core  # CPU: with no nvcc in PATH
  python tests/benchmarks/bench_train.py --pufferlib puffer/bin/python"""
TARGETS = (
    ("metta", "PufferLib", 4.0),
    ("metta", "the fastest tuned peer", 1.6),
    ("metta, fastest", "PufferLib", 6.0),
    ("metta, fastest", "the fastest tuned peer", 2.7),
)
"""trainer, its peer, and the target of the ratio of their speeds; fastest: the fastest setting of metta"""


class Trainer:
    """A trainer process."""

    def __init__(self, python: str, script: str, *arguments: str, threads: int, processes: int = 1):
        paths = [str(ROOT), str(ROOT / "engine"), os.environ.get("PYTHONPATH", "")]
        job = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        self.peer = Peer(
            f"{script} {' '.join(arguments)}",
            [python, *(job if processes > 1 else ()), str(HERE / script), *arguments],
            os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": str(threads)},
        )
        while self.peer.receive().strip() != "ready":
            pass

    def train(self, seconds: float) -> dict[str, Any]:
        """Train for about `seconds` seconds; agent_steps, seconds, split, rewards and peak_mib of that time."""
        self.peer.send(str(seconds))
        answer: dict[str, Any] = json.loads(self.peer.receive(10 * seconds + START_SECONDS))
        return answer

    def close(self) -> None:
        """End the process."""
        self.peer.close()


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    """Speeds of all trainers and how their time is split, measured in turns."""
    here, threads, task = sys.executable, options.threads, (str(TASK), "0")
    puffer = options.pufferlib or (here if importlib.util.find_spec("pufferlib") else "")
    sizes = [WORLDS_64, *(options.set or ())]
    makers: dict[str, tuple[str, ...]] = {
        "metta": (here, "trainer_metta.py", *task, *sizes, ONE_PART),
        "metta, half precision": (here, "trainer_metta.py", *task, *sizes, ONE_PART, "agent.dtypes_fp16=true"),
        "PufferLib": (puffer, "trainer_pufferlib.py", *task, "written", *sizes),
        "PufferLib, tuned": (puffer, "trainer_pufferlib.py", *task, "tuned", *sizes),
        "plain": (here, "trainer_plain.py", *task, "written", *sizes),
        "plain, tuned": (here, "trainer_plain.py", *task, "tuned", *sizes),
    }
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        del makers["metta, half precision"]  # emulated on this CPU
    if not puffer:
        print(INSTALL, flush=True)
        makers = {name: maker for name, maker in makers.items() if not name.startswith("PufferLib")}
    trainers = {name: Trainer(*maker, threads=threads) for name, maker in makers.items()}
    if threads > 1:
        trainers |= {
            name.replace("metta", "metta, one process per core"): Trainer(*makers[name], threads=1, processes=threads)
            for name in ("metta", "metta, half precision")
            if name in makers
        }
    before = os.getloadavg()[0]
    for trainer in trainers.values():
        trainer.train(0)  # the first batch is slower
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in trainers}
    for _ in range(options.repeats):
        for name, trainer in trainers.items():
            answers[name].append(trainer.train(options.seconds))
    for trainer in trainers.values():
        trainer.close()
    results = {name: summary(given) for name, given in answers.items()}
    return {
        "task": "hearts-24",
        "sizes": sizes,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {threads} threads",
        "load": {"before": before, "after": os.getloadavg()[0]},
        "torch": torch.__version__,
        "trainers": results,
        "ratios": {name: speed_ratios(results, field) for name, field in CLOCKS.items()},
    }


CLOCKS = {"wall-clock time": "microseconds", "processor time": "processor_microseconds_per_agent_step"}


def speed_ratios(results: dict[str, dict[str, Any]], field: str) -> list[dict[str, Any]]:
    """Speeds of metta divided by those of its peers, with their targets."""
    costs = {name: result[field] for name, result in results.items()}
    tuned = [name for name in costs if name.endswith("tuned")]
    own = [name for name in costs if name.startswith("metta")]
    named = {
        "metta": "metta",
        "metta, fastest": min(own, key=lambda name: costs[name]),
        "PufferLib": "PufferLib",
        "the fastest tuned peer": min(tuned, key=lambda name: costs[name]),
    }
    return [
        {
            "trainer": named[who],
            "peer": named[peer],
            "ratio": round(costs[named[peer]] / costs[named[who]], 2),
            "target": target,
        }
        for who, peer, target in TARGETS
        if named[peer] in costs
    ]


def summary(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the turns of one trainer."""
    rates = [answer["agent_steps"] / answer["seconds"] for answer in answers]
    return {
        "agent_steps_per_second": statistics.median(rates),
        "microseconds": 1e6 / statistics.median(rates),
        "of each interval": [round(rate) for rate in rates],
        "processor_microseconds_per_agent_step": statistics.median(
            1e6 * answer["cpu_seconds"] / answer["agent_steps"] for answer in answers
        ),
        "microseconds_per_agent_step": {
            part: statistics.median(1e6 * answer["split"][part] / answer["agent_steps"] for answer in answers)
            for part in answers[0]["split"]
        },
        "peak_mib": round(answers[-1]["peak_mib"]),
    }


def curves(options: argparse.Namespace) -> dict[str, Any]:
    """Episode rewards over agent steps of metta and of the plain trainer, each with several seeds.

    Episodes are staggered, so that the curves have enough points: otherwise episodes end only twice in 4 M agent steps.
    """
    settings = (f"run.total_timesteps={options.curves}", "experience.stagger_episodes=true")
    sources = {
        "metta": lambda seed: ("trainer_metta.py", str(TASK), seed, *settings),
        "plain": lambda seed: ("trainer_plain.py", str(TASK), seed, "codes", *settings),
    }
    drawn: dict[str, Any] = {"task": "hearts-24", "total_timesteps": options.curves}
    for name, source in sources.items():
        drawn[name] = []
        for seed in range(options.seeds):
            trainer = Trainer(sys.executable, *source(str(seed)), threads=options.threads)
            steps, points = 0, []
            while steps < options.curves:
                answer = trainer.train(0)  # one batch
                steps += answer["agent_steps"]
                if answer["rewards"]:
                    points.append([steps, statistics.mean(answer["rewards"])])
            trainer.close()
            late = statistics.mean(reward for _, reward in points[-max(1, len(points) // 4) :])
            drawn[name].append({"seed": seed, "last_quarter": late, "agent_step, reward": points})
            print(f"{name}, seed {seed}: reward over the last quarter {late:.3f}", flush=True)
    return drawn


def memory(threads: int, settings: list[str]) -> dict[str, Any]:
    """Peak memory of two epochs of the default preset's batch of 524,288 agent steps with 200 tokens and 24 agents.

    It includes the first checkpoint and the snapshot that a run keeps between epochs.
    """
    agents = ("env.game.num_agents=24", "env.map_builder.agents=24")
    trainer = Trainer(sys.executable, "trainer_metta.py", "default", "0", *agents, *settings, threads=threads)
    answer = [trainer.train(0) for _ in range(2)][-1]
    trainer.close()
    peak = round(answer["peak_mib"])
    return {"agent_steps": answer["agent_steps"], "peak_mib": peak, "within 8 GiB": peak <= 8 * 1024}


def print_table(figures: dict[str, Any]) -> None:
    print(f"{figures['task']} on {figures['machine']}, torch {figures['torch']}")
    print(f"{'':24}{'agent steps/s':>14}   us per agent step: simulate, infer, learn  processor  peak MiB")
    for name, result in figures["trainers"].items():
        split = ", ".join(f"{spent:5.1f}" for spent in result["microseconds_per_agent_step"].values())
        rate, cpu = result["agent_steps_per_second"], result["processor_microseconds_per_agent_step"]
        print(f"{name:24}{rate:14,.0f}   {split:>41}  {cpu:8.1f}   {result['peak_mib']:8}")
    load = figures["load"]
    print(f"load of the machine {load['before']:.1f} before, {load['after']:.1f} after")
    for clock, rows in figures["ratios"].items():
        for row in rows:
            met = "met" if row["ratio"] >= row["target"] else "not met"
            print(f"{clock}: {row['trainer']} / {row['peer']} = {row['ratio']:.2f}, target {row['target']:g}: {met}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pufferlib", metavar="PYTHON", help="an interpreter that can import pufferlib")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="a setting for all trainers")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10, help="duration of each turn, rounded up to whole batches")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="PyTorch threads of each trainer")
    parser.add_argument("--curves", type=int, metavar="STEPS", help="write learning curves instead")
    parser.add_argument("--seeds", type=int, default=3, help="seeds per trainer of the curves")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--json", metavar="FILE", help="output file")
    options = parser.parse_args()
    if options.curves:
        drawn = curves(options)
        Path(options.json or CURVES).write_text(json.dumps(drawn) + "\n")
    elif options.memory:
        print(json.dumps(memory(options.threads, options.set or [])))
    else:
        figures = throughput(options)
        print_table(figures)
        Path(options.json or FIGURES).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
