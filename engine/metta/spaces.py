"""Gymnasium spaces of observations and actions, with the environment spec that gives their meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.errors import UsageError


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


class FlatActionSpace(spaces.Discrete):
    """Discrete space of the action of one agent: an index into `spec.flat_actions`.

    These are the pairs (action id, argument) that can succeed. Raises UsageError if there are none.
    """

    def __init__(self, env_config: EnvConfig):
        self.env_config = env_config
        if not self.spec.flat_actions:
            raise UsageError("this environment has no action that can succeed: enable one whose required items exist")
        self._flat_actions = np.array(self.spec.flat_actions, np.int32)
        super().__init__(len(self._flat_actions))

    @property
    def spec(self) -> EnvSpec:
        """The environment spec: names and largest arguments of actions, (action, argument) pairs a policy samples."""
        return self.env_config.spec

    def pairs(self, actions: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        """(action id, argument) of actions `[agents]` of this space. `[agents, 2] int32`

        Raises UsageError unless all are integers of the space.
        """
        given = np.asarray(actions)
        if given.ndim != 1 or given.dtype.kind not in "iu" or ((given < 0) | (given >= self.n)).any():
            raise UsageError(
                f"with flat_actions, actions must be integers [agents] from 0 to {self.n - 1}; "
                f"got {given.dtype} {list(given.shape)} {given.ravel()[:8].tolist()}"
            )
        return self._flat_actions[given]
