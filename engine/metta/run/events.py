"""Events of a run: frozen values that a run passes to its listener, which prints or records them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metta.config.batch_plan import BatchPlan
from metta.config.run import RunConfig
from metta.run.epoch_metrics import EpochMetrics

Phase = Literal["collect", "update", "evaluate", "record", "save"]


@dataclass(frozen=True)
class RunBegan:
    """A run started, or resumed after `epoch` epochs."""

    directory: Path
    config: RunConfig
    plan: BatchPlan
    device: str
    parameters: int
    """weights of the policy"""
    epoch: int
    agent_step: int
    processes: int = 1
    """processes that train together; the plan is that of each"""


@dataclass(frozen=True)
class PhaseBegan:
    """The next phase of the run began."""

    phase: Phase


@dataclass(frozen=True)
class EpochEnded:
    """An epoch ended, and its line is in `metrics.jsonl`."""

    metrics: EpochMetrics


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint was saved, from which the run can be resumed."""

    path: Path
    """the policy"""
    epoch: int
    agent_step: int


@dataclass(frozen=True)
class ReplaySaved:
    """An episode of the policy was recorded."""

    page: Path
    """for a browser"""
    mettascope: Path
    """for MettaScope"""
    epoch: int


@dataclass(frozen=True)
class StopRequested:
    """A first Ctrl-C, SIGTERM or SIGHUP was received. Passed inside the signal handler: the listener must be quick."""

    signal: str


@dataclass(frozen=True)
class Notice:
    """A message for the user; the run continues."""

    text: str


@dataclass(frozen=True)
class RunEnded:
    """The run ended, finished or interrupted, and was saved."""

    reason: Literal["finished", "interrupted"]
    directory: Path
    checkpoint: Path
    epoch: int
    agent_step: int
    seconds: float
    """seconds of training, over all parts of a run that was resumed"""
    first: EpochMetrics | None
    """metrics of the first epoch of this process in which an episode ended"""
    last: EpochMetrics | None


Event = RunBegan | PhaseBegan | EpochEnded | CheckpointSaved | ReplaySaved | StopRequested | Notice | RunEnded
Listener = Callable[[Event], None]
