"""Live view of an experiment in a terminal: a table with progress, reward, speed and remaining time of each run."""

from __future__ import annotations

from rich.console import RenderableType
from rich.panel import Panel
from rich.text import Text

from metta import api
from metta_cli.output import format_duration, format_number, plain_text
from metta_cli.views.experiment_lines import ExperimentView, RunStatus, end_lines, error_lines, jobs_text
from metta_cli.views.live_screen import LiveScreen, progress_bar
from metta_cli.views.training_lines import STOPPING

MAX_BAR_WIDTH = 30
"""Columns of a progress bar, at most."""
MIN_BAR_WIDTH = 5
"""The bar is left out where it has no space for as many columns."""
COLORS = {"finished": "green", "failed": "bold red", "interrupted": "yellow", "stopping": "yellow", "waiting": "dim"}
SHOWN_FIRST = ("training", "stopping", "failed", "interrupted", "waiting", "finished")
"""States of the runs that are shown if the terminal has too few lines for all of them."""


class LiveExperimentView(LiveScreen, ExperimentView):
    """A panel with a line per run and one for all of them, redrawn four times per second."""

    def show(self, event: object) -> None:
        """Show one event at the next redraw."""
        match event:
            case api.Notice(text):
                self.console.print(plain_text(f"note: {text}"))
            case api.JobEvent(name, api.Notice(text)):
                self.console.print(plain_text(f"note: {name}: {text}"))
            case api.JobEnded(_, None):
                for line in error_lines(event):
                    self.console.print(plain_text(line), soft_wrap=True)
            case api.ExperimentEnded():
                self.is_stopping = False
                self.live.stop()
                for line in end_lines(event, self.runs):
                    self.console.print(plain_text(line), soft_wrap=True)

    def draw(self) -> RenderableType:
        """The panel."""
        return self._panel(self.began) if self.began else Text("Preparing the experiment ...")

    def _panel(self, began: api.ExperimentBegan) -> RenderableType:
        width, height = self.console.width - 4, self.console.height - 3
        runs = list(self.runs.values())
        num_lines = max(1, height - 5 - self.is_stopping)
        shown = set(map(id, sorted(runs, key=lambda run: SHOWN_FIRST.index(run.state))[:num_lines]))
        lines = [_row(run, self._name_width, width) for run in runs if id(run) in shown]
        more = [Text(f"and {len(runs) - len(lines)} more runs", "dim")] if len(lines) < len(runs) else []
        heading = plain_text(f"{jobs_text(began)}, {began.directory}", "dim")
        stopping = [Text(STOPPING, "bold yellow")] if self.is_stopping else []
        content = [heading, Text(), _heading(self._name_width, width), *lines, *more, self._total(width), *stopping]
        text = Text("\n", no_wrap=True, overflow="ellipsis").join(content)
        name = f"{began.config.run.name}, {len(runs)} seeds"
        return Panel(text, title=plain_text(name), title_align="left", border_style="cyan")

    @property
    def _name_width(self) -> int:
        return max(map(len, [*self.runs, "total"]))

    def _total(self, width: int) -> Text:
        """The line of all runs: their progress, speed together, and the time until the last one ends."""
        runs = list(self.runs.values())
        share = sum(run.share for run in runs) / len(runs)
        speeds = [run.progress.steps_per_second or 0.0 for run in runs if run.state in ("training", "stopping")]
        left = sum(max(0, run.progress.total - run.progress.agent_step) for run in runs if run.state != "failed")
        speed = sum(speeds)
        numbers = _numbers(None, speed or None, left / speed if speed else None)
        finished = sum(run.state == "finished" for run in runs)
        return _line(Text("total".ljust(self._name_width), "bold"), share, numbers, Text(f"{finished} finished"), width)


def _row(run: RunStatus, name_width: int, width: int) -> Text:
    is_training = run.state in ("training", "stopping")
    speed = run.progress.steps_per_second if is_training else None
    left = run.progress.seconds_left if is_training else None
    state = Text(run.state, COLORS.get(run.state, ""))
    return _line(plain_text(run.name.ljust(name_width)), run.share, _numbers(run.reward, speed, left), state, width)


def _heading(name_width: int, width: int) -> Text:
    columns = ["reward", "steps/s", "left"]
    line = _line(Text("run".ljust(name_width)), None, [f"{name:>9}" for name in columns], Text("state"), width)
    line.stylize("dim")
    return line


def _numbers(reward: float | None, speed: float | None, left: float | None) -> list[str]:
    cells = ["" if reward is None else format_number(reward), "" if speed is None else f"{speed:,.0f}"]
    return [f"{cell:>9}" for cell in (*cells, "" if left is None else format_duration(left))]


def _line(name: Text, share: float | None, numbers: list[str], state: Text, width: int) -> Text:
    """A line of the table, whose progress bar takes the space that is left. `share` is None in the heading."""
    percent = "    " if share is None else f"{int(100 * share):3d}%"
    space = width - name.cell_len - sum(map(len, numbers)) - len(percent) - 11 - 2 * 4
    bar_width = min(MAX_BAR_WIDTH, space)
    parts = [name, Text(percent), Text("".join(numbers)), Text(" ") + state]
    if bar_width >= MIN_BAR_WIDTH:
        parts.insert(1, Text(" " * bar_width) if share is None else progress_bar(share, bar_width, "green"))
    return Text("  ").join(parts)
