"""Output of a training run as plain lines, JSON or nothing (`--quiet`), and its summaries at start and end."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from metta import api
from metta_cli import output
from metta_cli.output import format_duration, format_number
from metta_cli.views.evaluation_table import estimate

PHASES = {
    "collect": "collecting experience",
    "update": "updating the policy",
    "evaluate": "evaluating",
    "record": "recording an episode",
    "save": "saving a checkpoint",
}
SLOW_SECONDS = 30.0
"""Seconds without a line after which `PlainView` prints the progress of the epoch."""
STOPPING = "Saving, then stopping. Press Ctrl-C again to quit without saving."


class View:
    """Listener of a run that prints only notes and signals, on stderr (`--quiet`). Base class of the other views."""

    def __init__(self) -> None:
        self.run: api.RunBegan | None = None
        self.is_output_open = True
        """False after a write to the output failed"""
        self.is_stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""

    def __call__(self, event: object) -> None:
        """Show one event. If the output cannot be written, the run saves and stops, and stderr tells how to resume."""
        match event:
            case api.RunBegan():
                self.run = event
            case api.StopRequested():
                self.is_stopping = True
        if self.is_output_open:
            try:
                self.show(event)
            except OSError as error:
                self.is_output_open = False
                output.silence_broken_streams()
                reason = "was closed" if isinstance(error, BrokenPipeError) else f"cannot be written ({error.strerror})"
                is_over = self.is_stopping or isinstance(event, api.RunEnded)
                output.print_note(f"the output {reason}" + ("" if is_over else "; saving, then stopping"))
        if not self.is_output_open:
            self._continue_on_stderr(event)

    def show(self, event: object) -> None:
        """Print one event. Raises OSError if the output cannot be written."""
        match event:
            case api.Notice(text):
                output.print_note(text)
            case api.StopRequested(name):
                # The signal may have interrupted a print(), whose buffer must not be used again here. If the terminal
                # was closed, the write fails, which must not prevent the run from saving.
                with suppress(OSError):
                    os.write(2, f"\n{name}: {STOPPING}\n".encode())

    def _continue_on_stderr(self, event: object) -> None:
        """After the output was closed: stop the run if it is in progress, and print its end on stderr."""
        match event:
            case api.Notice(text):
                output.print_note(text)
            case api.RunEnded():
                output.print_on_stderr("\n".join(end_summary(event, self.run)))
            case _ if not self.is_stopping and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
                signal.raise_signal(signal.SIGTERM)  # unlike SIGHUP, it is not ignored under nohup


class PlainView(View):
    """One line per epoch, without control codes: for files, pipes and continuous integration.

    An epoch of more than `SLOW_SECONDS` has lines with its progress.
    """

    def __init__(self) -> None:
        super().__init__()
        self.progress = RunProgress()
        self.episode_metrics: api.EpochMetrics | None = None
        """metrics of the last epoch in which an episode ended, since an episode is often longer than an epoch"""
        self.printed_at = time.monotonic()

    def show(self, event: object) -> None:
        """Print one event."""
        self.progress.update(event)
        match event:
            case api.RunBegan():
                self._print(start_summary(event))
            case api.WeightTransfer():
                self._print(transfer_summary(event))
            case api.PhaseProgressed() if time.monotonic() - self.printed_at > SLOW_SECONDS:
                self._print([progress_line(self.progress)])
            case api.EpochEnded(metrics):
                self.episode_metrics = metrics if metrics.episodes else self.episode_metrics
                self._print([epoch_line(metrics, self.episode_metrics or metrics, self.progress)])
            case api.RunEnded():
                self._print(["", *end_summary(event, self.run)])
            case _:
                super().show(event)

    def _print(self, lines: list[str]) -> None:
        self.printed_at = time.monotonic()
        output.write_lines(lines)


class RunProgress:
    """Agent steps, speed and remaining time of a run, estimated within its epochs too."""

    def __init__(self) -> None:
        self.total = 1
        """agent steps of the whole run"""
        self.epoch = 0
        """epochs done"""
        self.phase = ""
        """phase of the run, a key of `PHASES`; empty between them"""
        self._batch_size = 1
        self._agent_step = 0  # after the last epoch
        self._shares = {"collect": 0.0, "update": 0.0}  # completed share of each phase of this epoch
        self._seconds: dict[str, float] = {}  # phase -> its seconds in the last epoch; in the first one, extrapolated
        self._phase_began_at = 0.0
        self._is_first_epoch = True

    def update(self, event: object) -> None:
        """Take note of an event."""
        now = time.monotonic()
        match event:
            case api.RunBegan():
                self.total, self.epoch = event.config.run.total_timesteps, event.epoch
                self._agent_step, self._batch_size = event.agent_step, event.plan.batch_size * event.processes
            case api.PhaseBegan(phase):
                if phase == "update":
                    self._shares["collect"] = 1.0
                    self._seconds.setdefault("collect", now - self._phase_began_at)
                elif phase == "evaluate":
                    self._shares["update"] = 1.0
                self.phase, self._phase_began_at = phase, now
            case api.PhaseProgressed(phase, done, total):
                self._shares[phase] = done / total
                if done and self._is_first_epoch:
                    self._seconds[phase] = (now - self._phase_began_at) * total / done
            case api.EpochEnded(metrics):
                self.epoch, self._agent_step, self.phase = metrics.epoch, metrics.agent_step, ""
                self._shares = {"collect": 0.0, "update": 0.0}
                collect_seconds = metrics.seconds_simulate + metrics.seconds_infer
                self._seconds = {"collect": collect_seconds, "update": metrics.seconds_learn}
                self._is_first_epoch = False
            case api.RunEnded():  # an interrupted epoch is not saved
                self.epoch, self._agent_step, self.phase = event.epoch, event.agent_step, ""
                self._shares = {"collect": 0.0, "update": 0.0}

    @property
    def agent_step(self) -> int:
        """Agent steps collected so far."""
        return self._agent_step + round(self._batch_size * self._shares["collect"])

    @property
    def share(self) -> float:
        """Completed share of this phase of the epoch, 0 to 1."""
        return self._shares.get(self.phase, 0.0)

    @property
    def steps_per_second(self) -> float | None:
        """Agent steps per second in the last epoch, or in the first one so far; None before anything is known."""
        seconds = sum(self._seconds.values())
        return self._batch_size / seconds if seconds else None

    @property
    def is_lower_bound(self) -> bool:
        """Whether `seconds_left` lacks the updates, whose duration is not known before the first one."""
        return "update" not in self._seconds

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until the end of the run, after a whole epoch; None before anything is known."""
        if not self._seconds:
            return None
        epochs = -(-max(0, self.total - self._agent_step) // self._batch_size)
        return max(0.0, epochs * sum(self._seconds.values()) - self._seconds_of_epoch)

    @property
    def _seconds_of_epoch(self) -> float:
        """Seconds of this epoch so far."""
        return sum(seconds * self._shares[phase] for phase, seconds in self._seconds.items())

    def seconds_until_save(self, seconds: float) -> float:
        """Estimated seconds until the end of the first epoch that ends at least `seconds` from now."""
        epoch_seconds, end = sum(self._seconds.values()), self.seconds_left
        if not epoch_seconds or end is None or self.is_lower_bound:
            return max(0.0, seconds)
        rest = epoch_seconds - self._seconds_of_epoch
        return min(end, rest + epoch_seconds * max(0, math.ceil((seconds - rest) / epoch_seconds)))


class JsonView(View):
    """One JSON object per line on stdout, for programs."""

    def show(self, event: object) -> None:
        """Print one event as JSON."""
        if values := event_values(event):
            output.write(f"{api.json_line(values)}\n")
        else:
            super().show(event)


def event_values(event: object) -> dict[str, Any] | None:
    """An event as JSON; None for events that JSON does not show."""
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
            if event.policies:
                values["policies"] = [dataclasses.asdict(policy) for policy in event.policies]
            return {"event": "begin"} | values
        case api.WeightTransfer():
            return {"event": "weights"} | dataclasses.asdict(event) | {"path": str(event.path)}
        case api.EpochEnded(metrics):
            return {"event": "epoch"} | metrics.line()
        case api.CheckpointSaved():
            values = {"path": str(event.path), "epoch": event.epoch, "agent_step": event.agent_step}
            return {"event": "checkpoint"} | values
        case api.ReplaySaved():
            paths = {"page": str(event.page), "mettascope": str(event.mettascope)}
            return {"event": "replay"} | paths | {"epoch": event.epoch}
        case api.Notice(text):
            return {"event": "notice", "text": text}
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
            if event.best:
                fresh = event.best_reward
                values["best"] = dataclasses.asdict(event.best) | {
                    "fresh_mean_reward": fresh and fresh.mean,
                    "fresh_half_width": fresh and fresh.half_width,
                }
            return {"event": "end"} | values
    return None


def start_summary(event: api.RunBegan) -> list[str]:
    """Lines that describe a run before its first epoch."""
    plan = event.plan
    resumed = f", resumed at epoch {event.epoch}" if event.epoch else ""
    return [
        f"{event.config.run.name}: {event.config.run.total_timesteps:,} agent steps on {event.device}{resumed}",
        *([f"{event.processes} processes, each with"] if event.processes > 1 else []),
        f"{plan.num_worlds} worlds of {plan.num_agents} agents, {plan.batch_size:,} agent steps per epoch, "
        f"{event.parameters:,} parameters",
        *(
            f"  {policy.name} learns from {policy.num_agents} agents per world, {policy.parameters:,} parameters"
            for policy in event.policies
        ),
        f"run directory: {event.directory}",
    ]


def transfer_summary(event: api.WeightTransfer) -> list[str]:
    """Lines that say which weights a run took over from another policy."""
    lists = {"new": event.new, "dropped": event.dropped, "differing": event.differing}
    owner = f"{event.policy}: " if event.policy else ""
    return [
        f"{owner}{event.num_loaded:,} of {event.num_weights:,} weights from {event.path}",
        *(f"  {name}: {', '.join(entries)}" for name, entries in lists.items() if entries),
    ]


def progress_line(progress: RunProgress) -> str:
    """The progress within a slow epoch on one line."""
    done = f"{PHASES[progress.phase]} {100 * progress.share:.0f}%"
    return "  ".join([f"epoch {progress.epoch + 1}", done, *progress_numbers(progress)])


def progress_numbers(progress: RunProgress) -> list[str]:
    """Agent steps, speed and remaining time of a run."""
    speed = progress.steps_per_second
    return [
        f"steps {progress.agent_step:,}/{progress.total:,}",
        f"{'-' if speed is None else f'{speed:,.0f}'} steps/s",
        f"left {'> ' if progress.is_lower_bound else ''}{format_duration(progress.seconds_left)}",
    ]


def epoch_line(metrics: api.EpochMetrics, episode_metrics: api.EpochMetrics, progress: RunProgress) -> str:
    """One epoch on one line; `episode_metrics` are those of the last epoch in which an episode ended."""
    parts = [
        f"epoch {metrics.epoch}",
        *progress_numbers(progress),
        f"reward {format_number(episode_metrics.reward)}{by_policy(episode_metrics.rewards)}",
        f"length {format_number(episode_metrics.episode_length)}",
    ]
    for policy, losses in main_losses(metrics).items():
        parts += [f"{policy}:"] if policy else []
        parts += [f"{name} {format_number(value)}" for name, value in losses]
    if metrics.evaluation:
        parts.append(f"evaluation {format_number(metrics.evaluation.get('mean_reward'))}")
    return "  ".join(parts)


def by_policy(rewards: Mapping[str, float | None]) -> str:
    """The reward of each policy with a name, in parentheses; empty without them."""
    return f" ({', '.join(f'{name} {format_number(reward)}' for name, reward in rewards.items())})" if rewards else ""


def main_losses(metrics: api.EpochMetrics) -> dict[str, list[tuple[str, float]]]:
    """(name, value) of the losses shown after each epoch, by policy; the only one of a run may have no name."""
    names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "explained_variance")
    found = {}
    for policy in metrics.learning_rates or [""]:
        prefix = f"{policy}/" if policy else ""
        losses = {name: metrics.losses.get(f"{prefix}{name}") for name in names}
        found[policy] = [(name, value) for name, value in losses.items() if value is not None]
    return found


def end_summary(event: api.RunEnded, run: api.RunBegan | None) -> list[str]:
    """Lines that summarize a run, with commands to evaluate, watch, record and resume it."""
    total = run.config.run.total_timesteps if run else event.agent_step
    steps = f"{event.agent_step:,}" + (f" of {total:,}" if event.agent_step != total else "") + " agent steps"
    whole = " (whole epochs)" if event.agent_step > total else ""
    speed = event.agent_step / event.seconds if event.seconds else 0.0
    epochs = "1 epoch" if event.epoch == 1 else f"{event.epoch} epochs"
    lines = [f"{event.reason}: {steps}{whole}, {epochs} in {format_duration(event.seconds)} ({speed:,.0f} steps/s)"]
    if event.first and event.last:
        lines.append(
            f"reward per agent and episode {format_number(event.last.reward)} in epoch {event.last.epoch} "
            f"(first: {format_number(event.first.reward)} in epoch {event.first.epoch})"
        )
        lines += [
            f"  {name} {format_number(reward)} (first: {format_number(event.first.rewards.get(name))})"
            for name, reward in event.last.rewards.items()
        ]
    if event.best:
        lines += best_summary(event.best, event.best_reward)
    directory, checkpoint = shlex.quote(str(event.directory)), shlex.quote(str(event.checkpoint))
    more_steps = f" --total-timesteps {2 * event.agent_step}" if event.reason == "finished" else ""
    return [
        *lines,
        f"saved {event.checkpoint}",
        "",
        "next:",
        f"  evaluate  metta eval {checkpoint}",
        *([f"  best      metta eval {directory}/best.pt"] if event.best else []),
        f"  watch     metta watch {directory}",
        f"  replay    metta replay {checkpoint}",
        f"  resume    metta resume {directory}{more_steps}",
    ]


def best_summary(best: api.BestPolicy, fresh: api.Interval | None) -> list[str]:
    """Lines about the best policy of a run: by what it was chosen, and its reward in other episodes."""
    chosen_by = estimate(api.Interval(best.mean_reward, best.half_width))
    return [
        f"best policy: epoch {best.epoch}, reward {chosen_by} in the {best.episodes} episodes by which it was chosen, "
        f"likely too high since the highest was chosen" + (f"; {estimate(fresh)} in other episodes" if fresh else "")
    ]
