"""Results of a sweep: its trials so far as plain values, and the file with the best settings."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

from metta.config.loading.load import dump_tables
from metta.config.validation.error_messages import shown
from metta.config.validation.file_paths import user_path
from metta.experiments.sweep.study import PARTS, PROBLEM, StudyTrial, SweepStudy
from metta.experiments.sweep.summary import SweepParameter, SweepSummary, TrialState, TrialSummary
from metta.files import write_atomically
from metta.run.write_permissions import is_run

BEST = "best.toml"
"""Config with the settings of the best trial, in the directory of a sweep."""

_STATES: Final[dict[str, TrialState]] = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
}


def sweep_summary(root: str | Path, storage: str | None = None) -> SweepSummary:
    """The current trials of the sweep in a directory; `storage` replaces the storage of its creation.

    Raises UsageError if there is no sweep, or its study cannot be read.
    """
    return summarize(SweepStudy.open(user_path(root), storage))


def summarize(study: SweepStudy) -> SweepSummary:
    """The trials of a study so far."""
    sweep = study.sweep
    parameters = tuple(
        SweepParameter(entry.key, entry.values, None, None, False)
        if entry.values is not None
        else SweepParameter(entry.key, None, entry.low, entry.high, entry.log)
        for entry in sweep.parameters
    )
    trials = tuple(summarize_trial(study, trial) for trial in study.trials if trial.state.name in _STATES)
    config = sweep.config
    return SweepSummary(
        study.root, config.metric, config.direction, sweep.num_trials, parameters, trials, study.importances()
    )


def summarize_trial(study: SweepStudy, trial: StudyTrial) -> TrialSummary:
    """One trial."""
    end = trial.datetime_complete or datetime.now()
    sign = 1 if study.sweep.config.direction == "maximize" else -1
    values = study.values(trial)
    total = int(values.get("run.total_timesteps", study.total_timesteps))
    directory = study.directory(trial.number)
    return TrialSummary(
        number=trial.number,
        parameters=values,
        state=_STATES[trial.state.name],
        score=trial.value if trial.state.name == "COMPLETE" else None,
        intermediate_scores=tuple(
            (part * total // PARTS, sign * value) for part, value in sorted(trial.intermediate_values.items())
        ),
        seconds=(end - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0,
        run_dirs=tuple(run for seed in study.seeds if is_run(run := directory / f"seed_{seed}")),
        reason=str(trial.user_attrs.get(PROBLEM, "")),
    )


def write_best(study: SweepStudy) -> TrialSummary | None:
    """Write the config of the best trial so far to `BEST`, and return the trial; None if no trial is complete."""
    with study.locked():  # so that a process with older results does not overwrite newer ones
        summary = summarize(study)
        best = next(iter(summary.ranked()), None)
        if best is None:
            return None
        count = sum(trial.state == "complete" for trial in summary.trials)
        runs = "1 run" if len(study.seeds) == 1 else f"mean of {len(study.seeds)} runs"
        heading = [
            f"Best of {count} complete trials of the sweep {study.sweep.config.name}: trial {best.number}",
            f"{summary.metric}: {best.score:g} ({runs}). The best of many is partly luck: a new run may score less.",
            *(f"{key} = {shown(value)}" for key, value in best.parameters.items()),
        ]
        text = "".join(f"# {line}\n" for line in heading) + "\n" + dump_tables(study.sweep.run_tables(best.parameters))
        write_atomically(study.root / BEST, text.encode())
        return best
