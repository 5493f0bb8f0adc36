"""Train teams of agents in gridworlds from one TOML file; `metta.api` is the public surface."""

from metta.gymnasium_registration import register_presets

register_presets()
