"""Memory "attention": multi-head attention of each step to the last `agent.memory_window` steps of its episode.

Layers are residual, with the normalization inside (Parisotto et al. 2019, arXiv:1910.06764), and gradients do not
reach steps before a segment (Dai et al. 2019, arXiv:1901.02860). All heads share one key and one value per step
(Shazeer 2019, arXiv:1911.02150): the keys and values of the window are the state of each agent, and have to be small.
Positions are relative: each head has a learned bias for each distance in steps (Raffel et al. 2020, arXiv:1910.10683).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metta.agent.memory.network import MemoryNetwork
from metta.agent.memory.state import Memory
from metta.config.agent import MEMORIES, AgentModelConfig
from metta.config.plan.network_size import memory_heads


@MEMORIES.register("attention")
class AttentionMemory(MemoryNetwork):
    """Attention over segments `[horizon, agents, hidden]`; steps of earlier episodes are masked."""

    def __init__(self, config: AgentModelConfig):
        super().__init__(config)
        self.window = config.memory_window
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.lstm_layers))
        self.key_width = memory_heads(config.hidden_dim)[1]

    def initial_state(self, agents: int) -> dict[str, Tensor]:
        """Keys and values of the last steps, oldest first, and the number of those that are of the episode.

        `window [layers, agents, memory_window * 2 * width] float32`, `steps [1, agents, 1] float32`, zeros.
        """
        return {
            "window": torch.zeros(len(self.layers), agents, self.window * 2 * self.key_width),
            "steps": torch.zeros(1, agents, 1),
        }

    def forward(self, inputs: Tensor, memory: Memory, episode_starts: Tensor) -> tuple[Tensor, Memory]:
        """Outputs `[horizon, agents, hidden]` and the memory after the last step."""
        agents = inputs.shape[1]
        steps = memory.tensors["steps"][0].clamp(0, self.window)
        visible = []  # [agents, 1] of each step: how many steps before it are of its episode, and in the window
        for starts in episode_starts:
            visible.append(steps * ~starts.unsqueeze(1))
            steps = (visible[-1] + 1).clamp(max=self.window)
        visible_steps = torch.stack(visible, 1)
        windows = []
        for layer, stored in zip(self.layers, memory.tensors["window"], strict=True):
            assert isinstance(layer, _Layer)
            queries, entries = layer.project(inputs)
            window = torch.cat((stored.view(agents, self.window, -1), entries), 1)
            inputs = inputs + layer.output(layer.attend(queries, window, visible_steps).transpose(0, 1))
            windows.append(window[:, -self.window :].flatten(1))
        return inputs, Memory({"window": torch.stack(windows), "steps": steps.unsqueeze(0)})


class _Layer(nn.Module):
    """Layer norm, attention with shared keys and values, and a linear layer."""

    def __init__(self, config: AgentModelConfig):
        super().__init__()
        hidden = config.hidden_dim
        self.window = config.memory_window
        self.heads, self.width = memory_heads(hidden)
        self.norm = nn.LayerNorm(hidden)
        self.queries_entries = nn.Linear(hidden, (self.heads + 2) * self.width)
        self.distances = nn.Embedding(self.window + 1, self.heads)
        self.output = nn.Linear(self.heads * self.width, hidden)
        for linear in (self.queries_entries, self.output):
            nn.init.orthogonal_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.distances.weight)

    def project(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Queries `[agents, horizon, heads * width]`, and keys with values `[agents, horizon, 2 * width]`, float32."""
        projected = self.queries_entries(self.norm(inputs)).float().transpose(0, 1)
        queries, entries = projected.split((self.heads * self.width, 2 * self.width), -1)
        return queries, entries

    def attend(self, queries: Tensor, window: Tensor, visible_steps: Tensor) -> Tensor:
        """`[agents, steps, heads * width]`: attention of some steps to themselves and those before them.

        `queries [agents, steps, heads * width]`; `window [agents, memory_window + steps, 2 * width]`: keys and values;
        `visible_steps [agents, steps, 1]`: how many steps before each one it may attend to.
        """
        agents, steps, _ = queries.shape
        keys, values = window.chunk(2, -1)
        rows = queries.reshape(agents, steps * self.heads, self.width)
        scores = (rows @ keys.transpose(1, 2) / self.width**0.5).view(agents, steps, self.heads, -1)
        places = torch.arange(window.shape[1], device=window.device)
        distances = self.window + places[:steps].unsqueeze(1) - places  # [steps, window + steps], in steps
        is_visible = (distances >= 0) & (distances <= visible_steps)
        scores = scores + self.distances(distances.clamp(0, self.window)).transpose(1, 2)
        weights = scores.masked_fill(~is_visible.unsqueeze(2), float("-inf")).softmax(-1)
        attended: Tensor = weights.view(agents, steps * self.heads, -1) @ values
        return attended.view(agents, steps, -1)
