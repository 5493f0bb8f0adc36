"""`MemoryNetwork`, the base class of the networks with which a policy remembers earlier steps of an episode.

Register a custom one with the decorator, or as an entry point in the group `metta.memories`, then name it in
`agent.memory`:

    @MEMORIES.register("average")
    class Average(MemoryNetwork):
        ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from metta.agent.memory.state import Memory
from metta.config.agent import AgentModelConfig


class MemoryNetwork(nn.Module, ABC):
    """Base class of memories: `forward` maps features of steps to features that depend on earlier steps, too.

    A custom memory must initialize its weights, and returns the same for a segment as for its steps one by one.
    """

    def __init__(self, config: AgentModelConfig):
        super().__init__()

    @abstractmethod
    def initial_state(self, agents: int) -> dict[str, Tensor]:
        """The tensors that are kept between steps, by name: zeros `[layers, agents, ...] float32`, on any device."""

    @abstractmethod
    def forward(self, inputs: Tensor, memory: Memory, episode_starts: Tensor) -> tuple[Tensor, Memory]:
        """Map `inputs [horizon, agents, hidden]` to outputs of that shape, and the memory after the last step.

        `memory` is that before the first step. An agent's outputs must not depend on anything before a step that
        `episode_starts [horizon, agents] bool` marks; `Memory.cleared` sets its memory to zero.
        """
