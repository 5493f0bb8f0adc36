"""Worlds of the compiled package `mettagrid`, stepped for bench_env.py in an interpreter that has it.

The description of the worlds is the first argument, as JSON. For each line on stdin, a number of seconds, the program
steps the worlds for about that time and prints agent steps per second of processor time.

The rules of the package have changed, so this is the nearest configuration: as many agents, objects of the same names
in the same numbers, the same window and token limit. Mines hold ore, generators make batteries from it and altars
make hearts from those. Differences: an agent uses an object by moving onto it, with an immediate result; other
converters give the items they hold; blocks swap places with agents that move onto them; there are no rotations, no
freezing and no conversion times. Random actions are noop, moves, and four vibes in place of the four color changes.
An agent that holds a laser attacks by moving onto another one while it shows the first vibe.

Inventories, and with them tokens and times, grow during an episode: a step takes three times as long after 2,000
steps. Worlds are therefore measured in the second half of episodes of 1,000 steps, the length of metta's episodes.
New episodes are started and advanced to their middle outside of the measured time.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
from mettagrid.builder.envs import make_arena
from mettagrid.config.handler_config import Handler, actorHas, updateActor, withdraw
from mettagrid.config.mettagrid_config import GridObjectConfig, InventoryConfig
from mettagrid.config.mutation import SwapMutation
from mettagrid.config.vibes import VIBES
from mettagrid.map_builder.random_map import RandomMapBuilder
from mettagrid.simulator.simulator import Simulation

NUM_VIBES = 4
EPISODE = 1000


def make_object(name: str) -> GridObjectConfig:
    """The nearest equivalent of an object of this name."""
    kind, _, color = name.partition("_")
    stock: dict[str, int] = {}
    if kind == "block":
        handler = Handler(mutations=[SwapMutation()])
    elif kind == "generator":
        ore = {f"ore_{color}": 1}
        handler = Handler(filters=[actorHas(ore)], mutations=[updateActor({f"ore_{color}": -1, f"battery_{color}": 1})])
    elif kind == "altar":
        handler = Handler(
            filters=[actorHas({"battery_red": 3})], mutations=[updateActor({"battery_red": -3, "heart": 1})]
        )
    else:
        item = f"ore_{color}" if kind == "mine" else {"armory": "armor", "lasery": "laser"}.get(kind, "blueprint")
        stock = {item: 255}
        handler = Handler(mutations=[withdraw({item: 1})])
    return GridObjectConfig(name=name, inventory=InventoryConfig(initial=stock), on_use_handler=handler)


def make_world(sizes: dict[str, Any], seed: int) -> Simulation:
    builder = RandomMapBuilder.Config(
        **{"agents": sizes["agents"], "height": sizes["height"], "width": sizes["width"], "seed": seed},
        border_width=2,
        objects=sizes["objects"],
    )
    config = make_arena(sizes["agents"], map_builder=builder)
    game = config.game
    game.objects |= {name: make_object(name) for name in sizes["objects"] if name != "wall"}
    game.max_steps = 0
    game.obs.width = game.obs.height = sizes["window"]
    game.obs.num_tokens = sizes["tokens"]
    game.actions.change_vibe.enabled = True
    game.actions.change_vibe.vibes = VIBES[:NUM_VIBES]
    game.vibe_names = [vibe.name for vibe in VIBES[:NUM_VIBES]]
    game.actions.attack.vibes = [VIBES[0].name]
    return Simulation(config, seed=seed)


class Batch:
    """Worlds that are stepped one after the other with random actions."""

    def __init__(self, sizes: dict[str, Any]):
        self.sizes = sizes
        self.seed = 0
        self.begin()
        generator = np.random.default_rng(0)
        self.actions = generator.integers(len(self.names), size=(64, sizes["worlds"], sizes["agents"]))

    def begin(self) -> None:
        """Start new worlds."""
        self.simulations = [make_world(self.sizes, self.seed + world) for world in range(self.sizes["worlds"])]
        self.seed += self.sizes["worlds"]
        self.names = self.simulations[0].action_names
        # the compiled world without its Python wrapper: set actions, one call
        self.worlds = [simulation._c_sim for simulation in self.simulations]
        self.step = 0

    def run(self, steps: int) -> float:
        """Seconds of processor time of `steps` steps."""
        begin = time.process_time()
        for _ in range(steps):
            chosen = self.actions[self.step % len(self.actions)]
            for world, own in zip(self.worlds, chosen, strict=True):
                world.actions()[:] = own
                world.step()
            self.step += 1
        return time.process_time() - begin

    def measure(self, seconds: float) -> float:
        """Agent steps per second over about `seconds` seconds."""
        steps, spent = 0, 0.0
        while spent < seconds:
            if self.step >= EPISODE:
                self.begin()
                self.run(EPISODE // 2)
            some = min(EPISODE - self.step, max(3, EPISODE // 100))
            spent += self.run(some)
            steps += some
        return steps * len(self.worlds) * int(self.sizes["agents"]) / spent

    def tokens(self) -> float:
        """Mean number of tokens per observation."""
        return float(np.mean([(world.observations()[:, :, 0] != 0xFF).sum(1).mean() for world in self.worlds]))


def main() -> None:
    batch = Batch(json.loads(sys.argv[1]))
    batch.run(EPISODE // 2)
    told = {"version": version("mettagrid"), "actions": batch.names, "tokens": batch.tokens()}
    print(json.dumps(told), flush=True)
    for line in sys.stdin:
        print(batch.measure(float(line)), flush=True)


if __name__ == "__main__":
    main()
