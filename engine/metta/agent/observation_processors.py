"""Observation processors: functions, registered by name, that change tokens before the backbone reads them.

A processor maps `[agents, tokens, 3] uint8` to the same, with any number of tokens. It may drop, add, change or reorder
them. Register one with the decorator, or as an entry point, then name it in `agent.obs_process_func`:

    @OBSERVATION_PROCESSORS.register("without_walls")
    def without_walls(observations: Tensor, spec: EnvSpec) -> Tensor:
        wall = spec.object_type_names.index("wall")
        ...

With `agent.egocentric` it gets tokens in the agent's frame. The previous action, the previous reward and the global
features are read from the tokens before the processor.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from metta.config.agent import OBSERVATION_PROCESSORS
from metta.config.env.env_spec import EnvSpec

ObservationProcessor = Callable[[Tensor, EnvSpec], Tensor]


@OBSERVATION_PROCESSORS.register("flatten_obs_dict")
def unchanged(observations: Tensor, spec: EnvSpec) -> Tensor:
    """The observations unchanged: tokens are flat already."""
    return observations
