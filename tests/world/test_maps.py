"""Random, Rooms and Ascii maps: their entities, uniform placement, and errors."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from metta.config.env.env_config import EnvConfig
from metta.config.env.map_builder import AsciiConfig, MapBuilderConfig, RoomsConfig
from metta.errors import MapError
from metta.world.maps.build import build_map

WALL, MINE, ALTAR, BLOCK = 1, 2, 8, 14


def config(map_builder: dict[str, Any], **game: Any) -> EnvConfig:
    return EnvConfig.model_validate({"game": game, "map_builder": map_builder})


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def counts(cells: np.ndarray) -> Counter[int]:
    return Counter(cells.ravel().tolist())


RED_BLUE_GREEN = {name: {"id": index} for index, name in enumerate(("red", "blue", "green"))}


class TestRandom:
    def test_holds_the_requested_entities(self) -> None:
        world = config(
            {"border_width": 2, "objects": {"mine_red": 5, "altar": 3, "wall": 7, "block": 4}},
            num_agents=6,
            width=15,
            height=12,
        )
        cells = build_map(world, generator())
        assert cells.shape == (12, 15)
        assert cells.dtype == np.int16
        border = 12 * 15 - 8 * 11
        assert counts(cells) == {MINE: 5, ALTAR: 3, WALL: 7 + border, BLOCK: 4, -1: 6, 0: 8 * 11 - 25}

    @pytest.mark.parametrize("border", [0, 1, 3])
    def test_border_is_wall_and_nothing_else(self, border: int) -> None:
        world = config({"border_width": border, "objects": {"altar": 4}}, num_agents=3, width=11, height=10)
        cells = build_map(world, generator())
        inside = np.zeros_like(cells, bool)
        inside[border : 10 - border, border : 11 - border] = True
        assert (cells[~inside] == WALL).all()
        assert not (cells[inside] == WALL).any()

    def test_can_fill_every_cell(self) -> None:
        world = config({"border_width": 1, "objects": {"block": 9}}, num_agents=3, width=6, height=5)
        assert counts(build_map(world, generator())[1:-1, 1:-1]) == {BLOCK: 9, -1: 3}

    def test_every_cell_is_equally_likely(self) -> None:
        world = config(
            {"border_width": 1, "objects": {"altar": 2}}, num_agents=2, width=6, height=7, groups=RED_BLUE_GREEN
        )
        draws, cells = 4000, np.zeros((4, 7, 6))
        random = generator(5)
        for _ in range(draws):
            drawn = build_map(world, random)
            cells += [drawn == ALTAR, drawn == -1, drawn == -2, drawn == 0]
        shares = cells[:, 1:-1, 1:-1].reshape(4, 20) / draws
        expected = np.array([2, 1, 1, 16])[:, None] / 20
        spread = np.sqrt(expected * (1 - expected) / draws)
        assert (np.abs(shares - expected) < 4.5 * spread).all()

    def test_positions_are_independent(self) -> None:
        """The offset between two agents, modulo the size of the map, is uniform as well."""
        world = config({"border_width": 0, "objects": {}}, num_agents=2, width=4, height=4)
        draws, offsets, random = 6000, np.zeros(16), generator(6)
        for _ in range(draws):
            first, second = np.flatnonzero(build_map(world, random) == -1)
            offsets[(second - first) % 16] += 1
        expected = (16 - np.arange(16)) * 2 / (16 * 15)  # so many pairs are `offset` apart
        expected[0] = 0
        assert (np.abs(offsets / draws - expected) < 4.5 * np.sqrt(expected / draws) + 1e-12).all()

    @pytest.mark.parametrize(("agents", "expected"), [(9, [3, 3, 3]), (10, [4, 3, 3]), (11, [4, 4, 3]), (2, [1, 1, 0])])
    def test_groups_are_even_and_the_first_get_the_rest(self, agents: int, expected: list[int]) -> None:
        world = config({"border_width": 0}, num_agents=agents, width=9, height=9, groups=RED_BLUE_GREEN)
        found = counts(build_map(world, generator()))
        assert [found[-1], found[-2], found[-3]] == expected

    def test_same_generator_same_map(self) -> None:
        world = EnvConfig()
        assert (build_map(world, generator(3)) == build_map(world, generator(3))).all()
        assert (build_map(world, generator(3)) != build_map(world, generator(4))).any()

    def test_next_draw_differs(self) -> None:
        random = generator()
        assert (build_map(EnvConfig(), random) != build_map(EnvConfig(), random)).any()

    def test_64_maps_of_64x64_take_milliseconds(self) -> None:
        """About 1.5 ms; the bound leaves room for a machine that is busy."""
        world, random = EnvConfig(), generator()
        fastest = min(_seconds(lambda: [build_map(world, random) for _ in range(64)]) for _ in range(5))
        assert fastest < 0.05


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class TestRooms:
    def test_walls_stand_between_and_around(self) -> None:
        world = config(
            {
                "type": "Rooms",
                "rows": 2,
                "cols": 3,
                "border_width": 2,
                "room": {"width": 4, "height": 3, "border_width": 0, "agents": 1, "objects": {"altar": 2}},
            }
        )
        cells = build_map(world, generator())
        assert cells.shape == (2 * 3 + 3 * 2, 3 * 4 + 4 * 2)
        rooms = [cells[r : r + 3, c : c + 4] for r in (2, 7) for c in (2, 8, 14)]
        assert [counts(room) for room in rooms] == [{-1: 1, ALTAR: 2, 0: 9}] * 6
        assert (cells == WALL).sum() == cells.size - 6 * 12

    def test_each_room_is_its_own_draw(self) -> None:
        world = config(
            {"type": "Rooms", "room": {"width": 6, "height": 6, "border_width": 0, "objects": {"altar": 5}}},
            num_agents=4,
        )
        cells = build_map(world, generator())
        rooms = {cells[r : r + 6, c : c + 6].tobytes() for r in (1, 8) for c in (1, 8)}
        assert len(rooms) == 4

    def test_doors_stand_in_the_middle_of_inner_walls(self) -> None:
        world = config(
            {
                "type": "Rooms",
                "door_width": 1,
                "room": {"width": 3, "height": 3, "border_width": 0, "agents": 1, "objects": {"altar": 8}},
            }
        )
        drawn = ["".join("#" if cell == WALL else "." for cell in row) for row in build_map(world, generator())]
        assert drawn == [
            "#########",
            "#...#...#",
            "#.......#",
            "#...#...#",
            "##.###.##",
            "#...#...#",
            "#.......#",
            "#...#...#",
            "#########",
        ]

    def test_doors_open_the_rooms_own_borders(self) -> None:
        world = config(
            {
                "type": "Rooms",
                "rows": 1,
                "door_width": 2,
                "room": {"width": 4, "height": 4, "border_width": 1, "agents": 4, "objects": {}},
            }
        )
        drawn = ["".join("#" if cell == WALL else "." for cell in row) for row in build_map(world, generator())]
        assert drawn == [
            "###########",
            "###########",
            "##.......##",
            "##.......##",
            "###########",
            "###########",
        ]

    def test_no_doors_by_default(self) -> None:
        world = config({"type": "Rooms", "room": {"width": 5, "height": 5, "border_width": 0}}, num_agents=8)
        cells = build_map(world, generator())
        assert (cells[6] == WALL).all()
        assert (cells[:, 6] == WALL).all()

    @pytest.mark.parametrize(("agents_per_room", "expected"), [(3, [4, 4, 4]), (2, [3, 3, 2]), (1, [2, 1, 1])])
    def test_groups_are_even_over_all_rooms(self, agents_per_room: int, expected: list[int]) -> None:
        room = {"width": 4, "height": 4, "border_width": 0, "agents": agents_per_room, "objects": {}}
        cells = build_map(config({"type": "Rooms", "room": room}, groups=RED_BLUE_GREEN), generator())
        found = counts(cells)
        assert [found[-1], found[-2], found[-3]] == expected

    def test_without_walls_between(self) -> None:
        room = {"width": 2, "height": 2, "border_width": 0, "agents": 4, "objects": {}}
        world = config({"type": "Rooms", "border_width": 0, "door_width": 1, "room": room})
        assert (build_map(world, generator()) == -1).all()


class TestAscii:
    def test_equals_the_drawing(self) -> None:
        world = config(
            {"type": "Ascii", "map": "#b.\n_@?\n! r\n", "legend": {"?": "agent.blue", "!": "agent.green"}},
            groups=RED_BLUE_GREEN,
        )
        assert build_map(world, generator()).tolist() == [[WALL, BLOCK, 0], [ALTAR, -1, -2], [-3, 0, MINE]]

    def test_does_not_use_the_generator(self) -> None:
        random = generator()
        build_map(config({"type": "Ascii", "map": "@.\n.@"}), random)
        assert random.random() == generator().random()


class TestImpossible:
    def test_no_agent(self) -> None:
        with pytest.raises(MapError, match="no agent"):
            build_map(EnvConfig.model_construct(map_builder=AsciiConfig(type="Ascii", map="#.\n..")), generator())

    def test_too_long_a_side(self) -> None:
        rooms = {"type": "Rooms", "rows": 64, "cols": 1, "room": {"width": 5, "height": 100, "agents": 1}}
        with pytest.raises(MapError, match="6465 rows"):
            build_map(EnvConfig.model_construct(map_builder=RoomsConfig.model_validate(rooms)), generator())

    def test_more_entities_than_cells(self) -> None:
        builder = MapBuilderConfig(width=4, height=4, border_width=1, agents=2, objects={"altar": 3})
        with pytest.raises(MapError, match=r"5 objects and agents do not fit into 2 x 2 = 4 cells"):
            build_map(EnvConfig.model_construct(map_builder=builder), generator())

    @pytest.mark.parametrize(
        ("drawing", "told"),
        [
            ("@x", 'unknown object "None"'),
            ("@s", 'unknown object "sofa"'),
            ("@g", 'unknown group "ghosts"'),
            ("@.\n@", "must have the same length"),
        ],
    )
    def test_drawings(self, drawing: str, told: str) -> None:
        builder = AsciiConfig(type="Ascii", map=drawing, legend={"s": "sofa", "g": "agent.ghosts"})
        with pytest.raises(MapError, match=told):
            build_map(EnvConfig.model_construct(map_builder=builder), generator())
