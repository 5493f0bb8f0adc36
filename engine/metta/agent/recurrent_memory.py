"""The policy's recurrent memory: the LSTM state, and an LSTM over segments that clears it at episode starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metta.agent.matmul_backend import cpu_is_fast_in_bfloat16


@dataclass(frozen=True)
class Memory:
    """The LSTM state of each agent; 0 layers for a policy without LSTM."""

    hidden: Tensor
    """`[layers, agents, hidden] float32`"""
    cell: Tensor
    """`[layers, agents, hidden] float32`"""

    def select(self, agents: Tensor) -> Memory:
        """The memory of the agents with these indices `[selected] int64`."""
        return Memory(self.hidden[:, agents], self.cell[:, agents])

    def to(self, device: torch.device) -> Memory:
        """The same memory on another device."""
        return Memory(self.hidden.to(device), self.cell.to(device))

    def detach(self) -> Memory:
        """The same memory without gradient."""
        return Memory(self.hidden.detach(), self.cell.detach())

    def cleared(self, episode_starts: Tensor) -> Memory:
        """The memory with zeros for the agents that `episode_starts [agents] bool` marks."""
        kept = (~episode_starts).to(self.hidden.dtype).unsqueeze(-1)
        return Memory(self.hidden * kept, self.cell * kept)


class SegmentLSTM(nn.Module):
    """An LSTM over segments `[horizon, agents, hidden]` whose memory is cleared wherever an episode starts.

    The segment is split at each step at which an episode of any agent starts, and `nn.LSTM` is called once per part.
    This is exact, and as fast as `nn.LSTM` if no episode starts. Memory is detached every `bptt_horizon` steps, which
    truncates gradients and does not change outputs.
    """

    def __init__(self, hidden: int, layers: int, bptt_horizon: int):
        super().__init__()
        self.lstm = nn.LSTM(hidden, hidden, layers)
        self.bptt_horizon = bptt_horizon

    def forward(self, inputs: Tensor, memory: Memory, episode_starts: Tensor) -> tuple[Tensor, Memory]:
        """Outputs `[horizon, agents, hidden]` and the memory after the last step.

        Memory is cleared before each step that `episode_starts [horizon, agents] bool` marks.
        """
        horizon = len(inputs)
        has_start = episode_starts.any(1).tolist()
        part_starts = [t for t in range(horizon) if t == 0 or has_start[t] or t % self.bptt_horizon == 0]
        outputs = []
        for start, end in zip(part_starts, [*part_starts[1:], horizon], strict=True):
            if start and start % self.bptt_horizon == 0:
                memory = memory.detach()
            if has_start[start]:
                memory = memory.cleared(episode_starts[start])
            output, memory = self._run_lstm(inputs[start:end], memory)
            outputs.append(output)
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), memory

    def _run_lstm(self, inputs: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Call `nn.LSTM`; under autocast on a CPU it computes in float32 unless the CPU is faster in bfloat16."""
        if inputs.device.type != "cpu" or (torch.is_autocast_enabled("cpu") and cpu_is_fast_in_bfloat16()):
            output, (hidden, cell) = self.lstm(inputs, (memory.hidden, memory.cell))
        else:
            with torch.autocast("cpu", enabled=False):
                output, (hidden, cell) = self.lstm(inputs.float(), (memory.hidden, memory.cell))
        return output, Memory(hidden, cell)
