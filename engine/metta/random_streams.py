"""Random streams derived from a seed, by name: one for each purpose, so that no two purposes draw the same numbers."""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np


@unique
class RandomStream(IntEnum):
    """A purpose that draws random numbers; its value is the position among the children of the seed's SeedSequence.

    A position is never reused: recorded runs and replays repeat only as long as each purpose keeps its own. Positions 0
    and 1 stay free; maps and worlds have one stream per episode instead, see `episode_sequence`.
    """

    POLICY = 2
    """actions that the policy samples while it trains"""
    SHUFFLE = 3
    """order of the segments in minibatches, or which segments prioritized sampling draws"""
    EVALUATION = 4
    """worlds of an evaluation or a match, and the actions sampled in them"""
    EPISODE_PLAYER = 5
    """actions sampled in an episode that is recorded or watched"""
    OPPONENTS = 6
    """self-play: which agents learn, which frozen policy plays the others, and the actions it samples"""
    MATCH_SIDES = 7
    """which agents each policy of a match plays"""
    NEW_WORLDS = 8
    """worlds of a run that resumes with another number of processes"""

    def sequence(self, seed: int, *keys: int) -> np.random.SeedSequence:
        """The stream of a seed; `keys`, such as the rank of a process, name further streams of the same purpose."""
        return np.random.SeedSequence(seed, spawn_key=(int(self), *keys))

    def seed(self, seed: int, *keys: int) -> int:
        """The seed of a generator that draws this stream, from 0 to 2^63 - 1."""
        return int(self.sequence(seed, *keys).generate_state(1, np.uint64)[0] >> np.uint64(1))


def episode_sequence(seed: int, world: int, episode: int) -> np.random.SeedSequence:
    """The stream of an episode: its task, its map and the order of turns in it. `world` is the world's global index."""
    return np.random.SeedSequence((seed, world, episode))
