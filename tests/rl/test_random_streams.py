"""Random streams: each purpose draws its own numbers, for any seed."""

import ast
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from metta.random_streams import RandomStream, episode_sequence

ENGINE = Path(__file__).parents[2] / "engine"
TREES = {
    path.relative_to(ENGINE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in ENGINE.rglob("*.py")
}
SEEDS = (*range(20), 2**31 - 1, 2**32, 2**63)


def dotted_names(tree: ast.AST) -> list[str]:
    """Every dotted name: `np.random.SeedSequence`, `RandomStream.POLICY`."""
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]


def test_each_stream_serves_one_purpose() -> None:
    """Each stream is used by only one call in the source."""
    streams = {f"RandomStream.{name}" for name in RandomStream.__members__}
    used = Counter(name for tree in TREES.values() for name in dotted_names(tree) if name in streams)
    assert used == Counter(streams)


def test_all_random_numbers_come_from_named_streams() -> None:
    places = {path for path, tree in TREES.items() if any("SeedSequence" in name for name in dotted_names(tree))}
    # gymnasium_vector.py folds the seeds that a user lists into one seed
    assert places == {"metta/random_streams.py", "metta/adapters/gymnasium_vector.py"}


@pytest.mark.parametrize("seed", SEEDS)
def test_streams_of_a_seed_differ_pairwise(seed: int) -> None:
    sequences = {
        (stream.name, *keys): stream.sequence(seed, *keys) for stream in RandomStream for keys in ((), (0,), (1,))
    }
    sequences |= {
        ("episode", world, episode): episode_sequence(seed, world, episode) for world in (0, 1) for episode in (0, 1)
    }
    numbers = {name: np.random.default_rng(sequence).integers(2**63, size=4) for name, sequence in sequences.items()}
    for (one, first), (other, second) in combinations(numbers.items(), 2):
        assert not set(first.tolist()) & set(second.tolist()), f"{one} and {other} draw alike"
    for one, other in combinations(RandomStream, 2):
        drawn = [torch.rand(4, generator=torch.Generator().manual_seed(stream.seed(seed))) for stream in (one, other)]
        assert not torch.equal(*drawn), f"{one.name} and {other.name} draw alike"


def test_positions_of_recorded_streams_never_move() -> None:
    """Runs, evaluations and replays of version 1 are reproducible only if these values stay the same."""
    positions = {"POLICY": 2, "SHUFFLE": 3, "EVALUATION": 4, "EPISODE_PLAYER": 5}
    assert {name: RandomStream[name].value for name in positions} == positions
    for stream in RandomStream:
        spawned = np.random.SeedSequence(7).spawn(stream + 1)[-1]
        assert stream.sequence(7).generate_state(2).tolist() == spawned.generate_state(2).tolist()
        assert stream.sequence(7, 1).generate_state(2).tolist() == spawned.spawn(2)[1].generate_state(2).tolist()
