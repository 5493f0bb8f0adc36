"""The memories that tests go through: the built-in ones and a custom one."""

from __future__ import annotations

import pytest
import torch

from metta.agent.memory.network import MemoryNetwork
from metta.agent.memory.state import Memory
from metta.config.agent import MEMORIES

EVERY_MEMORY = (*MEMORIES.built_in, "average")
every_memory = pytest.mark.parametrize("memory", EVERY_MEMORY)


class Average(MemoryNetwork):
    """Running averages of the features, each with a learned rate."""

    def __init__(self, config):
        super().__init__(config)
        self.rate = torch.nn.Parameter(torch.zeros(config.hidden_dim))

    def initial_state(self, agents):
        return {"average": torch.zeros(1, agents, len(self.rate))}

    def forward(self, inputs, memory, episode_starts):
        outputs = []
        for features, starts in zip(inputs, episode_starts, strict=True):
            average = memory.cleared(starts).tensors["average"]
            memory = Memory({"average": average + self.rate.sigmoid() * (features - average)})
            outputs.append(features + memory.tensors["average"][0])
        return torch.stack(outputs), memory


@pytest.fixture
def average_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`agent.memory = "average"` names the custom memory."""
    monkeypatch.setattr(MEMORIES, "_registered", {**MEMORIES._registered, "average": Average})
