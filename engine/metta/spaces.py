"""Gymnasium spaces that also carry what the numbers in them mean."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec


class ObservationSpace(spaces.Box):
    """What one agent sees: `[tokens, 3] uint8`, each token (location, feature id, value), unused ones all 0xff."""

    def __init__(self, env_config: EnvConfig):
        self.env_config = env_config
        super().__init__(0, 255, (env_config.game.num_observation_tokens, 3), np.uint8)

    @property
    def spec(self) -> EnvSpec:
        """The meaning of features, locations and types."""
        return self.env_config.spec


class ActionSpace(spaces.MultiDiscrete):
    """What one agent does: (action id, argument). Not every argument goes with every action: see `spec`."""

    def __init__(self, env_config: EnvConfig):
        self.env_config = env_config
        spec = env_config.spec
        super().__init__([len(spec.action_names), max(spec.max_action_args) + 1], dtype=np.int32)  # type: ignore[arg-type]  # the stub knows int64 alone

    @property
    def spec(self) -> EnvSpec:
        """The names, the largest arguments and which (action, argument) pairs may be sampled."""
        return self.env_config.spec
