"""Turn order: a random order of agents per world and step, and batches of turns that can be executed at once.

Agents act one after the other. Turns can be executed at once if they have no lock in common; the locks of a turn are
the cells, agents or converters that it reads or changes. A turn is ready when no earlier pending turn has one of its
locks. The result is exactly that of sequential execution, with few array operations: 64 agents on a 64 x 64 map need
one or two batches, on a crowded map three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from metta.random_streams import SPLITMIX64_STEP, splitmix64
from metta.world.state.compiled_config import ATTACK_PHASE, NUM_KINDS
from metta.world.state.worlds import Worlds

FIRST_IN_ATTACK_PHASE = np.array(ATTACK_PHASE[0], np.uint8)
KINDS_IN_ATTACK_PHASE = np.array(ATTACK_PHASE[1] - ATTACK_PHASE[0] + 1, np.uint8)


def order_keys(worlds: Worlds, rows: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Random sort keys of agents `rows` in step `steps [worlds]` of their episodes. `[rows] uint64`

    Sorting by them gives a uniformly random permutation. A key is output number `step * num_agents + agent` of the
    SplitMix64 generator of the episode.
    """
    world, agent = np.divmod(rows, worlds.num_agents)
    number = (steps[world] * worlds.num_agents + agent).astype(np.uint64)
    return splitmix64(worlds.turn_stream[world] + number * SPLITMIX64_STEP)


def next_order(worlds: Worlds) -> NDArray[np.int64]:
    """The turn order of the next step: agent indices within each world. `[worlds, agents of a world] int64`"""
    keys = order_keys(worlds, worlds.all_agents, worlds.steps + 1)
    return keys.reshape(worlds.num_worlds, worlds.num_agents).argsort(axis=1, kind="stable")


class Turns:
    """The turns of all agents in one step. Arrays are `[agents]`."""

    def __init__(self, worlds: Worlds, actions: NDArray[np.int64], order: NDArray[np.int64] | None):
        compiled = worlds.compiled
        self._worlds = worlds
        self.action, self.argument = actions[:, 0], actions[:, 1]
        # viewed as unsigned, negative numbers are large, so that one comparison finds all invalid numbers
        known = np.minimum(actions.view(np.uint64), compiled.first_invalid).view(np.int64)
        self.known_action = known[:, 0]
        kind_index = self.known_action * compiled.kinds_of_action
        kind_index += known[:, 1]
        self.action_row = self.known_action  # row of ActionTables; arbitrary where the action id is unknown
        if len(compiled.configs) > 1:
            ruleset = worlds.ruleset.repeat(worlds.num_agents)
            kind_index += ruleset * compiled.kinds_of_ruleset
            self.action_row = self.known_action + ruleset * compiled.num_actions
        self.kind: NDArray[np.uint8] = compiled.flat_kinds.take(kind_index)
        self.thawed = np.zeros(worlds.agents, np.bool_)  # the freeze counter reached 0 in this phase
        self._position: NDArray[np.uint64] | None = None if order is None else self._positions(order)

    def _positions(self, order: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The position of each agent in a given turn order, `[worlds, agents of a world]`. `[agents] uint64`"""
        positions = np.empty(order.shape, np.uint64)
        np.put_along_axis(positions, order, np.arange(order.shape[1], dtype=np.uint64)[None, :], axis=1)
        return positions.ravel()

    def order_key(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Sort keys of agents `rows`; the agents of a world act in ascending order of their keys. `[rows] uint64`"""
        # computed on demand, since only the few agents whose turns conflict need them
        return order_keys(self._worlds, rows, self._worlds.steps) if self._position is None else self._position[rows]

    def in_attack_phase(self) -> NDArray[np.int64]:
        """Rows of the agents with a turn in the attack phase."""
        # unsigned: kinds before the first one become large
        return ((self.kind - FIRST_IN_ATTACK_PHASE) < KINDS_IN_ATTACK_PHASE).nonzero()[0]


class RowsByKind:
    """Rows of agents by turn kind: `rows_by_kind[first, last]` for an inclusive range of kinds."""

    def __init__(self, turns: Turns, rows: NDArray[np.int64]):
        is_everyone = len(rows) == len(turns.kind)
        kind = turns.kind if is_everyone else turns.kind[rows]
        order = kind.argsort(kind="stable")  # for uint8 this is a radix sort
        self._rows = order if is_everyone else rows[order]
        self._ends = list(accumulate(np.bincount(kind, minlength=NUM_KINDS).tolist(), initial=0))

    def __getitem__(self, kinds: tuple[int, int]) -> NDArray[np.int64]:
        return self._rows[self._ends[kinds[0]] : self._ends[kinds[1] + 1]]


def conflict_free_batches(
    worlds: Worlds, turns: Turns, rows: NDArray[np.int64], locks: Sequence[NDArray[np.int64]]
) -> Iterator[NDArray[np.int64]]:
    """Yield batches of turns to execute at once, as positions in `rows`.

    Each array of `locks` has one integer per turn, such as a cell index; a turn may have the same lock twice. Locks are
    taken modulo the size of a hash table that fits in the cache: a collision delays a turn without changing the result.
    """
    every_turn = worlds.all_agents[: len(rows)]
    if len(rows) < 2:
        yield every_turn
        return
    holder = worlds.lock_holder
    lock = np.concatenate(locks) & (len(holder) - 1)
    turn_of_lock = np.concatenate([every_turn] * len(locks))
    holder[lock] = turn_of_lock
    last = holder[lock]  # the last turn that has the lock
    shared = (last != turn_of_lock).nonzero()[0]
    if not shared.size:
        yield every_turn
        return
    is_contested = np.zeros(len(rows), np.bool_)
    is_contested[turn_of_lock[shared]] = True
    is_contested[last[shared]] = True
    pending = is_contested.nonzero()[0]
    lock = lock.reshape(len(locks), -1)
    free = (~is_contested).nonzero()[0]
    pending = pending[turns.order_key(rows[pending]).argsort(kind="stable")]
    while pending.size:
        # written from the last turn to the first: the first turn that has a lock overwrites the others
        backwards = pending[::-1]
        pending_locks = lock[:, backwards]
        holder[pending_locks.T.ravel()] = backwards.repeat(len(locks))
        ready = (holder[pending_locks] == backwards).all(axis=0)[::-1]
        yield np.concatenate([free, pending[ready]]) if free.size else pending[ready]
        free, pending = free[:0], pending[~ready]
