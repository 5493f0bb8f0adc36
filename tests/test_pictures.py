"""Every map builder has a picture of a generated map, and presets/README.md shows it."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import get_args

import pytest

from metta.config.env.env_config import EnvConfig
from metta.config.env.map_builder import walk_builders
from metta.config.validation.key_paths import alternatives
from metta.world.env import MettaGridEnv

pytest.importorskip("PIL", reason="the pictures are cut with Pillow")

from pictures import CELL, FOLDER, LARGEST, PAGE, PICTURES, ROOT, TITLE_PICTURE, Picture, updated
from PIL import Image

each_picture = pytest.mark.parametrize("picture", PICTURES, ids=[picture.name for picture in PICTURES])


def test_every_builder_has_a_picture() -> None:
    tables = alternatives(EnvConfig.model_fields["map_builder"].annotation)
    types = {get_args(table.model_fields["type"].annotation)[0] for table in tables}
    types -= {"Custom"}  # draws whatever a user's function returns
    drawn = {part.type for picture in PICTURES for _, part, _ in walk_builders(picture.env.map_builder)}
    assert drawn == types
    assert types <= {kind for picture in PICTURES for kind in re.findall(r'type = "(\w+)"', picture.shown)}


def test_the_table_is_up_to_date() -> None:
    assert updated() == PAGE.read_text(encoding="utf-8"), "run `python tests/support/pictures.py`"


@each_picture
def test_a_picture_is_of_its_map(picture: Picture) -> None:
    """It has the size of the map, and is darker at walls than at floor."""
    content = (ROOT / picture.path).read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) <= LARGEST
    world = picture.env
    assert struct.unpack(">II", content[16:24]) == (world.game.width * CELL, world.game.height * CELL)
    colors = corner_colors(ROOT / picture.path)
    env = MettaGridEnv(world)
    env.reset(seed=picture.seed)
    cells = env.cells()
    walls = [sum(color) for place, color in colors.items() if cells[place] == 1]
    floor = [sum(color) for place, color in colors.items() if cells[place] == 0]
    assert max(walls) < min(floor), "run `python tests/support/pictures.py`"


def corner_colors(path: Path) -> dict[tuple[int, int], tuple[int, ...]]:
    """The color of each cell near its upper left corner, where sprites are transparent."""
    with Image.open(path) as image:
        plain = image.convert("RGB")
    rows, cols = plain.height // CELL, plain.width // CELL
    return {(r, c): plain.getpixel((c * CELL + 1, r * CELL + 1)) for r in range(rows) for c in range(cols)}


def test_all_pictures_are_shown() -> None:
    title = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"]({TITLE_PICTURE})" in title.partition("\n## ")[0]
    assert (ROOT / TITLE_PICTURE).stat().st_size <= LARGEST
    files = {f"{FOLDER}/{file.name}" for file in (ROOT / FOLDER).iterdir()}
    assert files == {TITLE_PICTURE, *(picture.path for picture in PICTURES)}
