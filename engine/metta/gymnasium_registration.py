"""Presets by Gymnasium's names: `gymnasium.make_vec("metta/quickstart")` once metta is imported."""

from __future__ import annotations

import re
from functools import partial

import gymnasium

from metta.adapters.gymnasium_vector import GymnasiumVectorEnv
from metta.config.loading.load import load_config
from metta.config.loading.presets import presets
from metta.world.env import MettaGridEnv


def register_presets() -> None:
    """Make every preset known to Gymnasium, as a vector env alone: most have several agents."""
    for preset in presets():
        if not re.fullmatch(r"[\w:.-]+", preset.name):
            continue  # Gymnasium has no such names; that of a file still finds it
        gymnasium.register(f"metta/{preset.name}", vector_entry_point=partial(make_vector, preset.name))


def make_vector(preset: str, num_envs: int = 1, seed: int = 0) -> GymnasiumVectorEnv:
    """`num_envs` worlds of a preset, or of any TOML file: Gymnasium's `num_envs` of it is worlds x agents."""
    return MettaGridEnv(load_config(preset).env, num_worlds=num_envs, seed=seed).to_gymnasium_vector()
