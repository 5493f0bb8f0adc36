"""The flood fill on bitboards equals a plain search, cell by cell, on random boards of both word sizes."""

from __future__ import annotations

import numpy as np
import pytest

from metta.baselines.timed_flood import NO_ARRIVAL, timed_flood
from metta.geometry import COL_STEPS, ROW_STEPS

LAST_START = 40


def plain_flood(sources, delays, free, row, col):
    """The same for one agent, whose boards are arrays `[sources, rows, cols]` and `[rows, cols]` of bool."""
    rows, cols = free.shape
    flooded = np.zeros_like(free)
    for time in range(NO_ARRIVAL):
        for board, delay in zip(sources, delays, strict=True):
            if delay == time:
                flooded |= board
        around = [flooded[(row + i) % rows, (col + j) % cols] for i, j in zip(ROW_STEPS, COL_STEPS, strict=True)]
        if any(around) or flooded[row, col]:
            return around, time
        spread = flooded.copy()
        for i, j in zip(ROW_STEPS, COL_STEPS, strict=True):
            spread |= np.roll(flooded, (i, j), (0, 1))
        before, flooded = flooded, flooded | (spread & free)
        if time > LAST_START and (before == flooded).all():
            break
    return [False] * 4, NO_ARRIVAL


@pytest.mark.parametrize(("dtype", "rows", "agents"), [(np.uint32, 16, 90), (np.uint64, 64, 20)])
def test_the_flood_equals_a_plain_search(dtype, rows, agents):
    rng = np.random.default_rng(rows)
    cols = 8 * np.dtype(dtype).itemsize
    free = rng.random((agents, rows, cols)) < rng.choice([0.4, 0.6, 0.8], agents)[:, None, None]
    sources = rng.random((agents, 4, rows, cols)) < rng.choice([0, 0.002, 0.02], (agents, 4))[:, :, None, None]
    delays = np.where(rng.random((agents, 4)) < 0.2, NO_ARRIVAL, rng.integers(0, LAST_START + 1, (agents, 4)))
    row, col = rng.integers(0, rows, agents), rng.integers(0, cols, agents)
    sources[np.arange(agents), :, row, col] = False

    def words(cells):
        return (cells * np.left_shift(np.ones(1, dtype), np.arange(cols, dtype=dtype))).sum(axis=-1, dtype=dtype)

    directions, arrival = timed_flood(
        words(sources).transpose(1, 2, 0), delays.T, words(free).T, row + rows * rng.integers(-2, 3, agents), col - cols
    )
    expected = [plain_flood(*each) for each in zip(sources, delays, free, row, col, strict=True)]
    assert len({time for _, time in expected}) > 10
    assert any(time == NO_ARRIVAL for _, time in expected)
    assert arrival.tolist() == [time for _, time in expected]
    assert directions.tolist() == [around for around, _ in expected]
