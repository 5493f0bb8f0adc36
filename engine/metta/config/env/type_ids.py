"""The type ids of the original MettaGrid, as they stand in tokens; a world's own are in `EnvConfig.spec`."""

from typing import Final

TYPE_AGENT: Final = 0
TYPE_WALL: Final = 1
TYPE_MINE_RED: Final = 2
TYPE_MINE_BLUE: Final = 3
TYPE_MINE_GREEN: Final = 4
TYPE_GENERATOR_RED: Final = 5
TYPE_GENERATOR_BLUE: Final = 6
TYPE_GENERATOR_GREEN: Final = 7
TYPE_ALTAR: Final = 8
TYPE_ARMORY: Final = 9
TYPE_LASERY: Final = 10
TYPE_LAB: Final = 11
TYPE_FACTORY: Final = 12
TYPE_TEMPLE: Final = 13
TYPE_GENERIC_CONVERTER: Final = 14
