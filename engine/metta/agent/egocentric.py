"""Egocentric observations and actions: the world turned so that the agent always faces up.

What a policy learns about an object to its right then holds in all four orientations. A policy that computes the same
in a turned world is equivariant under quarter turns (van der Pol et al. 2020, arXiv:2006.16908).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metta.agent.tokens import LAST_ACTION, LAST_ARGUMENT, NUM_GLOBAL_TOKENS, own_cell_value
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.errors import UsageError
from metta.geometry import CLOCKWISE, STEPS, UP


class EgocentricFrame(nn.Module):
    """Turns observations into the agent's frame, and logits back into the world's. The window must be square.

    It turns the locations of all tokens, orientations, and the argument of the previous action if that was an absolute
    rotation (a `rotate` without `delta`; every other action is relative to the agent already). At an episode's first
    step tokens show (action 0, argument 0) as the previous action, which is turned too if action 0 rotates.
    """

    locations: Tensor
    """`[4, 256] uint8`: location byte in the agent's frame, by orientation and location byte"""
    directions: Tensor
    """`[4, 4] uint8`: direction in the agent's frame, by orientation and direction"""
    is_absolute: Tensor
    """`[256] bool`: whether an action is an absolute rotation, by action id"""
    logit_index: Tensor
    """`[4, actions] int64`: index of the logit in the agent's frame, by orientation and action"""

    def __init__(self, spec: EnvSpec, env_config: EnvConfig):
        super().__init__()
        height, width = spec.observation_height, spec.observation_width
        if height != width:
            raise UsageError(
                f"agent.egocentric needs a square window, which can be turned; "
                f"env.game has observation_height {height} and observation_width {width}"
            )
        ids = {name: feature for feature, name in enumerate(spec.feature_names)}
        self.orientation, self.last_action, self.last_argument = (
            ids[name] for name in ("agent:orientation", LAST_ACTION, LAST_ARGUMENT)
        )
        self.center = spec.center
        directions = [[STEPS.index(_turned(step, orientation)) for step in STEPS] for orientation in range(4)]
        is_absolute = torch.zeros(256, dtype=torch.bool)
        for action_id, (_, action_type, action) in enumerate(env_config.action_table):
            is_absolute[action_id] = action_type == "rotate" and action.delta is None
        index = {action: place for place, action in enumerate(spec.flat_actions)}
        logit_index = [
            [
                index[action_id, turned[argument]] if is_absolute[action_id] else place
                for (action_id, argument), place in index.items()
            ]
            for turned in directions
        ]
        self.register_buffer("locations", _turned_locations(height // 2), persistent=False)
        self.register_buffer("directions", torch.tensor(directions, dtype=torch.uint8), persistent=False)
        self.register_buffer("is_absolute", is_absolute, persistent=False)
        self.register_buffer("logit_index", torch.tensor(logit_index), persistent=False)

    def agent_orientation(self, observations: Tensor) -> Tensor:
        """`[agents] int64`: each agent's orientation in `[agents, tokens, 3] uint8`; up where no token shows it."""
        return own_cell_value(observations, self.orientation, self.center).long() & 3

    def forward(self, observations: Tensor, orientation: Tensor) -> Tensor:
        """`[agents, tokens, 3] uint8` as if every agent faced up; `orientation [agents] int64`."""
        location, feature, value = observations.unbind(-1)
        directions = self.directions[orientation].gather(1, (value & 3).long())
        global_tokens = observations[:, :NUM_GLOBAL_TOKENS]
        last_action = own_cell_value(global_tokens, self.last_action, self.center)
        is_argument = (feature == self.last_argument) & (location == self.center)
        is_direction = is_argument & self.is_absolute.index_select(0, last_action).unsqueeze(1)
        is_direction = is_direction | (feature == self.orientation)
        turned_location = self.locations[orientation].gather(1, location.long())
        return torch.stack([turned_location, feature, torch.where(is_direction, directions, value)], -1)

    def world_logits(self, logits: Tensor, orientation: Tensor) -> Tensor:
        """Logits `[..., actions]` for actions in the world, from those in the frame of `orientation [...] int64`."""
        return logits.gather(-1, self.logit_index[orientation])


def _turned(offset: tuple[int, int], orientation: int) -> tuple[int, int]:
    """A (row, col) offset in the frame of an agent with this orientation."""
    (row, col), facing = offset, UP
    while facing != orientation:
        facing = CLOCKWISE[facing]
        row, col = -col, row
    return row, col


def _turned_locations(radius: int) -> Tensor:
    """`[4, 256] uint8`: the location byte in the agent's frame, by orientation; unchanged outside the window."""
    locations = torch.arange(256, dtype=torch.uint8).repeat(4, 1)
    for orientation in range(4):
        for row in range(-radius, radius + 1):
            for col in range(-radius, radius + 1):
                turned_row, turned_col = _turned((row, col), orientation)
                location = (row + radius) << 4 | (col + radius)
                locations[orientation, location] = (turned_row + radius) << 4 | (turned_col + radius)
    return locations
