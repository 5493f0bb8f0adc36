"""The training configuration classes, under the name the API document promises."""

from metta.config.training import CheckpointConfig, ExperienceConfig, OptimizerConfig, PPOConfig, SimulationConfig

__all__ = ["CheckpointConfig", "ExperienceConfig", "OptimizerConfig", "PPOConfig", "SimulationConfig"]
