"""Directions by orientation and flood fill."""

import numpy as np
import pytest

from metta.geometry import (
    CLOCKWISE,
    COUNTERCLOCKWISE,
    DOWN,
    LEFT,
    RIGHT,
    STEPS,
    UP,
    flood_fill,
    framed_cell,
    neighbor_offsets,
)


def test_steps_by_orientation() -> None:
    assert (STEPS[UP], STEPS[DOWN], STEPS[LEFT], STEPS[RIGHT]) == ((-1, 0), (1, 0), (0, -1), (0, 1))
    assert neighbor_offsets(7) == tuple(row * 7 + col for row, col in STEPS)


def test_quarter_turns() -> None:
    assert [CLOCKWISE[orientation] for orientation in (UP, RIGHT, DOWN, LEFT)] == [RIGHT, DOWN, LEFT, UP]
    assert all(COUNTERCLOCKWISE[CLOCKWISE[orientation]] == orientation for orientation in range(4))


@pytest.mark.parametrize("seed", range(5))
def test_flood_fill_gives_the_shortest_distances(seed: int) -> None:
    rows, cols = 9, 13
    is_open = np.random.default_rng(seed).random((rows, cols)) < 0.6
    is_open[4, 6] = True
    framed = bytearray(np.pad(is_open, 1).tobytes())
    found = {}
    for distance, layer in enumerate(flood_fill(framed, framed_cell(4 * cols + 6, cols), cols + 2)):
        found |= dict.fromkeys(layer, distance)
    # Bellman-Ford on the whole grid
    distances = np.where(np.arange(rows * cols).reshape(rows, cols) == 4 * cols + 6, 0.0, np.inf)
    for _ in range(rows * cols):
        padded = np.pad(distances, 1, constant_values=np.inf)
        nearest = np.min([padded[1 + row : rows + 1 + row, 1 + col : cols + 1 + col] for row, col in STEPS], axis=0)
        distances = np.where(is_open, np.minimum(distances, nearest + 1), np.inf)
    expected = {
        framed_cell(int(cell), cols): int(distances.flat[cell]) for cell in np.flatnonzero(np.isfinite(distances))
    }
    assert found == expected
