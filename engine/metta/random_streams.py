"""Named random streams: an independent NumPy SeedSequence for each purpose, all derived from one seed."""

from __future__ import annotations

from enum import IntEnum, unique
from typing import Literal

import numpy as np
from numpy.typing import NDArray

EpisodeSplit = Literal["train", "validation", "test"]
"""Three sets of episodes without a common random stream: those of training, those of evaluations during training, and
those of all other evaluations."""

SPLITMIX64_STEP = np.uint64(0x9E3779B97F4A7C15)


@unique
class RandomStream(IntEnum):
    """Purposes of random numbers; the value is the first element of the `spawn_key` of the SeedSequence.

    Never change or reuse a value: recorded runs and replays are reproducible only if each purpose keeps its value.
    0 and 1 are unused. Maps and turn orders have one stream per episode instead, see `episode_sequence`.
    """

    POLICY = 2
    """actions sampled by the policy during training"""
    SHUFFLE = 3
    """shuffling of segments into minibatches, or prioritized sampling of segments"""
    EVALUATION = 4
    """worlds of an evaluation or a match (the split "test"), and the actions sampled in them"""
    EPISODE_PLAYER = 5
    """actions sampled in an episode that is recorded or watched"""
    OPPONENTS = 6
    """self-play: which agents learn, which frozen policy controls the others, and the actions it samples"""
    MATCH_SIDES = 7
    """which agents each policy controls in a match"""
    NEW_WORLDS = 8
    """worlds of a run that is resumed with a different number of processes"""
    TEACHER = 9
    """choices of the teacher that labels steps (kickstarting)"""
    VALIDATION = 10
    """worlds of evaluations during training (the split "validation"), and the actions sampled in them"""
    SWEEP = 11
    """values that the sampler of a sweep draws"""

    def sequence(self, seed: int, *keys: int) -> np.random.SeedSequence:
        """The SeedSequence of this purpose. `keys`, such as the process rank, select independent substreams."""
        return np.random.SeedSequence(seed, spawn_key=(int(self), *keys))

    def seed(self, seed: int, *keys: int) -> int:
        """An integer seed from `sequence(seed, *keys)`, 0 to 2^63 - 1, for generators such as `torch.Generator`."""
        return _integer_seed(self.sequence(seed, *keys))


def fresh_seed() -> int:
    """A seed from the entropy of the operating system, 0 to 2^63 - 1."""
    return _integer_seed(np.random.SeedSequence())


def episode_sequence(seed: int, world: int, episode: int, split: EpisodeSplit = "train") -> np.random.SeedSequence:
    """The SeedSequence of one episode: its task, its map and its turn orders. `world` is the global world index.

    The splits are disjoint for all seeds below 2^64: without a `spawn_key`, a SeedSequence is made from these numbers,
    which are at most four words of 32 bits; with one, from four words and the key.
    """
    spawn_key = () if split == "train" else (int(EVALUATION_STREAMS[split]),)
    return np.random.SeedSequence((seed, world, episode), spawn_key=spawn_key)


EVALUATION_STREAMS: dict[EpisodeSplit, RandomStream] = {
    "validation": RandomStream.VALIDATION,
    "test": RandomStream.EVALUATION,
}


def splitmix64(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of the SplitMix64 generator (Steele, Lea and Flood, 2014), elementwise."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def uniform_numbers(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The outputs of `splitmix64` as numbers in [0, 1), elementwise."""
    uniform: NDArray[np.float64] = (splitmix64(bits) >> np.uint64(11)) * np.float64(2.0**-53)
    return uniform


def _integer_seed(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
