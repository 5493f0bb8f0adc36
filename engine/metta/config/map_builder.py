"""How maps are made: `[env.map_builder]`, one model per value of `type`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from metta.config.layouts import CavesConfig, DungeonConfig, MazeConfig, ScatterTable, TerrainConfig
from metta.config.table import Table

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


class MapBuilderConfig(ScatterTable):
    """Objects and agents on random free cells inside a border of walls."""

    type: Literal["Random"] = Field(default="Random", description="Random: scattered on free cells")


class RoomsConfig(Table):
    """A grid of rooms, each made by its own draw of `room`, with walls between and around them."""

    type: Literal["Rooms"] = Field(description="Rooms: a grid of rooms")
    rows: int = Field(default=2, ge=1, le=64, description="rooms from top to bottom")
    cols: int = Field(default=2, ge=1, le=64, description="rooms from left to right")
    border_width: int = Field(
        default=1, ge=0, le=4096, description="thickness of the walls between and around rooms, cells"
    )
    door_width: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="opening in the middle of each wall between two rooms, cells; 0: closed rooms",
    )
    room: MapBuilderConfig = Field(
        default_factory=MapBuilderConfig, description="the builder of one room; without a border unless it sets one"
    )

    @model_validator(mode="after")
    def _no_wall_within_the_wall(self) -> Self:
        if not self.room.is_set("border_width"):
            self.__dict__["room"] = self.room.filled(border_width=0)
        return self

    @property
    def height(self) -> int:
        """Rows of the whole map: the rooms and the walls."""
        return self.rows * self.room.height + (self.rows + 1) * self.border_width

    @property
    def width(self) -> int:
        """Columns of the whole map: the rooms and the walls."""
        return self.cols * self.room.width + (self.cols + 1) * self.border_width


class AsciiConfig(Table):
    """A map drawn in the file, one glyph a cell."""

    type: Literal["Ascii"] = Field(description="Ascii: drawn in the file")
    map: str = Field(min_length=1, description="the map, one line a row; all rows equally long")
    legend: dict[str, str] = Field(
        default_factory=dict, description="glyph -> object name or agent.GROUP, beside the usual glyphs"
    )

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

    def cell_name(self, glyph: str) -> str | None:
        """The object name, `agent.GROUP` or `empty` that a glyph stands for; None if it stands for nothing."""
        return self.legend.get(glyph, GLYPHS.get(glyph))


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
    | Annotated[TerrainConfig, Tag("Terrain")],
    Discriminator(_builder_tag),
]
"""Any map builder; without `type` it is `Random`."""
