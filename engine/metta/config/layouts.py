"""Map builders that scatter objects and agents over a floor: an open one, a maze, caves, a dungeon, rough terrain."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from metta.config.table import Table

DEFAULT_MAP_OBJECTS = {"mine_red": 2, "generator_red": 1, "altar": 1, "wall": 5, "block": 3}

ObjectCounts = dict[str, Annotated[int, Field(ge=0, le=2**24)]]
Share = Annotated[float, Field(ge=0, le=1)]


class ScatterTable(Table):
    """What all builders have that scatter objects and agents on the free cells of a floor inside a border of walls."""

    type: str
    width: int = Field(default=64, ge=1, le=4096, description="map width with its border, cells; follows env.game")
    height: int = Field(default=64, ge=1, le=4096, description="map height with its border, cells; follows env.game")
    border_width: int = Field(default=2, ge=0, le=4096, description="thickness of the wall around the map, cells")
    agents: int = Field(
        default=64, ge=0, le=65536, description="agents, split evenly among the groups; follows env.game.num_agents"
    )
    objects: ObjectCounts = Field(
        default_factory=lambda: dict(DEFAULT_MAP_OBJECTS), description="how many of each object, by name"
    )
    connected: bool = Field(
        default=False, description="every agent can walk to every other and up to every object; the floor is one piece"
    )

    @property
    def least_floor(self) -> int:
        """Cells of floor that every map of this builder has at least, without `connected`."""
        return 0


class MazeConfig(ScatterTable):
    """Corridors that branch and never meet again, unless walls between them are opened."""

    type: Literal["Maze"] = Field(description="Maze: corridors in all directions")
    algorithm: Literal["kruskal", "backtracker"] = Field(
        default="kruskal", description="kruskal: many short dead ends; backtracker: long winding corridors"
    )
    corridor_width: int = Field(default=1, ge=1, le=4096, description="width of corridors, cells; walls have 1")
    loops: Share = Field(default=0.0, description="share of the walls left between corridors that are opened")

    @property
    def crossings(self) -> tuple[int, int]:
        """Rows and columns of the places that corridors join."""
        pitch = self.corridor_width + 1
        inside = (side - 2 * self.border_width for side in (self.height, self.width))
        rows, cols = ((side + 1) // pitch for side in inside)
        return rows, cols

    @property
    def least_floor(self) -> int:
        """The places and one opening fewer than there are places."""
        places = self.crossings[0] * self.crossings[1]
        return max(0, places * self.corridor_width**2 + (places - 1) * self.corridor_width)


class CavesConfig(ScatterTable):
    """Caves: random cells, then each becomes as most of those around it are (a cellular automaton)."""

    type: Literal["Caves"] = Field(description="Caves: rounded hollows")
    fill: Share = Field(default=0.42, description="share of cells that are walls at first")
    rounds: int = Field(default=4, ge=0, le=100, description="times that cells adapt to those around them")


class DungeonConfig(ScatterTable):
    """Rooms of many sizes joined by corridors: the map is split again and again (binary space partition)."""

    type: Literal["Dungeon"] = Field(description="Dungeon: rooms joined by corridors")
    min_room: int = Field(default=4, ge=1, le=4096, description="shortest side of a room, cells")
    corridor_width: int = Field(default=1, ge=1, le=4096, description="width of corridors, cells")


class TerrainConfig(ScatterTable):
    """An open floor with obstacles."""

    type: Literal["Terrain"] = Field(description="Terrain: obstacles on an open floor")
    obstacles: Literal["walls", "blocks", "crosses", "labyrinths"] = Field(
        default="walls", description="single walls, filled squares, crosses, or rings with an opening"
    )
    size: int = Field(default=3, ge=1, le=4096, description="side of an obstacle other than walls, cells")
    density: Share = Field(
        default=0.1, description="obstacles are laid until they cover this share of the floor or no more fit"
    )
