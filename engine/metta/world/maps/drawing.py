"""Drawing of a map as text with a legend, which can be read back as a drawn map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.config.env.glyphs import map_text
from metta.config.env.labels import agent_names, cell_glyphs


def draw_map(config: EnvConfig, cells: NDArray[np.int16]) -> str:
    """The text of a map: a character per cell, an empty line, and a legend of the characters.

    `cells [rows, cols]` are those of `MettaGridEnv.cells`. As the `map` or `file` of `type = "Ascii"`, the text gives
    the same map in any world that has these objects and groups.
    """
    glyphs = cell_glyphs(config)
    names = {entry.type_id: name for name, entry in config.object_types.items()} | {0: "empty"}
    names |= {-1 - group: name for group, name in enumerate(agent_names(config))}
    rows = ["".join(glyphs[names[cell]] for cell in row) for row in cells.tolist()]
    return map_text(rows, {glyph: name for name, glyph in glyphs.items()})
