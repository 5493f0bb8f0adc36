"""Map builders that place objects and agents at random on a floor: maze, caves, dungeon, terrain and others."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from metta.config.env.ranges import FloatOrRange, IntOrRange, OrRange, Range, RangeResolver, range_max, range_min
from metta.config.validation.frozen_model import FrozenModel, RegisteredName
from metta.errors import Problem, RulesError
from metta.extensions import Registry

DEFAULT_MAP_OBJECTS = {"mine_red": 2, "generator_red": 1, "altar": 1, "wall": 5, "block": 3}

MAP_BUILDERS: Final[Registry[Any]] = Registry("metta.map_builders", "map builder")
"""Custom floors by name, for `type = "Custom"`; each is a function described in world/maps/generators.py."""

ObjectCounts = dict[str, Annotated[int, Field(ge=0, le=2**24), OrRange(is_integer=True)]]
Share = Annotated[float, Field(ge=0, le=1), OrRange(is_integer=False)]


class AgentCounts(int):
    """Number of agents by group, such as `{ team_1 = 18 }`; as an integer, their sum."""

    by_group: dict[str, int]

    def __new__(cls, by_group: Mapping[str, int]) -> Self:
        """The sum of `by_group` (group -> number of agents)."""
        counts = super().__new__(cls, sum(by_group.values()))
        counts.by_group = dict(by_group)
        return counts

    def __getnewargs__(self) -> tuple[dict[str, int]]:  # type: ignore[override]
        """The arguments of `__new__` in copies and pickles."""
        return (self.by_group,)

    def __eq__(self, other: object) -> bool:
        return int(self) == other and self.by_group == getattr(other, "by_group", self.by_group)

    __hash__ = int.__hash__


class OrByGroup:
    """Marks a number field that also accepts a table of numbers by group, which it turns into AgentCounts."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate a number by the field's own rules, and each number of a table by the same rules."""

        def read(value: Any, number: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if isinstance(value, AgentCounts):
                value = value.by_group
            if not isinstance(value, dict):
                return number(value)
            problems = [
                Problem((group,), f"must be an integer of at least 0; got {count!r}")
                for group, count in value.items()
                if not isinstance(count, int) or isinstance(count, bool) or count < 0
            ]
            if problems:
                raise RulesError(problems)
            number(sum(value.values()))
            return AgentCounts(value)

        return core_schema.no_info_wrap_validator_function(
            read,
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: value.by_group if isinstance(value, AgentCounts) else value
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Either the number or a table of numbers."""
        number = handler(schema)
        return {"oneOf": [number, {"type": "object", "additionalProperties": number}]}


class BaseBuilderConfig(FrozenModel):
    """Keys of all map builders."""

    type: str
    connected: bool = Field(
        default=False,
        description="guarantee that every agent can reach all other agents and all objects; generated floors are then "
        "connected",
    )

    @cached_property
    def ranges(self) -> dict[str, Any]:
        """The settings that are sampled for every map: ranges, and tables of numbers with ranges among them."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: value
            for name, value in values.items()
            if isinstance(value, Range)
            or (isinstance(value, dict) and any(isinstance(entry, Range) for entry in value.values()))
        }

    def resolve_ranges(self, resolve: RangeResolver) -> Self:
        """A copy with the number that `resolve` gives for each range; the builder itself if it has no range."""
        if not self.ranges:
            return self
        numbers: dict[str, Any] = {}
        for name, value in self.ranges.items():
            if isinstance(value, Range):
                numbers[name] = resolve(value)
            else:
                numbers[name] = {key: resolve(one) if isinstance(one, Range) else one for key, one in value.items()}
        copy = self.model_copy(update=numbers)
        copy.__dict__["ranges"] = {}
        return copy


class ScatterConfig(BaseBuilderConfig):
    """Keys of all builders that place objects and agents at random on the free cells of a floor inside a border."""

    width: int = Field(
        default=64, ge=1, le=4096, description="map width including the border, cells; default: env.game.width"
    )
    height: int = Field(
        default=64, ge=1, le=4096, description="map height including the border, cells; default: env.game.height"
    )
    border_width: IntOrRange = Field(default=2, ge=0, le=4096, description="width of the walls around the map, cells")
    agents: Annotated[int, OrByGroup()] = Field(
        default=64,
        ge=0,
        le=65536,
        description="number of agents, divided evenly among the groups, or a table of numbers by group; default: "
        "env.game.num_agents",
    )
    objects: ObjectCounts = Field(
        default_factory=lambda: dict(DEFAULT_MAP_OBJECTS), description="number of objects, by name"
    )
    mean_distance: FloatOrRange = Field(
        default=0.0,
        ge=0,
        le=8192,
        description="mean distance of objects from the agents, steps; the agents start close together; 0: objects and "
        "agents are placed anywhere",
    )

    @property
    def inner_shape(self) -> tuple[int, int]:
        """Rows and columns inside the border."""
        return self.height - 2 * self.border_width, self.width - 2 * self.border_width

    @property
    def min_floor_cells(self) -> int:
        """Lower bound of the number of floor cells of every map, without `connected`."""
        return 0


class MazeConfig(ScatterConfig):
    """A maze: a spanning tree of corridors, with loops if `loops` opens more walls."""

    type: Literal["Maze"] = Field(description="Maze: a maze of corridors")
    algorithm: Literal["kruskal", "backtracker"] = Field(
        default="kruskal", description="kruskal: many short dead ends; backtracker (depth-first): long corridors"
    )
    corridor_width: IntOrRange = Field(default=1, ge=1, le=4096, description="width of corridors, cells; walls have 1")
    loops: Share = Field(default=0.0, description="fraction of the remaining walls between corridors that are opened")

    @property
    def maze_shape(self) -> tuple[int, int]:
        """Rows and columns of the maze's junctions, which corridors connect."""
        pitch = self.corridor_width + 1
        rows, cols = ((side + 1) // pitch for side in self.inner_shape)
        return rows, cols

    @property
    def min_floor_cells(self) -> int:
        """Cells of the junctions and of the openings of a spanning tree, one fewer than junctions."""
        junctions = self.maze_shape[0] * self.maze_shape[1]
        return max(0, junctions * self.corridor_width**2 + (junctions - 1) * self.corridor_width)


class CavesConfig(ScatterConfig):
    """Caves by a cellular automaton: random cells that repeatedly take the state of the majority of their neighbors."""

    type: Literal["Caves"] = Field(description="Caves: irregular caves")
    fill: Share = Field(default=0.42, description="initial fraction of cells that are walls")
    rounds: IntOrRange = Field(default=4, ge=0, le=100, description="iterations of the cellular automaton")


class DungeonConfig(ScatterConfig):
    """Rooms of different sizes connected by corridors, by binary space partitioning."""

    type: Literal["Dungeon"] = Field(description="Dungeon: rooms connected by corridors")
    min_room: IntOrRange = Field(default=4, ge=1, le=4096, description="minimum side of a room, cells")
    corridor_width: IntOrRange = Field(default=1, ge=1, le=4096, description="width of corridors, cells")


class TerrainConfig(ScatterConfig):
    """An open floor with obstacles."""

    type: Literal["Terrain"] = Field(description="Terrain: obstacles on an open floor")
    obstacles: Literal["walls", "blocks", "crosses", "rings", "labyrinths", "mixed"] = Field(
        default="walls",
        description="walls: single cells; blocks: filled squares; crosses; rings with one opening; labyrinths: small "
        "mazes with one opening; mixed: all but walls",
    )
    size: IntOrRange = Field(default=3, ge=1, le=4096, description="side of an obstacle, cells; unused by walls")
    density: Share = Field(
        default=0.1, description="fraction of the floor that obstacles cover, unless no more of them fit"
    )


RadialPosition = Literal["anywhere", "hub", "ends"]


class RadialConfig(ScatterConfig):
    """A radial maze: a hub in the center with arms at equal angles."""

    type: Literal["Radial"] = Field(description="Radial: a hub with arms")
    arms: IntOrRange = Field(default=4, ge=1, le=64, description="number of arms")
    arm_width: IntOrRange = Field(default=1, ge=1, le=4096, description="width of an arm, cells")
    arm_length: IntOrRange = Field(
        default=0,
        ge=0,
        le=4096,
        description="cells from the center to the end of an arm; 0: up to the border",
    )
    hub: IntOrRange = Field(default=1, ge=0, le=4096, description="cells from the center to the edge of the square hub")
    turned: bool = Field(default=False, description="random angle of the first arm; false: it points up")
    agents_at: RadialPosition = Field(
        default="hub", description="where agents start: there, or on the closest free cells"
    )
    objects_at: RadialPosition = Field(
        default="ends", description="where objects are placed: there, or on the closest free cells"
    )

    @property
    def min_floor_cells(self) -> int:
        """The part of the hub inside the border."""
        rows, cols = (min(side, 2 * self.hub + 1) for side in self.inner_shape)
        return rows * cols


class CorridorsConfig(ScatterConfig):
    """Straight corridors from side to side and from top to bottom at random positions, through solid walls."""

    type: Literal["Corridors"] = Field(description="Corridors: straight corridors across the map")
    across: IntOrRange = Field(default=3, ge=0, le=2048, description="number of corridors from left to right")
    down: IntOrRange = Field(default=3, ge=0, le=2048, description="number of corridors from top to bottom")
    corridor_width: IntOrRange = Field(default=1, ge=1, le=4096, description="width of corridors, cells")

    @property
    def min_floor_cells(self) -> int:
        """All corridors, their crossings counted once."""
        across, down = self.across * self.corridor_width, self.down * self.corridor_width
        return across * self.inner_shape[1] + down * self.inner_shape[0] - across * down

    @model_validator(mode="after")
    def _has_connected_corridors(self) -> Self:
        is_crossing = range_min(self.across) >= 1 and range_min(self.down) >= 1
        most = range_max(self.across) + range_max(self.down)
        if not most:
            raise RulesError([Problem(("across",), "must be at least 1 where down is 0; got 0")])
        if self.connected and not is_crossing and most != 1:
            message = "must be false unless corridors cross: across and down both at least 1, or a single corridor"
            raise RulesError([Problem(("connected",), message)])
        return self


class CustomConfig(ScatterConfig):
    """A custom floor, from a function that a program registers or an installed package provides."""

    type: Literal["Custom"] = Field(description="Custom: a floor from a custom function")
    name: Annotated[str, RegisteredName(MAP_BUILDERS)] = Field(description="registered name of the function")
    settings: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="settings that are passed to the function, by name"
    )
