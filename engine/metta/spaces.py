"""Gymnasium spaces of observations and actions, with the environment spec that gives their meaning."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec


class ObservationSpace(spaces.Box):
    """Observations of one agent: `[tokens, 3] uint8` tokens (location, feature id, value); unused ones are all 0xff."""

    def __init__(self, env_config: EnvConfig):
        self.env_config = env_config
        super().__init__(0, 255, (env_config.game.num_observation_tokens, 3), np.uint8)

    @property
    def spec(self) -> EnvSpec:
        """The names of features and object types, and the size of the window."""
        return self.env_config.spec


class ActionSpace(spaces.MultiDiscrete):
    """Actions of one agent: (action id, argument). The largest argument depends on the action: see `spec`."""

    def __init__(self, env_config: EnvConfig):
        self.env_config = env_config
        spec = env_config.spec
        super().__init__([len(spec.action_names), max(spec.max_action_args) + 1], dtype=np.int32)  # type: ignore[arg-type]  # the stub knows int64 alone

    @property
    def spec(self) -> EnvSpec:
        """The names and largest arguments of actions, and the (action, argument) pairs that may be sampled."""
        return self.env_config.spec
