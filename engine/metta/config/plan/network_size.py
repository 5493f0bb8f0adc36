"""How many weights a policy has: arithmetic on its config and the worlds it plays in, before any is made."""

from __future__ import annotations

from typing import Final

from metta.config.agent import AgentModelConfig
from metta.config.env.env_spec import EnvSpec

CONV_CHANNELS: Final = 64
"""Channels of both convolutions of the cnn."""
LATENTS: Final = 4
"""Queries of the attention."""
ITEM_LEVELS: Final = 4
"""Channels of an inventory feature: exactly 1, 2, 3 units, and more. Recipes ask for such counts."""


def least_weights(config: AgentModelConfig, spec: EnvSpec) -> int:
    """Weights of the policy: all but some thousands at most, which are those of small layers.

    Those of a backbone of one's own nobody knows: they count as none.
    """
    hidden = config.hidden_dim
    items = sum(name.startswith("inv:") for name in spec.feature_names)
    types = sum(map(bool, spec.object_type_names))
    channels = ITEM_LEVELS * items + types + len(spec.group_ids)
    cells = spec.observation_height * spec.observation_width
    kernel = min(5, spec.observation_height) * min(5, spec.observation_width)
    places = _places(spec.observation_height) * _places(spec.observation_width)
    width = min(64, hidden)
    backbone = {
        "cnn": CONV_CHANNELS * channels * kernel + CONV_CHANNELS * places * hidden,
        "mlp": cells * channels * hidden + hidden * hidden,
        "attention": (channels + cells) * width + LATENTS * width * hidden,
    }.get(config.backbone, 0)
    lstm = 8 * hidden * hidden * config.lstm_layers if config.forward_lstm else 0
    heads = 2 * config.mlp_layers * hidden * hidden + len(spec.flat_actions) * hidden
    return backbone + lstm + heads


def _places(size: int) -> int:
    """Outputs of both convolutions along an axis of `size` cells."""
    first = -(-(size - min(5, size)) // 3) + 1
    return first - min(3, first) + 1
