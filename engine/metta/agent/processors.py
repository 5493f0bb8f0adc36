"""Observation processors: what is done to tokens before the network reads them, by name.

A processor maps `[agents, tokens, 3] uint8` to the same, with any number of tokens. It may drop, add, change or reorder
them. Register one with the decorator, then name it in `agent.obs_process_func`:

    @observation_processor("without_walls")
    def without_walls(observations: Tensor, spec: EnvSpec) -> Tensor:
        wall = spec.object_type_names.index("wall")
        ...

The previous action and reward are read from the tokens as they came, before the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from torch import Tensor

from metta.config.spec import EnvSpec
from metta.errors import UsageError

ObservationProcessor = Callable[[Tensor, EnvSpec], Tensor]

_PROCESSORS: dict[str, ObservationProcessor] = {}


def observation_processor(name: str) -> Callable[[ObservationProcessor], ObservationProcessor]:
    """A decorator that registers a function under `name`; a name can be given once."""

    def register(function: ObservationProcessor) -> ObservationProcessor:
        if name in _PROCESSORS:
            raise UsageError(f'an observation processor named "{name}" is registered already')
        _PROCESSORS[name] = function
        return function

    return register


def find_processor(name: str) -> ObservationProcessor:
    """The processor registered under `name`. Raises UsageError with the known names."""
    if name not in _PROCESSORS:
        close = get_close_matches(name, _PROCESSORS, n=1)
        hint = f'did you mean "{close[0]}"? ' if close else ""
        raise UsageError(f'agent.obs_process_func: unknown "{name}"; {hint}known: {", ".join(sorted(_PROCESSORS))}')
    return _PROCESSORS[name]


@observation_processor("flatten_obs_dict")
def tokens_as_they_are(observations: Tensor, spec: EnvSpec) -> Tensor:
    """The observation unchanged: tokens are flat already."""
    return observations
