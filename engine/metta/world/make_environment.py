"""make_environment: an environment from a config and keyword arguments."""

from __future__ import annotations

from typing import Any

from metta.config.env.env_config import EnvConfig
from metta.errors import UsageError
from metta.world.env import MettaGridEnv


def make_environment(
    env_config: EnvConfig | None = None, num_worlds: int = 1, seed: int | None = None, **overrides: Any
) -> MettaGridEnv:
    """Create an environment of `num_worlds` worlds.

    `env_config` defaults to `EnvConfig()`. Without `seed`, the first `reset` draws one. Other keyword arguments
    override keys of `[env]`, `[env.game]` or `[env.map_builder]`, such as `num_agents=8`. Raises ConfigError for
    unknown keys and invalid values.
    """
    if not isinstance(env_config, EnvConfig | None):
        raise UsageError(
            f"env_config must be an EnvConfig; got {type(env_config).__name__}. "
            "Create one with EnvConfig.model_validate(dictionary) or load_config(file).env"
        )
    for name in overrides:
        if name in ("num_envs", "n_envs", "n_worlds"):
            raise UsageError(f'make_environment has no argument "{name}"; did you mean "num_worlds"?')
    config = EnvConfig() if env_config is None else env_config
    return MettaGridEnv(config.override(**overrides) if overrides else config, num_worlds, seed)
