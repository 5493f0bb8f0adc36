"""Cost of a network's first layer on tokens and on a dense box: `python tests/benchmarks/bench_first_layer.py`.

The same linear layer over (location, feature) is computed from the same observations in three ways: as an embedding
bag on the compact observations; as an embedding bag on the padded tokens; and as a matrix product with a dense box
`[agents, cells * features]`. Prints microseconds of processor time per agent, medians of interleaved runs. The
results of all three are checked for equality first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from bench_env import BATCHES, Subject
from torch import Tensor
from torch.nn import functional

from metta.config.env.env_config import EnvConfig
from metta.config.env.token_features import NO_TOKEN
from metta.world.observation.observe import CompactObservations

LOCATIONS = 256


def from_compact(table: Tensor, compact: CompactObservations) -> Tensor:
    """`[agents, width]` from compact observations."""
    return functional.embedding_bag(
        torch.from_numpy(compact.indices),
        table,
        torch.from_numpy(compact.offsets[:-1].astype(np.int32)),
        mode="sum",
        per_sample_weights=torch.from_numpy(compact.values.astype(np.float32)),
    )


def from_padded(table: Tensor, observations: np.ndarray, features: int) -> Tensor:
    """`[agents, width]` from padded tokens, from which the padding is removed first."""
    used = observations[:, :, 0] != NO_TOKEN
    location, feature, value = observations[used].T
    offsets = np.concatenate([[0], used.sum(axis=1)]).cumsum()
    return from_compact(table, CompactObservations(location * np.int32(features) + feature, value, offsets))


def from_box(table: Tensor, observations: np.ndarray, features: int) -> Tensor:
    """`[agents, width]` from a box `[agents, cells * features]`, which is nearly all zeros."""
    used = observations[:, :, 0] != NO_TOKEN
    location, feature, value = observations[used].T
    cells = np.unique(location)
    cell_at = np.zeros(LOCATIONS, np.int64)
    cell_at[cells] = np.arange(len(cells))
    box = np.zeros((len(observations), len(cells) * features), np.float32)
    box[used.nonzero()[0], cell_at[location] * features + feature] = value
    rows = torch.from_numpy((cells[:, None].astype(np.int64) * features + np.arange(features)).ravel())
    return torch.from_numpy(box) @ table[rows]


def bench(batch: str, width: int, repeats: int) -> None:
    """Print the cost of each way in one of the batches."""
    title, num_worlds, config = BATCHES[batch]
    subject = Subject(EnvConfig.model_validate(config), num_worlds)
    env, observations = subject.env, subject.observations
    features = len(env.spec.feature_names)
    table = torch.randn(LOCATIONS * features, width) / 100
    compact = env.compact_observations()
    ways: dict[str, Callable[[], object]] = {
        "compact_observations()": env.compact_observations,
        "layer on compact tokens": lambda: from_compact(table, compact),
        "layer on padded tokens": lambda: from_padded(table, observations, features),
        "layer on a dense box": lambda: from_box(table, observations, features),
    }
    outputs = [way() for name, way in ways.items() if name.startswith("layer")]
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=1e-3, atol=1e-3)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            spent[name].append((time.process_time() - begin) / env.agents * 1e6)
    tokens = len(compact.values) / env.agents
    print(f"\n({batch}) {title}: {env.agents} agents, {tokens:.0f} tokens each, {width} outputs")
    for name, costs in spent.items():
        print(f"  {name:<28} {statistics.median(costs):7.2f} us per agent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64, help="output width of the layer")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for batch in BATCHES:
        bench(batch, options.width, options.repeats)


if __name__ == "__main__":
    main()
