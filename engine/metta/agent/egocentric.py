"""The world as it lies before the agent: turned so that it always faces up.

What an agent learns about something to its right then holds whichever way it faces, and does not have to be learned
four times over: a policy that is the same function of a turned world is equivariant under quarter turns (van der Pol et
al. 2020, arXiv:2006.16908).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.errors import UsageError

_RELATIVE: Final = ((0, 1, 2, 3), (1, 0, 3, 2), (3, 2, 0, 1), (2, 3, 1, 0))
"""By the agent's orientation and a direction of the world, both up, down, left, right: that direction as it sees it."""


class EgocentricFrame(nn.Module):
    """Turns tokens into the agent's frame, and its rotations back into the world's. The window must be square."""

    locations: Tensor
    relative: Tensor
    places: Tensor

    def __init__(self, spec: EnvSpec, env_config: EnvConfig):
        super().__init__()
        height, width = spec.observation_height, spec.observation_width
        if height != width:
            raise UsageError(
                f"agent.egocentric needs a square window, which can be turned; "
                f"env.game has observation_height {height} and observation_width {width}"
            )
        self.orientation = spec.feature_names.index("agent:orientation")
        self.center = spec.center
        self.register_buffer("locations", _turned_locations(height // 2), persistent=False)
        self.register_buffer("relative", torch.tensor(_RELATIVE, dtype=torch.uint8), persistent=False)
        self.register_buffer("places", _logit_places(spec, env_config), persistent=False)

    def facing(self, observations: Tensor) -> Tensor:
        """`[agents] int64`: the orientation of each agent of `[agents, tokens, 3] uint8`; up where no token tells."""
        own = (observations[:, :, 1] == self.orientation) & (observations[:, :, 0] == self.center)
        return (observations[:, :, 2] * own).amax(1).long() & 3

    def forward(self, observations: Tensor) -> Tensor:
        """`[agents, tokens, 3] uint8` as if every agent faced up."""
        facing = self.facing(observations)
        location, feature, value = observations.unbind(-1)
        turned_location = self.locations[facing].gather(1, location.long())
        turned_value = self.relative[facing].gather(1, (value & 3).long())
        return torch.stack(
            [turned_location, feature, torch.where(feature == self.orientation, turned_value, value)], -1
        )

    def to_world(self, logits: Tensor, facing: Tensor) -> Tensor:
        """Logits `[..., actions]` for the world of those for the agent's frame; `facing [...] int64`."""
        return logits.gather(-1, self.places[facing])


def _turned_locations(radius: int) -> Tensor:
    """`[4, 256] uint8`: the location byte in the agent's frame of each, by orientation; those in no window stay."""
    turned = torch.arange(256, dtype=torch.uint8).repeat(4, 1)
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            location = (down + radius) << 4 | (right + radius)
            for orientation, (row, col) in enumerate(((down, right), (-down, -right), (right, -down), (-right, down))):
                turned[orientation, location] = (row + radius) << 4 | (col + radius)
    return turned


def _logit_places(spec: EnvSpec, env_config: EnvConfig) -> Tensor:
    """`[4, actions] int64`: which of the agent's logits is that of each action, by orientation.

    An absolute rotation is where the agent sees its direction; every other action is relative to the agent already.
    """
    absolute = {
        number
        for number, (_, type_, action) in enumerate(env_config.action_table)
        if type_ == "rotate" and action.delta is None
    }
    pairs = {pair: place for place, pair in enumerate(spec.flat_actions)}
    return torch.tensor(
        [
            [
                pairs[action, relative[argument]] if action in absolute else place
                for (action, argument), place in pairs.items()
            ]
            for relative in _RELATIVE
        ]
    )
