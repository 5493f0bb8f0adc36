"""`MemoryNetwork`, the base class of the networks with which a policy remembers earlier steps of an episode.

Register a custom one with the decorator, or as an entry point in the group `metta.memories`, then name it in
`agent.memory`:

    @MEMORIES.register("average")
    class Average(MemoryNetwork):
        ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from metta.agent.memory.state import Memory
from metta.config.agent import AgentModelConfig


class MemoryNetwork(nn.Module, ABC):
    """Base class of memories: `forward` maps features of steps to features that depend on earlier steps, too.

    A custom memory must initialize its weights, and must return for a segment what it returns for its steps one by one.
    ONNX export traces a step, which has a horizon of 1.
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


def run_memory(
    network: MemoryNetwork, inputs: Tensor, memory: Memory, episode_starts: Tensor, bptt_horizon: int
) -> tuple[Tensor, Memory]:
    """`network.forward` of a segment of any length, whose gradient through time is cut every `bptt_horizon` steps."""
    outputs = []
    for begin in range(0, len(inputs), bptt_horizon):
        part = slice(begin, begin + bptt_horizon)
        output, memory = network(inputs[part], memory.detach() if begin else memory, episode_starts[part])
        outputs.append(output)
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), memory
