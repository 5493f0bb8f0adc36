"""Live view of a training run in a terminal: progress, rewards, losses and the share of time of each phase."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.text import Text

from metta import api
from metta_cli.output import encodable, format_duration, format_number, plain_text
from metta_cli.views.live_screen import LiveScreen, progress_bar
from metta_cli.views.training_lines import (
    PHASES,
    STOPPING,
    RunProgress,
    View,
    end_summary,
    main_losses,
    progress_numbers,
    transfer_summary,
)

LEVELS = "▁▂▃▄▅▆▇█"
MAX_CURVE_EPOCHS = 40
"""Maximum number of epochs in the reward curve."""
MIN_CURVE_EPOCHS = 5
"""The curve is left out where it has no space for as many epochs."""
MIN_BAR_WIDTH = 20
"""Columns of the progress bar below which it gets a line without numbers."""
MAX_TIME_BAR_WIDTH = 30
COLUMN_WIDTH = 36
"""Columns of a metric: its name and value."""
NAME_WIDTH = 20
POLICY_WIDTH = 14
"""Columns of the values of a policy with a name."""


class LiveView(LiveScreen, View):
    """A panel that is redrawn four times per second. It fits its content to the size of the terminal."""

    def __init__(self, console: Console):
        super().__init__(console)
        self.progress = RunProgress()
        self.metrics: api.EpochMetrics | None = None
        self.episode_metrics: api.EpochMetrics | None = None
        """metrics of the last epoch in which an episode ended"""
        self.evaluation_metrics: api.EpochMetrics | None = None
        """metrics of the last epoch with an evaluation"""
        self.checkpoint: api.CheckpointSaved | None = None
        self.saved_at = 0.0
        self.phase_began_at = time.monotonic()
        self.rewards: list[float] = []
        """rewards of the epochs in which an episode ended"""

    def show(self, event: object) -> None:
        """Show one event at the next redraw."""
        self.progress.update(event)
        match event:
            case api.PhaseBegan():
                self.phase_began_at = time.monotonic()
            case api.EpochEnded(metrics):
                self.metrics = metrics
                if metrics.reward is not None:
                    self.episode_metrics = metrics
                    self.rewards.append(metrics.reward)
                if metrics.evaluation:
                    self.evaluation_metrics = metrics
            case api.CheckpointSaved():
                self.checkpoint, self.saved_at = event, time.monotonic()
            case api.WeightTransfer():
                for line in transfer_summary(event):
                    self.console.print(plain_text(line), soft_wrap=True)
            case api.Notice(text):
                self.console.print(plain_text(f"note: {text}"))
            case api.RunEnded():
                self.is_stopping = False
                self.live.stop()
                if self.run:
                    self.console.print(self._panel(self.run))
                for line in ["", *end_summary(event, self.run)]:
                    self.console.print(plain_text(line), soft_wrap=True)

    def draw(self) -> RenderableType:
        """The panel."""
        return self._panel(self.run) if self.run else Text("Creating worlds and policy ...")

    def _panel(self, run: api.RunBegan) -> RenderableType:
        width, height = self.console.width - 4, self.console.height - 3
        top = [*_heading(run, width), *self._progress(width), *self._phase(width)]
        bottom = self._status(width)
        reward, metrics, times = self._reward(width), self._metrics(width), self._time_shares(width)
        blank = [Text()]
        free = height - sum(map(len, (top, bottom, reward, metrics, times))) - 3
        if free < 0:
            free, blank = free + 3, []
        if free < 0:  # the last metrics are the least important ones
            metrics = metrics[: max(0, len(metrics) + free)]
        if len(top) + len(bottom) + len(reward) + len(metrics) + len(times) > height:
            times = []
        middle = [*blank, *reward, *metrics, *(blank if times else ()), *times] if self.metrics else []
        name, epoch = run.config.run.name, self.progress.epoch
        content = Text("\n", no_wrap=True, overflow="crop").join([*top, *middle, *blank, *bottom])
        return Panel(content, title=plain_text(f"{name}, epoch {epoch}"), title_align="left", border_style="cyan")

    def _progress(self, width: int) -> list[Text]:
        progress = self.progress
        share = min(1.0, progress.agent_step / progress.total)
        parts = [f"{int(100 * share)}%", *progress_numbers(progress)]
        line = Text("  ".join(parts))
        if (space := width - line.cell_len - 2) >= MIN_BAR_WIDTH:
            return [Text("  ").join([progress_bar(share, space, "green"), line])]
        return [progress_bar(share, width, "green"), *map(Text, _filled_lines(parts, width))]

    def _phase(self, width: int) -> list[Text]:
        """The phase of the epoch, and its progress or duration."""
        name = self.progress.phase
        if not name:
            return []
        label = Text(f"{PHASES[name]:<21}  ", "dim")
        if name not in ("collect", "update"):
            return [label + Text(format_duration(time.monotonic() - self.phase_began_at), "dim")]
        share = self.progress.share
        bar = progress_bar(share, min(MAX_TIME_BAR_WIDTH, width - 29), "cyan")
        return [Text().join([label, bar, Text(f"  {100 * share:3.0f}%")])]

    def _reward(self, width: int) -> list[Text]:
        """Last, first and best reward, and the curve between them."""
        if self.episode_metrics is None:
            return [Text("no episode has ended yet", "dim")]
        name, value = Text("reward per agent and episode"), Text(format_number(self.rewards[-1]), "bold green")
        line = Text("  ").join([name, value])
        first = f"first {format_number(self.rewards[0])}"
        best = f"best {format_number(max(self.rewards))}"
        space = width - line.cell_len - len(first) - len(best) - 5
        is_one_line = space >= MIN_CURVE_EPOCHS
        if not is_one_line:
            space = width - len(first) - len(best) - 4
        curve = self._curve(min(space, MAX_CURVE_EPOCHS))
        history = Text(" ").join([Text(first), *([Text(curve, "green")] if curve else []), Text(best)])
        if is_one_line:
            return [line + Text("   ") + history]
        return [*([line] if line.cell_len <= width else [name, Text("  ") + value]), Text("  ") + history]

    def _curve(self, width: int) -> str:
        """Bar chart of the rewards of the last epochs, one character per epoch; empty without space or Unicode."""
        rewards = self.rewards[-max(1, width) :]
        if len(rewards) < 2 or width < MIN_CURVE_EPOCHS:
            return ""
        lowest, highest = min(rewards), max(rewards)
        scale = (len(LEVELS) - 1) / (highest - lowest) if highest > lowest else 0.0
        return encodable("".join(LEVELS[round((reward - lowest) * scale)] for reward in rewards), "")

    def _metrics(self, width: int) -> list[Text]:
        """Names and values in as many columns as fit, the most important ones first."""
        if self.metrics is None:
            return []
        rows = []
        if self.episode_metrics:
            hearts = self.episode_metrics.stats.get("heart.gained", 0.0)
            rows.append(("episode length", format_number(self.episode_metrics.episode_length)))
            rows.append(("hearts per agent", format_number(hearts)))
        if self.evaluation_metrics:
            reward = format_number(self.evaluation_metrics.evaluation["mean_reward"])
            rows += [("evaluation reward", reward), ("evaluated in epoch", str(self.evaluation_metrics.epoch))]
        policies = _policy_rows(self.metrics, self.episode_metrics or self.metrics)
        if list(policies) == [""]:
            rows += policies.pop("")
        cells = [f"{name:<{NAME_WIDTH}}{value}" for name, value in rows]
        columns = max(1, width // COLUMN_WIDTH)
        lines = [cells[start : start + columns] for start in range(0, len(cells), columns)]
        return [
            *(Text("".join(f"{cell:<{COLUMN_WIDTH}}" for cell in line).rstrip()) for line in lines),
            *_policy_table(policies, width),
        ]

    def _time_shares(self, width: int) -> list[Text]:
        """Share of each phase in the time of the last epoch."""
        if self.metrics is None:
            return []
        phases = {
            "simulate": self.metrics.seconds_simulate,
            "infer": self.metrics.seconds_infer,
            "learn": self.metrics.seconds_learn,
        }
        total = sum(phases.values()) or 1.0
        bar_width = min(MAX_TIME_BAR_WIDTH, width - 16)
        return [Text("time spent in the last epoch")] + [
            Text(f"{name:<10}")
            + progress_bar(seconds / total, bar_width, "blue")
            + Text(f"  {100 * seconds / total:3.0f}%")
            for name, seconds in phases.items()
        ]

    def _status(self, width: int) -> list[Text]:
        """The last and next checkpoint, and whether the run is stopping."""
        parts = []
        if self.run and self.checkpoint:
            age = time.monotonic() - self.saved_at
            parts.append(f"last checkpoint: epoch {self.checkpoint.epoch}, {format_duration(age)} ago")
            if self.progress.phase and not self.is_stopping:
                due = self.progress.seconds_until_save(self.run.config.checkpoint.checkpoint_interval - age)
                when = f"in {format_duration(due)}" if due else "after this epoch"
                parts.append(f"next checkpoint {when}")
        lines = [Text(line, "dim") for line in _filled_lines(parts, width)]
        if self.is_stopping:
            lines += [Text(line, "bold yellow") for line in _filled_lines(STOPPING.split(), width, " ")]
        return lines


def _policy_rows(metrics: api.EpochMetrics, episode_metrics: api.EpochMetrics) -> dict[str, list[tuple[str, str]]]:
    """(name, value) of the metrics of each policy, by its name; frozen policies only have a reward."""
    found = {}
    for policy, losses in main_losses(metrics).items():
        rate = metrics.learning_rates[policy] if policy else metrics.learning_rate
        norm = metrics.losses[f"{policy}/grad_norm" if policy else "grad_norm"]
        found[policy] = [
            *((name.replace("_", " "), format_number(value)) for name, value in losses),
            ("learning rate", f"{rate:.2e}"),
            ("gradient norm", format_number(norm)),
        ]
    rewards = {policy: [("reward", format_number(reward))] for policy, reward in episode_metrics.rewards.items()}
    return {policy: rewards.get(policy, []) + found.get(policy, []) for policy in dict.fromkeys([*rewards, *found])}


def _policy_table(policies: Mapping[str, Sequence[tuple[str, str]]], width: int) -> list[Text]:
    """A column for each policy, as many as fit, with a row for each metric."""
    columns = (width - NAME_WIDTH) // POLICY_WIDTH
    if len(policies) > columns:  # the last one says how many are left out
        columns = max(1, columns - 1)
    shown = list(policies)[:columns]
    if not shown:
        return []
    values = [dict(policies[policy]) for policy in shown]
    more = f"{len(policies) - len(shown)} more" if len(shown) < len(policies) else ""
    heading = "".join(f"{policy[: POLICY_WIDTH - 2]:<{POLICY_WIDTH}}" for policy in shown)
    lines = [Text(f"{'policy':<{NAME_WIDTH}}") + Text(heading, "bold") + Text(more, "dim")]
    for name in dict.fromkeys(name for own in values for name in own):
        cells = "".join(f"{own.get(name, '-'):<{POLICY_WIDTH}}" for own in values)
        lines.append(Text(f"{name:<{NAME_WIDTH}}{cells}".rstrip()))
    return lines


def _heading(run: api.RunBegan, width: int) -> list[Text]:
    """Device, sizes and directory of the run, as far as they fit."""
    plan, directory = run.plan, plain_text(str(run.directory), "dim")
    each = f"{run.processes} processes, each with " if run.processes > 1 else ""
    parts = [
        run.device,
        f"{each}{plan.num_worlds} worlds of {plan.num_agents} agents",
        f"{run.parameters:,} parameters",
    ]
    first = Text(_filled_lines(parts, width, ", ")[0], "dim")
    if first.cell_len + 2 + directory.cell_len <= width:
        return [Text(", ", "dim").join([first, directory])]
    return [first, _end_of(directory, width)]


def _end_of(text: Text, width: int) -> Text:
    """The end of a text that is wider than `width` columns."""
    start = 0
    while text.cell_len - cell_len(text.plain[:start]) > width - 3 * (start > 0):
        start += 1
    return Text("..." if start else "", "dim") + text[start:]


def _filled_lines(parts: list[str], width: int, separator: str = "  ") -> list[str]:
    """The parts in as few lines of at most `width` columns as possible."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(separator) + len(part) <= width:
            lines[-1] += separator + part
        else:
            lines.append(part)
    return lines
