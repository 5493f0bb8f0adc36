"""Whose turn it is: one random order per world and step, and how turns run at once without changing the outcome.

The rule is one agent after the other. Two turns can be taken at once when neither touches anything the other does, so
each turn names what it touches ("locks": cells, agents, converters), and turns run in rounds: a turn is ready when
nobody before it in the order still waits for one of its locks. What comes out is exactly what one turn after the other
gives, in a handful of array operations: with 64 agents on a 64 x 64 map in one or two rounds, in a crowd in three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.world.state.compiled_config import NUM_KINDS
from metta.world.state.worlds import Worlds

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input moves half of the output's."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def drawn_keys(worlds: Worlds, rows: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.uint64]:
    """By what agents are put in order in step number `steps [worlds]` of their worlds' episodes.

    Number `step * agents + agent` of the SplitMix64 stream that this episode of this world has for its own. Sorting by
    independent random numbers is a uniformly random permutation.
    """
    world, agent = np.divmod(rows, worlds.num_agents)
    number = (steps[world] * worlds.num_agents + agent).astype(np.uint64)
    return mix(worlds.turn_stream[world] + number * GOLDEN)


def next_order(worlds: Worlds) -> NDArray[np.int64]:
    """The agent at each place of the order in which each world will take its next turns. `[worlds, agents]`"""
    keys = drawn_keys(worlds, worlds.everyone, worlds.steps + 1)
    return keys.reshape(worlds.num_worlds, worlds.num_agents).argsort(axis=1, kind="stable")


class Turn:
    """What every agent does in this step. Arrays are `[agents]`."""

    def __init__(self, worlds: Worlds, actions: NDArray[np.int64], order: NDArray[np.integer[Any]] | None):
        compiled = worlds.compiled
        self._worlds = worlds
        self.action, self.argument = actions.T
        # seen as unsigned, negative numbers are too large like others
        self.known_action, argument = np.minimum(actions.view(np.uint64), compiled.too_large).view(np.int64).T
        pair = self.known_action * (compiled.most_arguments + 1)
        pair += argument
        self.action_row = self.known_action  # in the tables of actions; means nothing where the id is unknown
        if len(compiled.configs) > 1:
            ruleset = worlds.ruleset.repeat(worlds.num_agents)
            pair += ruleset * compiled.kind_of_pair[0].size
            self.action_row = self.known_action + ruleset * compiled.num_actions
        self.kind: NDArray[np.uint8] = compiled.kind_of_pair.ravel().take(pair)
        self.thawed = np.zeros(worlds.agents, np.bool_)  # the freeze ran out on this turn
        self._place: NDArray[np.uint64] | None = None if order is None else self._places(order)

    def _places(self, order: NDArray[np.integer[Any]]) -> NDArray[np.uint64]:
        order = order.reshape(self._worlds.num_worlds, self._worlds.num_agents).astype(np.int64)
        places = np.empty(order.shape, np.uint64)
        np.put_along_axis(places, order, np.arange(order.shape[1], dtype=np.uint64)[None, :], axis=1)
        return places.ravel()

    def key(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """A number per agent by which the agents of a world take their turns, lowest first.

        Only the few agents in each other's way ever have theirs computed.
        """
        return drawn_keys(self._worlds, rows, self._worlds.steps) if self._place is None else self._place[rows]

    def rows_of(self, kinds: tuple[int, int]) -> NDArray[np.int64]:
        """Agents whose turn is of one of the kinds from the first to the last given."""
        first, last = kinds
        return ((self.kind >= first) & (self.kind <= last)).nonzero()[0]


class ByKind:
    """Some agents sorted by kind, so that those of a kind, or of several in a row, are a slice."""

    def __init__(self, turn: Turn, rows: NDArray[np.int64]):
        kind = turn.kind[rows]
        self._rows = rows[kind.argsort(kind="stable")]  # one byte each: a radix sort
        self._ends: list[int] = [0, *np.bincount(kind, minlength=NUM_KINDS).cumsum().tolist()]

    def __getitem__(self, kinds: int | tuple[int, int]) -> NDArray[np.int64]:
        first, last = kinds if isinstance(kinds, tuple) else (kinds, kinds)
        return self._rows[self._ends[first] : self._ends[last + 1]]


def conflict_free_batches(
    worlds: Worlds, turn: Turn, rows: NDArray[np.int64], locks: Sequence[NDArray[np.int64]]
) -> Iterator[NDArray[np.int64]]:
    """Positions in `rows` of the turns to take at once, round by round.

    Each of `locks` gives every turn a number, such as a cell; a turn may name the same one twice. Numbers are folded
    into a table that stays in the cache: two that fall together are a needless wait, never a wrong result.
    """
    everyone = worlds.everyone[: len(rows)]
    if len(rows) < 2:
        yield everyone
        return
    holder = worlds.lock_holder
    wanted = np.concatenate(locks) & (len(holder) - 1)
    wants = np.concatenate([everyone] * len(locks))
    holder[wanted] = wants
    last = holder[wanted]  # the last turn to name it
    beaten = (last != wants).nonzero()[0]
    if not beaten.size:
        yield everyone
        return
    contested = np.zeros(len(rows), np.bool_)
    contested[wants[beaten]] = True
    contested[last[beaten]] = True
    pending = contested.nonzero()[0]
    wanted = wanted.reshape(len(locks), -1)
    free = (~contested).nonzero()[0]
    pending = pending[turn.key(rows[pending]).argsort(kind="stable")]
    while pending.size:
        # written from the last turn to the first, so that each lock ends up with the first who wants it
        backwards = pending[::-1]
        theirs = wanted[:, backwards]
        holder[theirs.T.ravel()] = backwards.repeat(len(locks))
        ready = (holder[theirs] == backwards).all(axis=0)[::-1]
        yield np.concatenate([free, pending[ready]]) if free.size else pending[ready]
        free, pending = free[:0], pending[~ready]
