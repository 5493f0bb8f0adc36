"""Cost of several policies: `python tests/benchmarks/bench_policies.py [PRESET or FILE.toml] [--before CHECKOUT]`.

Processor time of an epoch (collect, advantages, update) of one policy for all groups, and of one policy for each group,
in the same worlds with the same number of agents; with `--before`, also of one policy with the code of another
checkout. Each subject is a process of one thread. They run epochs in turns, so that other load affects all alike; the
ratio of two is the median of the ratios of all rounds. `--set KEY=VALUE` changes a setting.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peer import START_SECONDS, Peer

from metta import api
from metta.config.self_play import agents_of_groups

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BARS = {"before": 1.02, "two": 1.15}
"""largest ratio of one policy now to before, and of one policy for each group to one policy"""


def epochs(source: str, settings: list[str], per_group: bool) -> Callable[[], None]:
    """A function that trains for an epoch: one policy, or one for each group that has agents."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = api.load_config(source, settings)
    env = api.MettaGridEnv(config.env, seed=0)
    spaces = env.single_observation_space, env.single_action_space
    update = api.UpdateSettings(
        ppo=config.ppo, update_epochs=config.experience.update_epochs, normalization=config.normalization
    )

    def agent() -> api.MettaAgent:
        return api.make_agent(*spaces, [], torch.device("cpu"), config.agent)

    def learn(policy: api.MettaAgent, optimizer: torch.optim.Optimizer, experience: api.Experience) -> None:
        api.compute_advantages(experience, config.ppo.gamma, config.ppo.gae_lambda, config.normalization)
        api.update_policy(policy, optimizer, experience, update)

    if not per_group:
        policy = agent()
        optimizer = api.make_optimizer(policy, config.optimizer)
        experience = api.make_experience_manager(env, policy, config.experience)

        def train() -> None:
            api.rollout(experience, policy)
            learn(policy, optimizer, experience)

        return train
    names = [name for name, count in agents_of_groups(config.env).items() if count]
    agents = {name: agent() for name in names}
    optimizers = {name: api.make_optimizer(policy, config.optimizer) for name, policy in agents.items()}
    experiences = api.make_experiences(env, agents, {name: [name] for name in names}, config.experience)

    def train_all() -> None:
        api.rollout_policies(experiences, agents)
        for name, policy in agents.items():
            learn(policy, optimizers[name], experiences[name])

    return train_all


def subject(source: str, settings: list[str], per_group: bool) -> None:
    """The process of a subject: for each line on stdin, an epoch, and its processor time on stdout."""
    api.keep_freed_memory()  # as `metta train` does
    train = epochs(source, settings, per_group)
    for _ in range(2):  # allocations
        train()
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.process_time()
        train()
        print(time.process_time() - begin, flush=True)


def main() -> None:
    """Run the subjects in turns, and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="predator_prey")
    parser.add_argument("--before", type=Path, help="a checkout with the code to compare with")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--subject", choices=("one", "each"), help="run the process of a subject")
    arguments = parser.parse_args()
    if arguments.subject:
        subject(arguments.source, arguments.settings, arguments.subject == "each")
        return
    kinds = {"one": (ROOT, "one"), "two": (ROOT, "each")}
    if arguments.before:
        kinds["before"] = (arguments.before.resolve(), "one")
    options = [word for setting in arguments.settings for word in ("--set", setting)]
    peers = {}
    for name, (checkout, kind) in kinds.items():
        command = [sys.executable, str(HERE / "bench_policies.py"), arguments.source, "--subject", kind, *options]
        paths = f"{checkout}{os.pathsep}{checkout / 'engine'}"
        peers[name] = Peer(name, command, os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})
    for peer in peers.values():
        peer.receive(START_SECONDS)
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for index in range(arguments.rounds):
        for name in list(peers)[:: 1 if index % 2 else -1]:
            peers[name].send("")
            seconds[name].append(float(peers[name].receive(START_SECONDS)))
    pairs = {"two": ("two", "one"), **({"before": ("one", "before")} if arguments.before else {})}
    labels = {"two": "one policy for each group / one policy", "before": "one policy now / before"}
    for key, (upper, lower) in pairs.items():
        ratios = [above / below for above, below in zip(seconds[upper], seconds[lower], strict=True)]
        spread = statistics.quantiles(ratios, n=4)
        print(
            f"{labels[key]}: {statistics.median(ratios):.3f} (quartiles {spread[0]:.3f} to {spread[2]:.3f}; "
            f"bar {BARS[key]})"
        )
    for name in peers:
        print(f"{name}: {statistics.median(seconds[name]):.3f} s per epoch")
        peers[name].close()


if __name__ == "__main__":
    main()
