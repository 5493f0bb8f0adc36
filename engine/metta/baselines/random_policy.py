"""A policy that knows nothing: the scale on which to read every other's reward."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metta.agent.policy import PolicyOutput
from metta.agent.recurrent_memory import Memory
from metta.config.env.env_spec import EnvSpec


class RandomPolicy:
    """Plays every (action, argument) pair that may be sampled equally often; has neither weights nor memory."""

    def __init__(self, spec: EnvSpec):
        self.spec = spec
        self._pairs = torch.tensor(spec.flat_actions, dtype=torch.int32)

    def initial_memory(self, agents: int) -> Memory:
        """No layers: nothing is remembered."""
        return Memory(torch.zeros(0, agents, 1), torch.zeros(0, agents, 1))

    def act(
        self,
        observations: Tensor,
        memory: Memory,
        episode_starts: Tensor | None = None,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> PolicyOutput:
        """A random pair for each agent; also when `deterministic`, since all are equally likely."""
        agents = len(observations)
        pairs = torch.randint(len(self._pairs), (agents,), generator=generator)
        log_probs = torch.full((agents,), -math.log(len(self._pairs)))
        return PolicyOutput(self._pairs[pairs], pairs, log_probs, torch.zeros(agents), memory)
