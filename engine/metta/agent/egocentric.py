"""Egocentric observations and actions: rotation of tokens and logits into a frame in which the agent faces up.

A policy with this frame is equivariant under rotations by 90 degrees (van der Pol et al. 2020, arXiv:2006.16908): what
it learns in one orientation applies to all four.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metta.agent.sparse_tokens import Observations, PackedTokens
from metta.agent.tokens import LAST_ACTION, LAST_ARGUMENT, own_cell_values
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.errors import UsageError
from metta.geometry import CLOCKWISE, STEPS, UP


class EgocentricFrame(nn.Module):
    """Rotates observations into the agent's frame, and logits back to the world frame. The window must be square.

    Rotated are the locations of all tokens, orientations, and the argument of the previous action if it was an absolute
    rotation (a `rotate` without `delta`; all other actions are relative to the agent). At an episode's first step the
    tokens show (action 0, argument 0) as the previous action, whose argument is rotated by the same rule.
    """

    locations: Tensor
    """`[4, 256] uint8`: location byte in the agent's frame, by orientation and location byte in the world frame"""
    directions: Tensor
    """`[4, 4] uint8`: direction in the agent's frame, by orientation and direction in the world frame"""
    is_absolute: Tensor
    """`[256] bool`: whether an action is an absolute rotation, by action id"""
    logit_index: Tensor
    """`[4, actions] int64`: index of the logit in the agent's frame, by orientation and action in the world frame"""

    def __init__(self, spec: EnvSpec, env_config: EnvConfig):
        super().__init__()
        height, width = spec.observation_height, spec.observation_width
        if height != width:
            raise UsageError(
                f"agent.egocentric needs a square observation window; env.game has observation_height {height} and "
                f"observation_width {width}: make them equal"
            )
        ids = {name: feature for feature, name in enumerate(spec.feature_names)}
        self.orientation, self.last_action, self.last_argument = (
            ids[name] for name in ("agent:orientation", LAST_ACTION, LAST_ARGUMENT)
        )
        self.center = spec.center
        directions = [[STEPS.index(_rotated(step, orientation)) for step in STEPS] for orientation in range(4)]
        is_absolute = torch.zeros(256, dtype=torch.bool)
        for action_id, (_, action_type, action) in enumerate(env_config.action_table):
            is_absolute[action_id] = action_type == "rotate" and action.delta is None
        index_of = {action: index for index, action in enumerate(spec.flat_actions)}
        logit_index = [
            [
                index_of[action_id, rotated[argument]] if is_absolute[action_id] else index
                for (action_id, argument), index in index_of.items()
            ]
            for rotated in directions
        ]
        self.register_buffer("locations", _rotated_locations(height // 2), persistent=False)
        self.register_buffer("directions", torch.tensor(directions, dtype=torch.uint8), persistent=False)
        self.register_buffer("is_absolute", is_absolute, persistent=False)
        self.register_buffer("logit_index", torch.tensor(logit_index), persistent=False)

    def agent_orientation(self, observations: Observations) -> Tensor:
        """`[agents] int64`: each agent's orientation in its observation; 0 (up) if no token shows it."""
        return own_cell_values(observations, [self.orientation], self.center)[0].long() & 3

    def forward(self, observations: Observations, orientation: Tensor) -> Observations:
        """Rotate observations, packed or `[agents, tokens, 3] uint8`, so that every agent faces up.

        `orientation [agents] int64`.
        """
        (last_action,) = own_cell_values(observations, [self.last_action], self.center)
        is_absolute = self.is_absolute.index_select(0, last_action)
        if isinstance(observations, Tensor):
            each = (values.unsqueeze(1).expand(observations.shape[:2]) for values in (orientation, is_absolute))
            return self._rotate(observations, *each)
        each = (observations.per_token(values) for values in (orientation, is_absolute))
        return PackedTokens(self._rotate(observations.tokens, *each), observations.offsets)

    def _rotate(self, tokens: Tensor, facing: Tensor, is_absolute: Tensor) -> Tensor:
        """Rotate tokens `[..., 3] uint8` of agents with the orientations `facing [...] int64`.

        `is_absolute [...] bool`: whether the previous action of the agent was an absolute rotation.
        """
        location, feature, value = tokens.unbind(-1)
        direction = self.directions.flatten()[facing * 4 + (value & 3)]
        is_argument = (feature == self.last_argument) & (location == self.center) & is_absolute
        is_direction = is_argument | (feature == self.orientation)
        rotated = self.locations.flatten()[facing * 256 + location]
        return torch.stack([rotated, feature, torch.where(is_direction, direction, value)], -1)

    def world_logits(self, logits: Tensor, orientation: Tensor) -> Tensor:
        """Logits `[..., actions]` in the world frame, from those in the agent's frame; `orientation [...] int64`."""
        return logits.gather(-1, self.logit_index[orientation])


def _rotated(offset: tuple[int, int], orientation: int) -> tuple[int, int]:
    """A (row, col) offset in the world frame, rotated into the frame of an agent with this orientation."""
    (row, col), facing = offset, UP
    while facing != orientation:
        facing = CLOCKWISE[facing]
        row, col = -col, row
    return row, col


def _rotated_locations(radius: int) -> Tensor:
    """`[4, 256] uint8`: the location byte in the agent's frame, by orientation; unchanged outside the window."""
    locations = torch.arange(256, dtype=torch.uint8).repeat(4, 1)
    for orientation in range(4):
        for row in range(-radius, radius + 1):
            for col in range(-radius, radius + 1):
                rotated_row, rotated_col = _rotated((row, col), orientation)
                location = (row + radius) << 4 | (col + radius)
                locations[orientation, location] = (rotated_row + radius) << 4 | (rotated_col + radius)
    return locations
