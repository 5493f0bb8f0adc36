"""Speed of the simulator, optionally compared with the compiled MettaGrid: `python tests/benchmarks/bench_env.py`.

Measures agent steps per second of `step()`, with observations and all statistics, under random valid actions, for
four batches of worlds and for a single world of each. Times are processor times, so that waiting does not count,
except in the comparison of one process per core with one process, which uses wall-clock time. Subjects are measured
in turns and medians are printed, so that other load on the machine affects all of them alike.

`--original PYTHON` names an interpreter that can import the compiled package `mettagrid` (measured with 0.26.22; a
python3.12 on the path that has it is found automatically). The same numbers of worlds, agents and objects, the same
window and token limit are then stepped there in turns: once as many worlds one after the other, once a single world.
Its rules have changed, so this is the nearest configuration, not the same one: see original_worlds.py. Ratios are
medians of the ratios of all rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import resource
import shutil
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from peer import START_SECONDS, Peer

import metta.world.env as world_env
from metta.config.env.env_config import EnvConfig
from metta.config.env.token_features import NO_TOKEN
from metta.config.loading.load import load_config
from metta.world.env import MettaGridEnv
from metta.world.observation.observe import Observer

RICH = {
    **{"mine_red": 20, "mine_blue": 10, "mine_green": 10, "generator_red": 10, "generator_blue": 5},
    **{"generator_green": 5, "altar": 8, "armory": 5, "lasery": 5, "lab": 4, "factory": 3, "temple": 3},
    **{"wall": 60, "block": 30},
}
ROOM = {"mine_red": 10, "generator_red": 5, "altar": 5, "block": 20, "wall": 20}
BATCHES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "a": ("64 worlds x 4 agents, 32 x 32", 64, {"game": {"num_agents": 4, "width": 32, "height": 32}}),
    "b": ("16 worlds x 64 agents, 64 x 64", 16, {"game": {"num_agents": 64, "width": 64, "height": 64}}),
    "c": (
        "64 worlds x 24 agents, four rooms of 25 x 25",
        64,
        {
            "game": {"num_agents": 24},
            "map_builder": {"type": "Rooms", "room": {"width": 25, "height": 25, "border_width": 0, "objects": ROOM}},
        },
    ),
    "d": (
        "64 worlds x 64 agents, 64 x 64, rich map",
        64,
        {"game": {"num_agents": 64, "width": 64, "height": 64}, "map_builder": {"objects": RICH}},
    ),
}
WARM_UP_STEPS = 100
PHASES: dict[str, list[tuple[Any, str]]] = {
    "turns and actions": [
        (world_env, name) for name in ("Turns", "run_attack_phase", "run_main_phase", "count_actions")
    ],
    "converters": [(world_env, "advance_objects")],
    "rewards": [(world_env, "share_rewards")],
    "observations": [(Observer, "observe")],
}


class Subject:
    """A batch of worlds that is stepped with actions sampled in advance."""

    def __init__(self, config: EnvConfig, num_worlds: int, seed: int = 0):
        self.env = MettaGridEnv(config, num_worlds, seed=seed)
        pairs = np.array(self.env.spec.flat_actions, np.int32)
        generator = np.random.default_rng(seed)
        self.actions = [pairs[generator.integers(len(pairs), size=self.env.agents)] for _ in range(64)]
        self.observations, _ = self.env.reset()
        self.steps = 0
        self.run(WARM_UP_STEPS)

    def run(self, steps: int, clock: Callable[[], float] = time.process_time) -> float:
        """Agent steps per second over `steps` steps."""
        begin = clock()
        for _ in range(steps):
            self.env.step(self.actions[self.steps % len(self.actions)], out=self.observations)
            self.steps += 1
        return steps * self.env.agents / (clock() - begin)

    def measure(self, seconds: float, clock: Callable[[], float] = time.process_time) -> float:
        """Agent steps per second over about `seconds` seconds."""
        rate = self.run(3, clock)
        return self.run(max(3, int(seconds * rate / self.env.agents)), clock)


class Original:
    """The same worlds in the compiled package, in a separate process."""

    def __init__(self, python: str, config: EnvConfig, num_worlds: int):
        game = config.game
        builder = config.map_builder.model_dump()
        rooms = builder.get("rows", 1) * builder.get("cols", 1)
        objects = (builder.get("room") or builder)["objects"]
        world = {
            **{"worlds": num_worlds, "agents": game.num_agents, "height": game.height, "width": game.width},
            **{"tokens": game.num_observation_tokens, "window": game.observation_width},
            "objects": {name: rooms * count for name, count in objects.items()},
        }
        script = Path(__file__).with_name("original_worlds.py")
        self.peer = Peer("the process with the compiled worlds", [python, str(script), json.dumps(world)])
        self.told: dict[str, Any] = json.loads(self.peer.receive())
        self.measure(0.2)

    def measure(self, seconds: float) -> float:
        """Agent steps per second over about `seconds` seconds."""
        self.peer.send(str(seconds))
        return float(self.peer.receive(10 * seconds + START_SECONDS))

    def close(self) -> None:
        """End the process."""
        self.peer.close()


def find_original() -> str | None:
    """A Python 3.12 on the path that can import the compiled package, or None."""
    python = shutil.which("python3.12")
    has_it = python and subprocess.run([python, "-c", "import mettagrid"], capture_output=True, check=False)
    return python if has_it and has_it.returncode == 0 else None


Rates = dict[str, list[float]]


def interleaved(subjects: dict[str, Any], repeats: int, seconds: float) -> Rates:
    """The rates of each subject, measured in turns."""
    rates: Rates = {name: [] for name in subjects}
    for _ in range(repeats):
        for name, subject in subjects.items():
            rates[name].append(subject.measure(seconds))
    return rates


def speed_ratio(rates: Rates, one: str, other: str) -> float:
    """Speed of one subject divided by that of the other: median over rounds."""
    return statistics.median(left / right for left, right in zip(rates[one], rates[other], strict=True))


def phases(subject: Subject, steps: int) -> dict[str, float]:
    """Nanoseconds per agent step in each phase; `other` is the time outside of all phases."""
    spent = dict.fromkeys(PHASES, 0.0)

    def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            begin = time.process_time()
            result = function(*args)
            spent[phase] += time.process_time() - begin
            return result

        return call

    originals = [(owner, name, getattr(owner, name)) for places in PHASES.values() for owner, name in places]
    for phase, places in PHASES.items():
        for owner, name in places:
            setattr(owner, name, timed(phase, getattr(owner, name)))
    total = 1 / subject.run(steps)
    for owner, name, function in originals:
        setattr(owner, name, function)
    agent_steps = steps * subject.env.agents
    split = {phase: seconds / agent_steps * 1e9 for phase, seconds in spent.items()}
    return split | {"other": total * 1e9 - sum(split.values())}


def _free_running(batch: str, seed: int, seconds: float, start: Any, results: Any) -> None:
    _, num_worlds, config = BATCHES[batch]
    subject = Subject(EnvConfig.model_validate(config), num_worlds, seed)
    start.wait()
    results.put(subject.measure(seconds, time.perf_counter))


def processes(batch: str, count: int, seconds: float) -> float:
    """Agent steps per second of `count` processes together, each with its own batch."""
    context = get_context("spawn")
    results, start = context.Queue(), context.Barrier(count)
    workers = [
        context.Process(target=_free_running, args=(batch, seed, seconds, start, results)) for seed in range(count)
    ]
    for worker in workers:
        worker.start()
    told: list[float] = []
    while len(told) < count:
        with contextlib.suppress(queue.Empty):
            told.append(results.get(timeout=1))
        if codes := [worker.exitcode for worker in workers if worker.exitcode]:
            for worker in workers:
                worker.kill()
            raise SystemExit(f"a process that steps worlds ended with exit code {codes[0]}; its messages are above")
    for worker in workers:
        worker.join()
    return sum(told)


def ends_in_steps(subject: Subject, repeats: int) -> tuple[float, float]:
    """Cost of ending the episode of each world once, in steps of the batch: all together, and one after another.

    The cost is the extra time of a step in which episodes end. One after another means a world in every other step, in
    random order.
    """
    env, generator = subject.env, np.random.default_rng(0)
    together, apart = [], []
    for _ in range(repeats):
        for spent, left in (
            (together, np.ones(env.num_worlds, np.int64)),
            (apart, 1 + 2 * generator.permutation(env.num_worlds)),
        ):
            set_steps_left(env, left)
            seconds = [env.agents / subject.run(1) for _ in range(int(left.max()) + 1)]
            plain = seconds[1::2] if len(seconds) > 2 else [env.agents / subject.run(1) for _ in range(9)]
            usual = statistics.median(plain)
            spent.append((sum(seconds[::2]) - usual * len(seconds[::2])) / usual)
    return statistics.median(together), statistics.median(apart)


def set_steps_left(env: MettaGridEnv, left: np.ndarray) -> None:
    """Make the episode of each world end after `left` steps, `[worlds]`."""
    config = env.config.game
    last_step = min(config.max_steps or config.episode_lifetime, config.episode_lifetime or config.max_steps)
    env.load_state(env.state() | {"steps": last_step - left})


def bytes_per_agent(config: EnvConfig, num_worlds: int) -> float:
    """Peak memory of a batch while it is stepped, including its observations, bytes per agent."""
    tracemalloc.start()
    subject = Subject(config, num_worlds)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    actions = sum(array.nbytes for array in subject.actions)
    return (most - actions) / subject.env.agents


@dataclass(frozen=True)
class Target:
    """A measured figure and its target."""

    name: str
    figure: float
    target: float
    is_least: bool = True
    """false: the target is an upper bound"""

    def __str__(self) -> str:
        holds = self.figure >= self.target if self.is_least else self.figure <= self.target
        limit = f"{'at least' if self.is_least else 'at most'} {self.target:g}"
        return f"  {self.name:<60} {self.figure:>9.3f}, {limit}: {'met' if holds else 'NOT MET'}"


def bench(batch: str, original: str | None, repeats: int, seconds: float) -> list[Target]:
    """Measure a batch and print its figures; the targets."""
    title, num_worlds, raw = BATCHES[batch]
    config = EnvConfig.model_validate(raw)
    one = f"one world of {config.game.num_agents}"
    subjects: dict[str, Any] = {"batch": Subject(config, num_worlds), one: Subject(config, 1)}
    originals: dict[str, Original] = {}
    if original:
        originals = {
            "original, as many worlds": Original(original, config, num_worlds),
            "original, one hot world": Original(original, config, 1),
        }
    whole, single = subjects["batch"], subjects[one]
    print(f"\n({batch}) {title}: {whole.env.agents} agents in a batch")
    rates = interleaved(subjects | originals, repeats, seconds)
    targets = []
    for name, measured in rates.items():
        against = ""
        if name in originals:
            told = originals[name].told
            ratio = speed_ratio(rates, "batch", name)
            against = f"  ratio {ratio:.2f}  (mettagrid {told['version']}, {told['tokens']:.0f} tokens)"
            target = TARGETS_AGAINST_ORIGINAL[batch].get(name)
            targets += [Target(f"({batch}) batch, ratio to {name}", ratio, target)] if target else []
            originals[name].close()
        print(f"  {name:<26} {statistics.median(measured) / 1e6:6.3f} M agent steps/s{against}")
    tokens = float((whole.observations[:, :, 0] != NO_TOKEN).sum(1).mean())
    print(f"  {'tokens of metta':<26} {tokens:6.0f} per observation")
    for name, subject in (("batch", whole), (one, single)):
        split = phases(subject, max(20, 200_000 // subject.env.agents))
        print(f"  {f'ns, {name}':<26} {', '.join(f'{phase} {spent:.0f}' for phase, spent in split.items())}")
    together, apart = ends_in_steps(whole, 5)
    print(f"  {'all episodes end':<26} cost {together:.1f} steps if together, {apart:.1f} if one by one")
    cores = os.cpu_count() or 1
    ratios, all_rates = [], []
    for _ in range(max(1, repeats // 3)):
        all_rates.append(processes(batch, cores, 4 * seconds))
        ratios.append(all_rates[-1] / processes(batch, 1, 4 * seconds))
    ratio = statistics.median(ratios)
    rate = statistics.median(all_rates)
    print(f"  {f'{cores} processes':<26} {rate / 1e6:6.3f} M agent steps/s, {ratio:.2f} times one process")
    least = LEAST_OF_ONE_WORLD.get(config.game.num_agents)
    return [
        *targets,
        *([Target(f"({batch}) {one}, M agent steps/s", statistics.median(rates[one]) / 1e6, least)] if least else ()),
        Target(f"({batch}) all episodes end together, in steps", together, ENDS, is_least=False),
        Target(f"({batch}) all episodes end one by one, in steps", apart, ENDS, is_least=False),
        *([Target(f"({batch}) two processes, ratio to one", ratio, 1.6)] if cores == 2 else ()),
    ]


TARGETS_AGAINST_ORIGINAL = {
    "a": {"original, as many worlds": 3.0},
    **{batch: {"original, as many worlds": 6.0, "original, one hot world": 2.0} for batch in "bcd"},
}
LEAST_OF_ONE_WORLD = {4: 0.02, 64: 0.3}
"""M agent steps per second, by agents of the world"""
ENDS = 20.0
"""largest cost of ending the episode of each world once, steps"""


def growth(repeats: int, seconds: float) -> list[Target]:
    """Time per agent step and memory for 1,024 to 65,536 agents, 64 per world."""
    config = EnvConfig.model_validate(BATCHES["b"][2])
    subjects = {str(64 * worlds): Subject(config, worlds) for worlds in (16, 128, 1024)}
    rates = interleaved(subjects, repeats, seconds)
    costs = ", ".join(f"{int(name):,}: {1e9 / statistics.median(measured):.0f}" for name, measured in rates.items())
    memory = bytes_per_agent(config, 1024)
    print(f"\nns per agent step by agents in a batch: {costs}; {memory:,.0f} bytes per agent with 65,536 agents")
    return [
        Target(
            "time per agent step, ratio of 65,536 agents to 1,024",
            speed_ratio(rates, "1024", "65536"),
            1.3,
            is_least=False,
        ),
        Target("memory with 65,536 agents, KB per agent", memory / 1000, 4.0, is_least=False),
    ]


def masks(repeats: int) -> list[Target]:
    """Time of action masks as a share of the time of a step, with actions sampled from the masks."""
    print("\naction masks, us: of a step (share)")
    targets = []
    for preset in ("quickstart", "simple", "arena"):
        for num_worlds in (1, 8, 32, 128):
            env, generator = MettaGridEnv(load_config(preset).env, num_worlds, seed=0), np.random.default_rng(0)
            pairs = np.array(env.spec.flat_actions)
            observations, _ = env.reset(staggered=True)
            shares, steps, all_masks = [], [], []
            for number in range(WARM_UP_STEPS + 20 * repeats):
                begin = time.process_time()
                allowed = env.action_masks()
                middle = time.process_time()
                actions = pairs[(allowed * generator.random(allowed.shape, np.float32)).argmax(axis=1)]
                start = time.process_time()
                env.step(actions, out=observations)
                if number >= WARM_UP_STEPS:
                    all_masks.append(middle - begin)
                    steps.append(time.process_time() - start)
                    shares.append(all_masks[-1] / steps[-1])
            share = statistics.median(shares)
            mask, step = (statistics.median(spent) * 1e6 for spent in (all_masks, steps))
            print(
                f"  {preset:<12} {num_worlds:>4} worlds {env.agents:>5} agents {mask:>6.0f}: {step:>6.0f} ({share:.1%})"
            )
            targets.append(Target(f"{preset}, {num_worlds} worlds, action masks, share of a step", share, 0.15, False))
    return targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("batches", nargs="*", default=list(BATCHES), help="a, b, c, d; default: all")
    parser.add_argument("--original", metavar="PYTHON", help="an interpreter that can import mettagrid")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="duration of each measurement")
    parser.add_argument("--growth", action="store_true", help="also measure batches of up to 65,536 agents")
    parser.add_argument("--masks", action="store_true", help="measure only action masks, in presets")
    options = parser.parse_args()
    if options.masks:
        print("", *masks(options.repeats), sep="\n")
        return
    original = options.original or find_original()
    print(f"Python {sys.version.split()[0]}, NumPy {np.__version__}; medians of {options.repeats} interleaved runs")
    if not original:
        print("the C++ MettaGrid is not measured; --original names an interpreter that can import mettagrid")
    targets = [
        target for batch in options.batches for target in bench(batch, original, options.repeats, options.seconds)
    ]
    targets += growth(options.repeats, options.seconds) if options.growth else []
    print("", *targets, sep="\n")
    print(f"\npeak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
