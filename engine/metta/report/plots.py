"""Charts of a report: metric curves of runs as SVG, drawn with matplotlib (extra `report`)."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.errors import UsageError
from metta.report.run_data import RunData, XAxis

MATPLOTLIB = "matplotlib"

X_AXES: dict[XAxis, tuple[str, float]] = {"agent_step": ("agent steps", 1.0), "seconds": ("minutes of training", 60.0)}
"""(label, divisor) of each horizontal axis; the metric divided by the divisor is in the unit of the label."""

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Line colors of the runs, distinguishable with color vision deficiency (Okabe and Ito 2008)."""
DASHES = ("-", "--", "-.", ":")
"""Line styles; the next style is used after every color has been used once."""

MAX_POINTS = 500
"""Maximum number of points of a curve; longer curves are downsampled by averaging."""
SMOOTHED_SHARE = 0.05
"""Window of the running mean, as a fraction of the run's epochs."""


def require_matplotlib() -> ModuleType:
    """Import matplotlib. Raises UsageError, with the command that installs it, if it is not installed."""
    try:
        return importlib.import_module(MATPLOTLIB)
    except ImportError:
        raise UsageError("metta report needs matplotlib: pip install 'metta-gridworlds[report]'") from None


def metrics_svg(
    title: str,
    runs: Sequence[RunData],
    metrics: Sequence[str],
    columns: int = 3,
    x_axis: XAxis = "agent_step",
    panel_inches: tuple[float, float] = (4.2, 2.4),
) -> str:
    """An `<svg>` element with a panel for each metric and a curve for each run.

    A thin transparent line shows the value of each epoch, a thick line the running mean. `panel_inches` is the (width,
    height) of a panel. The same runs give the same SVG.
    """
    matplotlib = require_matplotlib()
    figure_module = importlib.import_module("matplotlib.figure")
    ticker = importlib.import_module("matplotlib.ticker")
    label, divisor = X_AXES[x_axis]
    rows = -(-len(metrics) // columns)
    columns = min(columns, len(metrics))
    # text stays text instead of paths; a fixed salt makes element ids reproducible
    style = {"svg.fonttype": "none", "svg.hashsalt": "metta", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
    with matplotlib.rc_context(style):
        figure = figure_module.Figure(
            figsize=(panel_inches[0] * columns, panel_inches[1] * rows + 0.3), layout="constrained"
        )
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, metric in zip(axes, metrics, strict=False):
            name = metric.removeprefix("stats.").removeprefix("losses.").removeprefix("task_rewards.")
            axis.set_title(_plain_text(name), loc="left")
            for index, run in enumerate(runs):
                x, values = run.series(metric, x_axis)
                _plot_run(axis, x / divisor, values, index, run.name)
            axis.margins(x=0.01)
            axis.xaxis.set_major_locator(ticker.MaxNLocator(5))
            if x_axis == "agent_step":
                axis.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))  # 1.5M
        for axis in axes[len(metrics) :]:
            axis.set_visible(False)
        for axis in axes[max(0, len(metrics) - columns) : len(metrics)]:
            axis.set_xlabel(label)
        if len(runs) > 1:
            handles, names = axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(runs)), frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _plot_run(axis: Any, x: NDArray[np.float64], values: NDArray[np.float64], index: int, name: str) -> None:
    """Plot the epochs and the running mean of a run; `index`, the position of the run, selects color and line style."""
    color, dashes = COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]
    width = max(1, round(len(values) * SMOOTHED_SHARE))
    axis.plot(*downsample(x, values), color=color, alpha=0.25, linewidth=0.8)
    marker = "o" if len(values) < 3 else None
    smooth = downsample(x, running_mean(values, width))
    axis.plot(*smooth, dashes, color=color, linewidth=1.6, marker=marker, markersize=3, label=_plain_text(name))


def running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Mean of each value and up to `width` - 1 values before it. `[epochs]`"""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def downsample(x: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x, values) averaged over at most `MAX_POINTS` blocks of consecutive points, equally long but for the last."""
    size = -(-len(values) // MAX_POINTS)
    if size <= 1:
        return x, values
    starts = np.arange(0, len(values), size)
    counts = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(values, starts) / counts


def _plain_text(text: str) -> str:
    """Escape `$`, which starts a formula, and strip leading underscores, which exclude a label from the legend."""
    return text.replace("$", r"\$").lstrip("_")
