"""Pictures of a world: sizes, what is drawn in each cell, and the outline of an observation window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metta.config.env.env_config import EnvConfig
from metta.geometry import STEPS
from metta.world.env import MettaGridEnv
from metta.world.picture import BLOCK, FLOOR, FROZEN, FROZEN_EDGE, GROUP_COLORS, OBJECT_COLORS, WALL, WHITE, rgb

BUSY_MINE = 0xAE5A42
"""The color of a red mine, darkened."""


def drawn(*rows: str, **game: Any) -> MettaGridEnv:
    groups = {"red": {"id": 0}, "blue": {"id": 1}}
    legend = {"1": "agent.red", "2": "agent.blue"}
    config = {
        "game": {"groups": groups, "observation_width": 3, "observation_height": 3, **game},
        "map_builder": {"type": "Ascii", "map": "\n".join(rows), "legend": legend},
    }
    env = MettaGridEnv(EnvConfig.model_validate(config), seed=0)
    env.reset()
    return env


def cell(picture: np.ndarray, row: int, col: int, size: int = 24) -> np.ndarray:
    return picture[row * size : (row + 1) * size, col * size : (col + 1) * size]


def has(part: np.ndarray, color: int) -> bool:
    return bool((part == rgb(color)).all(axis=-1).any())


def test_each_kind_of_cell_has_its_colors() -> None:
    env = drawn("1.#b", "rR_2")
    picture = env.render_rgb()
    assert (picture.shape, picture.dtype) == ((48, 96, 3), np.uint8)
    altar = OBJECT_COLORS[env.spec.object_type_names.index("altar") % len(OBJECT_COLORS)]
    expected = [[GROUP_COLORS[0], FLOOR, WALL, BLOCK], [BUSY_MINE, OBJECT_COLORS[0], altar, GROUP_COLORS[1]]]
    for row, colors in enumerate(expected):
        for col, color in enumerate(colors):
            assert has(cell(picture, row, col), color), (row, col)
    assert (cell(picture, 0, 1) == rgb(FLOOR)).all()
    shapes = [(cell(picture, 1, col) != rgb(FLOOR)).any(axis=-1) for col in range(3)]
    assert len({shape.tobytes() for shape in shapes}) == 3


@pytest.mark.parametrize("orientation", range(4))
def test_an_agent_has_a_tip_on_the_side_that_it_faces(orientation: int) -> None:
    env = drawn("...", ".1.", "...")
    env.step(np.array([[2, orientation]]))
    assert env.orientations.tolist() == [orientation]
    sprite = cell(env.render_rgb(), 1, 1)
    sides = {(-1, 0): sprite[0, 10:14], (1, 0): sprite[-1, 10:14], (0, -1): sprite[10:14, 0], (0, 1): sprite[10:14, -1]}
    assert [side for side, edge in sides.items() if has(edge, WHITE)] == [STEPS[orientation]]


def test_frozen_agents_have_a_blue_ring() -> None:
    actions = [{"type": "noop", "key": "noop"}, {"type": "attack", "key": "attack"}]
    config = drawn("..2", "..1").config.override(actions=actions)
    env = MettaGridEnv(config, seed=0)
    env.reset()
    assert not has(env.render_rgb(), FROZEN)
    for argument in range(1, 10):
        env.step(np.array([[0, 0], [1, argument]]))
    assert env.freeze_counters[0]
    sprite = cell(env.render_rgb(), 0, 2)
    assert has(sprite, FROZEN)
    assert has(sprite, FROZEN_EDGE)


def test_converters_show_whether_they_work_and_hold_an_output() -> None:
    """A mine that an agent empties in every fourth step, then no more, until it is full."""
    quick = {"type": "mine", "name": "mine_red", "cooldown": 2, "initial_items": 0}
    env = MettaGridEnv(drawn("r", "1").config.override(objects=[quick]), seed=0)
    env.reset()
    seen = set()
    for step in range(60):
        picture, state = cell(env.render_rgb(), 0, 0), env.converters()
        is_busy, is_ready = bool(state["is_busy"][0]), bool(state["inventory"].any())
        assert (has(picture, BUSY_MINE), has(picture, OBJECT_COLORS[0])) == (is_busy, not is_busy)
        assert has(picture, WHITE) == is_ready
        seen.add((is_busy, is_ready))
        takes = step < 30 and step % 4 == 0
        env.step(np.array([[env.spec.action_names.index("get_output" if takes else "noop"), 0]]))
    assert seen == {(True, False), (True, True), (False, True)}


def test_the_window_of_an_agent_is_outlined() -> None:
    env = drawn("....", ".1..", "....", "...2")
    plain, outlined, at_the_edge = (env.render_rgb(0, agent) for agent in (None, 0, 1))
    rows, cols = (outlined != plain).any(axis=-1).nonzero()
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (0, 71, 0, 71)
    assert (outlined[:72, 71] == 255).all()
    rows, cols = (at_the_edge != plain).any(axis=-1).nonzero()
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (48, 95, 48, 95)


def test_pictures_of_all_tasks_have_the_size_of_the_largest_map() -> None:
    small = EnvConfig.model_validate(
        {"game": {"num_agents": 1, "width": 5, "height": 6}, "map_builder": {"objects": {}}}
    )
    env = MettaGridEnv([small, small.override(width=200, height=8)], 8, seed=1)
    env.reset()
    assert set(env.tasks.tolist()) == {0, 1}
    pictures = [env.render_rgb(world) for world in range(8)]
    assert {picture.shape for picture in pictures} == {(32, 800, 3)}
    beyond = pictures[env.tasks.tolist().index(0)][:, 20:]
    assert not beyond.any()
