"""Summary of a sweep: its parameters and the trials so far, as plain values for a table, a file or a page."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from metta.config.validation.file_paths import user_path

SWEEP = "sweep.toml"
"""File with the table `[sweep]` in the directory of a sweep."""

NOT_REACHED: Final = 1_000_000.0
"""Smallest score, in seconds, of a run that did not reach the reward of the metric `seconds to reward = NUMBER`."""

TrialState = Literal["complete", "pruned", "failed", "running"]
Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class SweepParameter:
    """A setting that the sweep varies."""

    key: str
    """full TOML key, such as `optimizer.learning_rate`"""
    values: tuple[Any, ...] | None = None
    """the values to choose from, in the order of the sweep file; None if the setting is a number of an interval"""
    low: float | None = None
    high: float | None = None
    """bounds of the interval, both included; None if `values` are given"""
    log: bool = False
    """whether the sampler searches the logarithm of the setting"""


@dataclass(frozen=True)
class TrialSummary:
    """One trial: a choice of settings, the runs with them, and their score."""

    number: int
    """number of the trial in the study, from 0"""
    parameters: Mapping[str, Any]
    """value of each setting by its full TOML key"""
    state: TrialState
    score: float | None = None
    """mean of the metric over the runs of the trial; None unless the trial is complete"""
    intermediate_scores: tuple[tuple[int, float], ...] = ()
    """(agent step, score so far) of each report to the pruner, by agent step"""
    seconds: float = 0.0
    """time from the start of the trial to its end, or to now"""
    run_dirs: tuple[Path, ...] = ()
    """directories of its runs that exist, by seed"""
    reason: str = ""
    """a sentence that says why the trial was pruned or failed; empty in the other states"""


@dataclass(frozen=True)
class SweepSummary:
    """A sweep and its trials so far, read from its directory."""

    sweep_dir: Path
    metric: str
    """the metric that is the score, as the sweep file names it"""
    direction: Direction
    num_trials: int
    """number of trials the sweep is to have at its end"""
    parameters: tuple[SweepParameter, ...]
    trials: tuple[TrialSummary, ...]
    """the trials that have started, by number"""
    importances: Mapping[str, float] = field(default_factory=dict)
    """how much each setting decides which trials are the best, by key; they sum to 1 (PED-ANOVA, Watanabe et al. 2023,
    arXiv:2304.10255); empty if too few trials are complete"""

    def ranked(self) -> list[TrialSummary]:
        """The complete trials, best first; of equal scores, the earlier trial first."""
        sign = -1.0 if self.direction == "maximize" else 1.0
        scored = [(sign * trial.score, trial) for trial in self.trials if trial.score is not None]
        return [trial for _, trial in sorted(scored, key=lambda pair: pair[0])]

    def is_reached(self, trial: TrialSummary) -> bool:
        """Whether all runs of a trial reached the reward of a metric `seconds to reward`; True for other metrics."""
        if self.direction == "maximize" or trial.score is None:
            return True
        return trial.score * max(1, len(trial.run_dirs)) < NOT_REACHED

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials in each state."""
        counts = Counter(trial.state for trial in self.trials)
        return {state: counts[state] for state in get_args(TrialState)}

    @property
    def progress(self) -> str:
        """`12 of 40 trials: 8 complete, 3 pruned, 1 running`."""
        states = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
        return f"{len(self.trials)} of {self.num_trials} trials" + (f": {states}" if states else "")

    @property
    def short_keys(self) -> list[str]:
        """The last part of each parameter's key; the whole key where several have the same last part."""
        keys = [parameter.key for parameter in self.parameters]
        last = [key.rpartition(".")[2] for key in keys]
        return [name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)]


def is_sweep(root: str | Path) -> bool:
    """Whether a directory is that of a sweep."""
    return os.path.isfile(user_path(root) / SWEEP)
