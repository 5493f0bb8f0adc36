"""Worlds of the compiled package `mettagrid`, for bench_env.py; runs in an interpreter that has it, and knows no metta.

Takes the sizes of the worlds as JSON. For each line on stdin, a number of seconds, it steps them for about as long and
prints agent-steps per second of processor time.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from mettagrid.builder.envs import make_arena
from mettagrid.map_builder.random_map import RandomMapBuilder
from mettagrid.simulator.simulator import Simulation


def make_world(sizes: dict[str, int], seed: int) -> Simulation:
    builder = RandomMapBuilder.Config(
        **{"agents": sizes["agents"], "height": sizes["height"], "width": sizes["width"], "seed": seed},
        border_width=2,
        objects={"wall": sizes["walls"]},
    )
    config = make_arena(sizes["agents"], map_builder=builder)
    config.game.max_steps = 0
    config.game.obs.width = config.game.obs.height = sizes["window"]
    config.game.obs.num_tokens = sizes["tokens"]
    return Simulation(config, seed=seed)


def main() -> None:
    sizes = json.loads(sys.argv[1])
    # the compiled world itself, without the Python around it: actions in, one call
    worlds = [make_world(sizes, seed)._c_sim for seed in range(sizes["worlds"])]
    names = make_world(sizes, 0).action_names
    moves = [index for index, name in enumerate(names) if name == "noop" or name.startswith("move")]
    generator = np.random.default_rng(0)
    actions = generator.choice(moves, size=(64, len(worlds), sizes["agents"]))
    step = 0

    def run(steps: int) -> float:
        nonlocal step
        begin = time.process_time()
        for _ in range(steps):
            chosen = actions[step % len(actions)]
            for world, own in zip(worlds, chosen, strict=True):
                world.actions()[:] = own
                world.step()
            step += 1
        return steps * len(worlds) * sizes["agents"] / (time.process_time() - begin)

    run(50)
    for line in sys.stdin:
        rate = run(3)
        steps = max(3, int(float(line) * rate / (len(worlds) * sizes["agents"])))
        print(run(steps), flush=True)


if __name__ == "__main__":
    main()
