"""Public aliases of the training config classes in `metta.config.training`, under the API document's module name."""

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
