"""Flood fill on bitboards from sources with different start times: which direction reaches each agent first."""

from __future__ import annotations

from typing import Final

import numpy as np

from metta.baselines.bitboards import COL_STEPS, ROW_STEPS, Integers, Mask, Words, column_bit, word_size

NO_ARRIVAL: Final = 1_000
"""Delay in steps of a source that is not used, and arrival time if no flood arrives; longer than any flood."""

FEW_AGENTS: Final = 512
"""With at most this many agents, calls cost more than arithmetic, and arrivals are looked for every BLOCK steps."""

BLOCK: Final = 4

COMPACT_BELOW: Final = 0.75
"""Agents whose flood has ended are removed from the arrays if less than this fraction remains."""


def timed_flood(sources: Words, delays: Integers, free: Words, row: Integers, col: Integers) -> tuple[Mask, Integers]:
    """The directions from which the first flood reaches each agent, `[agents, 4] bool`, and when, `[agents]` in steps.

    Each source, a board of `sources [sources, rows, agents]`, starts to flood after `delays [sources, agents]` steps
    and spreads by one cell per step over the cells `free [rows, agents]`. Agents are at `row [agents]`,
    `col [agents]`. If no flood arrives, no direction is set and the time is NO_ARRIVAL.
    """
    rows, agents = free.shape
    is_used = (np.bitwise_or.reduce(sources, axis=1) != 0) & (delays < NO_ARRIVAL)
    first = np.where(is_used, delays, NO_ARRIVAL).min(axis=0, initial=NO_ARRIVAL)
    delays = delays - first
    starts, last = _start_boards(sources, is_used, delays), np.where(is_used, delays, 0).max(axis=0, initial=0)
    row, bit = row % rows, column_bit(col, free.dtype)
    arrival, at_arrival = np.full(agents, NO_ARRIVAL), np.zeros((rows, agents), free.dtype)
    # agents that no flood has reached yet, and their boards, `[rows, active]`
    active = (first < NO_ARRIVAL).nonzero()[0]
    flooded, open_cells = np.zeros((rows, len(active)), free.dtype), free.take(active, axis=1)
    is_going, time = np.ones(len(active), bool), 0
    place = np.full(agents, -1)
    place[active] = np.arange(len(active))
    while active.size:
        steps = range(time, time + (BLOCK if active.size <= FEW_AGENTS else 1))
        before, reached, columns = [], [], np.arange(len(active))
        for time in steps:
            if time in starts:
                agent, boards = starts[time]
                is_active = place[agent] >= 0
                flooded[:, place[agent[is_active]]] |= boards[:, is_active]
            spread = _spread(flooded)
            before.append(flooded)
            reached.append(spread[row[active], columns])
            spread &= open_cells
            spread |= flooded
            flooded = spread
        has_reached = (np.stack(reached) & bit[active]) != 0
        arrived = (np.logical_or.reduce(has_reached, axis=0) & is_going).nonzero()[0]
        if arrived.size:
            done, step = active[arrived], has_reached[:, arrived].argmax(axis=0)
            for number, boards in enumerate(before):
                now = step == number
                at_arrival[:, done[now]] = boards[:, arrived[now]]
            arrival[done] = steps.start + step + first[done]
            is_going[arrived] = False
        time = steps.stop
        if len(steps) == BLOCK or time % BLOCK == 0:
            is_going &= (last[active] >= time) | (flooded != before[-1]).any(axis=0)
        going = np.count_nonzero(is_going)
        if going < COMPACT_BELOW * len(active):
            place[active] = -1
            active, flooded, open_cells = active[is_going], flooded[:, is_going], open_cells[:, is_going]
            place[active], is_going = np.arange(going), is_going[is_going]
    neighbor_rows, neighbor_cols = row[:, None] + ROW_STEPS, col[:, None] + COL_STEPS
    neighbors = at_arrival[neighbor_rows % rows, np.arange(agents)[:, None]]
    return np.asarray((neighbors & column_bit(neighbor_cols, free.dtype)) != 0), arrival


def _start_boards(sources: Words, is_used: Mask, delays: Integers) -> dict[int, tuple[Integers, Words]]:
    """Time -> the agents `[n]` at which floods start then, each once, and the cells where they start `[rows, n]`."""
    source, agent = is_used.nonzero()
    if not agent.size:
        return {}
    start = delays[source, agent]
    order = (start * is_used.shape[1] + agent).argsort()
    agent, source, start = agent[order], source[order], start[order]
    is_new = np.ones(len(agent), bool)
    is_new[1:] = (agent[1:] != agent[:-1]) | (start[1:] != start[:-1])
    first = is_new.nonzero()[0]
    # both axes of sources and agents as one, so that NumPy gathers whole rows
    in_row = source * np.int64(sources.shape[1] * sources.shape[2]) + agent
    row_starts = np.arange(sources.shape[1])[:, None] * sources.shape[2]
    boards = np.bitwise_or.reduceat(sources.ravel().take(row_starts + in_row), first, axis=1)
    agent, start = agent[first], start[first]
    begin = np.flatnonzero(np.diff(start, prepend=-1))
    ends = [*begin[1:].tolist(), len(start)]
    return {
        time: (agent[begin:end], boards[:, begin:end])
        for time, begin, end in zip(start[begin].tolist(), begin.tolist(), ends, strict=True)
    }


def _spread(boards: Words) -> Words:
    """`[rows, agents]`: the boards with the four neighbors of every set cell also set."""
    one, most = boards.dtype.type(1), boards.dtype.type(word_size(boards.dtype) - 1)
    spread: Words = boards << one
    shifted = boards >> one
    spread |= shifted
    spread |= np.left_shift(boards, most, out=shifted)
    spread |= np.right_shift(boards, most, out=shifted)
    spread |= boards
    spread[1:] |= boards[:-1]
    spread[:-1] |= boards[1:]
    spread[0] |= boards[-1]
    spread[-1] |= boards[0]
    return spread
