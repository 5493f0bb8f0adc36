"""The public names of metta and their types. `api.py` reads this list and imports each name when it is first used."""

from metta.agent.backbones import Backbone
from metta.agent.memory.network import MemoryNetwork
from metta.agent.memory.state import Memory
from metta.agent.policy import MettaAgent, Policy, PolicyOutput, make_agent
from metta.agent.sparse_tokens import PackedTokens
from metta.agent.team import Team
from metta.allocator import keep_freed_memory
from metta.baselines.random_policy import RandomPolicy
from metta.baselines.registered import make_policy, teacher_policies
from metta.baselines.scripted import ScriptedPolicy
from metta.checkpoint.kept_policies import BestPolicy
from metta.checkpoint.onnx_export import export_policy
from metta.checkpoint.policy_checkpoint import (
    LoadedPolicy,
    load_checkpoint,
    load_policy,
    save_checkpoint,
    trained_tasks,
)
from metta.checkpoint.policy_file import PolicyFile, read_policy_file
from metta.checkpoint.trainer_state import TrainingState
from metta.checkpoint.weight_transfer import WeightTransfer, transfer_weights
from metta.config.agent import BACKBONES, MEMORIES, OBSERVATION_PROCESSORS, AgentModelConfig
from metta.config.curriculum import (
    BucketConfig,
    CurriculumConfig,
    LearningProgressConfig,
    LowRewardConfig,
    ProgressiveConfig,
)
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.env.game import GameConfig, GroupConfig
from metta.config.env.labels import action_words, agent_names, cell_glyphs
from metta.config.env.map_builder import AsciiConfig, MapBuilderConfig, RoomsConfig
from metta.config.env.map_generators import MAP_BUILDERS
from metta.config.env.objects import (
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
    ActionConfig,
    ObjectConfig,
)
from metta.config.loading.json_schema import config_schema
from metta.config.loading.load import dump_config, load_config, load_tasks, load_world, open_config
from metta.config.loading.overrides import Override, whole_number
from metta.config.loading.presets import Preset, broken_preset_packages, find_preset, presets
from metta.config.loading.reference import KeyReference, TableReference, config_reference
from metta.config.loading.suites import SUITES, Suite, find_suite
from metta.config.loading.sweep_file import SweepFile, load_sweep
from metta.config.parts.registries import ACTIONS, FEATURES, OBJECTS, REWARDS, TERMINATIONS
from metta.config.parts.settings import ActionName, EntityName, GroupName, ItemName
from metta.config.plan.check import Derived, check_text
from metta.config.policies import PolicyConfig, PolicySettings
from metta.config.run import RunConfig, policy_settings
from metta.config.self_play import SelfPlayConfig
from metta.config.training import (
    LOGGERS,
    POLICIES,
    CheckpointConfig,
    CompileConfig,
    DistributedConfig,
    ExperienceConfig,
    KickstartingConfig,
    LoggingConfig,
    LRScheduleConfig,
    NormalizationConfig,
    OptimizerConfig,
    PPOConfig,
    PrioritizedSamplingConfig,
    SimulationConfig,
    VTraceConfig,
)
from metta.config.validation.file_paths import check_writable, join_policy_name, split_policy_name, user_path
from metta.evaluation.confidence_intervals import Interval, mean_interval
from metta.evaluation.evaluate import EvalResult, eval_policy, evaluate
from metta.evaluation.match import MatchResult, play_match
from metta.experiments.job_pool import JobEnded, JobEvent
from metta.experiments.names import find_experiment
from metta.experiments.seeds import (
    ExperimentBegan,
    ExperimentEnded,
    ExperimentEvent,
    experiment_runs,
    is_experiment,
    resume_runs,
    train_runs,
)
from metta.experiments.sweep.events import SweepBegan, SweepEnded, SweepEvent, TrialBegan, TrialEnded, TrialRunEvent
from metta.experiments.sweep.results import sweep_summary
from metta.experiments.sweep.run_sweep import resume_sweep, start_sweep
from metta.experiments.sweep.summary import SweepParameter, SweepSummary, TrialSummary, is_sweep
from metta.experiments.tournament.entrants import Entrant
from metta.experiments.tournament.games import PairGames
from metta.experiments.tournament.result import Standing, TournamentResult
from metta.experiments.tournament.tournament import TournamentProgress, tournament
from metta.job_environment import job_rank
from metta.replay.episode_player import EpisodePlayer
from metta.replay.recording import Replay, record_episode
from metta.replay.replay_files import ReplayPaths, replay_title, write_replay
from metta.replay.video import VideoSettings, check_video_path, write_video
from metta.report.read_report import read_report, write_report
from metta.report.report import Report
from metta.report.tournament_page import TournamentPaths, write_tournament
from metta.rl.advantages import compute_advantages
from metta.rl.curricula.curriculum import Curriculum, make_curriculum
from metta.rl.distributed import Processes
from metta.rl.experience import Experience, make_experience_manager, make_experiences
from metta.rl.frozen_policies.self_play import FrozenPolicy, OpponentPool
from metta.rl.optimizer import compute_gradient_stats, make_lr_scheduler, make_optimizer
from metta.rl.ppo import UpdateSettings, train_ppo, update_policy
from metta.rl.rollout import BatchInfo, rollout, rollout_policies
from metta.run.benchmark.bench import BenchResult, bench
from metta.run.benchmark.speed_sampler import DeviceUse, Split
from metta.run.benchmark.trace import write_trace
from metta.run.benchmark.trials import Trial, TrialResult
from metta.run.device import find_device, gpu_memory
from metta.run.epoch_metrics import EpochMetrics
from metta.run.events import (
    CheckpointSaved,
    EpochEnded,
    Event,
    Listener,
    Notice,
    PhaseBegan,
    PhaseProgressed,
    ReplaySaved,
    RunBegan,
    RunEnded,
    StopRequested,
)
from metta.run.learners.policy_files import load_initial_weights
from metta.run.loggers import RunLogger
from metta.run.memory_check import ConfigCheck, check_config
from metta.run.metrics_file import json_line
from metta.run.run_directory import find_runs, newest_checkpoint, policy_file
from metta.run.train import resume_run, train_run
from metta.spaces import ActionSpace, FlatActionSpace, ObservationSpace
from metta.world.action_failures import failure_reason, view_ahead
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import EpisodeSummary, StepInfo
from metta.world.make_environment import make_environment
from metta.world.maps.drawing import draw_map
from metta.world.observation.observe import CompactObservations
from metta.world.observation.packed import PackedObservations
from metta.world.parts.editor import WorldsEditor
from metta.world.parts.view import WorldsView

__all__ = [
    "ACTIONS",
    "BACKBONES",
    "FEATURES",
    "LOGGERS",
    "MAP_BUILDERS",
    "MEMORIES",
    "OBJECTS",
    "OBSERVATION_PROCESSORS",
    "POLICIES",
    "REWARDS",
    "SUITES",
    "TERMINATIONS",
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
    "ActionName",
    "ActionSpace",
    "AgentModelConfig",
    "AsciiConfig",
    "Backbone",
    "BatchInfo",
    "BenchResult",
    "BestPolicy",
    "BucketConfig",
    "CheckpointConfig",
    "CheckpointSaved",
    "CompactObservations",
    "CompileConfig",
    "ConfigCheck",
    "Curriculum",
    "CurriculumConfig",
    "Derived",
    "DeviceUse",
    "DistributedConfig",
    "EntityName",
    "Entrant",
    "EnvConfig",
    "EnvSpec",
    "EpisodePlayer",
    "EpisodeSummary",
    "EpochEnded",
    "EpochMetrics",
    "EvalResult",
    "Event",
    "Experience",
    "ExperienceConfig",
    "ExperimentBegan",
    "ExperimentEnded",
    "ExperimentEvent",
    "FlatActionSpace",
    "FrozenPolicy",
    "GameConfig",
    "GroupConfig",
    "GroupName",
    "Interval",
    "ItemName",
    "JobEnded",
    "JobEvent",
    "KeyReference",
    "KickstartingConfig",
    "LRScheduleConfig",
    "LearningProgressConfig",
    "Listener",
    "LoadedPolicy",
    "LoggingConfig",
    "LowRewardConfig",
    "MapBuilderConfig",
    "MatchResult",
    "Memory",
    "MemoryNetwork",
    "MettaAgent",
    "MettaGridEnv",
    "NormalizationConfig",
    "Notice",
    "ObjectConfig",
    "ObservationSpace",
    "OpponentPool",
    "OptimizerConfig",
    "Override",
    "PPOConfig",
    "PackedObservations",
    "PackedTokens",
    "PairGames",
    "PhaseBegan",
    "PhaseProgressed",
    "Policy",
    "PolicyConfig",
    "PolicyFile",
    "PolicyOutput",
    "PolicySettings",
    "Preset",
    "PrioritizedSamplingConfig",
    "Processes",
    "ProgressiveConfig",
    "RandomPolicy",
    "Replay",
    "ReplayPaths",
    "ReplaySaved",
    "Report",
    "RoomsConfig",
    "RunBegan",
    "RunConfig",
    "RunEnded",
    "RunLogger",
    "ScriptedPolicy",
    "SelfPlayConfig",
    "SimulationConfig",
    "Split",
    "Standing",
    "StepInfo",
    "StopRequested",
    "Suite",
    "SweepBegan",
    "SweepEnded",
    "SweepEvent",
    "SweepFile",
    "SweepParameter",
    "SweepSummary",
    "TableReference",
    "Team",
    "TournamentPaths",
    "TournamentProgress",
    "TournamentResult",
    "TrainingState",
    "Trial",
    "TrialBegan",
    "TrialEnded",
    "TrialResult",
    "TrialRunEvent",
    "TrialSummary",
    "UpdateSettings",
    "VTraceConfig",
    "VideoSettings",
    "WeightTransfer",
    "WorldsEditor",
    "WorldsView",
    "action_words",
    "agent_names",
    "bench",
    "broken_preset_packages",
    "cell_glyphs",
    "check_config",
    "check_text",
    "check_video_path",
    "check_writable",
    "compute_advantages",
    "compute_gradient_stats",
    "config_reference",
    "config_schema",
    "draw_map",
    "dump_config",
    "eval_policy",
    "evaluate",
    "experiment_runs",
    "export_policy",
    "failure_reason",
    "find_device",
    "find_experiment",
    "find_preset",
    "find_runs",
    "find_suite",
    "gpu_memory",
    "is_experiment",
    "is_sweep",
    "job_rank",
    "join_policy_name",
    "json_line",
    "keep_freed_memory",
    "load_checkpoint",
    "load_config",
    "load_initial_weights",
    "load_policy",
    "load_sweep",
    "load_tasks",
    "load_world",
    "make_agent",
    "make_curriculum",
    "make_environment",
    "make_experience_manager",
    "make_experiences",
    "make_lr_scheduler",
    "make_optimizer",
    "make_policy",
    "mean_interval",
    "newest_checkpoint",
    "open_config",
    "play_match",
    "policy_file",
    "policy_settings",
    "presets",
    "read_policy_file",
    "read_report",
    "record_episode",
    "replay_title",
    "resume_run",
    "resume_runs",
    "resume_sweep",
    "rollout",
    "rollout_policies",
    "save_checkpoint",
    "split_policy_name",
    "start_sweep",
    "sweep_summary",
    "teacher_policies",
    "tournament",
    "train_ppo",
    "train_run",
    "train_runs",
    "trained_tasks",
    "transfer_weights",
    "update_policy",
    "user_path",
    "view_ahead",
    "whole_number",
    "write_replay",
    "write_report",
    "write_tournament",
    "write_trace",
    "write_video",
]
