"""All printing: lines, JSON, tables and errors. The live view of a terminal is in `live.py`."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shlex
import signal
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.table import Table

from metta.api import (
    CheckpointSaved,
    EpochEnded,
    EpochMetrics,
    EvalResult,
    Event,
    Interval,
    MatchResult,
    Notice,
    ReplayPaths,
    ReplaySaved,
    RunBegan,
    RunEnded,
    StopRequested,
    json_line,
)
from metta.errors import MettaError

STOPPING = "saving all whole epochs; once more leaves at once without saving"


class View:
    """Watches a run: call it with each event. The base says only what must be said, on stderr; that is `--quiet`."""

    is_read = True
    """until nobody reads the output any more"""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the screen in order."""

    def __call__(self, event: Event) -> None:
        """Show one event. A reader that has gone away counts as a terminal that hung up: the run saves and stops."""
        if not self.is_read:
            View.show(self, event)
            return
        try:
            self.show(event)
        except OSError as error:
            self.is_read = False
            silence_broken_streams()
            note(f"nobody reads the output any more ({error.strerror})")
            signal.raise_signal(getattr(signal, "SIGHUP", signal.SIGTERM))

    def show(self, event: Event) -> None:
        """Put one event on the screen; OSError where nobody reads."""
        match event:
            case Notice(text):
                note(text)
            case StopRequested(name):
                # Inside a signal handler: print() could be in the middle of a line. The terminal may be the one that
                # hung up, which must not keep the run from saving.
                with suppress(OSError):
                    os.write(2, f"\n{name}: {STOPPING}\n".encode())


class PlainView(View):
    """One plain line per epoch, no control codes: for files, pipes and CI."""

    total = 0
    episodes: EpochMetrics | None = None
    """of the last epoch in which an episode ended; what it says of episodes holds until the next"""

    def show(self, event: Event) -> None:
        """Print what an event says."""
        match event:
            case RunBegan():
                print_lines(beginning(event))
                self.total = event.config.run.total_timesteps
            case EpochEnded(metrics):
                self.episodes = metrics if metrics.episodes else self.episodes
                print_lines([epoch_line(metrics, self.episodes or metrics, self.total)])
            case RunEnded():
                print_lines(["", *ending(event)])
            case _:
                super().show(event)


class JsonView(View):
    """One JSON object per line on stdout, nothing else: for programs."""

    def show(self, event: Event) -> None:
        """Print an event as JSON."""
        match event:
            case RunBegan():
                values = {
                    "run_dir": str(event.directory),
                    "name": event.config.run.name,
                    "device": event.device,
                    "epoch": event.epoch,
                    "agent_step": event.agent_step,
                    "total_timesteps": event.config.run.total_timesteps,
                    "batch_size": event.plan.batch_size,
                    "num_worlds": event.plan.num_worlds,
                    "parameters": event.parameters,
                    "processes": event.processes,
                }
                print_json({"event": "begin"} | values)
            case EpochEnded(metrics):
                print_json({"event": "epoch"} | dataclasses.asdict(metrics))
            case CheckpointSaved():
                values = {"path": str(event.path), "epoch": event.epoch, "agent_step": event.agent_step}
                print_json({"event": "checkpoint"} | values)
            case ReplaySaved():
                paths = {"page": str(event.page), "mettascope": str(event.mettascope)}
                print_json({"event": "replay"} | paths | {"epoch": event.epoch})
            case Notice(text):
                print_json({"event": "notice", "text": text})
            case RunEnded():
                values = {
                    "reason": event.reason,
                    "run_dir": str(event.directory),
                    "checkpoint": str(event.checkpoint),
                    "epoch": event.epoch,
                    "agent_step": event.agent_step,
                    "seconds": event.seconds,
                    "reward": event.last.reward if event.last else None,
                }
                print_json({"event": "end"} | values)
            case _:
                super().show(event)


def beginning(event: RunBegan) -> list[str]:
    """What a run is, before it runs."""
    plan = event.plan
    went_on = f", going on at epoch {event.epoch}" if event.epoch else ""
    return [
        f"{event.config.run.name}: {event.config.run.total_timesteps:,} agent steps on {event.device}{went_on}",
        *([f"{event.processes} processes, each with"] if event.processes > 1 else []),
        f"{plan.num_worlds} worlds of {plan.num_agents} agents, {plan.batch_size:,} agent steps per epoch, "
        f"{event.parameters:,} weights",
        f"run directory: {event.directory}",
    ]


def epoch_line(metrics: EpochMetrics, episodes: EpochMetrics, total: int) -> str:
    """One epoch on one line, with the newest `episodes` there are: few epochs are as long as one."""
    parts = [
        f"epoch {metrics.epoch}",
        f"steps {metrics.agent_step:,}/{total:,}",
        f"{metrics.steps_per_second:,.0f} steps/s",
        f"left {duration(time_left(metrics, total))}",
        f"reward {number(episodes.reward)}",
        f"length {number(episodes.episode_length)}",
        *(f"{name} {number(value)}" for name, value in main_losses(metrics)),
    ]
    if metrics.evaluation:
        parts.append(f"evaluation {number(metrics.evaluation.get('mean_reward'))}")
    return "  ".join(parts)


def main_losses(metrics: EpochMetrics) -> list[tuple[str, float]]:
    """The losses worth a glance each epoch, by name."""
    names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "explained_variance")
    return [(name, metrics.losses[name]) for name in names if name in metrics.losses]


def ending(event: RunEnded) -> list[str]:
    """The summary of a run and what to type next."""
    speed = event.agent_step / event.seconds if event.seconds else 0.0
    lines = [
        f"{event.reason}: {event.agent_step:,} agent steps, {event.epoch} epochs in {duration(event.seconds)} "
        f"({speed:,.0f} steps/s)"
    ]
    if event.first and event.last:
        lines.append(
            f"reward {number(event.last.reward)} in epoch {event.last.epoch}, "
            f"{number(event.first.reward)} in epoch {event.first.epoch}"
        )
    directory, checkpoint = shlex.quote(str(event.directory)), shlex.quote(str(event.checkpoint))
    train_on = f" --total-timesteps {2 * event.agent_step}" if event.reason == "finished" else ""
    return [
        *lines,
        f"saved {event.checkpoint}",
        "",
        "next:",
        f"  measure it  metta eval {checkpoint}",
        f"  watch it    metta replay {checkpoint}",
        f"  go on       metta resume {directory}{train_on}",
    ]


@dataclasses.dataclass(frozen=True)
class EvaluationRow:
    """What came of the episodes in one world: each policy's result, or two sides' in a match, or why there is none."""

    name: str
    """of the world"""
    results: Mapping[str, EvalResult] | None = None
    match: MatchResult | None = None
    refusal: str | None = None

    @property
    def values(self) -> dict[str, Any]:
        """All numbers, for programs."""
        values: dict[str, Any] = {"refusal": self.refusal} if self.refusal else {}
        if self.match:
            match = self.match
            values |= {
                name: {"mean_reward": side.mean, "reward_interval": [side.low, side.high]}
                for name, side in self.rewards.items()
            }
            values["policy"]["agents"], values["opponent"]["agents"] = match.agents
            values["episodes"] = len(match.episodes)
        for name, result in (self.results or {}).items():
            interval = result.reward_interval
            values[name] = result.summary() | {
                "reward_interval": [interval.low, interval.high],
                "episodes": len(result.episodes),
                "stats": result.stats,
            }
        return values

    @property
    def rewards(self) -> dict[str, Interval]:
        """The mean rewards, by the column they stand in."""
        if self.match:
            return {"policy": self.match.own, "opponent": self.match.opponent, "difference": self.match.difference}
        return {name: result.reward_interval for name, result in (self.results or {}).items()}


def print_evaluation(title: str, rows: Sequence[EvaluationRow], episodes: int, is_single: bool) -> None:
    """A table: of a single world with what agents gained and did, of several with a row for each."""
    for row in rows:
        if row.refusal:
            note(f"{row.name}: {row.refusal}")
    if is_single:
        print_lines([title])
        Console().print(_table_of_world(rows[0], episodes))
    else:
        print_lines([f"{title}: reward per agent, with its 95 % interval"])
        Console().print(_table_of_worlds(rows, episodes))


def _table_of_worlds(rows: Sequence[EvaluationRow], episodes: int) -> Table:
    """A row for each world: the rewards per agent, and half of their 95 % intervals."""
    columns = list(dict.fromkeys(name for row in rows for name in row.rewards))
    table = Table(box=box.SIMPLE)
    table.add_column(f"{episodes} episodes each", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        rewards = [row.rewards.get(name) for name in columns]
        table.add_row(
            row.name, *(f"{number(it.mean)} +- {number(it.half_width)}" if it else number(None) for it in rewards)
        )
    return table


def _table_of_world(row: EvaluationRow, episodes: int) -> Table:
    """A column for each policy: reward, length, and what agents gained and did."""
    table = Table(box=box.SIMPLE)
    table.add_column(f"{episodes} episodes")
    for name in row.rewards:
        table.add_column(name, justify="right")
    table.add_row("reward per agent", *(number(reward.mean) for reward in row.rewards.values()))
    table.add_row("  95 % interval from", *(number(reward.low) for reward in row.rewards.values()))
    table.add_row("  to", *(number(reward.high) for reward in row.rewards.values()))
    if row.match:
        table.add_row("agents", *map(str, row.match.agents), "")
    results = row.results or {}
    if results:
        table.add_row("  std over episodes", *(number(result.std_reward) for result in results.values()))
        table.add_row("episode length", *(number(result.mean_length) for result in results.values()))
        table.add_row("  std over episodes ", *(number(result.std_length) for result in results.values()))
    stats = {name: result.stats for name, result in results.items()}
    counters = sorted({counter for values in stats.values() for counter in values}, key=_importance)
    for counter in counters:
        if _importance(counter)[0] < len(_SHOWN):
            table.add_row(counter, *(number(values.get(counter, 0.0)) for values in stats.values()))
    return table


def print_replay(values: Mapping[str, Any], paths: ReplayPaths) -> None:
    """What happened in an episode and where to look at it."""
    print_lines(
        [
            f"seed {values['seed']}: {values['steps']} steps, reward per agent {number(values['reward'])}",
            f"  {paths.page}",
            f"  {paths.mettascope}",
        ]
    )


_SHOWN = (r"heart\.gained", r".*\.gained", r".*\.stolen", r"action\.[a-z_]+\.success", r"action\.[a-z_]+\.failed")
"""Counters worth a row, in this order; the others are in the JSON."""


def _importance(counter: str) -> tuple[int, str]:
    rank = next((rank for rank, pattern in enumerate(_SHOWN) if re.fullmatch(pattern, counter)), len(_SHOWN))
    return rank, counter


def print_table(rows: Iterable[Sequence[str]]) -> None:
    """Rows of text in columns."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    print_lines("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def print_glossary(rows: Sequence[tuple[str, str]]) -> None:
    """Names and what they mean, in lines of 80 characters."""
    width = max((len(name) for name, _ in rows), default=0) + 2
    for name, meaning in rows:
        head, indent = f"{name:<{width}}", " " * width
        print_lines(textwrap.wrap(meaning, 80, initial_indent=head, subsequent_indent=indent) or [name])


def print_lines(lines: Iterable[str]) -> None:
    """Plain lines, shown at once also in a pipe."""
    for line in lines:
        print(line)
    sys.stdout.flush()


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on one line; numbers that are not finite become null."""
    print(json_line(values), flush=True)


def print_error(error: MettaError | str, rank: int = 0) -> None:
    """What went wrong, or what the user did, on stderr; of several processes all but the first give their number."""
    print(f"{f'process {rank}: ' if rank else ''}error: {error}", file=sys.stderr)


def silence_broken_streams() -> None:
    """Let what is still written to a stream that nobody reads go nowhere, rather than fail again at every turn."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def print_interrupted() -> None:
    """That a command was left in the middle, on stderr."""
    print("interrupted: left at once; what was saved before is whole", file=sys.stderr)


def note(text: str) -> None:
    """Something the user should know, on stderr."""
    print(f"note: {text}", file=sys.stderr)


def number(value: float | None) -> str:
    """A number in about four digits; a dash for none."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or 0.001 <= abs(value) < 100_000:
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"{value:.1e}"


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds as on a clock; a dash for none."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_left(metrics: EpochMetrics, total: int) -> float | None:
    """Seconds until the run is done at the present speed."""
    if not metrics.steps_per_second:
        return None
    return max(0, total - metrics.agent_step) / metrics.steps_per_second
