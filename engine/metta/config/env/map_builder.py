"""Map builders: the table `[env.map_builder]`, one model for each value of its key `type`.

This file has Random, Ascii and those that combine other builders; mazes, caves and the like are in map_generators.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from metta.config.env.glyphs import LEGENDS, Legend, is_agent, legend_entry, split_map_text
from metta.config.env.map_generators import (
    BaseBuilderConfig,
    CavesConfig,
    CorridorsConfig,
    CustomConfig,
    DungeonConfig,
    MazeConfig,
    RadialConfig,
    ScatterConfig,
    TerrainConfig,
)
from metta.config.env.ranges import IntOrRange
from metta.config.validation.key_paths import KeyPath
from metta.errors import Problem, RulesError

SIZES = ("width", "height", "agents")


class MapBuilderConfig(ScatterConfig):
    """Objects and agents on random cells of an open floor inside a border of walls."""

    type: Literal["Random"] = Field(default="Random", description="Random: an open floor")


class AsciiConfig(BaseBuilderConfig):
    """A map drawn in the TOML file or in a separate text file, one character per cell."""

    type: Literal["Ascii"] = Field(description="Ascii: a drawn map")
    map: str = Field(
        default="",
        description="the map, one line per row, all of the same length; after an empty line, a legend can follow as "
        "`metta map` prints it: on each line a character and its meaning",
    )
    file: str = Field(
        default="",
        description="or a text file with the map, in the directory of the TOML file or below it",
    )
    legend: Legend = Field(
        default="metta",
        description="metta: the default meaning of characters; mettagrid: their meaning in MettaGrid's map files; or a "
        "table of further characters: character -> object name, agent.GROUP or empty",
    )
    border_width: int = Field(default=0, ge=0, le=4096, description="width of walls added around the map, cells")

    @model_validator(mode="after")
    def _has_a_map(self) -> Self:
        if self.file:
            message = "can be used only in a TOML file on disk; set map to the text of the map instead"
            raise RulesError([Problem(("file",), message)])
        if not self.map:
            raise RulesError([Problem(("map",), "must not be empty, unless file is set")])
        return self

    @property
    def rows(self) -> list[str]:
        """The lines of the drawing, without the empty first and last lines of a multi-line string."""
        return split_map_text(self.map)[0]

    @property
    def text_legend(self) -> list[str]:
        """The lines of the legend below the drawing."""
        return split_map_text(self.map)[1]

    @property
    def drawing_width(self) -> int:
        """Columns of the drawing, without the border."""
        return max(map(len, self.rows))

    @property
    def height(self) -> int:
        """Rows of the map."""
        return len(self.rows) + 2 * self.border_width

    @property
    def width(self) -> int:
        """Columns of the map."""
        return self.drawing_width + 2 * self.border_width

    @property
    def agents(self) -> int:
        """Number of agents drawn."""
        names = self.cell_names
        return sum(names.count(name) for name in set(names) if is_agent(name))

    @property
    def cell_names(self) -> list[str]:
        """Content of each cell of the drawing in row-major order: an object, `agent`, `agent.GROUP` or `empty`."""
        meanings = self.meanings
        return [meanings.get(glyph, "") for row in self.rows for glyph in row]

    @property
    def meanings(self) -> dict[str, str]:
        """Meaning of each character: those of the legend below the drawing, of the key `legend`, then the others."""
        named, table = (self.legend, {}) if isinstance(self.legend, str) else ("metta", self.legend)
        own = table | dict(filter(None, map(legend_entry, self.text_legend)))
        return own | {glyph: name for glyph, name in LEGENDS[named].items() if glyph not in own}


class RoomsConfig(BaseBuilderConfig):
    """A grid of rooms, each made by a map builder, with walls between and around them."""

    type: Literal["Rooms"] = Field(description="Rooms: a grid of rooms")
    rows: int = Field(default=2, ge=1, le=64, description="rows of rooms")
    cols: int = Field(default=2, ge=1, le=64, description="columns of rooms")
    border_width: int = Field(
        default=1, ge=0, le=4096, description="width of the walls between and around rooms, cells"
    )
    door_width: IntOrRange = Field(
        default=0,
        ge=0,
        le=4096,
        description="width of the door in the middle of each wall between two rooms, cells; 0: no doors",
    )
    room: MapBuilder | None = Field(
        default=None,
        description="map builder of every room, sampled for each; without a border unless it sets border_width; "
        "default: Random",
    )
    rooms: list[MapBuilder] = Field(
        default_factory=list,
        max_length=4096,
        description="or a map builder for each room, row by row; a single row unless rows or cols is set",
    )

    @model_validator(mode="after")
    def _each_room_has_a_builder(self) -> Self:
        if not self.rooms:
            self.__dict__["room"] = _without_border(self.room or MapBuilderConfig())
            return self
        if self.room is not None:
            raise RulesError([Problem(("room",), "must be omitted where rooms has a builder for each room")])
        self.__dict__["rooms"] = [_without_border(room) for room in self.rooms]
        count = len(self.rooms)
        if not self.is_set("rows"):
            self.__dict__["rows"] = -(-count // self.cols) if self.is_set("cols") else 1
        if not self.is_set("cols"):
            self.__dict__["cols"] = -(-count // self.rows)
        if self.rows * self.cols != count:
            grid = f"rows x cols = {self.rows} x {self.cols} = {self.rows * self.cols}"
            raise RulesError([Problem(("rooms",), f"must have {grid} entries; got {count}")])
        return self

    @property
    def parts(self) -> list[tuple[KeyPath, MapBuilder]]:
        """The nested builders, each with its path relative to this table."""
        return [(("room",), self.room)] if self.room else [(("rooms", index), b) for index, b in enumerate(self.rooms)]

    def with_parts(self, parts: list[MapBuilder]) -> Self:
        """A copy with other nested builders."""
        return self.with_inferred(room=parts[0]) if self.room else self.with_inferred(rooms=parts)

    @property
    def all_rooms(self) -> list[MapBuilder]:
        """The builder of each room, row by row."""
        return [self.room] * (self.rows * self.cols) if self.room else self.rooms

    @property
    def row_heights(self) -> list[int]:
        """Height of each row of rooms (that of its highest room), cells."""
        heights = [room.height for room in self.all_rooms]
        return [max(heights[row * self.cols : (row + 1) * self.cols]) for row in range(self.rows)]

    @property
    def col_widths(self) -> list[int]:
        """Width of each column of rooms (that of its widest room), cells."""
        widths = [room.width for room in self.all_rooms]
        return [max(widths[col :: self.cols]) for col in range(self.cols)]

    @property
    def height(self) -> int:
        """Rows of the map: rooms and walls."""
        return sum(self.row_heights) + (self.rows + 1) * self.border_width

    @property
    def width(self) -> int:
        """Columns of the map: rooms and walls."""
        return sum(self.col_widths) + (self.cols + 1) * self.border_width

    @property
    def agents(self) -> int:
        """Agents of all rooms."""
        return sum(room.agents for room in self.all_rooms)


class MirroredConfig(BaseBuilderConfig):
    """A map and its mirror images with all objects and agents, so that all teams have equal conditions."""

    type: Literal["Mirrored"] = Field(description="Mirrored: a map and its mirror images")
    symmetry: Literal["horizontal", "vertical", "both", "rotated"] = Field(
        default="horizontal",
        description="horizontal: two images side by side; vertical: one above the other; both: four images; rotated: "
        "two side by side, the second rotated by 180 degrees",
    )
    border_width: int = Field(default=1, ge=0, le=4096, description="width of the walls around the whole map, cells")
    apart: bool = Field(
        default=True,
        description="each image has the agents of one group, the next image those of the next group; false: each image "
        "has agents of all groups, and the groups' positions rotate from image to image",
    )
    builder: MapBuilder = Field(
        default_factory=lambda: MapBuilderConfig(),
        description="map builder of one image; without a border unless it sets border_width",
    )

    @model_validator(mode="after")
    def _builder_without_border(self) -> Self:
        self.__dict__["builder"] = _without_border(self.builder)
        return self

    @property
    def parts(self) -> list[tuple[KeyPath, MapBuilder]]:
        """The nested builder with its path relative to this table."""
        return [(("builder",), self.builder)]

    def with_parts(self, parts: list[MapBuilder]) -> Self:
        """A copy with another nested builder."""
        return self.with_inferred(builder=parts[0])

    @property
    def images(self) -> tuple[int, int]:
        """Number of rows and of columns of images."""
        return (2 if self.symmetry in ("vertical", "both") else 1), (2 if self.symmetry != "vertical" else 1)

    @property
    def height(self) -> int:
        """Rows of the map: images and border."""
        return self.images[0] * self.builder.height + 2 * self.border_width

    @property
    def width(self) -> int:
        """Columns of the map: images and border."""
        return self.images[1] * self.builder.width + 2 * self.border_width

    @property
    def agents(self) -> int:
        """Agents of all images."""
        return self.images[0] * self.images[1] * self.builder.agents


class ChoiceConfig(BaseBuilderConfig):
    """One of several map builders, chosen at random for every map."""

    type: Literal["Choice"] = Field(description="Choice: a random choice of builders")
    builders: list[MapBuilder] = Field(
        min_length=1, max_length=1000, description="map builders; their maps have the same size and number of agents"
    )
    weights: list[Annotated[float, Field(ge=0, le=1e9)]] = Field(
        default_factory=list, max_length=1000, description="relative frequency of each builder; empty: equal"
    )

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.weights and len(self.weights) != len(self.builders):
            message = f"must have one for each of {len(self.builders)} builders, or be empty; got {len(self.weights)}"
            raise RulesError([Problem(("weights",), message)])
        if self.weights and not any(self.weights):
            raise RulesError([Problem(("weights",), "must have at least one above 0")])
        return self

    @property
    def parts(self) -> list[tuple[KeyPath, MapBuilder]]:
        """The nested builders, each with its path relative to this table."""
        return [(("builders", index), builder) for index, builder in enumerate(self.builders)]

    def with_parts(self, parts: list[MapBuilder]) -> Self:
        """A copy with other nested builders."""
        return self.with_inferred(builders=parts)

    @property
    def shares(self) -> list[float]:
        """The probability of each builder."""
        weights = self.weights or [1.0] * len(self.builders)
        return [weight / sum(weights) for weight in weights]

    @property
    def height(self) -> int:
        """Rows of the map, the same for every builder."""
        return self.builders[0].height

    @property
    def width(self) -> int:
        """Columns of the map, the same for every builder."""
        return self.builders[0].width

    @property
    def agents(self) -> int:
        """Agents of the map, the same for every builder."""
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
"""Any of the map builders; without `type` it is `Random`."""

for _model in (RoomsConfig, MirroredConfig, ChoiceConfig):
    _model.model_rebuild()


def walk_builders(
    builder: MapBuilder, path: KeyPath = (), connected: bool = False
) -> Iterator[tuple[KeyPath, MapBuilder, bool]]:
    """Yield a builder and all builders nested in it: path, builder, and whether its map must be connected."""
    connected = connected or builder.connected
    yield path, builder, connected
    if isinstance(builder, RoomsConfig | MirroredConfig | ChoiceConfig):
        for step, part in builder.parts:
            yield from walk_builders(part, (*path, *step), connected)


def _without_border(builder: MapBuilder) -> MapBuilder:
    """The nested builder with a border of 0 unless it sets one, since the outer builder adds walls around it."""
    if isinstance(builder, ChoiceConfig):
        return builder.with_parts([_without_border(part) for part in builder.builders])
    if isinstance(builder, AsciiConfig) or builder.is_set("border_width"):
        return builder
    if isinstance(builder, RoomsConfig):
        return builder  # border_width is also the width of the walls between its rooms
    return builder.with_inferred(border_width=0)
