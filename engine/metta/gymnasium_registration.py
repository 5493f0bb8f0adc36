"""Gymnasium ids of the presets: after `import metta`, `gymnasium.make_vec("metta/quickstart")` makes an environment.

The entry points are strings, so that `import metta` imports neither the simulator nor torch.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import gymnasium
from gymnasium.vector import AutoresetMode

import metta.api
from metta.config.loading.presets import presets
from metta.errors import UsageError


def register_presets() -> None:
    """Register each preset as `metta/<name>`, except those whose names are not valid Gymnasium ids."""
    for preset in presets():
        if re.fullmatch(r"[\w:.-]+", preset.name):
            gymnasium.register(
                f"metta/{preset.name}",
                entry_point=f"{__name__}:{refuse_single_env.__name__}",
                vector_entry_point=f"{__name__}:{make_vector_env.__name__}",
                kwargs={"preset": preset.name},
            )


def make_vector_env(
    preset: str,
    num_envs: int = 1,
    seed: int | None = None,
    render_mode: str | None = "ansi",
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    flat_actions: bool = False,
    action_masks: bool = False,
    max_episode_steps: int | None = None,
    **overrides: Any,
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Make `num_envs` worlds of a preset: one vector environment with `num_envs` x agents sub-environments.

    `render_mode`, `autoreset_mode`, `flat_actions` and `action_masks` are those of `MettaGridEnv.to_gymnasium_vector`.
    `max_episode_steps` replaces `env.game.max_steps` of the preset (None or -1: does not). `overrides` are those of
    `make_environment`.
    """
    if max_episode_steps not in (None, -1):
        overrides["max_steps"] = max_episode_steps
    worlds = metta.api.make_environment(metta.api.load_config(preset).env, num_envs, seed, **overrides)
    return worlds.to_gymnasium_vector(autoreset_mode, render_mode, flat_actions, action_masks)


def refuse_single_env(preset: str, **options: Any) -> NoReturn:
    """Raise UsageError: `gymnasium.make` makes environments of one agent only."""
    raise UsageError(
        f"gymnasium.make cannot make metta/{preset}, which has several agents; "
        f'use gymnasium.make_vec("metta/{preset}"), without vectorization_mode: it has a sub-environment for each agent'
    )
