"""The training configuration classes, under the name the API document promises."""

from metta.config.training import (
    CheckpointConfig,
    ExperienceConfig,
    NormalisationConfig,
    OptimizerConfig,
    PPOConfig,
    PrioritisedSamplingConfig,
    SimulationConfig,
    VTraceConfig,
)

__all__ = [
    "CheckpointConfig",
    "ExperienceConfig",
    "NormalisationConfig",
    "OptimizerConfig",
    "PPOConfig",
    "PrioritisedSamplingConfig",
    "SimulationConfig",
    "VTraceConfig",
]
