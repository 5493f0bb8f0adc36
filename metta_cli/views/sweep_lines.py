"""Views of a sweep without a terminal: lines of text or JSON; the table of its trials."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from metta import api
from metta_cli import output
from metta_cli.output import format_duration, format_number
from metta_cli.views.training_lines import RunProgress, View

PROGRESS_STEP = 0.25
"""Share of a run after which a line tells its progress."""


class SweepView(View):
    """Listener of a sweep that prints only notes and signals (`--quiet`). Base class of the other views."""

    def show(self, event: object) -> None:
        """Print one event."""
        match event:
            case api.TrialRunEvent(number, seed, api.Notice(text)):
                output.print_note(f"trial {number}, seed {seed}: {text}")
            case api.TrialRunEvent():
                pass  # its run is stopped with all others
            case _:
                super().show(event)

    def _continue_on_stderr(self, event: object) -> None:
        if isinstance(event, api.SweepEnded):
            output.print_on_stderr("\n".join(end_lines(event)))
        else:
            super()._continue_on_stderr(event)


class Progress:
    """How far the runs of the trials in progress are."""

    def __init__(self) -> None:
        self.runs: dict[tuple[int, int], RunProgress] = {}
        """by number of the trial and seed"""
        self.rewards: dict[int, float] = {}
        """last reward of a trial's run, by number of the trial"""
        self.num_seeds = 1

    def update(self, event: object) -> None:
        """Take note of an event."""
        match event:
            case api.TrialBegan(number, _, seeds, _):
                self.num_seeds = len(seeds)
            case api.TrialRunEvent(number, seed, inner):
                self.runs.setdefault((number, seed), RunProgress()).update(inner)
                if isinstance(inner, api.EpochEnded) and inner.metrics.reward is not None:
                    self.rewards[number] = inner.metrics.reward
            case api.TrialEnded(trial, _):
                self.runs = {key: run for key, run in self.runs.items() if key[0] != trial.number}

    def share(self, number: int) -> float:
        """Completed share of a trial, 0 to 1."""
        runs = [min(1.0, run.agent_step / run.total) for (trial, _), run in self.runs.items() if trial == number]
        return sum(runs) / self.num_seeds

    @property
    def steps_per_second(self) -> float:
        """Agent steps per second of all runs in progress."""
        running = [run for run in self.runs.values() if run.agent_step < run.total]
        return sum(run.steps_per_second or 0.0 for run in running)


class PlainSweepView(SweepView):
    """Lines when a trial begins, progresses and ends, without control codes."""

    def __init__(self) -> None:
        super().__init__()
        self.progress = Progress()
        self.summary: api.SweepSummary | None = None
        self._printed: dict[int, int] = {}
        """quarters of each trial that were printed"""

    def show(self, event: object) -> None:
        """Print one event."""
        self.progress.update(event)
        match event:
            case api.SweepBegan(summary, jobs):
                self.summary = summary
                output.write_lines(begin_lines(summary, jobs))
            case api.TrialBegan(number, parameters, _, is_resumed):
                begun = "resumed" if is_resumed else "begins"
                output.write_lines([f"trial {number} {begun}: {settings_text(parameters)}"])
            case api.TrialRunEvent(number, _, api.EpochEnded()):
                quarter = int(self.progress.share(number) / PROGRESS_STEP)
                if self._printed.get(number, 0) < quarter < 4:
                    self._printed[number] = quarter
                    reward = format_number(self.progress.rewards.get(number))
                    output.write_lines([f"trial {number}  {25 * quarter}%  reward {reward}"])
            case api.TrialEnded(trial, best) if self.summary:
                output.write_lines([ended_line(self.summary, trial, best)])
            case api.SweepEnded():
                output.write_lines(["", *end_lines(event)])
            case _:
                super().show(event)


class JsonSweepView(SweepView):
    """One JSON object per line on stdout, for programs."""

    def show(self, event: object) -> None:
        """Print one event as JSON."""
        match event:
            case api.SweepBegan(summary, jobs):
                self._print({"event": "begin", "jobs": jobs} | _heading(summary))
            case api.TrialBegan():
                self._print({"event": "trial_begin"} | dataclasses.asdict(event))
            case api.TrialRunEvent(number, seed, api.EpochEnded(metrics)):
                self._print({"event": "epoch", "trial": number, "seed": seed} | metrics.line())
            case api.TrialRunEvent(number, seed, api.Notice(text)):
                self._print({"event": "notice", "trial": number, "seed": seed, "text": text})
            case api.TrialEnded(trial, best):
                number_of_best = best.number if best else None
                self._print({"event": "trial_end"} | _trial_values(trial) | {"best": number_of_best})
            case api.Notice(text):
                self._print({"event": "notice", "text": text})
            case api.SweepEnded(reason, summary, best_file):
                best = next(iter(summary.ranked()), None)
                values = {"reason": reason, "best": _trial_values(best) if best else None}
                file = str(best_file) if best_file else None
                self._print({"event": "end"} | values | {"best_file": file, "counts": summary.counts})
            case _:
                super().show(event)

    def _print(self, values: dict[str, Any]) -> None:
        output.write(f"{api.json_line(values)}\n")


def print_status(summary: api.SweepSummary, json: bool) -> None:
    """Print the trials of a sweep and the best settings so far; as one JSON object if `json`."""
    best = next(iter(summary.ranked()), None)
    if json:
        trials = [_trial_values(trial) for trial in summary.trials]
        values = {"trials": trials, "best": best.number if best else None, "importances": dict(summary.importances)}
        output.print_json(_heading(summary) | values)
        return
    output.print_lines([f"{summary.sweep_dir}: {summary.progress}, scored by {summary.metric}"])
    if summary.trials:
        header = ["trial", "state", "score", "last reward", "time", *summary.short_keys]
        output.print_columns(header, [status_row(summary, trial) for trial in summary.trials])
    for trial in summary.trials:
        if trial.reason and trial.state == "failed":
            output.print_lines([f"trial {trial.number} failed: {trial.reason}"])
    output.print_lines(best_lines(summary))


def status_row(summary: api.SweepSummary, trial: api.TrialSummary) -> list[str]:
    """Number, state, score, last reward, duration and settings of a trial."""
    reward = trial.intermediate_scores[-1][1] if trial.intermediate_scores else None
    values = [setting_text(trial.parameters.get(entry.key, "-")) for entry in summary.parameters]
    return [
        str(trial.number),
        trial.state,
        score_text(summary, trial),
        format_number(reward),
        format_duration(trial.seconds),
        *values,
    ]


def score_text(summary: api.SweepSummary, trial: api.TrialSummary) -> str:
    """The score of a trial; `-` while it has none."""
    if not summary.is_reached(trial):
        return "not reached"
    return format_number(trial.score) + (" s" if summary.direction == "minimize" and trial.score is not None else "")


def setting_text(value: Any) -> str:
    """A value of a setting, numbers with four digits."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings_text(parameters: Any) -> str:
    """Settings on one line: `ppo.gamma = 0.98, agent.backbone = mlp`."""
    return ", ".join(f"{key} = {setting_text(value)}" for key, value in parameters.items())


def begin_lines(summary: api.SweepSummary, jobs: int) -> list[str]:
    """Lines that describe a sweep before its first trial."""
    word = "smallest" if summary.direction == "minimize" else "largest"
    return [
        f"{summary.num_trials} trials for the {word} {summary.metric}, {jobs} run{'' if jobs == 1 else 's'} at once",
        *([f"so far: {summary.progress}"] if summary.trials else []),
        f"directory: {summary.sweep_dir}",
    ]


def ended_line(summary: api.SweepSummary, trial: api.TrialSummary, best: api.TrialSummary | None) -> str:
    """The end of a trial on one line."""
    if trial.state != "complete":
        return f"trial {trial.number} {trial.state}: {trial.reason}"
    note = ""
    if best is not None:
        is_best = best.number == trial.number
        note = "  best so far" if is_best else f"  best: {score_text(summary, best)} (trial {best.number})"
    return f"trial {trial.number} complete: {summary.metric} {score_text(summary, trial)}{note}"


def best_lines(summary: api.SweepSummary) -> list[str]:
    """The best trial and its settings, and how much each parameter matters."""
    ranked = summary.ranked()
    if not ranked:
        return ["no trial is complete yet"]
    best = ranked[0]
    lines = [f"best: trial {best.number}, {summary.metric} {score_text(summary, best)}"]
    width = max(map(len, best.parameters))
    for key, value in best.parameters.items():
        importance = f"  importance {summary.importances[key]:.2f}" if key in summary.importances else ""
        lines.append(f"  {key:<{width}}  {setting_text(value)}{importance}")
    return lines


def end_lines(event: api.SweepEnded) -> list[str]:
    """Lines that summarize a sweep, with commands that use its results."""
    summary = event.summary
    directory = shlex.quote(str(summary.sweep_dir))
    lines = [f"{event.reason}: {summary.progress}", *best_lines(summary)]
    if event.best_file:
        lines.append(f"saved {event.best_file}")
    commands = []
    if event.reason == "interrupted" or any(trial.state == "running" for trial in summary.trials):
        commands.append(f"  resume  metta resume {directory}" + (f" --jobs {event.jobs}" if event.jobs > 1 else ""))
    if event.best_file:
        commands.append(f"  train   metta train {shlex.quote(str(event.best_file))}")
    commands.append(f"  report  metta report {directory}")
    return [*lines, "", "next:", *commands]


def _heading(summary: api.SweepSummary) -> dict[str, Any]:
    return {
        "sweep_dir": str(summary.sweep_dir),
        "metric": summary.metric,
        "direction": summary.direction,
        "num_trials": summary.num_trials,
        "parameters": [dataclasses.asdict(parameter) for parameter in summary.parameters],
    }


def _trial_values(trial: api.TrialSummary) -> dict[str, Any]:
    return dataclasses.asdict(trial) | {"run_dirs": [str(path) for path in trial.run_dirs]}
