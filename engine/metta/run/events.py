"""Events of a run: frozen dataclasses that a run passes to its listener, such as the progress display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metta.checkpoint.kept_policies import BestPolicy
from metta.checkpoint.weight_transfer import WeightTransfer
from metta.config.batch_plan import BatchPlan
from metta.config.run import RunConfig
from metta.evaluation.confidence_intervals import Interval
from metta.run.epoch_metrics import EpochMetrics

Phase = Literal["collect", "update", "evaluate", "record", "save"]


@dataclass(frozen=True)
class RunPolicy:
    """A policy that a run trains, one of several."""

    name: str
    groups: tuple[str, ...]
    parameters: int
    """number of its parameters"""
    num_agents: int
    """agents per world from whose steps it learns"""


@dataclass(frozen=True)
class RunBegan:
    """A run started, or resumed after `epoch` epochs."""

    directory: Path
    config: RunConfig
    plan: BatchPlan
    """of all policies in training together"""
    device: str
    parameters: int
    """number of parameters of the policies in training"""
    epoch: int
    agent_step: int
    processes: int = 1
    """processes that train together; `plan` is per process"""
    policies: tuple[RunPolicy, ...] = ()
    """the policies in training; empty without `[policies]`"""


@dataclass(frozen=True)
class PhaseBegan:
    """The next phase of the run began."""

    phase: Phase


@dataclass(frozen=True)
class PhaseProgressed:
    """How far a phase of the epoch is. Sent a few times per second."""

    phase: Literal["collect", "update"]
    done: int
    """agent steps of all processes that were collected, or used by gradient steps"""
    total: int
    """agent steps of the whole phase; an update uses the batch `experience.update_epochs` times, and may stop early"""


@dataclass(frozen=True)
class EpochEnded:
    """An epoch ended, and its metrics were written to `metrics.jsonl`."""

    metrics: EpochMetrics


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint was saved, from which the run can be resumed."""

    path: Path
    """file of the policy"""
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
    """A signal requested a stop, such as Ctrl-C. Sent from the signal handler: the listener must return quickly."""

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
    """seconds of training, including those before the run was resumed"""
    first: EpochMetrics | None
    """metrics of the first epoch of this process in which an episode ended"""
    last: EpochMetrics | None
    """metrics of the last such epoch"""
    best: BestPolicy | None = None
    """with `checkpoint.keep_best`: the policy in `best.pt`, and the evaluation by which it was chosen"""
    best_reward: Interval | None = None
    """mean reward of `best` in other episodes than those by which it was chosen; None if the run was interrupted"""


Event = (
    RunBegan
    | WeightTransfer
    | PhaseBegan
    | PhaseProgressed
    | EpochEnded
    | CheckpointSaved
    | ReplaySaved
    | StopRequested
    | Notice
    | RunEnded
)
"""What a listener can receive."""

Listener = Callable[[Event], None]
"""Called with each event, in the order of events, by the thread that trains."""
