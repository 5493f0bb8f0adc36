"""How maps are made: `[env.map_builder]`, one model per value of `type`; some make a map of other builders' maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from metta.config.env.map_generators import (
    BuilderTable,
    CavesConfig,
    CorridorsConfig,
    CustomConfig,
    DungeonConfig,
    MazeConfig,
    RadialConfig,
    ScatterTable,
    TerrainConfig,
)
from metta.config.env.ranges import Whole
from metta.errors import Problem, RulesError

GLYPHS = {
    ".": "empty",
    " ": "empty",
    "#": "wall",
    "b": "block",
    "r": "mine_red",
    "m": "mine_blue",
    "n": "mine_green",
    "R": "generator_red",
    "M": "generator_blue",
    "N": "generator_green",
    "_": "altar",
    "a": "armory",
    "l": "lasery",
    "L": "lab",
    "F": "factory",
    "T": "temple",
    "@": "agent",
}
"""The usual glyphs of maps; `render()` draws with the same ones. `@` is an agent of the first group."""

SIZES = ("width", "height", "agents")

Path = tuple[str | int, ...]


class MapBuilderConfig(ScatterTable):
    """Objects and agents on random free cells inside a border of walls."""

    type: Literal["Random"] = Field(default="Random", description="Random: scattered on free cells")


class AsciiConfig(BuilderTable):
    """A map drawn in the file, or in a file beside it, one glyph a cell."""

    type: Literal["Ascii"] = Field(description="Ascii: drawn in the file")
    map: str = Field(default="", description="the map, one line a row; all rows equally long")
    file: str = Field(
        default="",
        description="or a text file with the map, beside or below the TOML file that names it; read with that file",
    )
    legend: dict[str, str] = Field(
        default_factory=dict, description="glyph -> object name or agent.GROUP, beside the usual glyphs"
    )

    @model_validator(mode="after")
    def _has_a_map(self) -> Self:
        if self.file:
            message = "is read only as part of a TOML file on disk; give the drawing itself as map"
            raise RulesError([Problem(("file",), message)])
        if not self.map:
            raise RulesError([Problem(("map",), "must not be empty, unless file names a file with the map")])
        return self

    @property
    def rows(self) -> list[str]:
        """The lines of the map, without the blank first and last ones that a multi-line string brings."""
        return self.map.strip("\n").split("\n")

    @property
    def height(self) -> int:
        """Rows of the map."""
        return len(self.rows)

    @property
    def width(self) -> int:
        """Columns of the map."""
        return max(map(len, self.rows))

    @property
    def agents(self) -> int:
        """Agents drawn."""
        return sum(self.cell_names.count(name) for name in set(self.cell_names) if name.partition(".")[0] == "agent")

    @property
    def cell_names(self) -> list[str]:
        """What each cell holds, in reading order: an object name, `agent`, `agent.GROUP` or `empty`."""
        return [self.cell_name(glyph) or "" for row in self.rows for glyph in row]

    def cell_name(self, glyph: str) -> str | None:
        """The object name, `agent.GROUP` or `empty` that a glyph stands for; None if it stands for nothing."""
        return self.legend.get(glyph, GLYPHS.get(glyph))


class RoomsConfig(BuilderTable):
    """A grid, row or column of rooms, each made by a builder, with walls between and around them."""

    type: Literal["Rooms"] = Field(description="Rooms: a grid of rooms")
    rows: int = Field(default=2, ge=1, le=64, description="rooms from top to bottom")
    cols: int = Field(default=2, ge=1, le=64, description="rooms from left to right")
    border_width: int = Field(
        default=1, ge=0, le=4096, description="thickness of the walls between and around rooms, cells"
    )
    door_width: Whole = Field(
        default=0,
        ge=0,
        le=4096,
        description="opening in the middle of each wall between two rooms, cells; 0: closed rooms",
    )
    room: MapBuilder | None = Field(
        default=None,
        description="the map builder of every room, each its own draw; without a border unless it sets one; Random if "
        "left out",
    )
    rooms: list[MapBuilder] = Field(
        default_factory=list,
        max_length=4096,
        description="or a map builder for each room, in reading order; in one row unless rows or cols say otherwise",
    )

    @model_validator(mode="after")
    def _each_room_has_a_builder(self) -> Self:
        if not self.rooms:
            self.__dict__["room"] = _without_border(self.room or MapBuilderConfig())
            return self
        if self.room is not None:
            raise RulesError([Problem(("room",), "must be left out where rooms has a builder for each room")])
        self.__dict__["rooms"] = [_without_border(room) for room in self.rooms]
        count = len(self.rooms)
        if not self.is_set("rows"):
            self.__dict__["rows"] = count // self.cols if self.is_set("cols") else 1
        if not self.is_set("cols"):
            self.__dict__["cols"] = count // self.rows
        if self.rows * self.cols != count:
            grid = f"rows x cols = {self.rows} x {self.cols} = {self.rows * self.cols}"
            raise RulesError([Problem(("rooms",), f"must be as many as {grid}; got {count}")])
        return self

    @property
    def parts(self) -> list[tuple[Path, MapBuilder]]:
        """The builders of rooms, each with its path from here."""
        return [(("room",), self.room)] if self.room else [(("rooms", index), b) for index, b in enumerate(self.rooms)]

    def with_parts(self, parts: list[MapBuilder]) -> Self:
        """A copy with these builders instead."""
        return self.filled(room=parts[0]) if self.room else self.filled(rooms=parts)

    @property
    def each_room(self) -> list[MapBuilder]:
        """The builder of each room, in reading order."""
        return [self.room] * (self.rows * self.cols) if self.room else self.rooms

    @property
    def row_heights(self) -> list[int]:
        """Of each row of rooms its highest, in cells."""
        heights = [room.height for room in self.each_room]
        return [max(heights[row * self.cols : (row + 1) * self.cols]) for row in range(self.rows)]

    @property
    def col_widths(self) -> list[int]:
        """Of each column of rooms its widest, in cells."""
        widths = [room.width for room in self.each_room]
        return [max(widths[col :: self.cols]) for col in range(self.cols)]

    @property
    def height(self) -> int:
        """Rows of the whole map: the rooms and the walls."""
        return sum(self.row_heights) + (self.rows + 1) * self.border_width

    @property
    def width(self) -> int:
        """Columns of the whole map: the rooms and the walls."""
        return sum(self.col_widths) + (self.cols + 1) * self.border_width

    @property
    def agents(self) -> int:
        """Agents of all rooms."""
        return sum(room.agents for room in self.each_room)


class MirroredConfig(BuilderTable):
    """A map and its mirror images, objects and agents too: the same chances for every team."""

    type: Literal["Mirrored"] = Field(description="Mirrored: a map and its mirror images")
    symmetry: Literal["horizontal", "vertical", "both", "rotated"] = Field(
        default="horizontal",
        description="horizontal: left and right; vertical: top and bottom; both: all four quarters; "
        "rotated: left and right, turned by half",
    )
    border_width: int = Field(default=1, ge=0, le=4096, description="thickness of the wall around it all, cells")
    apart: bool = Field(
        default=True,
        description="each image has one group's agents, the next image the next group's; false: each image has agents "
        "of all groups, in each image the next group's in the same places",
    )
    builder: MapBuilder = Field(
        default_factory=lambda: MapBuilderConfig(),
        description="the map builder of one image; without a border unless it sets one",
    )

    @model_validator(mode="after")
    def _no_wall_along_the_mirror(self) -> Self:
        self.__dict__["builder"] = _without_border(self.builder)
        return self

    @property
    def parts(self) -> list[tuple[Path, MapBuilder]]:
        """The builder of an image with its path from here."""
        return [(("builder",), self.builder)]

    def with_parts(self, parts: list[MapBuilder]) -> Self:
        """A copy with this builder instead."""
        return self.filled(builder=parts[0])

    @property
    def images(self) -> tuple[int, int]:
        """Rows and columns of images."""
        return (2 if self.symmetry in ("vertical", "both") else 1), (2 if self.symmetry != "vertical" else 1)

    @property
    def height(self) -> int:
        """Rows of the whole map."""
        return self.images[0] * self.builder.height + 2 * self.border_width

    @property
    def width(self) -> int:
        """Columns of the whole map."""
        return self.images[1] * self.builder.width + 2 * self.border_width

    @property
    def agents(self) -> int:
        """Agents of all images."""
        return self.images[0] * self.images[1] * self.builder.agents


class ChoiceConfig(BuilderTable):
    """One of several builders, drawn anew for every map."""

    type: Literal["Choice"] = Field(description="Choice: one of several builders, at random")
    builders: list[MapBuilder] = Field(
        min_length=1, max_length=1000, description="the map builders; all make maps of one size for as many agents"
    )
    weights: list[Annotated[float, Field(ge=0, le=1e9)]] = Field(
        default_factory=list, max_length=1000, description="how often each is drawn, relatively; empty: all alike"
    )

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.weights and len(self.weights) != len(self.builders):
            message = f"must be one for each of {len(self.builders)} builders, or none; got {len(self.weights)}"
            raise RulesError([Problem(("weights",), message)])
        if self.weights and not any(self.weights):
            raise RulesError([Problem(("weights",), "must have one above 0")])
        return self

    @property
    def parts(self) -> list[tuple[Path, MapBuilder]]:
        """The builders, each with its path from here."""
        return [(("builders", index), builder) for index, builder in enumerate(self.builders)]

    def with_parts(self, parts: list[MapBuilder]) -> Self:
        """A copy with these builders instead."""
        return self.filled(builders=parts)

    @property
    def shares(self) -> list[float]:
        """The probability of each builder."""
        weights = self.weights or [1.0] * len(self.builders)
        return [weight / sum(weights) for weight in weights]

    @property
    def height(self) -> int:
        """Rows of every builder's map."""
        return self.builders[0].height

    @property
    def width(self) -> int:
        """Columns of every builder's map."""
        return self.builders[0].width

    @property
    def agents(self) -> int:
        """Agents of every builder's map."""
        return self.builders[0].agents


def _builder_tag(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("type", "Random"))
    return str(getattr(value, "type", "Random"))


MapBuilder = Annotated[
    Annotated[MapBuilderConfig, Tag("Random")]
    | Annotated[RoomsConfig, Tag("Rooms")]
    | Annotated[AsciiConfig, Tag("Ascii")]
    | Annotated[MazeConfig, Tag("Maze")]
    | Annotated[CavesConfig, Tag("Caves")]
    | Annotated[DungeonConfig, Tag("Dungeon")]
    | Annotated[TerrainConfig, Tag("Terrain")]
    | Annotated[RadialConfig, Tag("Radial")]
    | Annotated[CorridorsConfig, Tag("Corridors")]
    | Annotated[CustomConfig, Tag("Custom")]
    | Annotated[MirroredConfig, Tag("Mirrored")]
    | Annotated[ChoiceConfig, Tag("Choice")],
    Discriminator(_builder_tag),
]
"""Any map builder; without `type` it is `Random`."""

for _model in (RoomsConfig, MirroredConfig, ChoiceConfig):
    _model.model_rebuild()


def walk(builder: MapBuilder, path: Path = (), connected: bool = False) -> Iterator[tuple[Path, MapBuilder, bool]]:
    """A builder and all those inside of it: its path, itself, and whether its map is to be connected."""
    connected = connected or builder.connected
    yield path, builder, connected
    if isinstance(builder, RoomsConfig | MirroredConfig | ChoiceConfig):
        for step, part in builder.parts:
            yield from walk(part, (*path, *step), connected)


def _without_border(builder: MapBuilder) -> MapBuilder:
    """A builder inside another, which sets its own walls: no border of its own unless it was asked for."""
    if isinstance(builder, ChoiceConfig):
        return builder.with_parts([_without_border(part) for part in builder.builders])
    if isinstance(builder, AsciiConfig) or builder.is_set("border_width"):
        return builder
    if isinstance(builder, RoomsConfig):
        return builder  # its border is also what stands between its rooms
    return builder.filled(border_width=0)
