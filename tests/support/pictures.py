"""Pictures of the documentation, and the table of map builders in presets/README.md.

`python tests/support/pictures.py [NAME ...]` makes the pictures (all of them by default) and writes the table. It needs
Chromium, and Pillow, which is installed with Matplotlib. Each picture is a screenshot of metta's replay page of a
generated map, cropped to the map. `tests/test_pictures.py` fails when a builder has no picture or the table is out of
date.
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from chromium import Chromium, find_chromium
from generated_docs import replace_section
from PIL import Image

from metta.baselines.random_policy import RandomPolicy
from metta.baselines.scripted import ScriptedPolicy
from metta.config.env.env_config import EnvConfig
from metta.config.loading.load import load_config, parse_config
from metta.replay.recording import record_episode
from metta.replay.replay_files import replay_title, write_replay

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "presets" / "README.md"
FOLDER = ".pictures"
MARKER = "maps"
COLUMNS = 3
LARGEST = 60_000
"""largest size of a picture, bytes"""

TITLE_PICTURE = f"{FOLDER}/quickstart.png"
TITLE_STEP = 120
TITLE_SIZE = (1060, 690)
CELL = 14
"""size of a cell, pixels"""

WORLD = """
[env.game]
{sizes}groups = {{ red = {{ id = 0 }}, blue = {{ id = 1 }} }}
[env.map_builder]
connected = true
{builder}
"""
SIZES = "num_agents = 4\nwidth = 28\nheight = 20\n"
ODD_SIZES = "num_agents = 4\nwidth = 29\nheight = 21\n"
"""for a grid of rooms with a wall in the middle"""
OBJECTS = "border_width = 1\nobjects = { mine_red = 3, generator_red = 2, altar = 2 }\n"
PART = "objects = { mine_red = 1, altar = 1 }"


@dataclass(frozen=True)
class Picture:
    """A picture of a map and its cell in the table."""

    name: str
    shown: str
    """settings of the map builder that the table shows"""
    description: str
    more: str = OBJECTS
    """its other settings"""
    seed: int = 0

    @property
    def path(self) -> str:
        """The file, relative to the root of the repository."""
        return f"{FOLDER}/{self.name}.png"

    @property
    def env(self) -> EnvConfig:
        """The world of the picture."""
        settings = [setting for setting in self.shown.split(", ") if "..." not in setting]
        if self.more.startswith("type"):
            settings = []
        text = "\n".join([*settings, self.more])
        sizes = "" if "map =" in self.more else ODD_SIZES if 'type = "Rooms"' in text else SIZES
        return parse_config(WORLD.format(sizes=sizes, builder=text), self.name).env


DRAWING = """
############################
#@....#.........#.....r....#
#.....#.........#..........#
#.....#...___...#....###...#
#.........._...............#
#.....#.........#....###...#
###.#######.####.###.......#
#..........................#
#..RR...........b....r..r..#
#..........................#
#.....#######.b.#######....#
#.........#........#.......#
#...........m.m............#
#.........#........#.......#
#.....###########.#####....#
#..........................#
#..RR.........@......r..r..#
#.@...................@..@.#
############################
"""

PICTURES = [
    Picture("random", 'type = "Random"', "open floor"),
    Picture(
        "mean_distance",
        "mean_distance = 5",
        "agents start together, objects about 5 steps away (most builders)",
    ),
    Picture("caves", 'type = "Caves"', "cellular automaton"),
    Picture("maze", 'type = "Maze"', "Kruskal's algorithm: many dead ends"),
    Picture("maze_backtracker", 'type = "Maze", algorithm = "backtracker"', "long winding corridors"),
    Picture("dungeon", 'type = "Dungeon"', "rooms of a binary space partition, joined by corridors"),
    Picture(
        "terrain",
        'type = "Terrain", obstacles = "mixed"',
        "obstacles: blocks, crosses, rings, labyrinths or single walls",
        f"{OBJECTS}size = 5\ndensity = 0.2",
    ),
    Picture("radial", 'type = "Radial", arms = 6', "hub with arms; agents start in the hub, objects lie at the ends"),
    Picture("corridors", 'type = "Corridors"', "straight corridors from side to side"),
    Picture(
        "rooms",
        'type = "Rooms", rooms = [...]',
        "grid of rooms: a builder for each, or one for all",
        f'rows = 2\ndoor_width = 1\nrooms = [{{ type = "Maze", {PART} }}, {{ type = "Caves", {PART} }},\n'
        f'{{ type = "Rooms", door_width = 3, rooms = [{{ {PART}, agents = 1 }}, {{ {PART}, agents = 0 }}] }},\n'
        f'{{ type = "Dungeon", {PART} }}]',
    ),
    Picture(
        "mirrored",
        'type = "Mirrored", builder = ...',
        "mirror image: equal chances for two teams",
        f'builder = {{ type = "Caves", {PART} }}',
    ),
    Picture(
        "mirrored_rotated",
        'type = "Mirrored", symmetry = "rotated"',
        "rotated by 180 degrees, or four quarters by 90",
        f'builder = {{ type = "Terrain", obstacles = "labyrinths", size = 5, {PART} }}',
        seed=2,
    ),
    Picture(
        "choice",
        'type = "Choice", builders = [...]',
        "one of several builders at random: here four times",
        'type = "Rooms"\ndoor_width = 1\nroom = { type = "Choice", builders = ['
        f'{{ type = "Maze", {PART} }}, {{ type = "Caves", {PART} }}, {{ type = "Radial", {PART} }}] }}',
        seed=3,
    ),
    Picture(
        "ascii",
        'type = "Ascii", map = ...',
        "drawn in the TOML file, or in a `file` next to it",
        f'map = """{DRAWING}"""',
    ),
]


def table() -> str:
    """Markdown: the pictures in rows, each with its settings and a description."""
    cells = []
    for picture in PICTURES:
        cells.append(f"![{picture.name}](../{picture.path})<br>`{picture.shown}`<br>{picture.description}")
    cells += [""] * (-len(cells) % COLUMNS)
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * COLUMNS, *lines[1:]])


def updated() -> str:
    """The page's text with the table up to date."""
    return replace_section(PAGE.read_text(encoding="utf-8"), MARKER, table())


def take_pictures(names: list[str]) -> None:
    """Write the pictures of these names, or all of them."""
    program = find_chromium()
    if program is None:
        raise SystemExit("chromium is missing; on Debian: apt-get install chromium")
    (ROOT / FOLDER).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Chromium(program, Path(folder) / "profile") as browser:
        for picture in PICTURES:
            if not names or picture.name in names:
                world = picture.env
                page = write_replay(
                    record_episode(RandomPolicy(world.spec), world, picture.seed, 1), folder, "map"
                ).page
                browser.resize(1400, 1000)
                browser.open(page)
                size = world.game.width * CELL, world.game.height * CELL
                browser.run(SHOW_MAP, *size)
                browser.wait_until_drawn()
                _write(browser, ROOT / picture.path, *size)
        if not names or "quickstart" in names:
            world = load_config("quickstart").env
            title = replay_title("", "scripted policy", "quickstart")
            page = write_replay(record_episode(ScriptedPolicy(world), world, 1), folder, "quickstart", title).page
            browser.resize(*TITLE_SIZE)
            browser.open(page, f"#step={TITLE_STEP}&agent=0")
            browser.wait_until_drawn()
            _write(browser, ROOT / TITLE_PICTURE, *TITLE_SIZE)


SHOW_MAP = """(width, height) => {
  document.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape"}));
  for (const other of document.querySelectorAll("header, aside, #playback, #view-buttons, #pointed"))
    other.style.display = "none";
  const main = document.querySelector("main");
  main.style.cssText = `display: block; padding: 0; width: ${width}px; height: ${height}px`;
  document.querySelector("#map-area").style.cssText = `width: ${width}px; height: ${height}px`;
  document.querySelector("#map").style.cssText = "border-radius: 0; width: 100%";
  window.dispatchEvent(new Event("resize"));
  document.querySelector("#fit").click();
}"""


def _write(browser: Chromium, path: Path, width: int, height: int) -> None:
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = base64.b64decode(browser.call("Page.captureScreenshot", format="png", clip=clip)["data"])
    # a palette takes a third of the bytes
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        raise SystemExit(f"{path.name} has {path.stat().st_size} bytes; at most {LARGEST}")


if __name__ == "__main__":
    take_pictures(sys.argv[1:])
    PAGE.write_text(updated(), encoding="utf-8")
