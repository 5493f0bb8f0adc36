"""The policy's memory: an LSTM that forgets where an episode ended, over single steps and whole segments alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metta.agent.bfloat16 import cpu_is_fast_in_bfloat16


@dataclass(frozen=True)
class Memory:
    """What the policy remembers. A policy without memory has 0 layers."""

    hidden: Tensor
    """`[layers, agents, hidden] float32`"""
    cell: Tensor
    """`[layers, agents, hidden] float32`"""

    def select(self, agents: Tensor) -> Memory:
        """The memory of some agents, by index."""
        return Memory(self.hidden[:, agents], self.cell[:, agents])

    def to(self, device: torch.device) -> Memory:
        """The same memory on another device."""
        return Memory(self.hidden.to(device), self.cell.to(device))

    def detach(self) -> Memory:
        """The same memory, through which no gradient flows."""
        return Memory(self.hidden.detach(), self.cell.detach())

    def cleared(self, episode_starts: Tensor) -> Memory:
        """The memory with zeros for the agents marked in `episode_starts` `[agents] bool`."""
        kept = (~episode_starts).to(self.hidden.dtype).unsqueeze(-1)
        return Memory(self.hidden * kept, self.cell * kept)


class SegmentLSTM(nn.Module):
    """An LSTM over `[horizon, agents, hidden]` whose memory is cleared inside the segment wherever asked.

    The segment is cut into stretches in which nothing is cleared, each one call of `nn.LSTM`: exact, and as fast as the
    plain LSTM where no episode ends. `bptt_horizon` cuts gradients, not values, every so many steps.
    """

    def __init__(self, hidden: int, layers: int, bptt_horizon: int):
        super().__init__()
        self.lstm = nn.LSTM(hidden, hidden, layers)
        self.bptt_horizon = bptt_horizon

    def forward(self, inputs: Tensor, memory: Memory, episode_starts: Tensor) -> tuple[Tensor, Memory]:
        """Outputs `[horizon, agents, hidden]` and the memory after them.

        `episode_starts[t]` `[agents] bool` marks agents whose memory is cleared before step t.
        """
        horizon = len(inputs)
        clears = episode_starts.any(1).tolist()
        cuts = [t for t in range(horizon) if t == 0 or clears[t] or t % self.bptt_horizon == 0]
        outputs = []
        for begin, end in zip(cuts, [*cuts[1:], horizon], strict=True):
            if begin and begin % self.bptt_horizon == 0:
                memory = memory.detach()
            if clears[begin]:
                memory = memory.cleared(episode_starts[begin])
            output, memory = self._stretch(inputs[begin:end], memory)
            outputs.append(output)
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), memory

    def _stretch(self, inputs: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The plain LSTM; on most CPUs in float32 under autocast too, since bfloat16 would take them longer."""
        if inputs.device.type != "cpu" or (torch.is_autocast_enabled("cpu") and cpu_is_fast_in_bfloat16()):
            output, (hidden, cell) = self.lstm(inputs, (memory.hidden, memory.cell))
        else:
            with torch.autocast("cpu", enabled=False):
                output, (hidden, cell) = self.lstm(inputs.float(), (memory.hidden, memory.cell))
        return output, Memory(hidden, cell)
