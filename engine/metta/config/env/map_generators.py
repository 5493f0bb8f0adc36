"""Map builders that scatter objects and agents over a floor: an open one, a maze, caves, a dungeon, a terrain, ..."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from metta.config.env.ranges import Choose, Number, OrRange, Range, Whole, least, most
from metta.config.validation.frozen_model import FrozenModel, RegisteredName
from metta.errors import Problem, RulesError
from metta.extensions import Registry

DEFAULT_MAP_OBJECTS = {"mine_red": 2, "generator_red": 1, "altar": 1, "wall": 5, "block": 3}

MAP_BUILDERS: Final[Registry[Any]] = Registry("metta.map_builders", "map builder")
"""Map builders of one's own; what one must be: world/floors.py."""

ObjectCounts = dict[str, Annotated[int, Field(ge=0, le=2**24), OrRange(is_whole=True)]]
Share = Annotated[float, Field(ge=0, le=1), OrRange(is_whole=False)]


class BuilderTable(FrozenModel):
    """What all map builders have in common."""

    type: str
    connected: bool = Field(
        default=False,
        description="every agent can walk to every other and up to every object; what was not drawn is one piece",
    )

    @cached_property
    def ranges(self) -> dict[str, Any]:
        """The settings that are drawn for every map: ranges, and tables of numbers that have some."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: value
            for name, value in values.items()
            if isinstance(value, Range)
            or (isinstance(value, dict) and any(isinstance(entry, Range) for entry in value.values()))
        }

    def pinned(self, choose: Choose) -> Self:
        """The builder with a number for each range; itself where there is none."""
        if not self.ranges:
            return self
        numbers: dict[str, Any] = {}
        for name, value in self.ranges.items():
            if isinstance(value, Range):
                numbers[name] = choose(value)
            else:
                numbers[name] = {key: choose(one) if isinstance(one, Range) else one for key, one in value.items()}
        copy = self.model_copy(update=numbers)
        copy.__dict__["ranges"] = {}
        return copy


class ScatterTable(BuilderTable):
    """What all builders have that scatter objects and agents on the free cells of a floor inside a border of walls."""

    width: int = Field(default=64, ge=1, le=4096, description="map width with its border, cells; follows env.game")
    height: int = Field(default=64, ge=1, le=4096, description="map height with its border, cells; follows env.game")
    border_width: Whole = Field(default=2, ge=0, le=4096, description="thickness of the wall around the map, cells")
    agents: int = Field(
        default=64, ge=0, le=65536, description="agents, split evenly among the groups; follows env.game.num_agents"
    )
    objects: ObjectCounts = Field(
        default_factory=lambda: dict(DEFAULT_MAP_OBJECTS), description="how many of each object, by name"
    )
    mean_distance: Number = Field(
        default=0.0,
        ge=0,
        le=8192,
        description="agents start close together, and objects about so many steps from there, on average; 0: anywhere",
    )

    @property
    def inside(self) -> tuple[int, int]:
        """Rows and columns within the border."""
        return self.height - 2 * self.border_width, self.width - 2 * self.border_width

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
    corridor_width: Whole = Field(default=1, ge=1, le=4096, description="width of corridors, cells; walls have 1")
    loops: Share = Field(default=0.0, description="share of the walls left between corridors that are opened")

    @property
    def crossings(self) -> tuple[int, int]:
        """Rows and columns of the places that corridors join."""
        pitch = self.corridor_width + 1
        rows, cols = ((side + 1) // pitch for side in self.inside)
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
    rounds: Whole = Field(default=4, ge=0, le=100, description="times that cells adapt to those around them")


class DungeonConfig(ScatterTable):
    """Rooms of many sizes joined by corridors: the map is split again and again (binary space partition)."""

    type: Literal["Dungeon"] = Field(description="Dungeon: rooms joined by corridors")
    min_room: Whole = Field(default=4, ge=1, le=4096, description="shortest side of a room, cells")
    corridor_width: Whole = Field(default=1, ge=1, le=4096, description="width of corridors, cells")


class TerrainConfig(ScatterTable):
    """An open floor with obstacles."""

    type: Literal["Terrain"] = Field(description="Terrain: obstacles on an open floor")
    obstacles: Literal["walls", "blocks", "crosses", "rings", "labyrinths", "mixed"] = Field(
        default="walls",
        description="single walls, filled squares, crosses, rings with an opening, small mazes with one, "
        "or any of the last four",
    )
    size: Whole = Field(default=3, ge=1, le=4096, description="side of an obstacle other than walls, cells")
    density: Share = Field(
        default=0.1, description="obstacles are laid until they cover this share of the floor or no more fit"
    )


Spot = Literal["anywhere", "hub", "ends"]


class RadialConfig(ScatterTable):
    """A hub in the middle with arms in all directions (a radial maze)."""

    type: Literal["Radial"] = Field(description="Radial: a hub with arms")
    arms: Whole = Field(default=4, ge=1, le=64, description="number of arms, at equal angles")
    arm_width: Whole = Field(default=1, ge=1, le=4096, description="width of an arm, cells")
    arm_length: Whole = Field(
        default=0, ge=0, le=4096, description="from the middle to the end of an arm, cells; 0: as far as there is room"
    )
    hub: Whole = Field(default=1, ge=0, le=4096, description="from the middle to the edge of the square hub, cells")
    turned: bool = Field(default=False, description="the first arm points anywhere instead of up")
    agents_at: Spot = Field(default="hub", description="where agents start: as near to there as there is room")
    objects_at: Spot = Field(default="ends", description="where objects lie: as near to there as there is room")

    @property
    def least_floor(self) -> int:
        """The hub, where it is not cut off by the border."""
        rows, cols = (min(side, 2 * self.hub + 1) for side in self.inside)
        return rows * cols


class CorridorsConfig(ScatterTable):
    """Straight corridors through rock, from side to side, at random places; those across cross those down."""

    type: Literal["Corridors"] = Field(description="Corridors: straight, from side to side")
    across: Whole = Field(default=3, ge=0, le=2048, description="corridors from left to right")
    down: Whole = Field(default=3, ge=0, le=2048, description="corridors from top to bottom")
    corridor_width: Whole = Field(default=1, ge=1, le=4096, description="width of corridors, cells")

    @property
    def least_floor(self) -> int:
        """All corridors, where they cross counted once."""
        across, down = self.across * self.corridor_width, self.down * self.corridor_width
        return across * self.inside[1] + down * self.inside[0] - across * down

    @model_validator(mode="after")
    def _corridors_meet(self) -> Self:
        sync_ranks = least(self.across) >= 1 and least(self.down) >= 1
        alone = most(self.across) + most(self.down) == 1
        if not most(self.across) + most(self.down):
            raise RulesError([Problem(("across",), "must be at least 1 where down is 0; got 0")])
        if self.connected and not sync_ranks and not alone:
            message = "must be false unless corridors cross: across and down both at least 1, or one corridor alone"
            raise RulesError([Problem(("connected",), message)])
        return self


class CustomConfig(ScatterTable):
    """A floor of one's own, drawn by a function that a program registers or an installed package brings."""

    type: Literal["Custom"] = Field(description="Own: a floor of your own")
    name: Annotated[str, RegisteredName(MAP_BUILDERS)] = Field(
        description="name that the map builder was registered with"
    )
    settings: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="handed to it: names and values that it knows"
    )
