"""The whole TOML file (`RunConfig`), its table `[run]`, and the rules between tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from metta.config.agent import AgentModelConfig
from metta.config.batch_plan import batch_problems
from metta.config.curriculum import AnyCurriculum, CurriculumConfig
from metta.config.env.env_config import EnvConfig
from metta.config.self_play import SelfPlayConfig, num_opponents, self_play_problems
from metta.config.training import (
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
from metta.config.validation.error_messages import shown
from metta.config.validation.file_paths import FilePath
from metta.config.validation.frozen_model import FrozenModel, Name
from metta.config.validation.key_paths import KeyPath
from metta.errors import Problem, RulesError, similar_name

DEVICE_PATTERN = r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$"


def _known_device(device: str) -> str:
    if not re.match(DEVICE_PATTERN, device):
        hint = similar_name("cuda" if device == "gpu" else device, ("auto", "cpu", "cuda", "mps"))
        message = f'must be "auto", "cpu", "cuda", a GPU such as "cuda:1", or "mps"; got {shown(device)}{hint}'
        raise RulesError([Problem((), message)])
    return device


Device = Annotated[str, AfterValidator(_known_device)]
"""A torch device: `auto`, `cpu`, `cuda`, `cuda:INDEX` or `mps`."""


class RunSection(FrozenModel):
    """Name, seed, device, length and directory of the run."""

    name: Name = Field(
        default="metta",
        description="name of the run and prefix of its directory; omitted in a file: the file's name without .toml",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of all random numbers")
    device: Device = Field(
        default="auto",
        json_schema_extra={"pattern": DEVICE_PATTERN, "examples": ["auto", "cpu", "cuda", "cuda:1", "mps"]},
        description="Torch device: auto (CUDA if available, else CPU), cpu, cuda, a GPU by its index such as cuda:1, "
        "or mps (the GPU of an Apple computer)",
    )
    total_timesteps: int = Field(default=10_000_000, ge=1, lt=2**53, description="length of training, agent steps")
    run_dir: FilePath = Field(default="", description="run directory; empty: runs/NAME-DATE-TIME")
    init_from: FilePath = Field(
        default="",
        description="policy checkpoint, or a run (its newest policy; RUN/best.pt: its best one), whose weights the new "
        "run starts with as far as they fit; empty: random weights",
    )


class RunConfig(FrozenModel):
    """A training run: all tables of the TOML file. Omitted keys keep their defaults."""

    run: RunSection = Field(default_factory=RunSection)
    env: EnvConfig = Field(default_factory=EnvConfig)
    agent: AgentModelConfig = Field(default_factory=AgentModelConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    lr_schedule: LRScheduleConfig = Field(default_factory=LRScheduleConfig)
    ppo: PPOConfig = Field(default_factory=PPOConfig)
    vtrace: VTraceConfig = Field(default_factory=VTraceConfig)
    prioritized_sampling: PrioritizedSamplingConfig = Field(default_factory=PrioritizedSamplingConfig)
    normalization: NormalizationConfig = Field(default_factory=NormalizationConfig)
    experience: ExperienceConfig = Field(default_factory=ExperienceConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    simulation: SimulationConfig = Field(default_factory=SimulationConfig)
    curriculum: AnyCurriculum = Field(default_factory=CurriculumConfig)
    kickstarting: KickstartingConfig = Field(default_factory=KickstartingConfig)
    self_play: SelfPlayConfig = Field(default_factory=SelfPlayConfig)
    distributed: DistributedConfig = Field(default_factory=DistributedConfig)
    compile: CompileConfig = Field(default_factory=CompileConfig)
    logging: LoggingConfig = Field(default_factory=LoggingConfig)

    @model_validator(mode="after")
    def _tables_agree(self) -> Self:
        if self.curriculum.scenes:  # their numbers of agents and groups may differ from those of [env]
            problems = experience_problems(self.experience, 1)
        elif not (problems := opponent_problems(self.self_play, self.env)):
            num_learners = self.env.game.num_agents - num_opponents(self.self_play, self.env)
            problems = experience_problems(self.experience, num_learners)
        problems = [*problems, *egocentric_problems(self.agent, self.env), *keep_best_problems(self)]
        if problems:
            raise RulesError(problems)
        return self

    def with_policies(self, change: Callable[[KeyPath, str], str]) -> Self:
        """A copy with `change(key, path)` instead of the path of each policy that the config names.

        Names of registered policies stay as they are.
        """

        def changed(path: str, *key: str | int) -> str:
            return change(key, path) if path and path not in POLICIES else path

        init_from = changed(self.run.init_from, "run", "init_from")
        teacher = changed(self.kickstarting.teacher, "kickstarting", "teacher")
        policies = [changed(path, "self_play", "policies", i) for i, path in enumerate(self.self_play.policies)]
        return self.model_copy(
            update={
                "run": self.run.model_copy(update={"init_from": init_from}),
                "kickstarting": self.kickstarting.model_copy(update={"teacher": teacher}),
                "self_play": self.self_play.model_copy(update={"policies": policies}),
            }
        )


def egocentric_problems(agent: AgentModelConfig, env: EnvConfig) -> list[Problem]:
    """The problem with `agent.egocentric` in a world whose observation window is not square."""
    height, width = env.game.observation_height, env.game.observation_width
    if not agent.egocentric or height == width:
        return []
    window = f"observation_height is {height} and observation_width {width}"
    return [Problem(("agent", "egocentric"), f"needs a square observation window, which can be rotated; {window}")]


def keep_best_problems(config: RunConfig) -> list[Problem]:
    """The problem with `checkpoint.keep_best` in a run without evaluations, by which the best policy is chosen."""
    if not config.checkpoint.keep_best or config.simulation.evaluate_interval:
        return []
    message = "chooses by evaluations, which are off; set simulation.evaluate_interval to the seconds between them"
    return [Problem(("checkpoint", "keep_best"), message)]


def experience_problems(experience: ExperienceConfig, num_learners: int) -> list[Problem]:
    """The problems with `[experience]` in worlds where `num_learners` agents learn."""
    return [
        Problem(("experience", *problem.path), problem.message) for problem in batch_problems(experience, num_learners)
    ]


def opponent_problems(self_play: SelfPlayConfig, env: EnvConfig) -> list[Problem]:
    """The problems with `[self_play]` in the world `env`."""
    problems = self_play_problems(self_play, env)
    return [Problem(("self_play", *problem.path), problem.message) for problem in problems]
