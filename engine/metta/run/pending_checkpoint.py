"""Checkpoint in memory: a copy of policy and trainer state between two epochs, written to disk at a later time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from metta.checkpoint.file_format import write_torch_file
from metta.checkpoint.policy_file import KIND as POLICY
from metta.checkpoint.policy_file import checkpoint_name
from metta.checkpoint.trainer_state import KIND as STATE
from metta.checkpoint.trainer_state import TrainingState
from metta.rl.distributed import deserialize
from metta.rl.plain_values import plain


@dataclass(frozen=True)
class PendingCheckpoint:
    """Everything that `metta resume` and `metta eval` need, copied from a run."""

    policy: dict[str, Any]
    """content of the policy's file"""
    state: TrainingState
    """without the experience of other processes"""
    other_experiences: Sequence[Tensor]
    """the experience of other processes, by rank, serialized"""
    frozen_policies: Mapping[str, Mapping[str, Any]]
    """content of the files of teacher and opponents, by name; not copied, since they never change"""

    @classmethod
    def copy_of(
        cls,
        policy: Mapping[str, Any],
        state: TrainingState,
        other_experiences: Sequence[Tensor] = (),
        frozen_policies: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Self:
        """A copy of policy and state in host memory."""
        values = plain({entry.name: getattr(state, entry.name) for entry in fields(state)}, STATE)
        return cls(plain(policy, POLICY), TrainingState(**values), tuple(other_experiences), frozen_policies or {})

    @property
    def seconds(self) -> float:
        """Training time of the run at the time of the copy, in seconds."""
        return float(self.state.stopwatch_state["seconds"])

    def save(self, checkpoints: Path) -> Path:
        """Write the policy, then the trainer state that refers to it. Returns the path of the policy."""
        path = checkpoints / checkpoint_name(self.state.epoch)
        checkpoints.mkdir(parents=True, exist_ok=True)
        for name, content in self.frozen_policies.items():
            if not (checkpoints / name).exists():
                (checkpoints / name).parent.mkdir(parents=True, exist_ok=True)
                write_torch_file(checkpoints / name, POLICY, content)
        write_torch_file(path, POLICY, self.policy)
        with_other_experiences(self.state, self.other_experiences).save(checkpoints)
        return path


def with_other_experiences(state: TrainingState, serialized: Sequence[Tensor]) -> TrainingState:
    """The state with the experience of the other processes, by rank."""
    extra = state.extra_args | {"other_experiences": [deserialize(message) for message in serialized]}
    return replace(state, extra_args=extra)
