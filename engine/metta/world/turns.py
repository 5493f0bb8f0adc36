"""Whose turn it is: one random order per world and step, and how turns run at once without changing the outcome.

The rule is one agent after the other. Two turns can be taken at once when neither touches anything the other does, so
each turn names what it touches ("locks": cells, agents, converters), and turns run in rounds: a turn is ready when
nobody before it in the order still waits for one of its locks. What comes out is exactly what one turn after the other
gives, in a handful of array operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.world.rules import Kind
from metta.world.state import Worlds

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input moves half of the output's."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class Turn:
    """What every agent wants to do in this step."""

    def __init__(self, worlds: Worlds, actions: NDArray[np.int64], order: NDArray[np.integer[Any]] | None):
        rules = worlds.rules
        self._worlds = worlds
        self.action, self.argument = np.ascontiguousarray(actions.T)
        self.known = (self.action >= 0) & (self.action < rules.num_actions)
        action = np.where(self.known, self.action, 0)
        self.action_row = worlds.ruleset[worlds.world] * rules.num_actions + action
        self.kind = rules.actions.kind[self.action_row]
        self.valid = self.known & (self.argument >= 0) & (self.argument <= rules.actions.max_argument[self.action_row])
        self.acted = np.zeros(worlds.agents, np.bool_)  # tried a valid action while not frozen
        self.thawed = np.zeros(worlds.agents, np.bool_)  # the freeze ran out on this turn
        self.place: NDArray[np.int64] | None = None  # [agents], place in a given order
        if order is not None:
            order = order.reshape(worlds.num_worlds, worlds.num_agents)
            place = np.empty_like(order, np.int64)
            np.put_along_axis(place, order.astype(np.int64), np.arange(worlds.num_agents)[None, :], axis=1)
            self.place = place.ravel()

    def key(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """A number per agent by which the agents of a world take their turns, lowest first.

        A hash of (seed, world, episode, step, agent): sorting by independent random keys is a uniformly random
        permutation, and only the few agents in each other's way ever have theirs computed.
        """
        if self.place is not None:
            return self.place[rows].astype(np.uint64)
        worlds = self._worlds
        world, agent = worlds.world[rows], (rows % worlds.num_agents).astype(np.uint64)
        step_key = mix(worlds.turn_stream[world] + worlds.steps[world].astype(np.uint64) * GOLDEN)
        return mix(step_key + (agent + np.uint64(1)) * GOLDEN)

    @property
    def attacks(self) -> NDArray[np.bool_]:
        """Who attacks in this step, valid argument or not."""
        attacks: NDArray[np.bool_] = self.known & (self.kind >= Kind.ATTACK)
        return attacks


def rounds(
    worlds: Worlds, turn: Turn, rows: NDArray[np.int64], locks: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Positions in `rows` of the turns to take at once, round by round.

    `locks [rows, locks]` are numbers below the number of cells; a turn that needs fewer names one of its own twice.
    """
    everyone = np.arange(len(rows))
    holder = worlds.lock_holder
    for column in locks.T:
        holder[column] = everyone
    beaten = holder[locks] != everyone[:, None]
    if not beaten.any():
        yield everyone
        return
    contested = beaten.any(axis=1)
    contested[holder[locks][beaten]] = True
    pending = np.flatnonzero(contested)
    pending = pending[np.argsort(turn.key(rows[pending]), kind="stable")]
    free = np.flatnonzero(~contested)
    while pending.size:
        # written from the last turn to the first, so that each lock ends up with the first who wants it
        backwards = pending[::-1]
        holder[locks[backwards].ravel()] = np.repeat(backwards, locks.shape[1])
        ready = (holder[locks[pending]] == pending[:, None]).all(axis=1)
        yield np.concatenate([free, pending[ready]]) if free.size else pending[ready]
        free, pending = free[:0], pending[~ready]
