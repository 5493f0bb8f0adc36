"""Map builders over a floor: whatever is asked for, everything is there, within reach where it has to be."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from metta.config.env import EnvConfig
from metta.config.layouts import MazeConfig, TerrainConfig
from metta.config.map_builder import MapBuilderConfig
from metta.errors import MapError
from metta.world.floors import draw_floor
from metta.world.maps import build_map
from metta.world.reach import _joints, connected_places, largest_piece

OBJECTS = {"altar": 3, "mine_red": 4, "wall": 2}

kinds = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("Maze"),
            "algorithm": st.sampled_from(["kruskal", "backtracker"]),
            "corridor_width": st.integers(1, 3),
            "loops": st.sampled_from([0.0, 0.2, 1.0]),
        }
    ),
    st.fixed_dictionaries({"type": st.just("Caves"), "fill": st.floats(0, 0.45), "rounds": st.integers(0, 5)}),
    st.fixed_dictionaries(
        {"type": st.just("Dungeon"), "min_room": st.integers(1, 8), "corridor_width": st.integers(1, 3)}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("Terrain"),
            "obstacles": st.sampled_from(["walls", "blocks", "crosses", "labyrinths"]),
            "size": st.integers(1, 6),
            "density": st.floats(0, 0.3),
        }
    ),
    st.just({"type": "Random"}),
)


def world(builder: dict[str, Any], rows: int = 20, cols: int = 24, agents: int = 4) -> EnvConfig:
    game = {"num_agents": agents, "width": cols, "height": rows}
    return EnvConfig.model_validate({"game": game, "map_builder": {"objects": OBJECTS, "border_width": 1} | builder})


def draw(config: EnvConfig, seed: int = 0) -> np.ndarray:
    return build_map(config, np.random.default_rng(seed))


def reachable(cells: np.ndarray) -> np.ndarray:
    """The cells that the first agent can walk to, cell by cell: slow, and sure."""
    seen = np.zeros(cells.shape, np.bool_)
    edge = [tuple(place) for place in np.argwhere(cells < 0)[:1].tolist()]
    while edge:
        row, col = edge.pop()
        if 0 <= row < cells.shape[0] and 0 <= col < cells.shape[1] and cells[row, col] <= 0 and not seen[row, col]:
            seen[row, col] = True
            edge += [(row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)]
    return seen


@settings(max_examples=60, deadline=None)
@given(kinds, st.booleans(), st.integers(1, 2), st.integers(18, 30), st.integers(18, 30), st.integers(0, 2**32))
def test_everything_is_there_and_within_reach(
    kind: dict[str, Any], connected: bool, border: int, rows: int, cols: int, seed: int
) -> None:
    config = world(kind | {"connected": connected, "border_width": border}, rows, cols)
    cells = draw(config, seed)
    assert np.array_equal(cells, draw(config, seed))
    assert cells.shape == (rows, cols)
    wall = config.object_types["wall"].type_id
    for side in (cells[:border], cells[-border:], cells[:, :border], cells[:, -border:]):
        assert (side == wall).all()
    counts = Counter(cells.ravel().tolist())
    for name, count in OBJECTS.items():
        if name != "wall":
            assert counts[config.object_types[name].type_id] == count
    assert (cells < 0).sum() == 4
    if connected:
        seen = reachable(cells)
        assert (seen == (cells <= 0)).all()
        beside = np.pad(seen, 1)
        near = beside[:-2, 1:-1] | beside[2:, 1:-1] | beside[1:-1, :-2] | beside[1:-1, 2:]
        assert near[(cells > 0) & (cells != wall)].all()


@pytest.mark.parametrize("algorithm", ["kruskal", "backtracker"])
@pytest.mark.parametrize("corridor_width", [1, 2])
def test_a_maze_is_a_spanning_tree(algorithm: str, corridor_width: int) -> None:
    builder = MazeConfig.model_validate(
        {"type": "Maze", "algorithm": algorithm, "corridor_width": corridor_width, "width": 23, "height": 17}
        | {"border_width": 0}
    )
    floor = draw_floor(builder, (17, 23), np.random.default_rng(0))
    assert floor.sum() == builder.least_floor
    assert (largest_piece(floor) == floor).all()
    opened = draw_floor(builder.model_copy(update={"loops": 1.0}), (17, 23), np.random.default_rng(0))
    rows, cols = builder.crossings
    assert opened.sum() == rows * cols * corridor_width**2 + (2 * rows * cols - rows - cols) * corridor_width


def test_terrain_is_covered_as_densely_as_asked() -> None:
    for obstacles in ("walls", "blocks", "crosses", "labyrinths"):
        for density in (0.0, 0.1, 0.15):
            builder = TerrainConfig.model_validate({"type": "Terrain", "obstacles": obstacles, "density": density})
            floor = draw_floor(builder, (60, 60), np.random.default_rng(1))
            assert density - 0.001 <= 1 - floor.mean() <= density + 0.01, obstacles


def test_each_setting_changes_the_floor() -> None:
    for kind, others in {
        "Maze": {"algorithm": "backtracker", "corridor_width": 2, "loops": 0.5},
        "Caves": {"fill": 0.3, "rounds": 1},
        "Dungeon": {"min_room": 2, "corridor_width": 2},
        "Terrain": {"obstacles": "blocks", "density": 0.2},
    }.items():
        plain = draw(world({"type": kind}))
        for name, value in others.items():
            assert not np.array_equal(draw(world({"type": kind, name: value})), plain), name
    crosses = [draw(world({"type": "Terrain", "obstacles": "crosses", "size": size})) for size in (3, 5)]
    assert not np.array_equal(*crosses)


def test_the_largest_piece_is_found() -> None:
    floor = np.array([[1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 1, 1]], np.bool_)
    assert largest_piece(floor).tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1]]


def test_objects_never_cut_a_corridor() -> None:
    """Only the two ends of a straight corridor can hold an object."""
    floor = np.ones((1, 9), np.bool_)
    for seed in range(20):
        things = np.array([5, -1, -1], np.int16)
        places = connected_places(floor.copy(), things, np.random.default_rng(seed))
        assert places is not None
        assert places[0] in (0, 8)


def test_objects_between_pillars_fit_where_ways_lead_around_them() -> None:
    """Every place and passage of a maze without walls has a way around it, longer than the eight cells beside it."""
    lattice = world({"type": "Maze", "loops": 1.0, "connected": True}, 18, 18)
    for seed in range(20):
        cells = draw(lattice, seed)
        assert (reachable(cells) == (cells <= 0)).all()


def test_the_joints_of_a_floor_are_the_cells_that_hold_it_together() -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        floor = largest_piece(generator.random((5, 7)) < 0.65)
        padded = np.pad(floor, 1)
        joints = _joints(bytearray(padded.tobytes()), padded.shape[1])
        for row, col in np.argwhere(padded).tolist():
            without = padded.copy()
            without[row, col] = False
            falls_apart = largest_piece(without).sum() < without.sum()
            assert ((row * padded.shape[1] + col) in joints) == falls_apart


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError, match="a maze of 4 x 4 places has 31 cells of floor"):
        world({"type": "Maze", "objects": {"altar": 40}}, 9, 9, 4)
    with pytest.raises(MapError, match=r'"Caves" of 18 x 22 cells was drawn 20 times, the last one with 0 cells'):
        draw(world({"type": "Caves", "fill": 1.0}))
    crowded = world({"connected": True, "objects": {"altar": 12}}, 6, 6)
    with pytest.raises(MapError, match="each within reach of every agent"):
        draw(crowded)


def test_open_floors_are_drawn_as_before_unless_they_must_be_connected() -> None:
    builder = MapBuilderConfig(width=9, height=9, agents=1)
    assert builder.connected is False
    assert not np.array_equal(draw(world({"type": "Random"})), draw(world({"type": "Random", "connected": True})))
