"""Number of weights of a policy network, from its config and environment spec alone.

The formula repeats the shapes of agent/policy.py without importing torch; tests/config/test_network_size.py compares it
with real networks.
"""

from __future__ import annotations

from typing import Final

from metta.config.agent import AgentModelConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.env.token_features import ITEM_PREFIX

CONV_CHANNELS: Final = 64
"""Output channels of both convolutions of the cnn backbone."""
LATENTS: Final = 4
"""Latent queries of the attention backbone."""
ATTENTION_HEADS: Final = 4
"""Heads of the attention backbone."""
HEAD_WIDTH: Final = 32
"""Width of the heads of memory = "attention", if `agent.hidden_dim` is not smaller."""
ITEM_LEVELS: Final = 4
"""Channels of an inventory feature, for 1, 2, 3, and more units, the counts that recipes need."""
ORIENTATIONS: Final = 4
"""Channels of the feature `agent:orientation`."""
PREVIOUS_STEP: Final = ("last_action", "last_action_arg", "last_reward")
"""Features without a channel, since the policy has separate inputs for them."""


def num_weights(config: AgentModelConfig, spec: EnvSpec) -> int:
    """Weights of a policy without global features; those of a custom backbone or memory are unknown and count as 0."""
    hidden, channels = config.hidden_dim, _num_channels(spec)
    backbone = {"cnn": _cnn_weights, "mlp": _mlp_weights, "attention": _attention_weights}.get(config.backbone)
    hidden_layers = config.mlp_layers * _linear(hidden, hidden)
    return (
        (backbone(spec, channels, hidden) if backbone else 0)
        + (channels * hidden if config.use_cell_ahead else 0)
        + ((len(spec.flat_actions) + 1) * hidden if config.use_prev_action else 0)
        + (hidden if config.use_prev_reward else 0)
        + (config.lstm_layers * _memory_layer_weights(config) if config.forward_lstm else 0)
        + (hidden_layers + _linear(hidden, len(spec.flat_actions)))
        + (hidden_layers + _linear(hidden, 1))
        + (hidden * hidden if config.critic != "own" else 0)
    )


def _num_channels(spec: EnvSpec) -> int:
    """Channels of an observation: one per value of a categorical feature, ITEM_LEVELS per item, one per other one."""
    categories = {
        "type_id": sum(map(bool, spec.object_type_names)),
        "agent:group": len(spec.group_ids),
        "agent:orientation": ORIENTATIONS,
    }
    return sum(
        categories.get(name, ITEM_LEVELS if name.startswith(ITEM_PREFIX) else 1)
        for name in spec.feature_names
        if name not in PREVIOUS_STEP
    )


def _cnn_weights(spec: EnvSpec, channels: int, hidden: int) -> int:
    """A 5x5 convolution with stride 3, a 3x3 convolution and a linear layer; kernels are smaller in small windows."""
    kernel, second_kernel, positions = 1, 1, 1
    for size in (spec.observation_height, spec.observation_width):
        side = min(5, size)
        padding = next(padding for padding in range(3) if (size + 2 * padding - side) % 3 == 0)
        outputs = (size + 2 * padding - side) // 3 + 1
        kernel *= side
        second_kernel *= min(3, outputs)
        positions *= outputs - min(3, outputs) + 1
    first = _linear(channels * kernel, CONV_CHANNELS)
    second = _linear(CONV_CHANNELS * second_kernel, CONV_CHANNELS)
    return first + second + _linear(CONV_CHANNELS * positions, hidden)


def _mlp_weights(spec: EnvSpec, channels: int, hidden: int) -> int:
    """Two linear layers over all channels of all cells."""
    return _linear(spec.observation_height * spec.observation_width * channels, hidden) + _linear(hidden, hidden)


def _attention_weights(spec: EnvSpec, channels: int, hidden: int) -> int:
    """Embeddings of channels and cells, layer norm, latent queries, keys and values, and a linear layer."""
    width = max(ATTENTION_HEADS, min(64, hidden) // ATTENTION_HEADS * ATTENTION_HEADS)
    embeddings = (channels + spec.observation_height * spec.observation_width) * width
    return embeddings + 2 * width + LATENTS * width + _linear(width, 2 * width) + _linear(LATENTS * width, hidden)


def _memory_layer_weights(config: AgentModelConfig) -> int:
    """Weights of one layer of the memory."""
    hidden = config.hidden_dim
    heads, width = memory_heads(hidden)
    projections = _linear(hidden, (heads + 2) * width) + _linear(heads * width, hidden)
    return {
        "lstm": 2 * _linear(hidden, 4 * hidden),
        "mingru": _linear(hidden, 2 * hidden),
        "attention": 2 * hidden + projections + (config.memory_window + 1) * heads,
    }.get(config.memory, 0)


def memory_heads(hidden: int) -> tuple[int, int]:
    """Heads of memory = "attention", and the width of each."""
    width = min(HEAD_WIDTH, hidden)
    return hidden // width, width


def memory_state_size(config: AgentModelConfig) -> int:
    """Numbers that the memory keeps of each agent between steps; 0 for a custom memory, whose state is unknown."""
    hidden, layers = config.hidden_dim, config.lstm_layers
    size = {
        "lstm": layers * 2 * hidden,
        "mingru": layers * hidden,
        "attention": layers * config.memory_window * 2 * memory_heads(hidden)[1] + 1,
    }.get(config.memory, 0)
    return size if config.forward_lstm else 0


def _linear(inputs: int, outputs: int) -> int:
    """Weights and biases of a linear layer."""
    return (inputs + 1) * outputs
