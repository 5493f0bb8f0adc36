"""Page of a tournament: standings, ratings of runs over agent steps, and the win matrix, as HTML and as JSON."""

from __future__ import annotations

import base64
import hashlib
import math
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from metta.config.validation.file_paths import user_path
from metta.evaluation.confidence_intervals import Interval
from metta.experiments.tournament.result import Standing, TournamentResult
from metta.files import write_atomically
from metta.run.metrics_file import json_line

NUM_COLORS = 6
"""Colors of runs in `tournament.css`."""

_TEMPLATES = Environment(
    loader=PackageLoader("metta.report", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class TournamentPaths(NamedTuple):
    """The files about a tournament."""

    page: Path
    """`tournament.html`, for a web browser"""
    json: Path
    """`tournament.json`: all numbers"""


class _Scale(NamedTuple):
    """Linear scale of an axis: values from `low` to `high` are drawn from pixel `begin` to pixel `end`."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        fraction = (value - self.low) / (self.high - self.low)
        return round(self.begin + fraction * (self.end - self.begin), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """(pixel, label) of about five round values."""
        span = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(span))
        step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= span)
        values = [step * index for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [(self(value), _short(value)) for value in values]


class _Chart(NamedTuple):
    """Ratings over agent steps: a line for each run, a level for each policy without agent steps."""

    x: _Scale
    y: _Scale
    runs: list[tuple[str, list[Standing]]]
    levels: list[Standing]


def write_tournament(result: TournamentResult, directory: str | Path, world: str) -> TournamentPaths:
    """Write `tournament.html` and `tournament.json` into `directory`, which is created; they replace earlier ones.

    `world` names the world. Raises OSError if a file cannot be written.
    """
    folder = user_path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    paths = TournamentPaths(folder / "tournament.html", folder / "tournament.json")
    write_atomically(paths.json, json_line({"world": world} | result.as_json()).encode() + b"\n")
    write_atomically(paths.page, tournament_html(result, world).encode())
    return paths


def tournament_html(result: TournamentResult, world: str) -> str:
    """The page as HTML that loads no other file and has no script. All names are escaped."""
    style = files("metta.report").joinpath("tournament.css").read_text(encoding="utf-8")
    standings = result.standings
    low = min(standing.rating.low for standing in standings)
    high = max(standing.rating.high for standing in standings)
    return _TEMPLATES.get_template("tournament.html.jinja").render(
        result=result,
        world=world,
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        bar=_Scale(low, high, 4.0, 116.0),
        chart=_chart(result) if result.progress else None,
        sides=" against ".join(" and ".join(side) for side in result.sides) if any(result.sides) else "",
        estimate=_estimate,
        numbered=list(enumerate(standings)),
        num_colors=NUM_COLORS,
    )


def _chart(result: TournamentResult) -> _Chart:
    runs = [(Path(run).name, points) for run, points in result.progress.items()]
    in_runs = [standing for _, points in runs for standing in points]
    levels = [standing for standing in result.standings if standing not in in_runs]
    steps = [standing.entrant.agent_steps or 0 for standing in in_runs]
    means = [standing.rating.mean for standing in levels]
    low = min(means + [standing.rating.low for standing in in_runs])
    high = max(means + [standing.rating.high for standing in in_runs])
    margin = 0.05 * (high - low)
    return _Chart(
        _Scale(0, max(1, *steps), 44.0, 610.0), _Scale(low - margin, high + margin, 300.0, 10.0), runs, levels
    )


def _estimate(interval: Interval) -> str:
    """A mean with the half width of its interval, such as `4.76 ± 1.28`: three digits of the half width."""
    half_width = interval.half_width
    if math.isnan(half_width):
        return f"{interval.mean:,.3f}"
    digits = min(4, max(0, 2 - math.floor(math.log10(half_width)))) if half_width > 1e-9 else 3
    return f"{interval.mean:,.{digits}f} ± {half_width:,.{digits}f}"


def _short(value: float) -> str:
    """A round number such as 1.5M."""
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{suffix}"
    return f"{value:g}"
