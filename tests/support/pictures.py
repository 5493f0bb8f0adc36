"""Renew the pictures of the README and its table of map builders: `python tests/support/pictures.py`.

Needs Chromium and Pillow (which comes with Matplotlib).

Each is a screenshot of metta's own replay page of a real map, cut to the map. The table stands between two markers;
`tests/test_pictures.py` fails when a builder has none, or when the table is not up to date.
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from chromium import Chromium, find_chromium
from PIL import Image

from metta.baselines.random_policy import RandomPolicy
from metta.baselines.scripted import ScriptedPolicy
from metta.config.env.env_config import EnvConfig
from metta.config.loading.load import load_config, parse_config
from metta.replay.recording import record_episode
from metta.replay.replay_files import write_replay

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FOLDER = ".pictures"
BEGIN = "<!-- maps:begin -->"
END = "<!-- maps:end -->"
IN_A_ROW = 3
LARGEST = 60_000
"""Bytes of a picture at most."""

HERO = f"{FOLDER}/quickstart.png"
HERO_STEP = 120
CELL = 14
"""Pixels."""

WORLD = """
[env.game]
{sizes}groups = {{ red = {{ id = 0 }}, blue = {{ id = 1 }} }}
[env.map_builder]
connected = true
{builder}
"""
SIZES = "num_agents = 4\nwidth = 28\nheight = 20\n"
ODD_SIZES = "num_agents = 4\nwidth = 29\nheight = 21\n"
"""With room for a wall in the middle."""
THINGS = "border_width = 1\nobjects = { mine_red = 3, generator_red = 2, altar = 2 }\n"
PART = "objects = { mine_red = 1, altar = 1 }"


@dataclass(frozen=True)
class Picture:
    """A map, and what the README says of it."""

    name: str
    shown: str
    """what of the settings the README shows"""
    words: str
    more: str = THINGS
    """the other settings"""
    seed: int = 0

    @property
    def path(self) -> str:
        """From the directory of the README."""
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
    Picture("random", 'type = "Random"', "an open floor"),
    Picture("mean_distance", "mean_distance = 5", "agents start together, objects about 5 steps away; any floor"),
    Picture("caves", 'type = "Caves"', "a cellular automaton"),
    Picture("maze", 'type = "Maze"', "Kruskal's algorithm: many dead ends"),
    Picture("maze_backtracker", 'type = "Maze", algorithm = "backtracker"', "long winding corridors"),
    Picture("dungeon", 'type = "Dungeon"', "split again and again (BSP), the rooms joined"),
    Picture(
        "terrain",
        'type = "Terrain", obstacles = "mixed"',
        "blocks, crosses, rings, labyrinths, or single walls",
        f"{THINGS}size = 5\ndensity = 0.2",
    ),
    Picture("radial", 'type = "Radial", arms = 6', "a hub with arms; agents in the middle, objects at the ends"),
    Picture("corridors", 'type = "Corridors"', "straight from side to side"),
    Picture(
        "rooms",
        'type = "Rooms", rooms = [...]',
        "a builder for each room, or one for all",
        f'rows = 2\ndoor_width = 1\nrooms = [{{ type = "Maze", {PART} }}, {{ type = "Caves", {PART} }},\n'
        f'{{ type = "Rooms", door_width = 3, rooms = [{{ {PART}, agents = 1 }}, {{ {PART}, agents = 0 }}] }},\n'
        f'{{ type = "Dungeon", {PART} }}]',
    ),
    Picture(
        "mirrored",
        'type = "Mirrored", builder = ...',
        "two teams with the same chances",
        f'builder = {{ type = "Caves", {PART} }}',
    ),
    Picture(
        "mirrored_rotated",
        'type = "Mirrored", symmetry = "rotated"',
        "turned by half; or four quarters",
        f'builder = {{ type = "Terrain", obstacles = "labyrinths", size = 5, {PART} }}',
        seed=2,
    ),
    Picture(
        "choice",
        'type = "Choice", builders = [...]',
        "one of several, at random: here four times",
        'type = "Rooms"\ndoor_width = 1\nroom = { type = "Choice", builders = ['
        f'{{ type = "Maze", {PART} }}, {{ type = "Caves", {PART} }}, {{ type = "Radial", {PART} }}] }}',
        seed=3,
    ),
    Picture(
        "ascii",
        'type = "Ascii", map = ...',
        "drawn in the TOML file, or in a `file` beside it",
        f'map = """{DRAWING}"""',
    ),
]


def table() -> str:
    """Markdown: the pictures in rows, each with its settings and what it is."""
    cells = []
    for picture in PICTURES:
        cells.append(f"![{picture.name}]({picture.path})<br>`{picture.shown}`<br>{picture.words}")
    cells += [""] * (-len(cells) % IN_A_ROW)
    rows = [cells[start : start + IN_A_ROW] for start in range(0, len(cells), IN_A_ROW)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * IN_A_ROW, *lines[1:]]) + "\n"


def renewed(text: str) -> str:
    """The README's text with the table between its markers up to date."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md needs the lines\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


def take_pictures(names: list[str]) -> None:
    """Write the pictures of these names, all where there are none."""
    program = find_chromium()
    if program is None:
        raise SystemExit("there is no chromium here; it is Debian's package of that name")
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
            page = write_replay(record_episode(ScriptedPolicy(world), world, 1), folder, "quickstart").page
            browser.resize(1000, 560)
            browser.open(page, f"#step={HERO_STEP}&agent=0")
            browser.wait_until_drawn()
            _write(browser, ROOT / HERO, 1000, 560)


SHOW_MAP = """(width, height) => {
  document.querySelector("#sight").click();
  for (const other of document.querySelectorAll("header, aside, #transport, #view-buttons, #pointed"))
    other.style.display = "none";
  const main = document.querySelector("main");
  main.style.cssText = `display: block; padding: 0; width: ${width}px; height: ${height}px`;
  document.querySelector("#stage").style.cssText = `width: ${width}px; height: ${height}px`;
  document.querySelector("#map").style.borderRadius = 0;
  window.dispatchEvent(new Event("resize"));
  document.querySelector("#fit").click();
}"""


def _write(browser: Chromium, path: Path, width: int, height: int) -> None:
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = base64.b64decode(browser.call("Page.captureScreenshot", format="png", clip=clip)["data"])
    # 64 colors are more than enough, and a third of the bytes
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        raise SystemExit(f"{path.name} has {path.stat().st_size} bytes; at most {LARGEST}")


if __name__ == "__main__":
    take_pictures(sys.argv[1:])
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
