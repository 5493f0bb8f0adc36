"""Characters of drawn maps: the built-in legends, and a distinct character for every name."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Final

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


def is_agent(cell_name: str) -> bool:
    """Whether a cell of a drawn map contains an agent: `agent` or `agent.GROUP`."""
    return cell_name == "agent" or cell_name.startswith("agent.")


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
