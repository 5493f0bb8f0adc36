"""Environment spec: everything about a world that determines the inputs and outputs of a policy."""

from __future__ import annotations

from functools import cached_property

from pydantic import Field

from metta.config.validation.frozen_model import FrozenModel


class EnvSpec(FrozenModel):
    """Actions, token features and observation shape of a world. One policy can play all worlds with equal specs."""

    num_agents: int = Field(description="number of agents per world")
    action_names: list[str] = Field(description="name of each action, by action id")
    max_action_args: list[int] = Field(description="largest argument of each action, by action id")
    action_enabled: list[bool] = Field(description="whether policies have outputs for each action, by action id")
    feature_names: list[str] = Field(description="name of each feature, by feature id")
    feature_scales: list[float] = Field(description="divisor that normalizes each feature, by feature id")
    object_type_names: list[str] = Field(description="name of each object type, by type id; '' for unused ids")
    group_ids: list[int] = Field(description="group ids in tokens")
    observation_height: int
    observation_width: int
    num_observation_tokens: int

    @cached_property
    def flat_actions(self) -> list[tuple[int, int]]:
        """Every (action id, argument) for which policies have an output, sorted."""
        return [
            (action, argument)
            for action, (largest, enabled) in enumerate(zip(self.max_action_args, self.action_enabled, strict=True))
            if enabled
            for argument in range(largest + 1)
        ]

    def differing_fields(self, other: EnvSpec) -> list[str]:
        """Names of the fields, except `num_agents`, that differ, so that one policy cannot play both worlds."""
        names = [name for name in EnvSpec.model_fields if name != "num_agents"]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    @property
    def center(self) -> int:
        """Location byte of the observing agent's cell: its row in the high 4 bits, its column in the low 4 bits."""
        return (self.observation_height // 2) << 4 | (self.observation_width // 2)
