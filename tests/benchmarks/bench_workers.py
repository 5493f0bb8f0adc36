"""Speed of worker processes: `taskset -c 0,1 python tests/benchmarks/bench_workers.py`, on idle cores.

Collecting: agent steps per second of worlds that are stepped in two world batches with random actions, as a rollout
steps them, by `--workers` processes (2) and by the thread of one process, for several numbers of agents. Training:
agent steps per second of hearts-24 end to end with one worker and with the thread, each in a process of its own. Both
subjects of a pair run in turns, so that other load on the machine affects both, and the ratio is the median of the
ratios of all rounds. Times are wall-clock times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from bench_env import BATCHES
from bench_train import TASK, Trainer

from metta.config.env.env_config import EnvConfig
from metta.world.env import MettaGridEnv
from metta.world.observation.packed import PackedObservations
from metta.world.processes.process_worlds import ProcessWorlds, make_worlds

AGENTS = (1024, 2048, 4096, 8192)
COLLECT_BAR, TRAIN_BAR = 1.7, 1.0
WARM_UP_STEPS = 100


class Collector:
    """Steps two world batches in turn with random actions: one is stepped while actions for the other are sampled."""

    def __init__(self, config: EnvConfig, num_worlds: int, workers: int):
        sizes = [num_worlds // 2, num_worlds - num_worlds // 2]
        self.batches = list(make_worlds(MettaGridEnv(config), sizes, 0, 0, workers))
        self.agents = sum(batch.agents for batch in self.batches)
        self.buffers = [PackedObservations(batch.agents, batch.spec.num_observation_tokens) for batch in self.batches]
        self.thread = ThreadPoolExecutor(1)
        self.pairs = np.array(self.batches[0].spec.flat_actions)
        self.generator = np.random.default_rng(0)
        self.pending: list[Future[Any] | None] = []
        for batch, buffer in zip(self.batches, self.buffers, strict=True):
            if isinstance(batch, ProcessWorlds):
                batch.reset()
            else:
                batch.reset(out=buffer)
            self.pending.append(None)
        for index in range(2):
            self._start(index)
        self.run(WARM_UP_STEPS)

    def _start(self, index: int) -> None:
        batch = self.batches[index]
        actions = self.pairs[self.generator.integers(len(self.pairs), size=batch.agents)]
        if isinstance(batch, ProcessWorlds):
            batch.start_step(actions)
        else:
            self.pending[index] = self.thread.submit(batch.step, actions, self.buffers[index])

    def _finish(self, index: int) -> None:
        batch, pending = self.batches[index], self.pending[index]
        if isinstance(batch, ProcessWorlds):
            batch.finish_step()
        elif pending is not None:
            pending.result()

    def run(self, steps: int) -> float:
        """Agent steps per second over `steps` steps of both batches."""
        begin = time.perf_counter()
        for _ in range(steps):
            for index in range(2):
                self._finish(index)
                self._start(index)
        return steps * self.agents / (time.perf_counter() - begin)

    def measure(self, seconds: float) -> float:
        """Agent steps per second over about `seconds` seconds."""
        rate = self.run(3)
        return self.run(max(3, int(seconds * rate / self.agents)))

    def close(self) -> None:
        """End the thread or the processes."""
        for index in range(2):
            self._finish(index)
        self.thread.shutdown()
        self.batches[0].close()


def paired(subjects: Sequence[Callable[[float], float]], rounds: int, seconds: float) -> tuple[list[float], float]:
    """The median speed of each of two subjects, and the median ratio of the second to the first."""
    speeds = [[measure(seconds) for measure in subjects] for _ in range(rounds)]
    medians = [statistics.median(values) for values in zip(*speeds, strict=True)]
    return medians, statistics.median(second / first for first, second in speeds)


def report(what: str, medians: list[float], ratio: float, bar: float | None) -> None:
    verdict = "" if bar is None else f"   bar {bar:g}: {'kept' if ratio >= bar else 'MISSED'}"
    print(f"{what:<28} {medians[0]:>12,.0f} {medians[1]:>12,.0f} {ratio:>8.2f}{verdict}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of a turn when collecting")
    parser.add_argument("--train-seconds", type=float, default=15.0, help="seconds of a turn when training; 0: not")
    parser.add_argument("--workers", type=int, default=2, help="worker processes when collecting")
    parser.add_argument("--agents", type=int, nargs="*", default=AGENTS)
    options = parser.parse_args()

    print(f"{'agent steps per second':<28} {'thread':>12} {'workers':>12} {'ratio':>8}")
    config = EnvConfig.model_validate(BATCHES["c"][2])
    for agents in options.agents:
        worlds = -(-agents // config.game.num_agents)
        pair = [Collector(config, worlds, workers) for workers in (0, options.workers)]
        medians, ratio = paired([each.measure for each in pair], options.rounds, options.seconds)
        bar = COLLECT_BAR if options.workers == 2 else None
        report(f"collect, {pair[0].agents:,} agents, {options.workers} workers", medians, ratio, bar)
        for each in pair:
            each.close()
    if options.train_seconds:
        trainers = [
            Trainer(sys.executable, "trainer_metta.py", str(TASK), "1", f"experience.workers={workers}", threads=2)
            for workers in (0, 1)
        ]

        def speed_of(trainer: Trainer) -> Callable[[float], float]:
            def speed(seconds: float) -> float:
                trained = trainer.train(seconds)
                return float(trained["agent_steps"] / trained["seconds"])

            return speed

        measures = [speed_of(trainer) for trainer in trainers]
        paired(measures, 1, options.train_seconds)  # warm up
        report("train hearts-24, 1 worker", *paired(measures, options.rounds, options.train_seconds), TRAIN_BAR)
        for trainer in trainers:
            trainer.close()


if __name__ == "__main__":
    main()
