"""Memory "mingru": minGRU (Feng et al. 2024, arXiv:2410.01201), whose gates depend only on the input of their step.

    h_t = (1 - z_t) h_{t-1} + z_t c_t    with z_t = sigmoid(W_z x_t + b_z) and the candidate c_t = W_c x_t + b_c

All products with weights are computed for a whole segment at once, with a quarter of the arithmetic of an LSTM; only
the element-wise recurrence runs over time. The output of a layer is x_t + h_t, so that features of the current step
pass unchanged and layers can be stacked (the paper, too, uses residual connections around its layers).
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor, nn

from metta.agent.memory.network import MemoryNetwork
from metta.agent.memory.state import Memory
from metta.config.agent import MEMORIES, AgentModelConfig

LONGEST_TIME_SCALE: Final = 64.0
"""Longest time, in steps, after which an initial memory unit has replaced most of its state."""


@MEMORIES.register("mingru")
class MinGRU(MemoryNetwork):
    """minGRU over segments `[horizon, agents, hidden]`; at an episode start, (1 - z_t) is zero.

    The recurrence is computed in float32.
    """

    def __init__(self, config: AgentModelConfig):
        super().__init__(config)
        self.hidden = config.hidden_dim
        self.layers = nn.ModuleList(nn.Linear(self.hidden, 2 * self.hidden) for _ in range(config.lstm_layers))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            for part in layer.weight.data.chunk(2):
                nn.init.orthogonal_(part)
            nn.init.zeros_(layer.bias)
            # time scales 1 / z from 2 to LONGEST_TIME_SCALE, evenly on a logarithmic scale (as in Tallec and Ollivier
            # 2018, arXiv:1804.11188, where they are uniform)
            time_scales = torch.logspace(math.log10(2), math.log10(LONGEST_TIME_SCALE), self.hidden)
            layer.bias.data[: self.hidden] = -(time_scales - 1).log()

    def initial_state(self, agents: int) -> dict[str, Tensor]:
        """`hidden`, zeros `[layers, agents, hidden] float32`."""
        return {"hidden": torch.zeros(len(self.layers), agents, self.hidden)}

    def forward(self, inputs: Tensor, memory: Memory, episode_starts: Tensor) -> tuple[Tensor, Memory]:
        """Outputs `[horizon, agents, hidden]` and the memory after the last step."""
        continues = (~episode_starts).unsqueeze(-1)
        last = []
        for layer, hidden in zip(self.layers, memory.tensors["hidden"], strict=True):
            gates, candidates = layer(inputs).float().chunk(2, -1)
            update = gates.sigmoid()
            states = linear_recurrence((1 - update) * continues, update * candidates, hidden)
            inputs = inputs + states
            last.append(states[-1])
        return inputs, Memory({"hidden": torch.stack(last)})


def linear_recurrence(kept: Tensor, added: Tensor, initial: Tensor) -> Tensor:
    """`[horizon, agents, hidden]`: h_t = kept_t h_{t-1} + added_t, with h_{-1} = initial `[agents, hidden]`.

    `initial` has no gradient.
    """
    if len(kept) == 1:  # also for ONNX, which lacks custom functions
        return kept * initial + added
    states: Tensor = _LinearRecurrence.apply(kept, added, initial)  # type: ignore[no-untyped-call]
    return states


class _LinearRecurrence(torch.autograd.Function):
    """The recurrence with its gradient as a second recurrence, instead of one node of autograd's graph per step."""

    @staticmethod
    def forward(ctx: Any, kept: Tensor, added: Tensor, initial: Tensor) -> Tensor:
        states = torch.empty_like(added)
        previous = initial
        for kept_t, added_t, state in zip(kept, added, states, strict=True):
            torch.addcmul(added_t, kept_t, previous, out=state)
            previous = state
        ctx.save_for_backward(kept, states, initial)
        return states

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        kept, states, initial = ctx.saved_tensors
        grad_added = grad_outputs[0].clone()
        for t in range(len(kept) - 1, 0, -1):
            grad_added[t - 1].addcmul_(kept[t], grad_added[t])
        grad_kept = torch.empty_like(kept)
        torch.mul(grad_added[0], initial, out=grad_kept[0])
        torch.mul(grad_added[1:], states[:-1], out=grad_kept[1:])
        return grad_kept, grad_added, None
