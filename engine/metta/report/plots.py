"""Charts of a report as SVG, drawn with matplotlib (extra `report`); their colors are CSS variables of the page."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.report.packages import from_extra
from metta.report.run_data import XAxis
from metta.report.run_groups import RunGroup, smooth
from metta.report.statistics import Average

X_AXES: dict[XAxis, tuple[str, float]] = {"agent_step": ("agent steps", 1.0), "seconds": ("minutes of training", 60.0)}
"""(label, divisor) of each horizontal axis; the metric divided by the divisor is in the unit of the label."""

NUM_COLORS = 7
COLORS = [f"#00000{index}" for index in range(1, NUM_COLORS + 1)]
TEXT, MUTED, LINE, BACKGROUND = "#00000a", "#00000b", "#00000c", "#00000d"
VARIABLES = {
    **{color: f"var(--color-{index})" for index, color in enumerate(COLORS)},
    TEXT: "var(--text)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    BACKGROUND: "var(--background)",
}
"""CSS variable of report.css that replaces each color in the SVG, so that charts follow the light or dark page."""
DASHES = ("-", "--", "-.", ":")
"""Line styles; the next style is used after every color has been used once."""

PANEL_INCHES = (4.2, 2.5)
"""(width, height) of a panel."""
LEFT, RIGHT, BOTTOM = 0.55, 0.2, 0.5
"""Space for labels beside the axes and below them, inches; a layout engine would take half of the time of a report."""
MAX_POINTS = 500
"""Maximum number of points of the curve of a run; longer curves are downsampled by averaging."""
GROUP_POINTS = 100
"""Maximum number of points of the curve of a group and its band."""


def panel(title: str, draw: Callable[[Any], None], x_label: str, inches: tuple[float, float] = PANEL_INCHES) -> str:
    """An `<svg>` element with one pair of axes, on which `draw` draws. The same drawing gives the same SVG."""
    matplotlib = from_extra("matplotlib")
    with _style(matplotlib, f"{title} {x_label}"):
        figure = from_extra("matplotlib.figure").Figure(figsize=inches)
        width, height = inches
        axis = figure.add_axes((LEFT / width, BOTTOM / height, 1 - (LEFT + RIGHT) / width, 1 - (BOTTOM + 0.3) / height))
        axis.set_title(plain_text(title), loc="left")
        axis.set_xlabel(x_label)
        draw(axis)
        figure.patch.set_visible(False)
        axis.patch.set_visible(False)
        file = io.StringIO()
        canvas = from_extra("matplotlib.backends.backend_svg").FigureCanvasSVG(figure)
        canvas.print_svg(file, metadata={"Date": None, "Creator": None, "Title": title})  # savefig would draw twice
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg


def _style(matplotlib: Any, salt: str) -> AbstractContextManager[None]:
    """Text stays text instead of paths, colors are those of the page, and element ids depend on the salt only."""
    text = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), TEXT)
    lines = dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), LINE)
    settings = {
        **text,
        **lines,
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.size": 9,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    context: AbstractContextManager[None] = matplotlib.rc_context(settings)
    return context


def metric_svg(title: str, groups: Sequence[RunGroup], metric: str, average: Average, x_axis: XAxis) -> str:
    """A panel with a curve of each group.

    A group of one run has a thin line with the value of each epoch and a thick one with the running mean. A group of
    several runs has a thin line with the running mean of each run, a thick one with the average of these, dashed where
    not all runs have arrived, and a band with its 95 % interval.
    """
    label, divisor = X_AXES[x_axis]

    def draw(axis: Any) -> None:
        for index, group in enumerate(groups):
            _draw_group(axis, group, metric, average, x_axis, index)
        axis.margins(x=0.01)
        axis.xaxis.set_major_locator(from_extra("matplotlib.ticker").MaxNLocator(5))
        if x_axis == "agent_step":
            axis.xaxis.set_major_formatter(from_extra("matplotlib.ticker").EngFormatter(sep=""))  # 1.5M
        else:
            axis.xaxis.set_major_formatter(lambda seconds, _: f"{seconds / divisor:g}")

    return panel(title, draw, label)


def _draw_group(axis: Any, group: RunGroup, metric: str, average: Average, x_axis: XAxis, index: int) -> None:
    """Draw the curve of a group; `index`, its position, selects color and line style."""
    color, dashes = line_style(index)
    for run in group.runs:
        x, values = run.series(metric, x_axis)
        drawn = values if len(group.runs) == 1 else smooth(values)
        axis.plot(*downsample(x, drawn), color=color, alpha=0.3, linewidth=0.8)
    x, estimate, num_runs = group.curve(metric, average, x_axis, GROUP_POINTS, is_smooth=True)
    is_whole = num_runs == len(group.runs)
    marker = "o" if len(x) < 3 else None
    for shown, style in ((is_whole, dashes), (~is_whole, ":" if dashes != ":" else "--")):
        line = np.where(shown | _neighbors(shown), estimate.average, np.nan)
        axis.plot(x, line, style, color=color, linewidth=1.8, marker=marker, markersize=3)
    axis.fill_between(x, estimate.low, estimate.high, color=color, alpha=0.18, linewidth=0)


def _neighbors(shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The points after those shown, with which a line of the other style is connected to them."""
    return np.concatenate([[False], shown[:-1]])


def line_style(index: int) -> tuple[str, str]:
    """(color, dashes) of the group at this position."""
    return COLORS[index % NUM_COLORS], DASHES[index // NUM_COLORS % len(DASHES)]


def downsample(x: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x, values) averaged over at most `MAX_POINTS` blocks of consecutive points, equally long but for the last."""
    size = -(-len(values) // MAX_POINTS)
    if size <= 1:
        return x, values
    starts = np.arange(0, len(values), size)
    counts = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(values, starts) / counts


def plain_text(text: str) -> str:
    """Escape `$`, which starts a formula."""
    return text.replace("$", r"\$")
