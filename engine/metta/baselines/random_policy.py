"""The random policy, which samples actions uniformly: a lower baseline for other policies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metta.agent.memory.state import Memory
from metta.agent.policy import PolicyOutput
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.training import POLICIES


class RandomPolicy:
    """Samples uniformly from `spec.flat_actions`; it has neither weights nor memory."""

    def __init__(self, spec: EnvSpec):
        self.spec = spec
        self._flat_actions = torch.tensor(spec.flat_actions, dtype=torch.int32)

    def initial_memory(self, agents: int) -> Memory:
        """An empty memory."""
        return Memory()

    def act(
        self,
        observations: Tensor,
        memory: Memory,
        episode_starts: Tensor | None = None,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> PolicyOutput:
        """Sample an action for each agent, even if `deterministic`, since all actions are equally likely."""
        agents, actions = len(observations), len(self._flat_actions)
        action_index = torch.randint(actions, (agents,), generator=generator)
        log_probs = torch.full((agents,), -math.log(actions))
        logits = torch.zeros(agents, actions)
        return PolicyOutput(
            self._flat_actions[action_index], action_index, log_probs, torch.zeros(agents), memory, logits
        )


@POLICIES.register("random")
def _random(env_config: EnvConfig) -> RandomPolicy:
    return RandomPolicy(env_config.spec)
