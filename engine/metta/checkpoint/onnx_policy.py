"""The network that is exported to ONNX: one step of a policy in standard operators, with dense token encodings.

It computes the same outputs as `MettaAgent` from the same weights, without custom autograd functions and without shapes
that depend on the data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from metta.agent.action_distribution import masked_logits
from metta.agent.backbones import AttentionBackbone, CnnBackbone, MlpBackbone
from metta.agent.convolutions import GridConvolution
from metta.agent.memory.lstm import SegmentLSTM
from metta.agent.memory.state import Memory
from metta.agent.policy import MettaAgent
from metta.agent.tokens import TokenCodes


class OnnxPolicy(nn.Module):
    """One step of an agent's policy; it shares the agent's weights."""

    def __init__(self, agent: MettaAgent):
        super().__init__()
        self.agent = agent
        self.codes = agent.backbone.codes
        self.memory_names = tuple(agent.initial_memory(1).tensors)
        """names of the tensors of the memory, in the order of the model's inputs and outputs"""

    def forward(
        self,
        observations: Tensor,
        memory: Sequence[Tensor],
        episode_starts: Tensor,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Logits `[agents, actions]`, values `[agents]`, and the memory after this step.

        `observations [agents, tokens, 3] uint8`; `memory`: the tensors of `agent.initial_memory`, in their order,
        initially zeros; `episode_starts [agents] bool`: memory is cleared first where it is true. Logit i belongs to
        action i of `spec.flat_actions`; it is the smallest number where `action_mask [agents, actions] bool` is false.
        """
        if self.agent.window is not None:
            observations = self.agent.window(observations)
        frame = self.agent.egocentric_frame
        orientation: Tensor | None = None
        if frame is not None:
            orientation = frame.agent_orientation(observations)
            observations = frame(observations, orientation)
        features = self.agent.add_direct_inputs(self._token_features(observations), observations)
        state = Memory(dict(zip(self.memory_names, memory, strict=True)))
        if isinstance(self.agent.memory, SegmentLSTM):
            features, state = self.agent.memory.step(features, state, episode_starts)
        elif self.agent.memory is not None:
            outputs, state = self.agent.memory(features.unsqueeze(0), state, episode_starts.unsqueeze(0))
            features = outputs.squeeze(0)
        logits, values = self.agent.policy_head(features), self.agent.value_head(features)
        if frame is not None and orientation is not None:
            logits = frame.world_logits(logits, orientation)
        return masked_logits(logits, action_mask), values, *(state.tensors[name] for name in self.memory_names)

    def _token_features(self, observations: Tensor) -> Tensor:
        """`[agents, hidden]`: the features of the backbone and of the cell ahead."""
        agent, codes = self.agent, self.codes
        tokens = agent.observation_processor(observations, agent.network_spec)
        agents, capacity, _ = tokens.shape
        locations, channels, magnitudes = (
            entries.view(agents, capacity) for entries in codes.look_up(tokens.reshape(-1, 3))
        )
        rows = codes.first_rows[locations.long()]  # ONNX takes no int32 as index here
        features: Tensor
        if isinstance(agent.backbone, AttentionBackbone):
            features = _attention_features(agent.backbone, rows // codes.num_channels, channels, magnitudes)
        elif isinstance(agent.backbone, CnnBackbone | MlpBackbone):
            dense = torch.zeros(agents, codes.num_rows, device=tokens.device)
            dense = dense.scatter_add(1, (rows + channels).long(), magnitudes)
            if isinstance(agent.backbone, CnnBackbone):
                features = _cnn_features(agent.backbone, dense)
            else:
                features = agent.backbone.layers(dense @ agent.backbone.table + agent.backbone.bias)
        else:
            features = agent.backbone(tokens)
        if agent.ahead is not None:
            is_ahead = _is_ahead(codes, tokens).to(magnitudes.dtype)
            ahead = torch.zeros(agents, codes.num_channels, device=tokens.device)
            features = features + ahead.scatter_add(1, channels.long(), magnitudes * is_ahead) @ agent.ahead
        return features


def _is_ahead(codes: TokenCodes, tokens: Tensor) -> Tensor:
    """`[agents, tokens] bool`: whether a token is in the cell ahead of its agent."""
    location, feature, value = tokens.unbind(-1)
    is_orientation = (feature == codes.orientation) & (location == codes.center)
    # 1 + orientation; 0 for an agent without an orientation token
    ahead_index = ((value + 1) * is_orientation).amax(1).int()
    return location == codes.ahead.index_select(0, ahead_index).unsqueeze(1)


def _cnn_features(backbone: CnnBackbone, dense: Tensor) -> Tensor:
    """Map the dense encoding `[agents, cells * channels]` to features `[agents, hidden]`."""
    first = backbone.convolution
    _, second, _, _, *rest = backbone.layers
    assert isinstance(second, GridConvolution)
    image = dense.view(-1, first.rows.size, first.cols.size, first.in_channels).permute(0, 3, 1, 2)
    features = functional.relu(functional.conv2d(image, first.weight, first.bias, first.stride, first.padding))
    features = functional.relu(functional.conv2d(features, second.weight, second.bias)).flatten(1)
    for layer in rest:
        features = layer(features)
    return features


def _attention_features(backbone: AttentionBackbone, cells: Tensor, channels: Tensor, magnitudes: Tensor) -> Tensor:
    """Map cells, channels and magnitudes, each `[agents, tokens]`, to features `[agents, hidden]`."""
    tokens = backbone.norm(backbone.channels(channels) * magnitudes.unsqueeze(-1) + backbone.cells(cells))
    keys, values = (backbone.split_heads(part) for part in backbone.keys_values(tokens).chunk(2, -1))
    queries = backbone.split_heads(backbone.latents.expand(cells.shape[0], -1, -1))
    is_visible = magnitudes > 0
    is_visible = is_visible | ~is_visible.any(1, keepdim=True)  # without any, softmax would be NaN
    scores = queries @ keys.transpose(-1, -2) / keys.shape[-1] ** 0.5
    weights = scores.masked_fill(~is_visible[:, None, None, :], float("-inf")).softmax(-1)
    features: Tensor = backbone.layers((weights @ values).transpose(1, 2).flatten(1))
    return features
