"""What a policy must know about a world to read its tokens and choose its actions."""

from __future__ import annotations

from functools import cached_property

from pydantic import Field

from metta.config.validation.frozen_model import FrozenModel


class EnvSpec(FrozenModel):
    """The contract between worlds and policies: worlds with equal specs can be played by the same policy."""

    num_agents: int = Field(description="agents in a world")
    action_names: list[str] = Field(description="by action id")
    max_action_args: list[int] = Field(description="largest argument, by action id")
    action_enabled: list[bool] = Field(description="whether it may be sampled, by action id")
    feature_names: list[str] = Field(description="by feature id")
    feature_scales: list[float] = Field(description="what a value is divided by, by feature id")
    object_type_names: list[str] = Field(description="by type id, '' where there is none")
    group_ids: list[int] = Field(description="ids of the groups of agents, as in tokens")
    observation_height: int
    observation_width: int
    num_observation_tokens: int

    @cached_property
    def flat_actions(self) -> list[tuple[int, int]]:
        """Every (action id, argument) that may be sampled, in order."""
        return [
            (action, argument)
            for action, (largest, enabled) in enumerate(zip(self.max_action_args, self.action_enabled, strict=True))
            if enabled
            for argument in range(largest + 1)
        ]

    def differing(self, other: EnvSpec) -> list[str]:
        """What another world has otherwise, so that one policy cannot play both: fields, but for `num_agents`."""
        names = [name for name in EnvSpec.model_fields if name != "num_agents"]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    @property
    def center(self) -> int:
        """The location byte of the observer's own cell."""
        return (self.observation_height // 2) << 4 | (self.observation_width // 2)
