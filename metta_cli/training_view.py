"""Live view of a training run in a terminal: progress, rewards, losses and the share of time of each phase."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metta import api
from metta_cli import output
from metta_cli.output import format_duration, format_number
from metta_cli.training_lines import STOPPING, View, end_summary, main_losses, seconds_left

PHASES = {
    "collect": "collecting experience",
    "update": "updating the policy",
    "evaluate": "evaluating",
    "record": "recording an episode",
    "save": "saving a checkpoint",
}
BARS = "▁▂▃▄▅▆▇█"
CURVE_EPOCHS = 40
"""Number of epochs in the reward curve."""


class LiveView(View):
    """A panel that is redrawn four times per second."""

    def __init__(self, console: Console):
        self.console = console
        self.run: api.RunBegan | None = None
        self.metrics: api.EpochMetrics | None = None
        self.episode_metrics: api.EpochMetrics | None = None
        """metrics of the last epoch in which an episode ended"""
        self.evaluation_metrics: api.EpochMetrics | None = None
        """metrics of the last epoch with an evaluation"""
        self.checkpoint: api.CheckpointSaved | None = None
        self.saved_at = 0.0
        self.phase_began_at = time.monotonic()
        self.phase = ""
        self.rewards: list[float] = []
        self.is_stopping = False
        self.live = Live(console=console, get_renderable=self._panel, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.live.stop()
        except OSError:  # the terminal was closed
            output.silence_broken_streams()

    def show(self, event: api.Event) -> None:
        """Show one event at the next redraw."""
        match event:
            case api.RunBegan():
                self.run = event
            case api.PhaseBegan(phase):
                self.phase, self.phase_began_at = PHASES[phase], time.monotonic()
            case api.EpochEnded(metrics):
                self.metrics = metrics
                if metrics.reward is not None:
                    self.episode_metrics = metrics
                    self.rewards = [*self.rewards, metrics.reward][-CURVE_EPOCHS:]
                if metrics.evaluation:
                    self.evaluation_metrics = metrics
            case api.CheckpointSaved():
                self.checkpoint, self.saved_at = event, time.monotonic()
            case api.StopRequested():
                self.is_stopping = True  # drawing inside a signal handler could deadlock
            case api.Notice(text):
                self.console.print(Text(f"note: {text}"))
            case api.RunEnded():
                self.is_stopping = False
                self.phase = ""
                if self.run:
                    self.console.print(self._panel())
                self.live.stop()
                for line in ["", *end_summary(event)]:
                    self.console.print(Text(line), soft_wrap=True)

    def _panel(self) -> RenderableType:
        if self.run is None:
            return Text("Creating worlds and policy ...")
        plan = self.run.plan
        heading = (
            f"{self.run.device}, {plan.num_worlds} worlds of {plan.num_agents} agents, "
            f"{self.run.parameters:,} parameters, {self.run.directory}"
        )
        rows: list[RenderableType] = [Text(heading, style="dim", overflow="ellipsis", no_wrap=True), self._progress()]
        if self.metrics:
            rows += [Text(), self._metric_rows(self.metrics), Text(), self._time_shares(self.metrics)]
        rows += [Text(), self._status()]
        epoch = self.metrics.epoch if self.metrics else self.run.epoch
        title = f"{self.run.config.run.name}, epoch {epoch}"
        return Panel(Group(*rows), title=title, title_align="left", border_style="cyan")

    def _progress(self) -> RenderableType:
        assert self.run is not None
        total = self.run.config.run.total_timesteps
        done = self.metrics.agent_step if self.metrics else self.run.agent_step
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        parts = [f"{min(100, 100 * done // total)}%", f"{done:,}/{total:,} agent steps"]
        if self.metrics:
            parts += [
                f"{self.metrics.steps_per_second:,.0f} steps/s",
                f"left {format_duration(seconds_left(self.metrics, total))}",
            ]
        line.add_row(ProgressBar(total=total, completed=min(done, total)), Text("  ".join(parts)))
        return line

    def _metric_rows(self, metrics: api.EpochMetrics) -> RenderableType:
        table = Table.grid(padding=(0, 3))
        for _ in range(4):
            table.add_column(no_wrap=True)
        if self.episode_metrics:
            reward, hearts = self.episode_metrics.reward, self.episode_metrics.stats.get("heart.gained", 0.0)
            table.add_row("reward", Text(format_number(reward), "bold green"), "", Text(self._curve(), "green"))
            length = format_number(self.episode_metrics.episode_length)
            table.add_row("episode length", length, "hearts per agent", format_number(hearts))
        if self.evaluation_metrics:
            reward = self.evaluation_metrics.evaluation["mean_reward"]
            table.add_row("evaluation reward", format_number(reward), "in epoch", str(self.evaluation_metrics.epoch))
        losses = [(name.replace("_", " "), format_number(value)) for name, value in main_losses(metrics)]
        losses += [("gradient norm", format_number(metrics.losses["grad_norm"]))]
        losses += [("learning rate", f"{metrics.learning_rate:.2e}")]
        for left in range(0, len(losses), 2):
            pair = [cell for loss in losses[left : left + 2] for cell in loss]
            table.add_row(*pair, *[""] * (4 - len(pair)))
        return table

    def _curve(self) -> str:
        """Bar chart of the rewards of the last epochs, one character per epoch; empty in a terminal without Unicode."""
        if len(self.rewards) < 2 or not self.console.encoding.startswith("utf"):
            return ""
        lowest, highest = min(self.rewards), max(self.rewards)
        scale = (len(BARS) - 1) / (highest - lowest) if highest > lowest else 0.0
        return "".join(BARS[round((reward - lowest) * scale)] for reward in self.rewards)

    def _time_shares(self, metrics: api.EpochMetrics) -> RenderableType:
        """Share of each phase in the time of the last epoch."""
        phases = {
            "simulate": metrics.seconds_simulate,
            "infer": metrics.seconds_infer,
            "learn": metrics.seconds_learn,
        }
        total = sum(phases.values()) or 1.0
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(width=30)
        table.add_column(justify="right")
        for name, seconds in phases.items():
            bar = ProgressBar(total=total, completed=seconds, width=30, complete_style="blue")
            table.add_row(name, bar, f"{100 * seconds / total:.0f}%")
        return table

    def _status(self) -> RenderableType:
        now = time.monotonic()
        phase = f"{self.phase} ({format_duration(now - self.phase_began_at)})   " if self.phase else ""
        saved = (
            f"last checkpoint: epoch {self.checkpoint.epoch}, {format_duration(now - self.saved_at)} ago"
            if self.checkpoint
            else "no checkpoint yet"
        )
        status = Text(f"{phase}{saved}", style="dim")
        if self.is_stopping:
            status.append(f"\n{STOPPING}", style="bold yellow")
        return status
