"""Sprites of agents and objects as Pillow images, drawn like those of the replay page (extra `video`).

Shapes and colors are those of the page: `viewer/shapes.json`, and the light theme of `viewer/viewer.css`. The methods
follow `viewer/sprites.js` and `viewer/icons.js`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

from metta.config.env.env_config import EnvConfig
from metta.config.env.labels import cell_glyphs
from metta.config.env.objects import ObjectConfig
from metta.geometry import STEPS

Point = tuple[float, float]

OVERSAMPLING: Final = 6
"""Pixels per pixel of the picture, in each direction, in which shapes are drawn before they are scaled down."""
CURVE_POINTS: Final = 12
CIRCLE_POINTS: Final = 48


def _source(name: str) -> str:
    return files("metta.replay").joinpath("viewer", name).read_text(encoding="utf-8")


SHAPES: Final[dict[str, Any]] = json.loads(_source("shapes.json"))
THEME: Final[dict[str, str]] = dict(re.findall(r"--([\w-]+): (#\w+);", _source("viewer.css").partition("@media")[0]))
"""Colors of the page by name, such as `floor`."""


class Canvas:
    """A transparent picture on which shapes are drawn in a unit of length, smoothed by oversampling."""

    def __init__(self, width: int, height: int, unit: float):
        """`width` and `height` are in pixels, `unit` is the number of pixels of the unit of length."""
        self._size = width, height
        self._scale = unit * OVERSAMPLING
        self._image = Image.new("RGBA", (width * OVERSAMPLING, height * OVERSAMPLING))
        self._draw = ImageDraw.Draw(self._image)

    def picture(self) -> Image.Image:
        """The picture in its size in pixels."""
        return self._image.resize(self._size, Image.Resampling.BOX)

    def fill(self, points: Sequence[Point], color: str) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._pixels(points), color)

    def stroke(self, points: Sequence[Point], color: str, width: float, is_closed: bool = True) -> None:
        """Draw a line with round joins."""
        pixels, radius = self._pixels([*points, points[0]] if is_closed else points), width * self._scale / 2
        self._draw.line(pixels, color, max(1, round(2 * radius)))
        for x, y in pixels if is_closed else pixels[1:-1]:
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), color)

    def rectangle(self, x: float, y: float, width: float, height: float, color: str) -> None:
        """Fill a rectangle."""
        left, top, right, bottom = (round(edge * self._scale) for edge in (x, y, x + width, y + height))
        if right > left and bottom > top:
            self._draw.rectangle((left, top, right - 1, bottom - 1), color)

    def text(self, text: str, x: float, y: float, height: float, color: str) -> None:
        """Draw a bold text centered at a point; `height` is that of the font."""
        pixels = height * self._scale
        (position,) = self._pixels([(x, y)])
        self._draw.text(position, text, color, _font(pixels), "mm", stroke_width=round(pixels / 30))

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._scale, y * self._scale) for x, y in points]


@lru_cache
def _font(pixels: float) -> Any:
    return ImageFont.load_default(pixels)


def circle(x: float, y: float, radius: float) -> list[Point]:
    """The points of a circle."""
    angles = (2 * math.pi * index / CIRCLE_POINTS for index in range(CIRCLE_POINTS))
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


class SpritePainter:
    """Draws the sprites of an environment, each once for each size and state."""

    def __init__(self, config: EnvConfig):
        self._glyphs = cell_glyphs(config)
        self._outlines = _group_outlines([group.sprite for group in config.game.groups.values()])
        self._marks = [
            chr(64 + earlier) if (earlier := self._outlines[:index].count(outline)) else ""
            for index, outline in enumerate(self._outlines)
        ]
        self._agents: dict[tuple[int, int, int, bool, str], Image.Image] = {}
        self._objects: dict[tuple[int, str, bool, int, bool], Image.Image] = {}

    def agent(self, size: int, group: int, orientation: int, is_frozen: bool, label: str) -> Image.Image:
        """The sprite of an agent, `size` pixels high and wide."""
        key = size, group, orientation, is_frozen, label
        if key not in self._agents:
            canvas = Canvas(size, size, size)
            self._paint_agent(canvas, *key)
            self._agents[key] = canvas.picture()
        return self._agents[key]

    def object(
        self, size: int, object_type: ObjectConfig, is_busy: bool = False, ready: int = 0, is_faint: bool = False
    ) -> Image.Image:
        """The sprite of an object: `is_busy` if it converts or cools down, `ready` units of its outputs in it."""
        key = size, object_type.name, is_busy, ready, is_faint
        if key not in self._objects:
            canvas = Canvas(size, size, size)
            if object_type.type != "wall":
                self._paint_converter(canvas, size, object_type, is_busy, ready)
            elif object_type.swappable:
                _paint_block(canvas)
            else:
                _paint_wall(canvas, size)
            picture = canvas.picture()
            if is_faint:
                picture.putalpha(picture.getchannel("A").point(lambda alpha: round(alpha * SHAPES["faint"])))
            self._objects[key] = picture
        return self._objects[key]

    def _paint_agent(
        self, canvas: Canvas, size: int, group: int, orientation: int, is_frozen: bool, label: str
    ) -> None:
        ink, theme_ink = SHAPES["ink"], THEME["ink"]
        down, right = STEPS[orientation]
        tip = (0.5 + right * 0.5, 0.5 + down * 0.5)
        base = [(0.5 + right * 0.18 + side * down * 0.3, 0.5 + down * 0.18 + side * right * 0.3) for side in (1, -1)]
        canvas.fill([tip, *base], theme_ink)
        outline = _outline(self._outlines[group], 0.31)
        canvas.stroke(outline, SHAPES["frozen"] if is_frozen else theme_ink, 0.12 if is_frozen else 0.09)
        colors = SHAPES["groups"]
        canvas.fill(outline, SHAPES["frozenFill"] if is_frozen else colors[group % len(colors)])
        if is_frozen:
            for angle in (math.pi * index / 3 + math.pi / 6 for index in range(6)):
                ends = [(0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)) for radius in (0.36, 0.5)]
                canvas.stroke(ends, SHAPES["frozen"], 0.07, is_closed=False)
        else:
            canvas.stroke(outline, ink, 0.03)
        if size >= 14:
            canvas.text(label, 0.5, 0.52, 0.28 if len(label) > 2 else 0.38, ink)
        if self._marks[group]:
            _paint_badge(canvas, size, self._marks[group], 0.66)

    def _paint_converter(self, canvas: Canvas, size: int, object_type: ObjectConfig, is_busy: bool, ready: int) -> None:
        base, _, color = object_type.name.rpartition("_")
        if not base or color not in SHAPES["gems"]:
            base, color = object_type.name, ""
        icon, letter = SHAPES["objects"].get(base), ""
        if icon is None:
            types = SHAPES["types"]
            icon = types.get(object_type.type, types["registered"])
            letter, color = self._glyphs[object_type.name], ""
        tints = SHAPES["tints"]
        _paint_icon(canvas, icon, tints[(object_type.color or 0) % len(tints)], color, letter)
        if is_busy and size >= 12:
            canvas.rectangle(0.2, 0.76, 0.6, 0.2, SHAPES["ink"])
            for index in range(3):
                canvas.rectangle(0.28 + 0.17 * index, 0.81, 0.1, 0.1, "#fff")
        if ready:
            _paint_badge(canvas, size, str(ready), 0.01)


def _group_outlines(sprites: Sequence[int]) -> list[str]:
    """The outline of each group's agents: the one at index `sprite`, or the next one that no earlier group uses."""
    names: list[str] = SHAPES["outlines"]
    taken: list[str] = []
    for sprite in sprites:
        order = [names[(sprite + index) % len(names)] for index in range(len(names))]
        taken.append(next((name for name in order if name not in taken), order[0]))
    return taken


def _outline(shape: str, radius: float) -> list[Point]:
    if shape == "circle":
        return circle(0.5, 0.5, radius)
    return [(0.5 + radius * x, 0.5 + radius * y) for x, y in SHAPES["corners"][shape]]


def _paint_wall(canvas: Canvas, size: int) -> None:
    canvas.rectangle(0, 0, 1, 1, THEME["wall"])
    for x, y, width, height in SHAPES["mortar"] if size >= 10 else ():
        canvas.rectangle(x, y, width, height, THEME["mortar"])


def _paint_block(canvas: Canvas) -> None:
    fill, line = SHAPES["block"]
    corners = [(0.08, 0.08), (0.92, 0.08), (0.92, 0.92), (0.08, 0.92)]
    canvas.fill(corners, fill)
    canvas.stroke(corners, line, 0.07)
    canvas.stroke([(0.12, 0.12), (0.88, 0.88)], line, 0.07, is_closed=False)
    canvas.stroke([(0.88, 0.12), (0.12, 0.88)], line, 0.07, is_closed=False)


def _paint_badge(canvas: Canvas, size: int, label: str, top: float) -> None:
    """Paint a number or letter in a box at the right edge; in a small sprite a box without text."""
    if size < 18:
        canvas.rectangle(0.72, top + 0.06, 0.2, 0.2, SHAPES["ink"])
    else:
        canvas.rectangle(0.67, top, 0.32, 0.34, SHAPES["ink"])
        canvas.text(label, 0.83, top + 0.18, 0.29, "#fff")


def _paint_icon(canvas: Canvas, icon: dict[str, Any], tint: str, color: str, letter: str) -> None:
    """Paint an icon, which has a grid of 24 x 24, into the unit square, with a small margin."""

    def place(points: Sequence[Point]) -> list[Point]:
        return [(0.04 + 0.92 * x / 24, 0.04 + 0.92 * y / 24) for x, y in points]

    unit, ink = 0.92 / 24, SHAPES["ink"]
    layers = [
        (tint if fill == "tint" else fill, [place(part) for part in path_points(SHAPES["paths"].get(path, path))])
        for fill, path in icon["layers"]
    ]
    for index, (_, parts) in enumerate(layers):
        for part in parts:
            canvas.stroke(part, ink, (1 if index else 1.8) * unit)
    for fill, parts in layers:
        for part in parts:
            canvas.fill(part, fill)
    if "mark" not in icon:
        return
    x, y, radius = icon["mark"]
    if color:
        fill, shape = SHAPES["gems"][color]
        gem = {
            "circle": circle(x, y, radius * 0.85),
            "square": [(x + radius * 0.75 * i, y + radius * 0.75 * j) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))],
            "triangle": [
                (x, y - radius),
                (x + radius * 0.98, y + radius * 0.75),
                (x - radius * 0.98, y + radius * 0.75),
            ],
        }[shape]
        canvas.stroke(place(gem), ink, 1.8 * unit)
        canvas.fill(place(gem), fill)
    elif letter:
        ((center_x, center_y),) = place([(x, y)])
        canvas.text(letter, center_x, center_y, radius * 1.9 * unit, ink)


def path_points(path: str) -> Iterator[list[Point]]:
    """The closed parts of an SVG path with the absolute commands M, L, H, V, C and Z; curves as short lines."""
    points: list[Point] = []
    for command, arguments in re.findall(r"([MLHVCZ])([^MLHVCZ]*)", path):
        numbers = [float(number) for number in arguments.split()]
        if command == "Z":
            yield points
            points = []
        elif command == "H":
            points.append((numbers[0], points[-1][1]))
        elif command == "V":
            points.append((points[-1][0], numbers[0]))
        elif command == "C":
            points += _curve(points[-1], *zip(numbers[::2], numbers[1::2], strict=True))
        else:
            points.append((numbers[0], numbers[1]))


def _curve(start: Point, first: Point, second: Point, end: Point) -> Iterator[Point]:
    """Points of a cubic Bezier curve, without its start."""
    for index in range(1, CURVE_POINTS + 1):
        t = index / CURVE_POINTS
        weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
        yield (
            sum(weight * point[0] for weight, point in zip(weights, (start, first, second, end), strict=True)),
            sum(weight * point[1] for weight, point in zip(weights, (start, first, second, end), strict=True)),
        )
