"""Gymnasium spaces of observations and actions, with the environment spec that gives their meaning."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec


class ObservationSpace(spaces.Box):
    """Box space of the observation of one agent: `[tokens, 3] uint8`.

    Each token is (location, feature id, value). Unused tokens at the end are filled with 0xff.
    """

    def __init__(self, env_config: EnvConfig):
        self.env_config = env_config
        super().__init__(0, 255, (env_config.game.num_observation_tokens, 3), np.uint8)

    @property
    def spec(self) -> EnvSpec:
        """The environment spec: names of features and object types, size of the observation window."""
        return self.env_config.spec


class ActionSpace(spaces.MultiDiscrete):
    """MultiDiscrete space of the action of one agent: `[2] int32`, (action id, argument).

    The space has one bound for the arguments of all actions; `spec.max_action_args` has the largest argument of each.
    """

    def __init__(self, env_config: EnvConfig):
        self.env_config = env_config
        spec = env_config.spec
        super().__init__([len(spec.action_names), max(spec.max_action_args) + 1], dtype=np.int32)  # type: ignore[arg-type]  # Gymnasium's annotation allows only int64

    @property
    def spec(self) -> EnvSpec:
        """The environment spec: names and largest arguments of actions, (action, argument) pairs a policy samples."""
        return self.env_config.spec
