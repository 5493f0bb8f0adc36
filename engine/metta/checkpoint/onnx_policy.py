"""The policy as textbooks write it: a box of channels, dense layers, one step at a time. For other programs.

It computes what `MettaAgent` computes, from the same weights, out of operations that every runtime knows: no list of
tokens whose length shows only as it runs, and no layer of our own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from metta.agent.backbones import AttentionBackbone, CnnBackbone, GridConvolution, MlpBackbone
from metta.agent.policy import MettaAgent
from metta.agent.tokens import TokenCodes


class OnnxPolicy(nn.Module):
    """One step of an agent's policy, by the agent's own weights."""

    def __init__(self, agent: MettaAgent):
        super().__init__()
        self.agent = agent
        self.codes = agent.backbone.codes

    def forward(
        self, observations: Tensor, hidden: Tensor, cell: Tensor, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits `[agents, actions]`, values `[agents]`, and the memory after this step: hidden and cell.

        `observations [agents, tokens, 3] uint8`; hidden and cell `[layers, agents, hidden] float32`, zeros at first
        (0 layers for a policy without LSTM); `episode_starts [agents] bool` where a new episode begins. A logit
        belongs to the (action, argument) at its place in `spec.flat_actions`.
        """
        features = self._features(observations)
        kept = (~episode_starts).to(hidden.dtype).unsqueeze(-1)
        hidden, cell = hidden * kept, cell * kept
        if self.agent.memory is not None:
            features, hidden, cell = _lstm_step(self.agent.memory.lstm, features, hidden, cell)
        logits, values = self.agent.policy_head(features), self.agent.value_head(features)
        if self.agent.frame is not None:
            logits = self.agent.frame.to_world(logits, self.agent.frame.facing(observations))
        return logits, values, hidden, cell

    def _features(self, observations: Tensor) -> Tensor:
        agent, codes = self.agent, self.codes
        tokens = agent.processor(observations, agent.spec)
        if agent.frame is not None:
            tokens = agent.frame(tokens)
        agents, capacity, _ = tokens.shape
        rows, channels, magnitudes = (
            entries.view(agents, capacity) for entries in codes.look_up(tokens.reshape(-1, 3))
        )
        features: Tensor
        if isinstance(agent.backbone, AttentionBackbone):
            features = _attended(agent.backbone, rows // codes.num_channels, channels, magnitudes)
        elif isinstance(agent.backbone, CnnBackbone | MlpBackbone):
            box = torch.zeros(agents, codes.num_rows, device=tokens.device)
            box = box.scatter_add(1, (rows + channels).long(), magnitudes)
            if isinstance(agent.backbone, CnnBackbone):
                features = _convolved(agent.backbone, box)
            else:
                features = agent.backbone.layers(box @ agent.backbone.table + agent.backbone.bias)
        else:
            features = agent.backbone(tokens)
        if agent.ahead is not None:
            is_ahead = _is_ahead(codes, tokens).to(magnitudes.dtype)
            ahead = torch.zeros(agents, codes.num_channels, device=tokens.device)
            features = features + ahead.scatter_add(1, channels.long(), magnitudes * is_ahead) @ agent.ahead
        if agent.action_embedding is not None:
            features = features + agent.action_embedding(agent.previous.previous_pair(observations))
        if agent.extra_inputs is not None:
            extra = [agent.previous.previous_reward(observations)] if agent.config.use_prev_reward else []
            extra += [agent.previous.global_values(observations)] if agent.global_features else []
            features = features + agent.extra_inputs(torch.cat(extra, -1))
        return features


def _is_ahead(codes: TokenCodes, tokens: Tensor) -> Tensor:
    """`[agents, tokens] bool`: whether a token is of the cell straight ahead."""
    location = tokens[:, :, 0]
    own = (tokens[:, :, 1] == codes.orientation) & (location == codes.center)
    # 0 where there is no such token, 1 + the orientation else
    facing = ((tokens[:, :, 2] + 1) * own).amax(1).int()
    return location == codes.ahead.index_select(0, facing).unsqueeze(1)


def _convolved(backbone: CnnBackbone, box: Tensor) -> Tensor:
    """The convolutions of the box, and the layers after them."""
    first = backbone.convolution
    _, second, _, _, *rest = backbone.layers
    assert isinstance(second, GridConvolution)
    image = box.view(-1, first.rows.size, first.cols.size, first.in_channels).permute(0, 3, 1, 2)
    features = functional.relu(functional.conv2d(image, first.weight, first.bias, first.stride, first.padding))
    features = functional.relu(functional.conv2d(features, second.weight, second.bias)).flatten(1)
    for layer in rest:
        features = layer(features)
    return features


def _attended(backbone: AttentionBackbone, cells: Tensor, channels: Tensor, magnitudes: Tensor) -> Tensor:
    """What the latents read from the tokens."""
    tokens = backbone.norm(backbone.channels(channels) * magnitudes.unsqueeze(-1) + backbone.cells(cells))
    keys, values = (backbone.split(part) for part in backbone.keys_values(tokens).chunk(2, -1))
    queries = backbone.split(backbone.latents.expand(cells.shape[0], -1, -1))
    seen = magnitudes > 0
    seen = seen | ~seen.any(1, keepdim=True)
    scores = queries @ keys.transpose(-1, -2) / keys.shape[-1] ** 0.5
    weights = scores.masked_fill(~seen[:, None, None, :], float("-inf")).softmax(-1)
    features: Tensor = backbone.layers((weights @ values).transpose(1, 2).flatten(1))
    return features


def _lstm_step(lstm: nn.LSTM, features: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of every layer (Hochreiter and Schmidhuber 1997, with forget gates)."""
    hiddens, cells = [], []
    for layer in range(lstm.num_layers):
        weight_ih, weight_hh, bias_ih, bias_hh = lstm.all_weights[layer]
        gates = functional.linear(features, weight_ih, bias_ih) + functional.linear(hidden[layer], weight_hh, bias_hh)
        enter, forget, candidate, leave = gates.chunk(4, -1)
        new_cell = forget.sigmoid() * cell[layer] + enter.sigmoid() * candidate.tanh()
        features = leave.sigmoid() * new_cell.tanh()
        hiddens.append(features)
        cells.append(new_cell)
    return features, torch.stack(hiddens), torch.stack(cells)
