"""One policy trained by several processes: `[distributed]`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from metta.config.training import ExperienceConfig
from metta.config.validation.frozen_model import FrozenModel
from metta.errors import ConfigError, Problem


class DistributedConfig(FrozenModel):
    """Training by several processes, as `torchrun` starts them; says nothing for one process alone."""

    batch: Literal["global", "per_process"] = Field(
        default="global",
        description="what batch_size and minibatch_size of [experience] count: global: the steps of all processes "
        "together, so that more of them learn the same, sooner; per_process: those of each",
    )
    timeout_seconds: int = Field(
        default=900,
        ge=1,
        le=10**9,
        description="a process that waits so long for another that hangs gives it up, and the job ends with a message; "
        "longer than evaluations and recordings of the first process, which the others wait for",
    )


def experience_of_process(
    experience: ExperienceConfig, distributed: DistributedConfig, num_processes: int
) -> ExperienceConfig:
    """What one of the processes collects and learns from. Raises ConfigError where sizes do not divide among them."""
    if num_processes == 1 or distributed.batch == "per_process":
        return experience
    sizes = {"batch_size": experience.batch_size, "minibatch_size": experience.minibatch_size}
    unit = num_processes * experience.bptt_horizon
    problems = [
        Problem(
            ("experience", name),
            f"must be a multiple of {num_processes} processes x bptt_horizon {experience.bptt_horizon} = {unit}, "
            f"such as {max(1, round(size / unit)) * unit}; got {size}",
        )
        for name, size in sizes.items()
        if size % unit
    ]
    if problems:
        raise ConfigError('distributed.batch = "global"', problems)
    return experience.model_copy(update={name: size // num_processes for name, size in sizes.items()})
