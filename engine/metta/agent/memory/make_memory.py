"""Creation of the memory that `agent.memory` names, and the state of a network without memory."""

from __future__ import annotations

import torch

from metta.agent.memory import attention, mingru  # noqa: F401  # they register themselves
from metta.agent.memory.lstm import empty_state
from metta.agent.memory.network import MemoryNetwork
from metta.agent.memory.state import Memory
from metta.config.agent import MEMORIES, AgentModelConfig
from metta.errors import UsageError


def make_memory(config: AgentModelConfig) -> MemoryNetwork | None:
    """Create the memory that `agent.memory` names; None if `agent.forward_lstm` is false.

    Raises UsageError if a custom memory is not a `MemoryNetwork`, or if its state or outputs have a wrong shape.
    """
    if not config.forward_lstm:
        return None
    name = config.memory
    network = MEMORIES.find(name)(config)
    if not isinstance(network, MemoryNetwork):
        raise UsageError(f'the memory "{name}" is a {type(network).__name__}; it must be a metta.api.MemoryNetwork')
    if MEMORIES.is_custom(name):
        _check_shapes(network, name, config.hidden_dim)
    return network


def initial_memory(network: MemoryNetwork | None, hidden: int, agents: int) -> Memory:
    """The memory of agents before an episode's first step."""
    return Memory(empty_state(0, agents, hidden) if network is None else network.initial_state(agents))


def _check_shapes(network: MemoryNetwork, name: str, hidden: int) -> None:
    """Raise UsageError unless a custom memory keeps the shapes of its state, and returns outputs like its inputs."""
    memory, expected = Memory(network.initial_state(2)), [1, 2, hidden]
    for key, tensor in memory.tensors.items():
        if tensor.dtype != torch.float32 or tensor.ndim < 2 or tensor.shape[1] != 2 or bool(tensor.any()):
            raise UsageError(
                f'the memory "{name}" has for 2 agents an initial state "{key}" that is '
                f"{_described(tensor)}; it must be zeros [layers, agents, ...] float32"
            )
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs, after = network.eval()(torch.zeros(expected), memory, torch.zeros(1, 2, dtype=torch.bool))
    network.train()
    if list(outputs.shape) != expected:
        raise UsageError(
            f'the memory "{name}" returns outputs of shape {list(outputs.shape)} for inputs {expected}; they must have '
            "one shape: [horizon, agents, agent.hidden_dim]"
        )
    before_shapes = {key: tensor.shape for key, tensor in memory.tensors.items()}
    if (after_shapes := {key: tensor.shape for key, tensor in after.tensors.items()}) != before_shapes:
        raise UsageError(
            f'the memory "{name}" has the state {_shapes(after_shapes)} after a step of 2 agents; it must have the '
            f"names and shapes of its initial state, {_shapes(before_shapes)}"
        )


def _described(tensor: torch.Tensor) -> str:
    values = ", not all zeros" if bool(tensor.any()) else ""
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}{values}"


def _shapes(shapes: dict[str, torch.Size]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "nothing"
