"""Trainer states on disk: everything that a run needs to resume, except the weights of its policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, TypeAdapter, ValidationError

from metta.checkpoint.file_format import files_by_epoch, is_undamaged, read_torch_file, write_torch_file
from metta.config.validation.error_messages import first_problem
from metta.config.validation.file_paths import user_path
from metta.errors import CheckpointError

KIND = "trainer state"
STATES_KEPT = 2

_Count = Annotated[int, Field(ge=0, le=2**53)]


@dataclass
class TrainingState:
    """State of a training run, except the weights of its policy."""

    epoch: _Count
    """epochs done"""
    agent_step: _Count
    """agent steps that this process has collected"""
    total_agent_step: _Count
    """agent steps of the run: the sum over all processes"""
    optimizer_state_dict: dict[str, Any]
    lr_scheduler_state_dict: dict[str, Any] | None = None
    policy_path: str | None = None
    """checkpoint of the policy that belongs to this state; relative to the directory of the state"""
    stopwatch_state: dict[str, Any] = field(default_factory=dict)
    extra_args: dict[str, Any] = field(default_factory=dict)
    """tensors, numbers and text, such as the environments and random generators of a run; arrays become tensors"""

    def save(self, checkpoint_dir: str | Path) -> str:
        """Write a file, such as `trainer_state_000100.pt` for epoch 100. Returns its path.

        Deletes the states of earlier epochs except the newest undamaged one. States of later epochs, which exist if a
        run resumed from an earlier state, are kept until they are overwritten.
        """
        directory = user_path(checkpoint_dir)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"trainer_state_{self.epoch:06d}.pt"
        write_torch_file(path, KIND, {entry.name: getattr(self, entry.name) for entry in fields(self)})
        kept = 1
        for old, epoch in files_by_epoch(directory, "trainer_state").items():
            if epoch >= self.epoch:
                continue
            if kept < STATES_KEPT and is_undamaged(old):
                kept += 1
            else:
                old.unlink(missing_ok=True)
        return str(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load a file that `save` wrote. Raises CheckpointError if it is missing, damaged or not a trainer state."""
        content = _with_current_names(read_torch_file(user_path(path), KIND))
        try:
            return TypeAdapter(cls).validate_python(content, extra="forbid")
        except ValidationError as error:
            raise CheckpointError(f"{path} is not a valid {KIND}: {first_problem(error)}") from None


_RENAMED = {"resets": "episode_starts"}
"""Names in the states of earlier versions, and their current names."""


def _with_current_names(content: Any) -> Any:
    if isinstance(content, dict):
        return {_RENAMED.get(name, name): _with_current_names(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_with_current_names(value) for value in content]
    return content


LEARNER_ENTRIES = ("optimizer_state_dict", "lr_scheduler_state_dict", "opponents", "initial_weights")
"""What a trainer state holds of each policy in training, besides its experience: fields, and entries of `extra_args`.

That of a policy without a name is the value itself, that of others a dictionary by the name of the policy.
"""


def by_policy(values: Mapping[str, Any]) -> Any:
    """Values of policies by name, as a trainer state holds them: see `LEARNER_ENTRIES`."""
    return values[""] if "" in values else dict(values)


def learner_states(state: TrainingState, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The `LEARNER_ENTRIES` of each of the policies `names` in a trainer state.

    Raises CheckpointError if it is the state of a run with other policies.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key in LEARNER_ENTRIES:
        value = getattr(state, key) if key in state.__dict__ else state.extra_args.get(key)
        values = {"": value} if list(names) == [""] else value
        if not isinstance(values, Mapping) or values.keys() != set(names):
            raise CheckpointError(f"its {key} does not have the policies of the run: {', '.join(names)}")
        for name in names:
            found[name][key] = values[name]
    return found


def own_states(experience: Mapping[str, Any]) -> Mapping[str, Any]:
    """The experience of each policy in the entry `experience` of a trainer state, by name."""
    own: Mapping[str, Any] = experience.get("policies", {"": experience})
    return own


def training_state_paths(directory: Path) -> list[Path]:
    """The trainer states in a directory, newest first."""
    return list(files_by_epoch(directory, "trainer_state"))
