"""The training configuration classes, under the name the API document promises."""

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
