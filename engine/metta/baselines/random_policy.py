"""The random policy, which samples actions uniformly: a lower baseline for other policies."""

from __future__ import annotations

import torch
from torch import Tensor

from metta.agent import action_distribution
from metta.agent.memory.state import Memory
from metta.agent.policy import PolicyOutput
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.training import POLICIES


class RandomPolicy:
    """Samples uniformly from `spec.flat_actions`; it has neither weights nor memory."""

    uses_action_masks = False

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
        action_masks: Tensor | None = None,
    ) -> PolicyOutput:
        """Sample an action for each agent, even if `deterministic`, since all actions are equally likely.

        With `action_masks [agents, actions] bool`, actions are sampled uniformly from those that are allowed.
        """
        agents, actions = len(observations), len(self._flat_actions)
        logits = action_distribution.masked_logits(torch.zeros(agents, actions), action_masks)
        if action_masks is None:
            action_index = torch.randint(actions, (agents,), generator=generator)
        else:
            action_index = action_distribution.sample(logits, generator)
        log_probs = action_distribution.log_prob(logits, action_index)
        return PolicyOutput(
            self._flat_actions[action_index], action_index, log_probs, torch.zeros(agents), memory, logits
        )


@POLICIES.register("random")
def _random(env_config: EnvConfig) -> RandomPolicy:
    return RandomPolicy(env_config.spec)
