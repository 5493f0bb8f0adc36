"""Output of the runs of an experiment as plain lines, JSON or nothing (`--quiet`), and the summary at its end."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from metta import api
from metta_cli import output
from metta_cli.output import format_duration, format_number
from metta_cli.views.training_lines import RunProgress, View, epoch_line, event_values


@dataclass
class RunStatus:
    """How far one run of an experiment is."""

    name: str
    seed: int
    progress: RunProgress = field(default_factory=RunProgress)
    state: str = "waiting"
    """waiting, training, stopping, finished, interrupted or failed"""
    episode_metrics: api.EpochMetrics | None = None
    """metrics of the last epoch in which an episode ended"""
    ended: api.JobEnded | None = None

    @property
    def share(self) -> float:
        """Completed share of the run, 0 to 1."""
        return min(1.0, self.progress.agent_step / self.progress.total)

    @property
    def reward(self) -> float | None:
        """Reward per agent and episode in the last epoch in which an episode ended; None before that."""
        return self.episode_metrics.reward if self.episode_metrics else None

    def update(self, event: api.JobEvent | api.JobEnded) -> None:
        """Take note of an event of this run."""
        match event:
            case api.JobEvent(_, api.EpochEnded(metrics) as inner):
                self.progress.update(inner)
                self.episode_metrics = metrics if metrics.episodes else self.episode_metrics
            case api.JobEvent(_, inner):
                self.progress.update(inner)
                self.state = (
                    "stopping" if isinstance(inner, api.StopRequested) or self.state == "stopping" else "training"
                )
            case api.JobEnded(_, run):
                self.ended = event
                self.state = run.reason if run else "failed"
                if run:
                    self.progress.update(run)
                    self.episode_metrics = run.last or self.episode_metrics


class ExperimentView(View):
    """Listener of an experiment that prints only notes, errors and signals, on stderr (`--quiet`)."""

    def __init__(self) -> None:
        super().__init__()
        self.began: api.ExperimentBegan | None = None
        self.runs: dict[str, RunStatus] = {}

    def __call__(self, event: object) -> None:
        """Show one event. If the output cannot be written, all runs save and stop."""
        match event:
            case api.ExperimentBegan():
                self.began = event
                self.runs = {name: RunStatus(name, seed) for name, seed in event.seeds.items()}
                for run in self.runs.values():
                    run.progress.total = event.config.run.total_timesteps
            case api.JobEvent() | api.JobEnded():
                self.runs[event.name].update(event)
        super().__call__(event)

    def show(self, event: object) -> None:
        """Print one event. Raises OSError if the output cannot be written."""
        match event:
            case api.JobEvent(name, api.Notice(text)):
                output.print_note(f"{name}: {text}")
            case api.JobEvent():
                pass
            case api.JobEnded(name, None):
                output.print_on_stderr("\n".join(error_lines(event)))
            case _:
                super().show(event)


class PlainExperimentView(ExperimentView):
    """A line per epoch and run, without control codes: for files, pipes and continuous integration."""

    def show(self, event: object) -> None:
        """Print one event."""
        match event:
            case api.ExperimentBegan():
                output.write_lines(start_lines(event))
            case api.JobEvent(name, api.EpochEnded(metrics)):
                run = self.runs[name]
                output.write_lines([f"{name}  {epoch_line(metrics, run.episode_metrics or metrics, run.progress)}"])
            case api.JobEnded(name, api.RunEnded(reason)):
                output.write_lines([f"{name}  {reason}: {self.runs[name].progress.agent_step:,} agent steps"])
            case api.ExperimentEnded():
                output.write_lines(["", *end_lines(event, self.runs)])
            case _:
                super().show(event)


class JsonExperimentView(ExperimentView):
    """One JSON object per line on stdout: those of `metta train --json`, each with the name and the seed of its run."""

    def show(self, event: object) -> None:
        """Print one event as JSON."""
        values = None
        match event:
            case api.ExperimentBegan():
                values = {
                    "event": "experiment_begin",
                    "run_dir": str(event.directory),
                    "name": event.config.run.name,
                    "runs": event.seeds,
                    "jobs": event.jobs,
                    "threads": event.threads,
                    "total_timesteps": event.config.run.total_timesteps,
                }
            case api.JobEvent(name, inner):
                values = self._of_run(name, event_values(inner))
            case api.JobEnded(name, None):
                super().show(event)
                values = self._of_run(name, {"event": "error", "text": event.error})
            case api.JobEnded(name):
                return  # its run has ended with an event
            case api.ExperimentEnded():
                runs = {name: run.state for name, run in self.runs.items()}
                values = {
                    "event": "experiment_end",
                    "reason": event.reason,
                    "run_dir": str(event.directory),
                    "runs": runs,
                }
            case _:
                values = event_values(event)
        if values:
            output.write(f"{api.json_line(values)}\n")
        elif not isinstance(event, api.JobEvent):
            super().show(event)

    def _of_run(self, name: str, values: dict[str, object] | None) -> dict[str, object] | None:
        if values is None:
            return None
        return {"event": values["event"], "run": name, "seed": self.runs[name].seed} | values


def start_lines(event: api.ExperimentBegan) -> list[str]:
    """Lines that describe an experiment before its runs."""
    steps = f"{event.config.run.total_timesteps:,} agent steps"
    count = f"{len(event.seeds)} run" + ("s" if len(event.seeds) != 1 else "")
    lines = [f"{event.config.run.name}: {count} of {steps}, {jobs_text(event)}", f"directory: {event.directory}"]
    if len(event.seeds) > 1:
        lines.insert(1, f"seeds {', '.join(map(str, event.seeds.values()))}")
    return lines


def jobs_text(event: api.ExperimentBegan) -> str:
    """Number of jobs and their threads."""
    threads = f", {event.threads} thread{'s' if event.threads > 1 else ''} each" if event.threads else ""
    return "one at a time" if event.jobs == 1 else f"{event.jobs} at once{threads}"


def error_lines(event: api.JobEnded) -> list[str]:
    """Why a run failed, and the end of what it printed, such as a traceback."""
    return [f"{event.name} failed: {event.error}", *(f"  {line}" for line in event.output.strip().splitlines())]


def end_lines(event: api.ExperimentEnded, runs: dict[str, RunStatus]) -> list[str]:
    """Lines that summarize an experiment: its runs, the mean over them, errors, and what to do next."""
    finished = [run for run in runs.values() if run.state == "finished"]
    lines = [f"{event.reason}: {len(finished)} of {len(runs)} runs finished", ""]
    rows = [["run", "state", "agent steps", "reward", "time"]]
    for run in runs.values():
        ended = run.ended.run if run.ended else None
        duration = format_duration(ended.seconds) if ended else "-"
        rows.append([run.name, run.state, f"{run.progress.agent_step:,}", format_number(run.reward), duration])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, state, *numbers in rows:
        cells = [f"{name:<{widths[0]}}", f"{state:<{widths[1]}}"]
        lines.append("  ".join(["", *cells, *(f"{n:>{width}}" for n, width in zip(numbers, widths[2:], strict=True))]))
    rewards = [run.reward for run in finished if run.reward is not None]
    if len(rewards) > 1:
        interval = api.mean_interval(rewards)
        plus_minus = output.encodable("±", "+-")
        mean = f"{format_number(interval.mean)} {plus_minus} {format_number(interval.half_width)}"
        lines += ["", f"reward per agent and episode: {mean} (mean of {len(rewards)} seeds, 95 % confidence interval)"]
    failed = [run.ended for run in runs.values() if run.state == "failed" and run.ended]
    lines += ["", *(f"{ended.name} failed: {ended.error}" for ended in failed)] if failed else []
    directory = shlex.quote(str(event.directory))
    is_finished = event.reason == "finished"
    more_steps = (
        f" --total-timesteps {2 * max(run.progress.agent_step for run in runs.values())}" if is_finished else ""
    )
    return [
        *lines,
        "",
        "next:",
        f"  evaluate  metta eval {directory}",
        f"  compare   metta report {directory}",
        f"  watch     metta watch {directory}/{next(iter(runs))}",
        f"  resume    metta resume {directory}{more_steps}",
    ]
