"""Which policies of a run are kept: removal of old ones (`checkpoint.keep_last`), and `best.pt` (`keep_best`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from metta.checkpoint.file_format import files_by_epoch, read_torch_file
from metta.checkpoint.policy_file import KIND

BEST = "best.pt"
"""File name of the best policy in the checkpoint directory. `RUN/best.pt` names it wherever that directory is."""

EVALUATION = "evaluation"
"""Key of the metadata of the best policy: the evaluation by which it was chosen."""


@dataclass(frozen=True)
class BestPolicy:
    """The policy of a run with the highest mean reward in the evaluations during training, and that evaluation."""

    epoch: int
    agent_step: int
    mean_reward: float
    """mean over the episodes of the evaluation; an optimistic estimate, since the highest one of several was chosen"""
    half_width: float
    """half the width of the 95 % confidence interval of `mean_reward`"""
    episodes: int
    """episodes of the evaluation"""

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of its file, besides those of every policy of the run."""
        return {EVALUATION: asdict(self)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self | None:
        """The evaluation in the metadata of a policy's file; None for a policy that was not chosen by one."""
        try:
            return cls(**_Evaluation.model_validate(metadata.get(EVALUATION)).model_dump())
        except ValidationError:
            return None


class _Evaluation(BaseModel):
    """The types and ranges of a `BestPolicy`, for validation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    epoch: int = Field(ge=0, le=2**53)
    agent_step: int = Field(ge=0, le=2**53)
    mean_reward: float = Field(allow_inf_nan=False)
    half_width: float
    episodes: int = Field(ge=1, le=2**53)


def read_best(directory: Path) -> BestPolicy | None:
    """The best policy in a directory of checkpoints; None if there is none yet.

    Raises CheckpointError if its file is damaged.
    """
    path = directory / BEST
    return BestPolicy.from_metadata(read_torch_file(path, KIND)["metadata"]) if path.exists() else None


def remove_old_policies(directory: Path, epoch: int, keep_last: int) -> None:
    """Remove the policies of a run after `epoch` epochs except the newest `keep_last`; with 0, none is removed.

    Policies that a trainer state refers to are kept, so that each state can be resumed from, and so are those of later
    epochs, which exist if the run resumed from an earlier state, until training passes them.
    """
    if not keep_last:
        return
    needed = set(files_by_epoch(directory, "trainer_state").values())
    done = [(path, of) for path, of in files_by_epoch(directory, "checkpoint").items() if of <= epoch]
    for path, of in done[keep_last:]:
        if of not in needed:
            path.unlink(missing_ok=True)
