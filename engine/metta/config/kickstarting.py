"""Learning from a teacher: `[kickstarting]`."""

from __future__ import annotations

from pydantic import Field

from metta.config.validation.frozen_model import FilePath, FrozenModel


class KickstartingConfig(FrozenModel):
    """A trained policy advises the one in training (Schmitt et al. 2018, arXiv:1803.03835); off without a `teacher`."""

    teacher: FilePath = Field(default="", description="policy checkpoint of the teacher; empty: none")
    coef: float = Field(
        default=1.0, ge=0, description="weight of the divergence KL(teacher, policy), nats, over (action, argument)"
    )
    value_coef: float = Field(
        default=0.0, ge=0, description="weight of half the mean squared difference from the teacher's values"
    )
    hold_steps: int = Field(
        default=0, ge=0, lt=2**53, description="agent steps with these weights in full, from the beginning of the run"
    )
    anneal_steps: int = Field(
        default=0,
        ge=0,
        lt=2**53,
        description="agent steps over which both then fall to zero, linearly; 0: they never do",
    )

    def share(self, agent_step: int) -> float:
        """What is left of the weights after so many agent steps, 1 to 0; 0 without a teacher."""
        if not self.teacher:
            return 0.0
        if not self.anneal_steps:
            return 1.0
        return min(1.0, max(0.0, 1 - (agent_step - self.hold_steps) / self.anneal_steps))
