"""Events of a sweep: frozen dataclasses that a sweep passes to its listener, such as a live table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metta.experiments.sweep.summary import SweepSummary, TrialSummary
from metta.run.events import Event, Notice, StopRequested


@dataclass(frozen=True)
class SweepBegan:
    """A sweep started, or another process began to work on it."""

    summary: SweepSummary
    jobs: int
    """number of runs that this process trains at once"""


@dataclass(frozen=True)
class TrialBegan:
    """A trial started, or was resumed."""

    number: int
    parameters: Mapping[str, Any]
    """value of each parameter, by TOML key"""
    seeds: tuple[int, ...]
    """`run.seed` of each run"""
    is_resumed: bool


@dataclass(frozen=True)
class TrialRunEvent:
    """An event of a run of a trial."""

    number: int
    seed: int
    event: Event


@dataclass(frozen=True)
class TrialEnded:
    """A trial is complete, was pruned or failed, and the study has its result."""

    trial: TrialSummary
    best: TrialSummary | None
    """the best trial so far; None if none is complete"""


@dataclass(frozen=True)
class SweepEnded:
    """This process stopped working on the sweep."""

    reason: Literal["finished", "interrupted"]
    """finished: no trial is left that no process works on"""
    summary: SweepSummary
    best_file: Path | None
    """config with the best settings, a file for `metta train`; None if no trial is complete"""
    jobs: int
    """number of runs that this process trained at once"""


SweepEvent = SweepBegan | TrialBegan | TrialRunEvent | TrialEnded | SweepEnded | StopRequested | Notice
"""What a listener of a sweep can receive."""

SweepListener = Callable[[SweepEvent], None]
"""Called with each event, in the order of events of each run."""
