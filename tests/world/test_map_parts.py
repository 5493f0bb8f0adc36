"""Combined map builders (rooms, mirrored, choice), ranges of settings, and placement by distance."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from metta.config.env.env_config import EnvConfig
from metta.config.env.map_builder import MirroredConfig, RoomsConfig
from metta.config.env.map_generators import CavesConfig, MazeConfig
from metta.config.env.ranges import Range
from metta.config.self_play import agents_of_groups
from metta.errors import MapError
from metta.world.env import MettaGridEnv
from metta.world.maps.build import build_map
from metta.world.maps.connectivity import walking_distances

WALL, MINE, ALTAR = 1, 2, 8
TEAMS = {"red": {"id": 0}, "blue": {"id": 1}}


def config(map_builder: dict[str, Any], **game: Any) -> EnvConfig:
    return EnvConfig.model_validate({"game": game, "map_builder": map_builder})


def draw(world: EnvConfig, seed: int = 0) -> np.ndarray:
    return build_map(world, np.random.default_rng(seed))


def drawn(world: EnvConfig, seed: int = 0) -> list[str]:
    glyphs = {0: ".", WALL: "#", MINE: "r", ALTAR: "_", -1: "@", -2: "&"}
    return ["".join(glyphs[cell] for cell in row) for row in draw(world, seed).tolist()]


class TestRooms:
    def test_a_connected_room_is_connected(self) -> None:
        room = {"width": 7, "height": 7, "agents": 2, "objects": {"wall": 20}, "connected": True}
        world = config({"type": "Rooms", "room": room})
        for seed in range(20):
            cells = draw(world, seed)
            for top in (1, 9):
                for left in (1, 9):
                    inside = cells[top : top + 7, left : left + 7] <= 0
                    start = int((inside.ravel()).nonzero()[0][0])
                    assert ((walking_distances(inside, start) >= 0) == inside).all()

    def test_rooms_stand_in_reading_order(self) -> None:
        rooms = [{"width": 2, "height": 2, "agents": 1, "objects": {"altar": n}} for n in range(4)]
        cells = draw(config({"type": "Rooms", "rows": 2, "rooms": rooms}))
        counts = [int((cells[r : r + 2, c : c + 2] == ALTAR).sum()) for r in (1, 4) for c in (1, 4)]
        assert counts == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        ("grid", "shape"), [({}, (4, 10)), ({"rows": 1}, (4, 10)), ({"cols": 1}, (10, 4)), ({"rows": 3}, (10, 4))]
    )
    def test_a_list_is_a_row_a_column_or_a_grid(self, grid: dict[str, int], shape: tuple[int, int]) -> None:
        rooms = [{"width": 2, "height": 2, "agents": 1, "objects": {}}] * 3
        assert draw(config({"type": "Rooms", "rooms": rooms} | grid)).shape == shape

    def test_smaller_rooms_are_centered_and_doors_lead_to_them(self) -> None:
        rooms = [
            {"width": 5, "height": 5, "agents": 0, "objects": {}},
            {"width": 3, "height": 3, "agents": 0, "objects": {}},
            {"type": "Ascii", "map": "...\n.@.\n..."},
            {"width": 1, "height": 1, "agents": 0, "objects": {}},
        ]
        assert drawn(config({"type": "Rooms", "rows": 2, "door_width": 1, "rooms": rooms})) == [
            "###########",
            "#.....#####",
            "#.....#...#",
            "#.........#",
            "#.....#...#",
            "#.....##.##",
            "###.####.##",
            "##...###.##",
            "##.@.....##",
            "##...######",
            "###########",
        ]

    def test_doors_lead_through_thick_walls(self) -> None:
        """A drawn room with thick walls, and rooms within a room."""
        thick = {"type": "Ascii", "map": "#####\n#####\n##@##\n#####\n#####"}
        world = config({"type": "Rooms", "door_width": 1, "border_width": 1, "rooms": [thick, thick]})
        assert drawn(world)[3] == "###@.....@###"
        inner = {"type": "Rooms", "rooms": [thick, thick]}
        assert drawn(config({"type": "Rooms", "door_width": 1, "rooms": [inner, thick]}))[4] == "####@#####@......@###"

    def test_unset_sizes_are_shared(self) -> None:
        rooms = [{"type": "Caves", "width": 6, "agents": 1, "objects": {}}, {"objects": {}}, {"objects": {}}]
        world = config({"type": "Rooms", "rooms": rooms}, width=20, height=9, num_agents=5)
        builder = world.map_builder
        assert isinstance(builder, RoomsConfig)
        assert [(room.width, room.height, room.agents) for room in builder.rooms] == [(6, 7, 1), (5, 7, 2), (5, 7, 2)]
        assert isinstance(builder.rooms[0], CavesConfig)

    def test_agents_are_dealt_over_all_rooms(self) -> None:
        rooms = [{"width": 3, "height": 3, "agents": 1, "objects": {}}] * 3
        world = config({"type": "Rooms", "rooms": rooms}, groups=TEAMS)
        assert Counter(draw(world).ravel().tolist())[-1] == agents_of_groups(world)["red"] == 2

    def test_a_door_that_an_object_blocks_is_refused(self) -> None:
        room = {"type": "Ascii", "map": "...\n_@.\n..."}
        free = {"width": 3, "height": 3, "agents": 1, "objects": {}}
        with pytest.raises(MapError, match="an entrance of the drawn map is blocked by an object"):
            draw(config({"type": "Rooms", "rooms": [free, room], "door_width": 1, "connected": True}))


class TestMirrored:
    @pytest.mark.parametrize(
        ("symmetry", "images"),
        [
            ("horizontal", [lambda map_: map_[:, ::-1]]),
            ("vertical", [lambda map_: map_[::-1]]),
            ("rotated", [lambda map_: map_[::-1, ::-1]]),
            ("both", [lambda map_: map_[:, ::-1], lambda map_: map_[::-1]]),
        ],
    )
    @pytest.mark.parametrize("connected", [False, True])
    def test_is_its_own_image(self, symmetry: str, images: list[Any], connected: bool) -> None:
        part = {"type": "Caves", "objects": {"altar": 2, "mine_red": 1}}
        builder = {"type": "Mirrored", "symmetry": symmetry, "connected": connected, "builder": part}
        cells = draw(config(builder, width=22, height=22, num_agents=4))
        for image in images:
            assert (image(cells) == cells).all()
        assert set(np.unique(cells).tolist()) == {WALL, 0, ALTAR, MINE, -1}

    def test_teams_stand_apart_or_change_places(self) -> None:
        part = {"type": "Ascii", "map": "@.\n_&", "legend": {"&": "agent.blue"}}
        builder = {"type": "Mirrored", "border_width": 0, "builder": part}
        assert drawn(config(builder, groups=TEAMS)) == ["@..&", "_&@_"]
        builder["builder"] = {"width": 9, "height": 9, "objects": {}}
        world = config(builder, groups=TEAMS, num_agents=8)
        assert Counter(draw(world)[:, :9].ravel().tolist())[-1] == 4
        assert Counter(draw(world)[:, 9:].ravel().tolist())[-2] == 4
        mixed = config(builder | {"apart": False}, groups=TEAMS, num_agents=8)
        assert Counter(draw(mixed)[:, :9].ravel().tolist())[-1] == 2
        swapped = draw(mixed)[:, ::-1]
        assert (np.select([swapped == -1, swapped == -2], [-2, -1], swapped) == draw(mixed)).all()

    def test_no_border_along_the_mirror(self) -> None:
        builder = config({"type": "Mirrored", "builder": {"type": "Maze"}}, num_agents=4).map_builder
        assert isinstance(builder, MirroredConfig)
        assert isinstance(builder.builder, MazeConfig)
        assert (builder.builder.border_width, builder.builder.width, builder.builder.height) == (0, 31, 62)


class TestChoice:
    def test_builders_are_chosen_in_proportion_to_their_weights(self) -> None:
        parts = [{"objects": {"altar": 1}}, {"objects": {"mine_red": 1}}]
        world = config({"type": "Choice", "builders": parts, "weights": [1.0, 3.0]}, width=9, height=9, num_agents=1)
        altars = sum(bool((draw(world, seed) == ALTAR).any()) for seed in range(400))
        assert 70 < altars < 130

    def test_each_world_chooses_independently_of_the_batch(self) -> None:
        parts = [{"type": "Maze", "objects": {}}, {"type": "Caves", "objects": {}}, {"objects": {}}]
        world = config({"type": "Choice", "builders": parts}, width=15, height=15, num_agents=2)
        many, alone = MettaGridEnv(world, 6, seed=3), MettaGridEnv(world, 1, seed=3, first_world=4)
        many.reset()
        alone.reset()
        assert many.render(4) == alone.render(0)
        assert len({many.render(index) for index in range(6)}) == 6


class TestRanges:
    def test_every_value_of_a_range_occurs(self) -> None:
        world = config({"objects": {"altar": {"min": 2, "max": 4}}}, width=9, height=9, num_agents=1)
        counts = Counter(int((draw(world, seed) == ALTAR).sum()) for seed in range(300))
        assert sorted(counts) == [2, 3, 4]
        assert min(counts.values()) > 70

    def test_borders_and_shares_too(self) -> None:
        builder = {"type": "Terrain", "density": {"min": 0.0, "max": 0.5}, "border_width": {"min": 0, "max": 2}}
        world = config(builder | {"objects": {}}, width=20, height=20, num_agents=1)
        maps = [draw(world, seed) for seed in range(100)]
        assert {int((cells[1] == WALL).all()) for cells in maps} == {0, 1}
        assert len({int((cells == WALL).sum()) for cells in maps}) > 60

    def test_doors_of_rooms(self) -> None:
        room = {"width": 5, "height": 5, "agents": 1, "objects": {}}
        world = config({"type": "Rooms", "cols": 2, "rows": 1, "room": room, "door_width": {"min": 1, "max": 5}})
        assert {int((draw(world, seed)[:, 6] == 0).sum()) for seed in range(60)} == {1, 2, 3, 4, 5}

    def test_without_ranges_nothing_more_is_drawn(self) -> None:
        plain = config({"type": "Caves", "rounds": 3}, width=20, height=20, num_agents=2)
        pinned = config({"type": "Caves", "rounds": {"min": 3, "max": 3}}, width=20, height=20, num_agents=2)
        assert plain.map_builder.resolve_ranges(lambda one: one.max) is plain.map_builder
        assert pinned.map_builder.resolve_ranges(lambda one: one.max) == plain.map_builder
        assert pinned.map_builder.ranges == {"rounds": Range(3, 3)}


class TestDistances:
    @pytest.mark.parametrize(
        "builder",
        [
            {"type": "Random"},
            {"type": "Random", "connected": True},
            {"type": "Maze", "loops": 0.3},
            {"type": "Caves"},
            {"type": "Caves", "connected": True},
        ],
    )
    @pytest.mark.parametrize("wanted", [4.0, 12.0])
    def test_objects_are_about_at_the_requested_distance(self, builder: dict[str, Any], wanted: float) -> None:
        settings = {"mean_distance": wanted, "objects": {"altar": 4}}
        world = config(builder | settings, width=32, height=32, num_agents=1)
        means = []
        for seed in range(60):
            cells = draw(world, seed)
            is_open = cells <= 0
            steps = walking_distances(is_open | (cells == ALTAR), int((cells < 0).ravel().nonzero()[0][0]))
            means.append(steps[cells == ALTAR].mean())
        assert abs(np.mean(means) - wanted) < 0.2 * wanted

    def test_agents_start_together(self) -> None:
        cells = draw(config({"mean_distance": 5.0}, width=30, height=30, num_agents=5))
        rows, cols = (cells < 0).nonzero()
        assert np.ptp(rows) + np.ptp(cols) <= 6


class TestRadial:
    def radial(self, **settings: Any) -> EnvConfig:
        entities = {"objects": {"altar": 4}, "border_width": 1}
        return config({"type": "Radial"} | entities | settings, width=13, height=11, num_agents=2)

    def test_four_arms_are_a_cross(self) -> None:
        lines = drawn(self.radial(hub=0, objects={"altar": 4}, agents_at="ends", objects_at="hub"))
        assert [line.replace("_", ".").replace("@", ".") for line in lines] == [
            "#############",
            *["######.######"] * 4,
            "#...........#",
            *["######.######"] * 4,
            "#############",
        ]

    def test_objects_and_agents_are_at_the_requested_ends(self) -> None:
        cells = draw(self.radial())
        assert all(cells[place] == ALTAR for place in [(1, 6), (9, 6), (5, 1), (5, 11)])
        assert (cells[4:7, 5:8] < 0).sum() == 2
        cells = draw(self.radial(agents_at="ends", objects_at="hub", arm_length=3))
        assert sum(int(cells[place] < 0) for place in [(2, 6), (8, 6), (5, 3), (5, 9)]) == 2
        assert (cells[4:7, 5:8] == ALTAR).sum() == 4
        anywhere = [draw(self.radial(agents_at="anywhere", objects_at="anywhere"), seed) for seed in range(20)]
        assert len({cells.tobytes() for cells in anywhere}) == 20

    def test_settings_change_the_floor(self) -> None:
        plain = draw(self.radial()) == WALL
        for name, value in {"arms": 3, "arm_width": 2, "arm_length": 3, "hub": 2, "turned": True}.items():
            assert ((draw(self.radial(**{name: value})) == WALL) != plain).any(), name


def test_corridors_have_the_requested_number_and_width() -> None:
    builder = {"type": "Corridors", "across": 2, "down": 3, "corridor_width": 2, "border_width": 1, "objects": {}}
    world = config(builder, width=30, height=20, num_agents=1)
    for seed in range(20):
        is_floor = draw(world, seed) != WALL
        assert is_floor.all(axis=1)[1:-1].sum() == 0  # no row is all floor: the border
        assert is_floor[:, 1:-1].all(axis=1).sum() == 4
        assert is_floor[1:-1].all(axis=0).sum() == 6
        # corridors side by side would be one wide one
        assert (np.diff(is_floor[:, 1:-1].all(axis=1).astype(int)) == 1).sum() == 2
        assert (np.diff(is_floor[1:-1].all(axis=0).astype(int)) == 1).sum() == 3


def test_labyrinths_are_mazes_with_one_opening() -> None:
    builder = {"type": "Terrain", "obstacles": "labyrinths", "size": 9, "density": 0.01, "objects": {}}
    world = config(builder | {"border_width": 2}, width=13, height=13, num_agents=1)
    for seed in range(10):
        maze = draw(world, seed)[2:11, 2:11] != WALL
        ring = np.concatenate([maze[0], maze[-1], maze[1:-1, 0], maze[1:-1, -1]])
        assert ring.sum() == 1
        inside = maze[1:-1, 1:-1]
        assert inside.sum() == 16 + 15
        assert ((walking_distances(inside, 0) >= 0) == inside).all()
