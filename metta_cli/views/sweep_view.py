"""Live view of a sweep in a terminal: the trials in progress, the last ones and the best."""

from __future__ import annotations

import time

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from metta import api
from metta_cli.output import format_duration, format_number, plain_text
from metta_cli.views.live_screen import LiveScreen, progress_bar
from metta_cli.views.sweep_lines import Progress, SweepView, end_lines, score_text, setting_text
from metta_cli.views.training_lines import STOPPING

BAR_WIDTH = 16
SPARE_LINES = 8
"""Lines around the table's rows: heading, borders, the best trial and a message."""


class LiveSweepView(LiveScreen, SweepView):
    """A table that is redrawn several times per second: running trials, then those that ended last."""

    def __init__(self, console: Console):
        super().__init__(console)
        self.progress = Progress()
        self.summary: api.SweepSummary | None = None
        self.running: dict[int, api.TrialBegan] = {}
        self.ended: list[api.TrialSummary] = []
        self.best: api.TrialSummary | None = None
        self.began_at = time.monotonic()

    def show(self, event: object) -> None:
        """Show one event at the next redraw."""
        self.progress.update(event)
        match event:
            case api.SweepBegan(summary, _):
                self.summary = summary
                self.ended = [trial for trial in summary.trials if trial.state != "running"]
                self.best = next(iter(summary.ranked()), None)
            case api.TrialBegan(number):
                self.running[number] = event
            case api.TrialEnded(trial, best):
                self.running.pop(trial.number, None)
                self.ended.append(trial)
                self.best = best
            case api.Notice(text):
                self.console.print(plain_text(f"note: {text}"))
            case api.TrialRunEvent(number, seed, api.Notice(text)):
                self.console.print(plain_text(f"note: trial {number}, seed {seed}: {text}"))
            case api.SweepEnded():
                self.live.stop()
                for line in end_lines(event):
                    self.console.print(plain_text(line), soft_wrap=True)

    def draw(self) -> RenderableType:
        """The table, and the best trial below it."""
        if self.summary is None:
            return Text("Opening the study ...")
        lines: list[RenderableType] = [self._heading(self.summary), self._table(self.summary)]
        if self.best:
            lines.append(plain_text(f"best: trial {self.best.number}, {score_text(self.summary, self.best)}", "green"))
        if self.is_stopping:
            lines.append(Text(STOPPING, "bold yellow"))
        return Group(*lines)

    def _heading(self, summary: api.SweepSummary) -> Text:
        done = len({trial.number for trial in self.ended})
        parts = [
            f"{done} of {summary.num_trials} trials",
            summary.metric,
            f"{self.progress.steps_per_second:,.0f} steps/s",
            format_duration(time.monotonic() - self.began_at),
            str(summary.sweep_dir),
        ]
        text: Text = plain_text("  ".join(parts), "bold")
        text.no_wrap, text.overflow = True, "ellipsis"
        return text

    def _table(self, summary: api.SweepSummary) -> Table:
        table = Table(box=box.SIMPLE, padding=(0, 1))
        for name in ("trial", "state", "score", "reward"):
            table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
        entries = self._parameters(summary)
        for _, key in zip(entries, summary.short_keys, strict=False):
            table.add_column(plain_text(key), justify="right", no_wrap=True)
        for number, began in sorted(self.running.items()):
            share = self.progress.share(number)
            state = Text.assemble(progress_bar(share, BAR_WIDTH, "green"), f" {100 * share:3.0f}%")
            reward = format_number(self.progress.rewards.get(number))
            cells = [plain_text(setting_text(began.parameters[entry.key])) for entry in entries]
            table.add_row(str(number), state, "-", reward, *cells, style="bold")
        space = max(1, self.console.height - SPARE_LINES - len(self.running))
        for trial in list(reversed(self.ended))[:space]:
            is_best = self.best is not None and trial.number == self.best.number
            reward = format_number(trial.intermediate_scores[-1][1] if trial.intermediate_scores else None)
            cells = [plain_text(setting_text(trial.parameters.get(entry.key, "-"))) for entry in entries]
            style = "green" if is_best else "dim" if trial.state != "complete" else ""
            table.add_row(
                str(trial.number), trial.state, plain_text(score_text(summary, trial)), reward, *cells, style=style
            )
        return table

    def _parameters(self, summary: api.SweepSummary) -> tuple[api.SweepParameter, ...]:
        """As many parameters as fit beside the other columns."""
        return summary.parameters[: max(0, (self.console.width - 58) // 14)]
