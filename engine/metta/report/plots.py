"""Curves as SVG, drawn by matplotlib, which is an extra."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.errors import UsageError
from metta.report.run_data import Axis, Run

MATPLOTLIB = "matplotlib"

AXES: dict[Axis, tuple[str, float]] = {"agent_step": ("agent steps", 1.0), "seconds": ("minutes of training", 60.0)}
"""What the curves go along: the words for it, and the unit."""

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""One for each run, which people who see colors otherwise can tell apart (Okabe and Ito 2008)."""
DASHES = ("-", "--", "-.", ":")
"""So that nobody needs the colors."""

POINTS = 500
"""Of a curve, at most: more cannot be seen."""
SMOOTH_SHARE = 0.05
"""Of a run's epochs, over which the bold line is the mean."""


def require_matplotlib() -> ModuleType:
    """The package. Raises UsageError, with what to install, where it is not there."""
    try:
        return importlib.import_module(MATPLOTLIB)
    except ImportError:
        raise UsageError("metta report needs matplotlib: pip install 'metta-gridworlds[report]'") from None


def draw(
    title: str,
    runs: Sequence[Run],
    keys: Sequence[str],
    columns: int = 3,
    along: Axis = "agent_step",
    panel_inches: tuple[float, float] = (4.2, 2.4),
) -> str:
    """An SVG of small charts, one for each metric in `keys`, with a line for each run over its agent steps or time.

    The faint line is each epoch, or their means where there are very many; the bold one a running mean.
    """
    matplotlib = require_matplotlib()
    figure_module = importlib.import_module("matplotlib.figure")
    ticker = importlib.import_module("matplotlib.ticker")
    words, unit = AXES[along]
    rows = -(-len(keys) // columns)
    columns = min(columns, len(keys))
    # text as text, and the same picture for the same runs
    style = {"svg.fonttype": "none", "svg.hashsalt": "metta", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
    with matplotlib.rc_context(style):
        figure = figure_module.Figure(
            figsize=(panel_inches[0] * columns, panel_inches[1] * rows + 0.3), layout="constrained"
        )
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, key in zip(axes, keys, strict=False):
            axis.set_title(
                _plain(key.removeprefix("stats.").removeprefix("losses.").removeprefix("task_rewards.")), loc="left"
            )
            for index, run in enumerate(runs):
                places, values = run.series(key, along)
                _draw_line(axis, places / unit, values, index=index, name=run.name)
            axis.margins(x=0.01)
            axis.xaxis.set_major_locator(ticker.MaxNLocator(5))
            if along == "agent_step":
                axis.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))  # 1.5M
        for axis in axes[len(keys) :]:
            axis.set_visible(False)
        for axis in axes[max(0, len(keys) - columns) : len(keys)]:
            axis.set_xlabel(words)
        if len(runs) > 1:
            handles, names = axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(runs)), frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _draw_line(axis: Any, steps: NDArray[np.float64], values: NDArray[np.float64], index: int, name: str) -> None:
    color, dashes = COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]
    width = max(1, round(len(values) * SMOOTH_SHARE))
    axis.plot(*thinned(steps, values), color=color, alpha=0.25, linewidth=0.8)
    marker = "o" if len(values) < 3 else None
    smooth = thinned(steps, running_mean(values, width))
    axis.plot(*smooth, dashes, color=color, linewidth=1.6, marker=marker, markersize=3, label=_plain(name))


def running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The mean of each value and the `width` - 1 before it; at the beginning of as many as there are."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - width)
    return np.asarray((sums[ends] - sums[begins]) / (ends - begins))


def thinned(steps: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most `POINTS` points, each the mean of as many neighbors as need be."""
    share = -(-len(values) // POINTS)
    if share <= 1:
        return steps, values
    begins = np.arange(0, len(values), share)
    counts = np.diff(np.append(begins, len(values)))
    return np.add.reduceat(steps, begins) / counts, np.add.reduceat(values, begins) / counts


def _plain(text: str) -> str:
    """Text that matplotlib takes for no formula; nor for a label to be hidden, as those that begin with _ are."""
    return text.replace("$", r"\$").lstrip("_")
