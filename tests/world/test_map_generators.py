"""Map builders with generated floors: all entities are placed, and reachable where that is required."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from metta.config.env.env_config import EnvConfig
from metta.config.env.map_builder import MapBuilderConfig
from metta.config.env.map_generators import MazeConfig, TerrainConfig
from metta.config.self_play import agents_of_groups
from metta.errors import MapError
from metta.world.maps.build import build_map
from metta.world.maps.connectivity import _articulation_points, largest_component, place_connected
from metta.world.maps.generators import generate_floor

OBJECTS = {"altar": 3, "mine_red": 4, "wall": 2}

sizes = st.integers(1, 3)
kinds = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("Maze"),
            "algorithm": st.sampled_from(["kruskal", "backtracker"]),
            "corridor_width": st.one_of(sizes, st.just({"min": 1, "max": 2})),
            "loops": st.sampled_from([0.0, 0.2, 1.0, {"min": 0.0, "max": 0.5}]),
        }
    ),
    st.fixed_dictionaries({"type": st.just("Caves"), "fill": st.floats(0, 0.4), "rounds": st.integers(0, 5)}),
    st.fixed_dictionaries({"type": st.just("Dungeon"), "min_room": st.integers(1, 8), "corridor_width": sizes}),
    st.fixed_dictionaries(
        {
            "type": st.just("Terrain"),
            "obstacles": st.sampled_from(["walls", "blocks", "crosses", "rings", "labyrinths", "mixed"]),
            "size": st.integers(1, 7),
            "density": st.floats(0, 0.3),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("Radial"),
            "arms": st.one_of(st.integers(1, 9), st.just({"min": 2, "max": 5})),
            "arm_width": sizes,
            "arm_length": st.integers(0, 9),
            "hub": st.integers(2, 3),
            "turned": st.booleans(),
            "agents_at": st.sampled_from(["anywhere", "hub", "ends"]),
            "objects_at": st.sampled_from(["anywhere", "hub", "ends"]),
        }
    ),
    st.fixed_dictionaries({"type": st.just("Corridors"), "across": sizes, "down": sizes, "corridor_width": sizes}),
    st.just({"type": "Random"}),
)
distances = st.sampled_from([0.0, 0.0, 3.0, {"min": 2.0, "max": 30.0}])


def world(builder: dict[str, Any], rows: int = 20, cols: int = 24, agents: int = 4) -> EnvConfig:
    game = {"num_agents": agents, "width": cols, "height": rows}
    return EnvConfig.model_validate({"game": game, "map_builder": {"objects": OBJECTS, "border_width": 1} | builder})


def draw(config: EnvConfig, seed: int = 0) -> np.ndarray:
    return build_map(config, np.random.default_rng(seed))


def reachable(cells: np.ndarray) -> np.ndarray:
    """The cells that the first agent can reach, by a simple loop."""
    seen = np.zeros(cells.shape, np.bool_)
    edge = [tuple(place) for place in np.argwhere(cells < 0)[:1].tolist()]
    while edge:
        row, col = edge.pop()
        if 0 <= row < cells.shape[0] and 0 <= col < cells.shape[1] and cells[row, col] <= 0 and not seen[row, col]:
            seen[row, col] = True
            edge += [(row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)]
    return seen


def check(config: EnvConfig, cells: np.ndarray, expected: Counter[str], connected: bool) -> None:
    """All requested entities are there, reachable if `connected`, and nothing else but walls."""
    wall = config.object_types["wall"].type_id
    counts = Counter(cells.ravel().tolist())
    for name, count in expected.items():
        if name not in ("wall", "agent"):
            assert counts[config.object_types[name].type_id] == count
    assert (cells < 0).sum() == expected["agent"] == config.game.num_agents
    kinds_there = {config.object_types[name].type_id for name in expected if name != "agent"}
    assert {kind for kind in counts if kind > 0} <= kinds_there | {wall}
    for (name, count), group in zip(agents_of_groups(config).items(), range(9), strict=False):
        assert counts[-1 - group] == count, name
    if connected:
        seen = reachable(cells)
        assert (seen == (cells <= 0)).all()
        beside = np.pad(seen, 1)
        near = beside[:-2, 1:-1] | beside[2:, 1:-1] | beside[1:-1, :-2] | beside[1:-1, 2:]
        assert near[(cells > 0) & (cells != wall)].all()


def edges(cells: np.ndarray, thickness: int) -> list[np.ndarray]:
    return [cells[:thickness], cells[-thickness:], cells[:, :thickness], cells[:, -thickness:]] if thickness else []


@settings(max_examples=150, deadline=None)
@given(kinds, distances, st.booleans(), sizes, st.integers(18, 30), st.integers(18, 30), st.integers(0, 2**32))
def test_all_entities_are_placed_and_reachable(
    kind: dict[str, Any], distance: Any, connected: bool, border: int, rows: int, cols: int, seed: int
) -> None:
    # in narrow corridors only the ends can hold an object
    objects = {"altar": 2, "mine_red": 1} if kind["type"] == "Corridors" else OBJECTS
    settings = {"connected": connected, "border_width": border, "mean_distance": distance, "objects": objects}
    config = world(kind | settings, rows, cols)
    cells = draw(config, seed)
    assert np.array_equal(cells, draw(config, seed))
    assert cells.shape == (rows, cols)
    assert all((side == config.object_types["wall"].type_id).all() for side in edges(cells, border))
    check(config, cells, Counter(objects | {"agent": 4}), connected)


PART = {"width": 14, "height": 13, "agents": 2, "objects": {"altar": 2, "mine_red": 1}}
DRAWING = {"type": "Ascii", "map": "##.###\n#@._.#\n#b..@#\n##.###\n", "legend": {"b": "mine_red"}}

parts = st.one_of(
    st.builds(lambda kind, border: kind | PART | {"border_width": border}, kinds, st.integers(0, 1)),
    st.just(DRAWING),
    st.builds(
        lambda kinds, weights: {"type": "Choice", "builders": [kind | PART for kind in kinds], "weights": weights},
        st.lists(kinds, min_size=2, max_size=2),
        st.sampled_from([[], [1.0, 3.0]]),
    ),
)


def composites(inside: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    one_kind = {"room": inside, "rows": st.integers(1, 2), "cols": st.integers(1, 2)}
    walls = {"type": st.just("Rooms"), "border_width": st.integers(0, 2), "door_width": st.integers(1, 2)}
    mirrors = {
        "type": st.just("Mirrored"),
        "symmetry": st.sampled_from(["horizontal", "vertical", "both", "rotated"]),
        "border_width": st.integers(0, 2),
        "apart": st.booleans(),
        "builder": inside,
    }
    return st.one_of(
        st.fixed_dictionaries(walls | one_kind),
        st.fixed_dictionaries(walls | {"rooms": st.lists(inside, min_size=1, max_size=4)}),
        st.fixed_dictionaries(mirrors),
    )


def asked_for(builder: dict[str, Any]) -> Counter[str]:
    """Numbers of objects by name, and of agents, that a builder places."""
    match builder["type"]:
        case "Ascii":
            return Counter({"altar": 1, "mine_red": 1, "agent": 2})
        case "Choice":
            return asked_for(builder["builders"][0])
        case "Rooms":
            rooms = builder.get("rooms") or [builder["room"]] * (builder["rows"] * builder["cols"])
            return sum(map(asked_for, rooms), Counter())
        case "Mirrored":
            images = 4 if builder["symmetry"] == "both" else 2
            return Counter({name: images * count for name, count in asked_for(builder["builder"]).items()})
        case _:
            return Counter({**builder["objects"], "agent": builder["agents"]})


@settings(max_examples=200, deadline=None)
@given(composites(parts | composites(parts)), st.booleans(), st.integers(1, 3), st.integers(0, 2**32))
def test_combined_maps_hold_the_entities_of_their_parts(
    builder: dict[str, Any], connected: bool, groups: int, seed: int
) -> None:
    names = {name: {"id": index} for index, name in enumerate(("red", "blue", "green")[:groups])}
    config = EnvConfig.model_validate({"game": {"groups": names}, "map_builder": builder | {"connected": connected}})
    cells = draw(config, seed)
    assert np.array_equal(cells, draw(config, seed))
    assert cells.shape == (config.game.height, config.game.width)
    assert all((side == 1).all() for side in edges(cells, builder["border_width"]))
    check(config, cells, asked_for(builder), connected)


@pytest.mark.parametrize("algorithm", ["kruskal", "backtracker"])
@pytest.mark.parametrize("corridor_width", [1, 2])
def test_a_maze_is_a_spanning_tree(algorithm: str, corridor_width: int) -> None:
    builder = MazeConfig.model_validate(
        {"type": "Maze", "algorithm": algorithm, "corridor_width": corridor_width, "width": 23, "height": 17}
        | {"border_width": 0}
    )
    floor = generate_floor(builder, (17, 23), np.random.default_rng(0)).floor
    assert floor.sum() == builder.min_floor_cells
    assert (largest_component(floor) == floor).all()
    opened = generate_floor(builder.model_copy(update={"loops": 1.0}), (17, 23), np.random.default_rng(0)).floor
    rows, cols = builder.maze_shape
    assert opened.sum() == rows * cols * corridor_width**2 + (2 * rows * cols - rows - cols) * corridor_width


def test_terrain_has_the_requested_density() -> None:
    for obstacles in ("walls", "blocks", "crosses", "rings", "labyrinths", "mixed"):
        for density in (0.0, 0.1, 0.15):
            builder = TerrainConfig.model_validate({"type": "Terrain", "obstacles": obstacles, "density": density})
            floor = generate_floor(builder, (60, 60), np.random.default_rng(1)).floor
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


def test_the_largest_component_is_found() -> None:
    floor = np.array([[1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 1, 1]], np.bool_)
    assert largest_component(floor).tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1]]


def test_objects_never_block_a_corridor() -> None:
    """Only the two ends of a straight corridor can hold an object."""
    floor = np.ones((1, 9), np.bool_)
    for seed in range(20):
        places = place_connected(floor, 1, np.random.default_rng(seed))
        assert places is not None
        assert places[0] in (0, 8)


def test_objects_between_pillars_fit_where_there_are_ways_around() -> None:
    """Every cell of a maze without inner walls has a way around it that is longer than its eight neighbors."""
    lattice = world({"type": "Maze", "loops": 1.0, "connected": True}, 18, 18)
    for seed in range(20):
        cells = draw(lattice, seed)
        assert (reachable(cells) == (cells <= 0)).all()


def test_articulation_points_are_the_cells_whose_removal_disconnects_the_floor() -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        floor = largest_component(generator.random((5, 7)) < 0.65)
        padded = np.pad(floor, 1)
        joints = _articulation_points(bytearray(padded.tobytes()), padded.shape[1])
        for row, col in np.argwhere(padded).tolist():
            without = padded.copy()
            without[row, col] = False
            falls_apart = largest_component(without).sum() < without.sum()
            assert ((row * padded.shape[1] + col) in joints) == falls_apart


def test_too_many_entities_are_refused() -> None:
    with pytest.raises(ValidationError, match="a maze of 4 x 4 junctions has 31 floor cells"):
        world({"type": "Maze", "objects": {"altar": 40}}, 9, 9, 4)
    with pytest.raises(MapError, match=r'"Caves" of 18 x 22 cells was generated 20 times'):
        draw(world({"type": "Caves", "fill": 1.0}))
    crowded = world({"connected": True, "objects": {"altar": 12}}, 6, 6)
    with pytest.raises(MapError, match="each reachable by every agent"):
        draw(crowded)


def test_open_floors_do_not_depend_on_connected_unless_required() -> None:
    builder = MapBuilderConfig(width=9, height=9, agents=1)
    assert builder.connected is False
    assert not np.array_equal(draw(world({"type": "Random"})), draw(world({"type": "Random", "connected": True})))
