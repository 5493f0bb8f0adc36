"""Block tracking: maps before and after a step, and the block that each new position belongs to."""

from __future__ import annotations

import numpy as np

from metta.config.env.env_config import EnvConfig
from metta.replay.block_tracking import BlockTracker

CONFIG = EnvConfig.model_validate(
    {"objects": [{"type": "wall", "name": "stone", "type_id": 20, "swappable": True}], "map_builder": {"objects": {}}}
)
CODES = {".": 0, "#": 1, "b": 14, "s": 20, "@": -1}


def cells(*rows: str) -> np.ndarray:
    return np.array([[CODES[glyph] for glyph in row] for row in rows], np.int16)


def test_only_swappable_walls_are_tracked() -> None:
    tracker = BlockTracker(CONFIG, cells("#b@", "s#b"))
    assert tracker.positions.tolist() == [[0, 1], [1, 0], [1, 2]]


def test_each_block_moves_to_the_nearest_new_cell() -> None:
    tracker = BlockTracker(CONFIG, cells("b@..b@..", "........"))
    tracker.update(cells("@b..@b..", "........"))
    assert tracker.positions.tolist() == [[0, 1], [0, 5]]
    tracker.update(cells("....b...", ".b......"))
    assert tracker.positions.tolist() == [[1, 1], [0, 4]]


def test_the_closest_pair_is_matched_first() -> None:
    """The first block could go to either place; the second has a place beside it, which is its own."""
    tracker = BlockTracker(CONFIG, cells("b..b.", "....."))
    tracker.update(cells("..b..", "..b.."))
    assert tracker.positions.tolist() == [[1, 2], [0, 2]]


def test_types_are_tracked_separately() -> None:
    tracker = BlockTracker(CONFIG, cells("bs.."))
    tracker.update(cells("sb.."))
    assert tracker.positions.tolist() == [[0, 1], [0, 0]]


def test_a_cell_left_by_one_block_and_taken_by_another_keeps_its_block() -> None:
    """Nobody can tell whether the left block moved past the right one or both moved on."""
    tracker = BlockTracker(CONFIG, cells("bb."))
    tracker.update(cells(".bb"))
    assert tracker.positions.tolist() == [[0, 2], [0, 1]]


def test_a_map_without_blocks() -> None:
    assert BlockTracker(CONFIG, cells("#@")).positions.shape == (0, 2)
