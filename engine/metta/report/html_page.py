"""Pages of reports: HTML files that load no other file, from jinja templates."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from metta.report.metric_sections import MetricSection, short_name
from metta.report.plots import DASHES, VARIABLES, X_AXES, line_style, metric_svg
from metta.report.run_data import XAxis
from metta.report.run_groups import RunGroup
from metta.report.statistics import Average

DASH_ARRAYS = dict(zip(DASHES, ("none", "8 3", "8 3 2 3", "2 3"), strict=True))
"""SVG form of the line styles of charts."""

_TEMPLATES = Environment(
    loader=PackageLoader("metta.report", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


class Table(NamedTuple):
    """A table of text cells; the first cell of a row names it."""

    headings: list[str]
    rows: list[list[str]]


class Charts(NamedTuple):
    """A section of the page: the charts of metrics for each horizontal axis."""

    heading: str
    note: str
    svgs: dict[XAxis, list[str]]


class LegendEntry(NamedTuple):
    """Name of a group and the look of its line: an SVG color and `stroke-dasharray`."""

    name: str
    color: str
    dashes: str


def render(template: str, title: str, directories: Iterable[Path], **values: Any) -> str:
    """The page as HTML. All values are escaped; `directories` are those that the report is about."""
    return _TEMPLATES.get_template(template).render(
        title=title,
        digests=[_digest(directory) for directory in directories],
        style=files("metta.report").joinpath("report.css").read_text(encoding="utf-8"),
        x_axes=X_AXES,
        **values,
    )


def _digest(directory: Path) -> str:
    """A hash of the path of a directory, which identifies it in a report."""
    return hashlib.sha256(os.path.abspath(directory).encode(errors="surrogateescape")).hexdigest()[:16]


def charts(section: MetricSection, groups: Sequence[RunGroup], average: Average) -> Charts:
    """The charts of a section, with a curve of each group."""
    svgs: dict[XAxis, list[str]] = {x_axis: [] for x_axis in X_AXES}
    for x_axis, metric in product(X_AXES, section.metrics):
        svgs[x_axis].append(metric_svg(short_name(metric), groups, metric, average, x_axis))
    return Charts(section.heading, section.note, svgs)


def legend(groups: Sequence[RunGroup]) -> list[LegendEntry]:
    """The entry of each group."""
    styles = [line_style(index) for index in range(len(groups))]
    return [
        LegendEntry(group.name, VARIABLES[color], DASH_ARRAYS[dashes])
        for group, (color, dashes) in zip(groups, styles, strict=True)
    ]
