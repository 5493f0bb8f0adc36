"""Configuration classes of training, under the module name of the API document."""

from metta.config.training import (
    CheckpointConfig,
    ExperienceConfig,
    NormalizationConfig,
    OptimizerConfig,
    PPOConfig,
    PrioritizedSamplingConfig,
    SimulationConfig,
    VTraceConfig,
)

__all__ = [
    "CheckpointConfig",
    "ExperienceConfig",
    "NormalizationConfig",
    "OptimizerConfig",
    "PPOConfig",
    "PrioritizedSamplingConfig",
    "SimulationConfig",
    "VTraceConfig",
]
