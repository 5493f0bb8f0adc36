"""How fast metta trains, beside other trainers: `python tests/benchmarks/bench_train.py`, by hand, on a quiet machine.

Agent-steps per second from end to end (simulate, infer, learn) on the task and network of hearts_24.toml: box of
features, conv 64 5x5 stride 3, conv 64 3x3, linear 128, LSTM 128, linear heads. All trainers play metta's own worlds.
Each is a process of its own; they take turns, again and again, and medians are told, so that whatever else the machine
does falls on all alike. The dense trainers have one channel a feature (22), metta has one a category (66).

With `--pufferlib PYTHON`, an interpreter with `pufferlib-core`, pydantic and tomli-w, PufferLib is measured too.
`tuned`: with metta's setting of the allocator, and convolutions as matrix products.

Other questions: `--curves STEPS` trains metta and the plain trainer on one and the same network (metta's channels) for
so many agent steps with several seeds and writes the curves; `--memory` tells the peak memory of one epoch of the
default preset's batch with 24 agents.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TASK = HERE / "hearts_24.toml"
CURVES = HERE / "curves_hearts_24.json"


class Trainer:
    """A trainer in a process of its own."""

    def __init__(self, python: str, script: str, *arguments: str, threads: int):
        paths = [str(ROOT), str(ROOT / "engine"), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [python, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": str(threads)},
        )
        assert self.process.stdout is not None
        if not any(line.strip() == "ready" for line in self.process.stdout):
            raise SystemExit(f"{script} {' '.join(arguments)} did not start")

    def train(self, seconds: float) -> dict[str, Any]:
        """What about so many seconds brought: agent_steps, seconds, split, rewards, peak_mib."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(seconds, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} died")  # type: ignore[arg-type]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.communicate("")


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    """Rates and splits of all trainers, measured in turn."""
    here, threads, task = sys.executable, options.threads, (str(TASK), "0")
    makers: dict[str, tuple[str, ...]] = {
        "metta": (here, "trainer_metta.py", *task),
        "metta, half precision": (here, "trainer_metta.py", *task, "agent.dtypes_fp16=true"),
        "PufferLib": (options.pufferlib, "trainer_pufferlib.py", *task, "written"),
        "PufferLib, tuned": (options.pufferlib, "trainer_pufferlib.py", *task, "tuned"),
        "plain": (here, "trainer_plain.py", *task, "written"),
        "plain, tuned": (here, "trainer_plain.py", *task, "tuned"),
    }
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        del makers["metta, half precision"]  # this CPU only imitates it
    if not options.pufferlib:
        makers = {name: maker for name, maker in makers.items() if not name.startswith("PufferLib")}
    trainers = {name: Trainer(*maker, threads=threads) for name, maker in makers.items()}
    for trainer in trainers.values():
        trainer.train(0)  # the first batch is not like the others
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in trainers}
    for _ in range(options.repeats):
        for name, trainer in trainers.items():
            answers[name].append(trainer.train(options.seconds))
    for trainer in trainers.values():
        trainer.close()
    results = {name: summary(given) for name, given in answers.items()}
    rates = {name: result["agent_steps_per_second"] for name, result in results.items()}
    tuned = max((rate for name, rate in rates.items() if name.endswith("tuned")), default=None)
    return {
        "task": "hearts-24",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {threads} threads",
        "torch": torch.__version__,
        "trainers": results,
        "times as fast as": {
            name: {other: rates[name] / rate for other, rate in rates.items() if not other.startswith("metta")}
            for name in rates
            if name.startswith("metta")
        },
        "fastest tuned peer": tuned,
    }


def summary(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the intervals of one trainer."""
    rates = [answer["agent_steps"] / answer["seconds"] for answer in answers]
    return {
        "agent_steps_per_second": statistics.median(rates),
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
    """Episode rewards by agent steps of metta and of the plain trainer, each with several seeds."""
    sources = {
        "metta": lambda seed: ("trainer_metta.py", str(TASK), seed, f"run.total_timesteps={options.curves}"),
        "plain": lambda seed: ("trainer_plain.py", str(TASK), seed, "codes", f"run.total_timesteps={options.curves}"),
    }
    drawn: dict[str, Any] = {"task": "hearts-24", "total_timesteps": options.curves}
    for name, source in sources.items():
        drawn[name] = []
        for seed in range(options.seeds):
            trainer = Trainer(sys.executable, *source(str(seed)), threads=options.threads)
            steps, seconds, points = 0, 0.0, []
            while steps < options.curves:
                answer = trainer.train(0)  # one batch
                steps, seconds = steps + answer["agent_steps"], seconds + answer["seconds"]
                if answer["rewards"]:
                    points.append([steps, round(seconds, 1), statistics.mean(answer["rewards"])])
            trainer.close()
            drawn[name].append({"seed": seed, "agent_step, seconds, reward": points})
            late = statistics.mean(point[2] for point in points[-max(1, len(points) // 4) :])
            print(f"{name}, seed {seed}: {seconds:.0f} s, reward over the last quarter {late:.3f}", flush=True)
    return drawn


def memory(threads: int) -> dict[str, Any]:
    """The peak memory of one epoch of the default preset's batch of 524,288 agent steps at 200 tokens, 24 agents."""
    agents = ("env.game.num_agents=24", "env.map_builder.agents=24")
    trainer = Trainer(sys.executable, "trainer_metta.py", "default", "0", *agents, threads=threads)
    answer = trainer.train(0)
    trainer.close()
    return {"agent_steps": answer["agent_steps"], "peak_mib": round(answer["peak_mib"])}


def print_table(figures: dict[str, Any]) -> None:
    print(f"{figures['task']} on {figures['machine']}, torch {figures['torch']}")
    print(f"{'':24}{'agent-steps/s':>14}   us per agent-step: simulate, infer, learn  of a CPU   peak MiB   metta is")
    for name, result in figures["trainers"].items():
        split = ", ".join(f"{spent:5.1f}" for spent in result["microseconds_per_agent_step"].values())
        ratio = figures["times as fast as"]["metta"].get(name)
        against = f"{ratio:8.2f} times as fast" if ratio else ""
        rate, cpu = result["agent_steps_per_second"], result["processor_microseconds_per_agent_step"]
        print(f"{name:24}{rate:14,.0f}   {split:>41}  {cpu:8.1f}   {result['peak_mib']:8}   {against}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pufferlib", metavar="PYTHON", help="an interpreter that can import pufferlib")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10, help="of each interval, whole batches")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch, in each trainer")
    parser.add_argument("--curves", type=int, metavar="STEPS", help="write learning curves instead")
    parser.add_argument("--seeds", type=int, default=3, help="of the curves")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    if options.curves:
        drawn = curves(options)
        Path(options.json or CURVES).write_text(json.dumps(drawn) + "\n")
    elif options.memory:
        print(json.dumps(memory(options.threads)))
    else:
        figures = throughput(options)
        print_table(figures)
        if options.json:
            Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
