"""Observation processors: what is done to tokens before the network reads them, by name.

A processor maps `[agents, tokens, 3] uint8` to the same, with any number of tokens. It may drop, add, change or reorder
them. Register one with the decorator, or as an entry point, then name it in `agent.obs_process_func`:

    @OBSERVATION_PROCESSORS.register("without_walls")
    def without_walls(observations: Tensor, spec: EnvSpec) -> Tensor:
        wall = spec.object_type_names.index("wall")
        ...

The previous action and reward are read from the tokens as they came, before the processor.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from metta.config.agent import OBSERVATION_PROCESSORS
from metta.config.env.env_spec import EnvSpec

ObservationProcessor = Callable[[Tensor, EnvSpec], Tensor]


@OBSERVATION_PROCESSORS.register("flatten_obs_dict")
def tokens_as_they_are(observations: Tensor, spec: EnvSpec) -> Tensor:
    """The observation unchanged: tokens are flat already."""
    return observations
