"""PackedObservations: the tokens of all agents as one list without padding, and the buffer that holds it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from metta.config.env.token_features import NO_TOKEN


class PackedObservations:
    """Observations without padding: a buffer that `MettaGridEnv.step` and `reset` fill, as their argument `out`.

    The tokens of all agents are concatenated in the order of the agents. Those of agent i are `tokens[offsets[i] :
    offsets[i + 1]]`; they are the used tokens of its row of the padded observations, in the same order. A buffer for
    the environment `env` is `PackedObservations(env.agents, env.spec.num_observation_tokens)`.

    `buffer [agents * num_tokens, 3] uint8` and `counts [agents] int64` are new arrays by default, or given ones, such
    as arrays in shared memory. Only the part of the buffer that holds tokens is written.
    """

    def __init__(
        self,
        agents: int,
        num_tokens: int,
        buffer: NDArray[np.uint8] | None = None,
        counts: NDArray[np.int64] | None = None,
    ):
        self.num_tokens = num_tokens
        """the largest number of tokens of an observation"""
        self.buffer = np.empty((agents * num_tokens, 3), np.uint8) if buffer is None else buffer
        """`[agents * num_tokens, 3] uint8`: the tokens, from its beginning"""
        self.counts = np.zeros(agents, np.int64) if counts is None else counts
        """`[agents] int64`: the number of tokens of each agent"""

    def __len__(self) -> int:
        """The number of agents."""
        return len(self.counts)

    @property
    def tokens(self) -> NDArray[np.uint8]:
        """The tokens of all agents, (location, feature, value), a view of the buffer. `[tokens, 3] uint8`"""
        return self.buffer[: self.counts.sum()]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """The index of the first token of each agent, and at the end the number of tokens. `[agents + 1] int64`"""
        offsets = np.zeros(len(self.counts) + 1, np.int64)
        np.add.accumulate(self.counts, out=offsets[1:])
        return offsets

    def padded(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """The padded observations of the agents `rows` (None: all). `[rows, num_tokens, 3] uint8`"""
        rows = np.arange(len(self)) if rows is None else rows
        position = np.arange(self.num_tokens)
        is_used = position < self.counts[rows, None]
        observations = np.full((len(rows), self.num_tokens, 3), NO_TOKEN, np.uint8)
        observations[is_used] = self.buffer[(self.offsets[rows, None] + position)[is_used]]
        return observations

    def part(self, start: int, stop: int) -> PackedObservations:
        """A copy of the observations of the agents `start` to `stop - 1`."""
        offsets = self.offsets
        tokens = self.buffer[offsets[start] : offsets[stop]].copy()
        return PackedObservations(stop - start, self.num_tokens, tokens, self.counts[start:stop].copy())

    def replace(self, parts: Mapping[int, PackedObservations]) -> None:
        """Replace the observations of consecutive agents by each of `parts`; its key is the first of these agents."""
        offsets, end, pieces = self.offsets, 0, []
        for first in sorted(parts):
            part = parts[first]
            pieces += [self.buffer[end : offsets[first]], part.tokens]
            end = offsets[first + len(part)]
            self.counts[first : first + len(part)] = part.counts
        tokens = np.concatenate([*pieces, self.buffer[end : offsets[-1]]])
        self.buffer[: len(tokens)] = tokens


Observations = NDArray[np.uint8] | PackedObservations
"""Observations of some agents: padded, `[agents, tokens, 3] uint8`, or packed."""


def token_array(observations: Observations) -> NDArray[np.uint8]:
    """Padded observations as they are, of packed ones the tokens `[tokens, 3]`."""
    return observations.tokens if isinstance(observations, PackedObservations) else observations


def padded_rows(observations: Observations, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The padded observations of the agents `rows`. `[rows, tokens, 3] uint8`"""
    return observations.padded(rows) if isinstance(observations, PackedObservations) else observations[rows]


def write_parts(out: Observations, parts: Mapping[int, PackedObservations]) -> None:
    """Write the observations of some agents to `out`, as `PackedObservations.replace` does."""
    if isinstance(out, PackedObservations):
        out.replace(parts)
    else:
        for first, part in parts.items():
            out[first : first + len(part)] = part.padded()
