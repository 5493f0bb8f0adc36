"""Observation processors: functions, registered by name, that change tokens before the backbone reads them.

A processor maps `[agents, tokens, 3] uint8` to `[agents, any number of tokens, 3] uint8`: it may drop, add, change or
reorder tokens. Register one with the decorator, or as an entry point, then name it in `agent.obs_process_func`:

    @OBSERVATION_PROCESSORS.register("without_walls")
    def without_walls(observations: Tensor, spec: EnvSpec) -> Tensor:
        wall = spec.object_type_names.index("wall")
        ...

With `agent.egocentric` its input is in the agent's frame. The previous action, the previous reward and the global
features are read from the unprocessed tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from metta.config.agent import OBSERVATION_PROCESSORS
from metta.config.env.env_spec import EnvSpec

ObservationProcessor = Callable[[Tensor, EnvSpec], Tensor]


@OBSERVATION_PROCESSORS.register("flatten_obs_dict")
def unchanged(observations: Tensor, spec: EnvSpec) -> Tensor:
    """Return the observations unchanged: they are flat lists of tokens already."""
    return observations
