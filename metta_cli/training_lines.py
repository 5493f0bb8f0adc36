"""Output of a training run as plain lines, JSON or nothing (`--quiet`), and its summaries at start and end."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
from contextlib import suppress
from types import TracebackType
from typing import Self

from metta import api
from metta_cli import output
from metta_cli.output import format_duration, format_number

STOPPING = "Saving, then stopping. Press Ctrl-C again to quit without saving."


class View:
    """Listener of a run that prints only notes and signals, on stderr (`--quiet`). Base class of the other views."""

    is_output_open = True
    """False after a write to the output failed"""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""

    def __call__(self, event: api.Event) -> None:
        """Show one event. If the output cannot be written, raise SIGHUP, on which the run saves and stops."""
        if not self.is_output_open:
            View.show(self, event)
            return
        try:
            self.show(event)
        except OSError as error:
            self.is_output_open = False
            output.silence_broken_streams()
            output.print_note(f"the output cannot be written: {error.strerror}. Saving, then stopping.")
            signal.raise_signal(getattr(signal, "SIGHUP", signal.SIGTERM))

    def show(self, event: api.Event) -> None:
        """Print one event. Raises OSError if the output cannot be written."""
        match event:
            case api.Notice(text):
                output.print_note(text)
            case api.StopRequested(name):
                # The signal may have interrupted a print(), whose buffer must not be used again here. If the terminal
                # was closed, the write fails, which must not prevent the run from saving.
                with suppress(OSError):
                    os.write(2, f"\n{name}: {STOPPING}\n".encode())


class PlainView(View):
    """One line per epoch, without control codes: for files, pipes and continuous integration."""

    total = 0
    """agent steps of the whole run"""
    episode_metrics: api.EpochMetrics | None = None
    """metrics of the last epoch in which an episode ended, since an episode is often longer than an epoch"""

    def show(self, event: api.Event) -> None:
        """Print one event."""
        match event:
            case api.RunBegan():
                output.print_lines(start_summary(event))
                self.total = event.config.run.total_timesteps
            case api.EpochEnded(metrics):
                self.episode_metrics = metrics if metrics.episodes else self.episode_metrics
                output.print_lines([epoch_line(metrics, self.episode_metrics or metrics, self.total)])
            case api.RunEnded():
                output.print_lines(["", *end_summary(event)])
            case _:
                super().show(event)


class JsonView(View):
    """One JSON object per line on stdout, for programs."""

    def show(self, event: api.Event) -> None:
        """Print one event as JSON."""
        match event:
            case api.RunBegan():
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
                output.print_json({"event": "begin"} | values)
            case api.EpochEnded(metrics):
                output.print_json({"event": "epoch"} | dataclasses.asdict(metrics))
            case api.CheckpointSaved():
                values = {"path": str(event.path), "epoch": event.epoch, "agent_step": event.agent_step}
                output.print_json({"event": "checkpoint"} | values)
            case api.ReplaySaved():
                paths = {"page": str(event.page), "mettascope": str(event.mettascope)}
                output.print_json({"event": "replay"} | paths | {"epoch": event.epoch})
            case api.Notice(text):
                output.print_json({"event": "notice", "text": text})
            case api.RunEnded():
                values = {
                    "reason": event.reason,
                    "run_dir": str(event.directory),
                    "checkpoint": str(event.checkpoint),
                    "epoch": event.epoch,
                    "agent_step": event.agent_step,
                    "seconds": event.seconds,
                    "reward": event.last.reward if event.last else None,
                }
                output.print_json({"event": "end"} | values)
            case _:
                super().show(event)


def start_summary(event: api.RunBegan) -> list[str]:
    """Lines that describe a run before its first epoch."""
    plan = event.plan
    resumed = f", resumed at epoch {event.epoch}" if event.epoch else ""
    return [
        f"{event.config.run.name}: {event.config.run.total_timesteps:,} agent steps on {event.device}{resumed}",
        *([f"{event.processes} processes, each with"] if event.processes > 1 else []),
        f"{plan.num_worlds} worlds of {plan.num_agents} agents, {plan.batch_size:,} agent steps per epoch, "
        f"{event.parameters:,} parameters",
        f"run directory: {event.directory}",
    ]


def epoch_line(metrics: api.EpochMetrics, episode_metrics: api.EpochMetrics, total: int) -> str:
    """One epoch on one line; `episode_metrics` are those of the last epoch in which an episode ended."""
    parts = [
        f"epoch {metrics.epoch}",
        f"steps {metrics.agent_step:,}/{total:,}",
        f"{metrics.steps_per_second:,.0f} steps/s",
        f"left {format_duration(seconds_left(metrics, total))}",
        f"reward {format_number(episode_metrics.reward)}",
        f"length {format_number(episode_metrics.episode_length)}",
        *(f"{name} {format_number(value)}" for name, value in main_losses(metrics)),
    ]
    if metrics.evaluation:
        parts.append(f"evaluation {format_number(metrics.evaluation.get('mean_reward'))}")
    return "  ".join(parts)


def main_losses(metrics: api.EpochMetrics) -> list[tuple[str, float]]:
    """(name, value) of the losses shown after each epoch."""
    names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "explained_variance")
    return [(name, metrics.losses[name]) for name in names if name in metrics.losses]


def end_summary(event: api.RunEnded) -> list[str]:
    """Lines that summarize a run, with commands to evaluate, record and resume it."""
    speed = event.agent_step / event.seconds if event.seconds else 0.0
    lines = [
        f"{event.reason}: {event.agent_step:,} agent steps, {event.epoch} epochs in {format_duration(event.seconds)} "
        f"({speed:,.0f} steps/s)"
    ]
    if event.first and event.last:
        lines.append(
            f"reward per agent {format_number(event.last.reward)} in epoch {event.last.epoch} "
            f"(first: {format_number(event.first.reward)} in epoch {event.first.epoch})"
        )
    directory, checkpoint = shlex.quote(str(event.directory)), shlex.quote(str(event.checkpoint))
    more_steps = f" --total-timesteps {2 * event.agent_step}" if event.reason == "finished" else ""
    return [
        *lines,
        f"saved {event.checkpoint}",
        "",
        "next:",
        f"  evaluate  metta eval {checkpoint}",
        f"  replay    metta replay {checkpoint}",
        f"  resume    metta resume {directory}{more_steps}",
    ]


def seconds_left(metrics: api.EpochMetrics, total: int) -> float | None:
    """Estimated seconds until the end of the run at the current speed; None if the speed is 0."""
    if not metrics.steps_per_second:
        return None
    return max(0, total - metrics.agent_step) / metrics.steps_per_second
