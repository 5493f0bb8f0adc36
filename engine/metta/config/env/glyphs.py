"""Characters of maps: the built-in legends, a distinct character for every name, and a legend below a drawn map."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Annotated, Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from metta.errors import Problem, RulesError, did_you_mean

GLYPHS: Final = {
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
"""The legend `metta`: the default meaning of characters, and the characters of `render()`. `@` is an agent of the
first group."""

METTAGRID_GLYPHS: Final = {
    ".": "empty",
    " ": "empty",
    "#": "wall",
    "W": "wall",
    "s": "block",
    "m": "mine_red",
    "r": "mine_red",
    "b": "mine_blue",
    "g": "mine_green",
    "n": "generator_red",
    "R": "generator_red",
    "B": "generator_blue",
    "G": "generator_green",
    "_": "altar",
    "a": "altar",
    "o": "armory",
    "S": "lasery",
    "L": "lab",
    "F": "factory",
    "T": "temple",
    "c": "converter",
    "@": "agent",
    "A": "agent",
    "1": "agent.team_1",
    "2": "agent.team_2",
    "3": "agent.team_3",
    "4": "agent.team_4",
    "p": "agent.prey",
    "P": "agent.predator",
}
"""The legend `mettagrid`: what the characters mean in the map files of the C++ MettaGrid of July 2025."""

LEGENDS: Final[dict[str, dict[str, str]]] = {"metta": GLYPHS, "mettagrid": METTAGRID_GLYPHS}
"""The legends that the key `legend` of a drawn map can name."""


class LegendSchema:
    """Marks the key `legend` of a drawn map: the name of one of LEGENDS, or a table of characters."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate a string as a name, and any other value as a table of strings."""

        def read(value: Any, table: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if isinstance(value, dict):
                return table(value)
            if not isinstance(value, str):
                names = ", ".join(f'"{name}"' for name in LEGENDS)
                raise RulesError([Problem((), f"must be one of {names}, or a table of characters")])
            if value not in LEGENDS:
                raise RulesError([Problem((), f'unknown legend "{value}"{did_you_mean(value, LEGENDS)}')])
            return value

        return core_schema.no_info_wrap_validator_function(
            read,
            handler.generate_schema(dict[str, str]),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Either the name of a legend or a table."""
        return {"oneOf": [{"enum": list(LEGENDS)}, handler(schema)]}


Legend = Annotated[dict[str, str] | str, LegendSchema()]


def is_agent(cell_name: str) -> bool:
    """Whether a cell of a drawn map contains an agent: `agent` or `agent.GROUP`."""
    return cell_name == "agent" or cell_name.startswith("agent.")


def split_map_text(text: str) -> tuple[list[str], list[str]]:
    """(rows, legend lines) of the text of a map: its legend, if it has one, is below its first empty line.

    Empty lines before and after the text are ignored.
    """
    drawing, _, legend = text.strip("\n").partition("\n\n")
    return drawing.split("\n"), [line for line in legend.split("\n") if line.strip()]


def legend_entry(line: str) -> tuple[str, str] | None:
    """(character, name) of a line such as `r mine_red` in the legend of a map text; None if it is not of this form."""
    entry = re.fullmatch(r"(\S) +(\S+) *", line)
    return (entry[1], entry[2]) if entry else None


def map_text(rows: Iterable[str], legend: Mapping[str, str]) -> str:
    """The text of a map with a legend of the characters in it, as `split_map_text` reads it."""
    rows = list(rows)
    drawn = set(chain.from_iterable(rows))
    lines = [f"{glyph} {name}" for glyph, name in legend.items() if glyph in drawn]
    return "\n".join([*rows, "", *lines])


def glyph_list(legend: Mapping[str, str]) -> str:
    """The characters of a legend with their names, for messages: `. empty, # wall, ...`."""
    return ", ".join(f"{glyph} {name}" for glyph, name in legend.items() if len(glyph.strip()) == 1)


def distinct_glyphs(names: Iterable[str], legend: Mapping[str, str]) -> dict[str, str]:
    """A distinct character for each name of a cell: `empty`, objects, and `agent` or several `agent.GROUP`.

    Characters of `legend` (character -> name) come first, then those of the legends `metta` and `mettagrid`. Other
    groups get digits and other objects a letter of their name, if one is left. Characters that mean something else in
    the legend `metta` are not used.
    """
    glyphs: dict[str, str] = dict.fromkeys(names, "")
    taken: set[str] = set()
    for preferred in (legend, GLYPHS, METTAGRID_GLYPHS):
        for glyph, name in preferred.items():
            is_reserved = glyph in taken or (preferred is METTAGRID_GLYPHS and glyph in GLYPHS)
            if glyphs.get(name) == "" and not is_reserved and _is_visible(glyph):
                glyphs[name] = glyph
                taken.add(glyph)
    for name, glyph in glyphs.items():
        if not glyph:
            choices = chain(string.digits[1:] if is_agent(name) else name.lower() + name.upper(), _letters())
            glyphs[name] = next(one for one in choices if one.isalnum() and one not in taken and one not in GLYPHS)
            taken.add(glyphs[name])
    return glyphs


def _is_visible(glyph: str) -> bool:
    """Whether it is a single character that is visible and takes one column in every terminal."""
    return len(glyph) == 1 and "!" <= glyph <= "~"


def _letters() -> Iterator[str]:
    """Letters and digits, then the characters of Latin, Greek and Cyrillic, which take one column."""
    yield from string.ascii_letters + string.digits
    yield from map(chr, range(0xC0, 0x530))
