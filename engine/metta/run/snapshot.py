"""A run between two epochs, held in memory, so that it can be saved whatever training has done since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from metta.checkpoint.policy_checkpoint import KIND as POLICY
from metta.checkpoint.policy_checkpoint import checkpoint_name
from metta.checkpoint.file_format import write_torch_file
from metta.checkpoint.trainer_state import KIND as STATE
from metta.checkpoint.trainer_state import TrainingState
from metta.rl.distributed import deserialize
from metta.rl.plain_values import plain


@dataclass(frozen=True)
class Snapshot:
    """All that `metta resume` and `metta eval` need, in copies of its own."""

    policy: dict[str, Any]
    """the content of the policy's file"""
    state: TrainingState
    """but for the experience of other processes"""
    packed_experiences: Sequence[Tensor]
    """of those, by rank; nothing changes in them"""
    others: Mapping[str, Mapping[str, Any]]
    """the content of files of policies that are not trained, by name; no copies, since nothing changes in them"""

    @classmethod
    def of(
        cls,
        policy: Mapping[str, Any],
        state: TrainingState,
        packed_experiences: Sequence[Tensor] = (),
        others: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Self:
        """A copy of policy and state, in host memory."""
        values = plain({entry.name: getattr(state, entry.name) for entry in fields(state)}, STATE)
        return cls(plain(policy, POLICY), TrainingState(**values), tuple(packed_experiences), others or {})

    @property
    def seconds(self) -> float:
        """Of training until then."""
        return float((self.state.stopwatch_state or {}).get("seconds", 0.0))

    def save(self, checkpoints: Path) -> Path:
        """Write the policy, then the trainer state that names it; the policy's path."""
        path = checkpoints / checkpoint_name(self.state.epoch)
        checkpoints.mkdir(parents=True, exist_ok=True)
        for name, content in self.others.items():
            if not (checkpoints / name).exists():
                (checkpoints / name).parent.mkdir(exist_ok=True)
                write_torch_file(checkpoints / name, POLICY, content)
        write_torch_file(path, POLICY, self.policy)
        with_other_experiences(self.state, self.packed_experiences).save(checkpoints)
        return path


def with_other_experiences(state: TrainingState, packed_experiences: Sequence[Tensor]) -> TrainingState:
    """The state with the experience of the other processes, by rank, as they sent it."""
    extra = state.extra_args | {"other_experiences": [deserialize(message) for message in packed_experiences]}
    return replace(state, extra_args=extra)
