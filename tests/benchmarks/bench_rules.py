"""What custom rules cost: `python tests/benchmarks/bench_rules.py` compares worlds with and without them.

The same worlds are stepped, with observations, by random actions: without custom rules, and with a reward, an action,
or both, as a user writes them. They are stepped in turns in one process; times are processor times. Printed is the
speed relative to the worlds without rules, the median over the rounds, and its quartiles.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from metta.api import ACTIONS, REWARDS, EnvConfig, MettaGridEnv

ROUNDS, STEPS = 9, 40
WORLDS: dict[str, dict[str, Any]] = {
    "64 worlds x 4 agents": {"num_agents": 4, "width": 14, "height": 14},
    "64 worlds x 24 agents": {"num_agents": 24, "width": 25, "height": 25},
    "256 worlds x 24 agents": {"num_agents": 24, "width": 25, "height": 25},
}
OBJECTS = {"mine_red": 6, "generator_red": 8, "altar": 8, "wall": 6}
ACTION_TYPES = ("noop", "move", "rotate", "put_items", "get_items")


@REWARDS.register("near")
def near(worlds, to: str = "altar", within: int = 3):  # type: ignore[no-untyped-def]  # as users write it
    """1 within some moves of an object."""
    return (worlds.distances(to) <= within).astype(np.float32)


@ACTIONS.register("heal")
def heal(worlds, agents, arguments):  # type: ignore[no-untyped-def]  # as users write it
    """Unfreeze the agent ahead."""
    others = worlds.faced_agents[agents]
    success = (others >= 0) & worlds.frozen[others]
    worlds.freeze(others[success], 0)
    return success


class Subject:
    """A batch of worlds that is stepped by random actions."""

    def __init__(self, num_worlds: int, game: dict[str, Any], rewards: list[str], last_action: str):
        actions = [{"type": type_, "key": type_} for type_ in (*ACTION_TYPES, last_action)]
        config = {
            "game": game,
            "actions": actions,
            "rewards": [{"type": name} for name in rewards],
            "map_builder": {"objects": OBJECTS},
        }
        self.env = MettaGridEnv(EnvConfig.model_validate(config), num_worlds, seed=0)
        self.env.reset()
        generator = np.random.default_rng(0)
        flat = np.array([pair for pair in self.env.spec.flat_actions if pair[0] < len(actions)])
        self.actions = flat[generator.integers(len(flat), size=(STEPS, self.env.agents))]

    def seconds(self) -> float:
        """Processor time of one round."""
        begin = time.process_time()
        for actions in self.actions:
            self.env.step(actions)
        return time.process_time() - begin


def main() -> None:
    """Print a line for each kind of rules in each of the worlds."""
    for title, game in WORLDS.items():
        num_worlds = int(title.split()[0])
        plain = Subject(num_worlds, game, [], "change_color")
        subjects = {
            "a reward": Subject(num_worlds, game, ["near"], "change_color"),
            "an action": Subject(num_worlds, game, [], "heal"),
            "a reward and an action": Subject(num_worlds, game, ["near"], "heal"),
        }
        ratios: dict[str, list[float]] = {name: [] for name in subjects}
        for subject in (plain, *subjects.values()):
            subject.seconds()
        for _ in range(ROUNDS):
            for name, subject in subjects.items():
                before, with_rules, after = plain.seconds(), subject.seconds(), plain.seconds()
                ratios[name].append((before + after) / 2 / with_rules)
        for name, values in ratios.items():
            low, middle, high = statistics.quantiles(values, n=4)
            print(f"{title}, {name:<24} {middle:.2f} ({low:.2f} to {high:.2f}) of the speed without")


if __name__ == "__main__":
    main()
