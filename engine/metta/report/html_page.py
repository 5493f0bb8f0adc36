"""Report page: metric curves, config differences and the newest replays of one or several runs in one HTML file."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from metta.config.validation.file_paths import user_path
from metta.files import write_together
from metta.report.plots import X_AXES, metrics_svg, require_matplotlib
from metta.report.run_data import RunData, XAxis, config_differences, read_runs

RESULT_SHARE = 0.1
"""Fraction of a run's epochs, the last ones, over which the summary averages the reward."""
MAX_REPLAY_BYTES = 20_000_000
"""Maximum size of an embedded replay; for a larger one, the page shows only its path."""
MAX_CHARTS = 30
"""Maximum number of charts in each of the sections on tasks, items and actions."""

LOSSES = ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "explained_variance", "grad_norm")
TIMED_PARTS = ("simulate", "infer", "learn")

_RUNS = re.compile(rb'<meta name="runs" content="([0-9a-f ]+)">')

_TEMPLATES = Environment(
    loader=PackageLoader("metta.report", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


class Table(NamedTuple):
    """A table of text cells."""

    headings: list[str]
    rows: list[list[str]]


class Curves(NamedTuple):
    """A section of the page: one SVG of charts for each horizontal axis, with the same metrics."""

    heading: str
    svgs: dict[XAxis, str]


class EmbeddedReplay(NamedTuple):
    """The newest replay of a run; `html` is its content, or None if it is larger than `MAX_REPLAY_BYTES`."""

    heading: str
    path: Path
    html: str | None


def write_report(run_dirs: Sequence[str | Path], out: str | Path = "report.html", overwrite: bool = True) -> Path:
    """Write the report of the runs in these directories, in this order, to the file `out` and return its path.

    If `overwrite` is false and `out` is a file other than an earlier report about some of these runs, a number is
    appended to its name.

    A SkippedFileWarning names each directory that is left out, because it is not a run directory, is damaged, or its
    run has no completed epoch. Raises UsageError if no run is left or matplotlib is not installed; OSError if the file
    cannot be written.
    """
    require_matplotlib()
    runs = read_runs(run_dirs)
    path = user_path(out)
    contents = {path.suffix: report_html(runs).encode()}
    return write_together(path.parent, path.stem, contents, overwrite, _is_earlier_report)[path.suffix]


def report_html(runs: Sequence[RunData]) -> str:
    """The page as HTML that loads no other file. Names and values of the runs are escaped."""
    return _TEMPLATES.get_template("report.html.jinja").render(
        digests=[_digest(run) for run in runs],
        title=", ".join(run.name for run in runs),
        style=files("metta.report").joinpath("report.css").read_text(encoding="utf-8"),
        x_axes=X_AXES,
        summary=_summary(runs),
        curves=_curves(runs),
        differences_heading="Config differences" if len(runs) > 1 else "Settings that differ from the defaults",
        differences=_differences(runs),
        replays=[replay for run in runs if (replay := _embedded_replay(run))],
    )


def _digest(run: RunData) -> str:
    """A hash of the directory of the run, which identifies it in a report."""
    return hashlib.sha256(os.path.abspath(run.run_dir).encode(errors="surrogateescape")).hexdigest()[:16]


def _is_earlier_report(old: bytes, new: bytes) -> bool:
    """Whether `old` is a report about runs that are all in the report `new`."""
    runs_of_old, runs_of_new = (_RUNS.search(page) for page in (old, new))
    assert runs_of_new is not None
    return runs_of_old is not None and set(runs_of_old[1].split()) <= set(runs_of_new[1].split())


def _summary(runs: Sequence[RunData]) -> Table:
    headings = ["run", "agent steps", "epochs", "minutes", "agent steps/s", "reward, last 10 %", "reward, best epoch"]
    rows = []
    for run in runs:
        last = run.epochs[-1]
        _, rewards = run.series("reward")
        last_rewards = rewards[-max(1, round(len(rewards) * RESULT_SHARE)) :]
        _, times = run.series("seconds")
        seconds = float(times[-1]) if len(times) else 0.0
        rows.append(
            [
                run.name,
                f"{last['agent_step']:,}",
                f"{last['epoch']:,}",
                f"{seconds / 60:,.1f}",
                f"{last['agent_step'] / seconds:,.0f}" if seconds else "-",
                f"{last_rewards.mean():.3f}" if len(last_rewards) else "-",
                f"{np.max(rewards):.3f}" if len(rewards) else "-",
            ]
        )
    return Table(headings, rows)


def _differences(runs: Sequence[RunData]) -> Table:
    headings = ["setting", *(run.name for run in runs), *(["default"] if len(runs) == 1 else [])]
    return Table(headings, [[key, *values] for key, values in config_differences(runs)])


def _curves(runs: Sequence[RunData]) -> list[Curves]:
    """The sections of charts; metrics that no run has recorded are left out."""
    tasks = sorted({name for run in runs for name in run.metric_names("task_rewards")})
    sections = [
        ("Learning", ["reward", "evaluation.mean_reward", "episode_length"], 3),
        ("Reward by task", [f"task_rewards.{name}" for name in tasks[:MAX_CHARTS]], 3),
        ("Items: gained per agent and episode", _counters(runs, lambda name: name.endswith(".gained")), 3),
        ("Actions per agent and episode", _counters(runs, _is_action_counter), 3),
        ("Losses", [f"losses.{name}" for name in LOSSES], 3),
        ("Throughput", ["steps_per_second", *(f"seconds_{part}" for part in TIMED_PARTS)], 4),
    ]
    curves = []
    for heading, metrics, columns in sections:
        recorded = [metric for metric in metrics if any(len(run.series(metric)[1]) for run in runs)]
        if recorded:
            svgs = {x_axis: metrics_svg(heading, runs, recorded, columns, x_axis) for x_axis in X_AXES}
            curves.append(Curves(heading, svgs))
    return curves


def _counters(runs: Sequence[RunData], is_wanted: Callable[[str], bool]) -> list[str]:
    """Metrics `stats.NAME` whose NAME `is_wanted` accepts, by decreasing total; at most `MAX_CHARTS`."""
    names = sorted({name for run in runs for name in run.metric_names("stats") if is_wanted(name)})
    totals = {f"stats.{name}": max(float(np.sum(run.series(f"stats.{name}")[1])) for run in runs) for name in names}
    return sorted(totals, key=lambda metric: -totals[metric])[:MAX_CHARTS]


def _is_action_counter(name: str) -> bool:
    return name.startswith("action.") and name.endswith((".success", ".failed")) and name.count(".") == 2


def _embedded_replay(run: RunData) -> EmbeddedReplay | None:
    path = run.newest_replay
    if path is None:
        return None
    is_small = path.stat().st_size <= MAX_REPLAY_BYTES
    html = path.read_text(encoding="utf-8", errors="replace") if is_small else None
    return EmbeddedReplay(f"{run.name}: {path.stem}", path, html)
