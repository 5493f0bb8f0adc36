"""The public surface of metta: what the API document promises, and what the command line is made of."""

from metta.agent.policy import MettaAgent, Policy, make_agent
from metta.agent.random_policy import RandomPolicy
from metta.allocator import keep_freed_memory
from metta.config.agent import AgentModelConfig
from metta.config.check import check_text
from metta.config.env import EnvConfig
from metta.config.game import GameConfig, GroupConfig
from metta.config.load import dump_config, load_config
from metta.config.map_builder import AsciiConfig, MapBuilderConfig, RoomsConfig
from metta.config.objects import ActionConfig, ObjectConfig
from metta.config.overrides import Override
from metta.config.presets import find_preset, presets
from metta.config.run import CurriculumConfig, RunConfig
from metta.config.schema import config_schema
from metta.config.training import (
    CheckpointConfig,
    ExperienceConfig,
    LoggingConfig,
    LRScheduleConfig,
    OptimizerConfig,
    PPOConfig,
    SimulationConfig,
)
from metta.config.type_ids import (
    TYPE_AGENT,
    TYPE_ALTAR,
    TYPE_ARMORY,
    TYPE_FACTORY,
    TYPE_GENERATOR_BLUE,
    TYPE_GENERATOR_GREEN,
    TYPE_GENERATOR_RED,
    TYPE_GENERIC_CONVERTER,
    TYPE_LAB,
    TYPE_LASERY,
    TYPE_MINE_BLUE,
    TYPE_MINE_GREEN,
    TYPE_MINE_RED,
    TYPE_TEMPLE,
    TYPE_WALL,
)
from metta.replay.recording import Replay, record_episode
from metta.replay.write import ReplayPaths, write_replay
from metta.rl.advantages import compute_advantages
from metta.rl.checkpoint import LoadedPolicy, load_checkpoint, load_policy, save_checkpoint
from metta.rl.curriculum import Curriculum, make_curriculum
from metta.rl.evaluate import EvalResult, eval_policy, evaluate
from metta.rl.events import (
    CheckpointSaved,
    EpochEnded,
    Event,
    Listener,
    Notice,
    PhaseBegan,
    ReplaySaved,
    RunBegan,
    RunEnded,
    StopRequested,
)
from metta.rl.experience import Experience, make_experience_manager
from metta.rl.metrics import json_line
from metta.rl.optimizer import compute_gradient_stats, make_lr_scheduler, make_optimizer
from metta.rl.ppo import train_ppo
from metta.rl.progress import EpochMetrics
from metta.rl.rollout import BatchInfo, rollout
from metta.rl.train import resume_run, train_run
from metta.rl.training_run import find_device
from metta.rl.training_state import TrainingState
from metta.spaces import ActionSpace, ObservationSpace
from metta.world.env import MettaGridEnv, make_environment
from metta.world.summary import EpisodeSummary, StepInfo

__all__ = [
    "TYPE_AGENT",
    "TYPE_ALTAR",
    "TYPE_ARMORY",
    "TYPE_FACTORY",
    "TYPE_GENERATOR_BLUE",
    "TYPE_GENERATOR_GREEN",
    "TYPE_GENERATOR_RED",
    "TYPE_GENERIC_CONVERTER",
    "TYPE_LAB",
    "TYPE_LASERY",
    "TYPE_MINE_BLUE",
    "TYPE_MINE_GREEN",
    "TYPE_MINE_RED",
    "TYPE_TEMPLE",
    "TYPE_WALL",
    "ActionConfig",
    "ActionSpace",
    "AgentModelConfig",
    "AsciiConfig",
    "BatchInfo",
    "CheckpointConfig",
    "CheckpointSaved",
    "Curriculum",
    "CurriculumConfig",
    "EnvConfig",
    "EpisodeSummary",
    "EpochEnded",
    "EpochMetrics",
    "EvalResult",
    "Event",
    "Experience",
    "ExperienceConfig",
    "GameConfig",
    "GroupConfig",
    "LRScheduleConfig",
    "Listener",
    "LoadedPolicy",
    "LoggingConfig",
    "MapBuilderConfig",
    "MettaAgent",
    "MettaGridEnv",
    "Notice",
    "ObjectConfig",
    "ObservationSpace",
    "OptimizerConfig",
    "Override",
    "PPOConfig",
    "PhaseBegan",
    "Policy",
    "RandomPolicy",
    "Replay",
    "ReplayPaths",
    "ReplaySaved",
    "RoomsConfig",
    "RunBegan",
    "RunConfig",
    "RunEnded",
    "SimulationConfig",
    "StepInfo",
    "StopRequested",
    "TrainingState",
    "check_text",
    "compute_advantages",
    "compute_gradient_stats",
    "config_schema",
    "dump_config",
    "eval_policy",
    "evaluate",
    "find_device",
    "find_preset",
    "json_line",
    "keep_freed_memory",
    "load_checkpoint",
    "load_config",
    "load_policy",
    "make_agent",
    "make_curriculum",
    "make_environment",
    "make_experience_manager",
    "make_lr_scheduler",
    "make_optimizer",
    "presets",
    "record_episode",
    "resume_run",
    "rollout",
    "save_checkpoint",
    "train_ppo",
    "train_run",
    "write_replay",
]
