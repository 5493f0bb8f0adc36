"""Flood fill on bitboards from sources with different start times: which direction reaches each agent first."""

from __future__ import annotations

from typing import Final

import numpy as np

from metta.baselines.bitboards import COL_STEPS, ROW_STEPS, SIDE, Integers, Mask, Words, cell_at, shift_columns

NO_ARRIVAL: Final = 1_000
"""Delay in steps of a source that is not used, and arrival time if no flood arrives; longer than any flood."""


def timed_flood(sources: Words, delays: Integers, free: Words, row: Integers, col: Integers) -> tuple[Mask, Integers]:
    """The directions from which the first flood reaches each agent, `[agents, 4] bool`, and when, `[agents]` in steps.

    Each source, a board of `sources [agents, sources, 64]`, starts to flood after `delays [agents, sources]` steps and
    spreads by one cell per step over the cells `free [agents, 64]`. Agents are at `row [agents]`, `col [agents]`. If no
    flood arrives, no direction is set and the time is NO_ARRIVAL.
    """
    agents = len(row)
    directions, arrival = np.zeros((agents, 4), bool), np.full(agents, NO_ARRIVAL)
    is_used = sources.any(axis=2) & (delays < NO_ARRIVAL)
    first = np.where(is_used, delays, NO_ARRIVAL).min(axis=1)
    delays = np.where(is_used, delays - first[:, None], NO_ARRIVAL)
    start_times = set(delays.ravel().tolist())
    active = np.nonzero(first < NO_ARRIVAL)[0]
    agent_row, agent_bit = row & (SIDE - 1), np.uint64(1) << (col & (SIDE - 1)).astype(np.uint64)
    flooded = np.zeros((len(active), SIDE), np.uint64)
    last = delays[active].max(axis=1, where=is_used[active], initial=0)
    time = 0
    while active.size:
        if time in start_times:
            for agent, source in zip(*np.nonzero(delays[active] == time), strict=True):
                flooded[agent] |= sources[active[agent], source]
        spread = _spread(flooded)
        has_arrived = (spread[np.arange(len(active)), agent_row[active]] & agent_bit[active]) != 0
        done = active[has_arrived]
        for direction in range(4):
            directions[done, direction] = cell_at(
                flooded[has_arrived], row[done] + ROW_STEPS[direction], col[done] + COL_STEPS[direction]
            )
        arrival[done] = time + first[done]
        after = flooded | (spread & free[active])
        continues = ~has_arrived & ((last > time) | (after != flooded).any(axis=1))
        active, flooded, last = active[continues], after[continues], last[continues]
        time += 1
    return directions, arrival


def _spread(boards: Words) -> Words:
    """The boards with the four neighbors of every set cell also set."""
    spread = boards | shift_columns(boards, 1) | shift_columns(boards, -1)
    spread[:, 1:] |= boards[:, :-1]
    spread[:, :-1] |= boards[:, 1:]
    spread[:, 0] |= boards[:, -1]
    spread[:, -1] |= boards[:, 0]
    return spread
