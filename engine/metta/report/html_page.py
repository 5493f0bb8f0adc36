"""Runs as one HTML file that needs nothing else: no network, no server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np

from metta.files import write_whole
from metta.report.plots import AXES, draw, require_matplotlib
from metta.report.run_data import Run, config_differences, read_runs

LAST_SHARE = 0.1
"""Of a run's epochs with episodes, whose mean reward is its result."""
LARGEST_REPLAY = 20_000_000
"""Bytes of a replay that is taken into the page; a larger one is named."""


def write_report(run_dirs: Sequence[str | Path], out: str | Path = "report.html") -> Path:
    """Write the report of these runs, in this order, to the file `out`; its path.

    Raises UsageError where matplotlib is missing, a directory is not a run's, or one has no epoch yet.
    """
    require_matplotlib()
    runs = read_runs(run_dirs)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, report_page(runs).encode())
    return path


def report_page(runs: Sequence[Run]) -> str:
    """The page as text. What comes from configs and file names is escaped."""
    sections = [
        _section("Runs", _summary(runs)),
        _curves("Learning", runs, ["reward", "evaluation.mean_reward", "episode_length"]),
        _tasks(runs),
        _curves("Items: gained per agent and episode", runs, _counters(runs, lambda name: name.endswith(".gained"))),
        _curves("Actions per agent and episode", runs, _counters(runs, _is_action)),
        _curves("Losses", runs, [f"losses.{name}" for name in LOSSES]),
        _curves("Throughput", runs, ["steps_per_second", *(f"seconds_{part}" for part in PARTS)], columns=4),
        _section(
            "What differs between the configs" if len(runs) > 1 else "What differs from the defaults",
            _differences(runs),
        ),
        *(_replay(run) for run in runs),
    ]
    style = files("metta.report").joinpath("report.css").read_text(encoding="utf-8")
    title = escape(", ".join(run.name for run in runs))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # scripts are those of replays, which allow themselves nothing but their own
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>metta report: {title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"{_axis_choice()}" + "".join(sections) + "</body>\n</html>\n"
    )


LOSSES = (
    "policy_loss",
    "value_loss",
    "entropy",
    "approx_kl",
    "clipfrac",
    "explained_variance",
    "grad_norm",
)
PARTS = ("simulate", "infer", "learn")


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{content}</section>\n" if content else ""


def _summary(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        last = run.lines[-1]
        _, rewards = run.series("reward")
        result = rewards[-max(1, round(len(rewards) * LAST_SHARE)) :]
        _, clock = run.series("seconds")
        seconds = float(clock[-1]) if len(clock) else 0.0
        rows.append(
            [
                run.name,
                f"{last['agent_step']:,}",
                f"{last['epoch']:,}",
                f"{seconds / 60:,.1f}",
                f"{last['agent_step'] / seconds:,.0f}" if seconds else "-",
                f"{result.mean():.3f}" if len(result) else "-",
                f"{rewards.max():.3f}" if len(rewards) else "-",
            ]
        )
    heads = ["run", "agent steps", "epochs", "minutes", "steps/s", "reward, last tenth", "reward, best epoch"]
    return _table(heads, rows)


def _differences(runs: Sequence[Run]) -> str:
    rows = [[key, *values] for key, values in config_differences(runs)]
    heads = ["setting", *(run.name for run in runs), *(["default"] if len(runs) == 1 else [])]
    return _table(heads, rows) if rows else "<p>Nothing.</p>\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>\n'


def _curves(
    heading: str,
    runs: Sequence[Run],
    keys: Sequence[str],
    columns: int = 3,
) -> str:
    shown = [key for key in keys if any(len(run.series(key)[1]) for run in runs)]
    if not shown:
        return ""
    charts = [f'<div class="wide along-{along}">{draw(heading, runs, shown, columns, along)}</div>\n' for along in AXES]
    return _section(heading, "".join(charts))


def _axis_choice() -> str:
    """What the curves go along, as buttons that need no script: page.css shows the charts of the one that is chosen."""
    buttons = [
        f'<input type="radio" name="along" id="along-{along}"{" checked" if along == "agent_step" else ""}>'
        f'<label for="along-{along}">{words}</label>\n'
        for along, (words, _) in AXES.items()
    ]
    return f'<p class="choice">Curves along</p>\n{"".join(buttons)}'


def _tasks(runs: Sequence[Run]) -> str:
    names = sorted({name for run in runs for name in run.names("task_rewards")})
    return _curves("Reward by task", runs, [f"task_rewards.{name}" for name in names[:30]])


def _is_action(name: str) -> bool:
    return name.startswith("action.") and name.endswith((".success", ".failed")) and name.count(".") == 2


def _counters(runs: Sequence[Run], is_wanted: Callable[[str], bool]) -> list[str]:
    """The counters of a kind, those that are counted most first."""
    totals: Mapping[str, float] = {
        f"stats.{name}": max(float(np.sum(run.series(f"stats.{name}")[1])) for run in runs)
        for name in sorted({name for run in runs for name in run.names("stats") if is_wanted(name)})
    }
    return sorted(totals, key=lambda key: -totals[key])[:30]


def _replay(run: Run) -> str:
    path = run.newest_replay
    if path is None:
        return ""
    heading = f"{run.name}: {path.stem}"
    if path.stat().st_size > LARGEST_REPLAY:
        return _section(heading, f"<p>{escape(str(path))}</p>\n")
    page = escape(path.read_text(encoding="utf-8", errors="replace"))
    return _section(heading, f'<iframe sandbox="allow-scripts" title="{escape(heading)}" srcdoc="{page}"></iframe>\n')
