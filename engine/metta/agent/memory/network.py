"""`MemoryNetwork`, the base class of the networks with which a policy remembers earlier steps of an episode.

Register a custom one with the decorator, or as an entry point in the group `metta.memories`, then name it in
`agent.memory`:

    @MEMORIES.register("average")
    class Average(MemoryNetwork):
        ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from metta.agent.memory.state import Memory
from metta.config.agent import AgentModelConfig


class MemoryNetwork(nn.Module, ABC):
    """Base class of memories: `forward` maps features of steps to features that depend on earlier steps, too.

    A custom memory must initialize its weights, and must return for a segment what it returns for its steps one by one.
    ONNX export traces a step, which has a horizon of 1.
    """

    uses_start_steps: ClassVar[bool] = False
    """whether `forward` takes `start_steps [horizon]`: whether an episode of any agent starts at a step"""

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
    network: MemoryNetwork,
    inputs: Tensor,
    memory: Memory,
    episode_starts: Tensor,
    bptt_horizon: int,
    start_steps: Sequence[bool] | None = None,
) -> tuple[Tensor, Memory]:
    """`network.forward` of a segment of any length, whose gradient through time is cut every `bptt_horizon` steps.

    `start_steps [horizon]` says whether an episode of any agent starts at a step, if the caller knows.
    """
    outputs = []
    for begin in range(0, len(inputs), bptt_horizon):
        part = slice(begin, begin + bptt_horizon)
        known = {"start_steps": start_steps[part]} if start_steps is not None and network.uses_start_steps else {}
        output, memory = network(inputs[part], memory.detach() if begin else memory, episode_starts[part], **known)
        outputs.append(output)
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), memory
