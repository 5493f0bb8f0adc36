"""What a run tells whoever watches it: one frozen value per event, so that the engine need not print."""

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
    """A run begins, or goes on at `epoch`."""

    directory: Path
    config: RunConfig
    plan: BatchPlan
    device: str
    parameters: int
    """weights of the policy"""
    epoch: int
    agent_step: int
    processes: int = 1
    """that train together; the plan is that of each"""


@dataclass(frozen=True)
class PhaseBegan:
    """What the run does from now on."""

    phase: Phase


@dataclass(frozen=True)
class EpochEnded:
    """An epoch is done and its line is in `metrics.jsonl`."""

    metrics: EpochMetrics


@dataclass(frozen=True)
class CheckpointSaved:
    """The run can be resumed from here."""

    path: Path
    """the policy"""
    epoch: int
    agent_step: int


@dataclass(frozen=True)
class ReplaySaved:
    """An episode of the policy as it plays now can be looked at."""

    page: Path
    """for a browser"""
    mettascope: Path
    """the same for MettaScope"""
    epoch: int


@dataclass(frozen=True)
class StopRequested:
    """A first Ctrl-C or SIGTERM came. Told from inside the signal handler: do next to nothing."""

    signal: str


@dataclass(frozen=True)
class Notice:
    """Something the user should know that stops nothing."""

    text: str


@dataclass(frozen=True)
class RunEnded:
    """The run is over: `finished` or `interrupted`, either way saved."""

    reason: Literal["finished", "interrupted"]
    directory: Path
    checkpoint: Path
    epoch: int
    agent_step: int
    seconds: float
    """of training, over all parts of a run that was resumed"""
    first: EpochMetrics | None
    """of the first epoch of this process in which an episode ended"""
    last: EpochMetrics | None


Event = RunBegan | PhaseBegan | EpochEnded | CheckpointSaved | ReplaySaved | StopRequested | Notice | RunEnded
Listener = Callable[[Event], None]
