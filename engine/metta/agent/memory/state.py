"""`Memory`: what a policy remembers of each agent from one step to the next, as tensors by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metta.agent.devices import to_device


@dataclass(frozen=True)
class Memory:
    """The state of a policy's memory, by default none. Before an episode's first step every tensor is zero."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """`[layers, agents, ...] float32`, by name; 0 layers for a network without memory"""

    @property
    def device(self) -> torch.device:
        """The device of the tensors; the CPU if there are none."""
        return next((tensor.device for tensor in self.tensors.values()), torch.device("cpu"))

    def select(self, agents: Tensor) -> Memory:
        """The memory of the agents with these indices `[selected] int64`."""
        return Memory({name: tensor[:, agents] for name, tensor in self.tensors.items()})

    def assign(self, agents: Tensor | slice, memory: Memory) -> None:
        """Replace, in place, the memory of the agents with these indices `[selected] int64` by `memory` of as many."""
        for name, tensor in self.tensors.items():
            tensor[:, agents] = memory.tensors[name].to(tensor.device)

    def to(self, device: torch.device) -> Memory:
        """The same memory on another device."""
        return Memory({name: to_device(tensor, device) for name, tensor in self.tensors.items()})

    def float(self) -> Memory:
        """The same memory in float32."""
        return Memory({name: tensor.float() for name, tensor in self.tensors.items()})

    def detach(self) -> Memory:
        """The same memory without gradient."""
        return Memory({name: tensor.detach() for name, tensor in self.tensors.items()})

    def cleared(self, episode_starts: Tensor) -> Memory:
        """The memory with zeros for the agents that `episode_starts [agents] bool` marks."""
        cleared = {}
        for name, tensor in self.tensors.items():
            kept = (~episode_starts).to(tensor.dtype)
            cleared[name] = tensor * kept.view(-1, *[1] * (tensor.ndim - 2))
        return Memory(cleared)

    def state(self) -> dict[str, Tensor]:
        """The memory as a dictionary of tensors, for a trainer state."""
        return dict(self.tensors)

    def restored(self, state: Mapping[str, Tensor]) -> Memory:
        """The memory that `state()` returned, of as many agents of the same policy, on the device of this one."""
        return Memory({name: state[name].to(tensor.device) for name, tensor in self.tensors.items()})
