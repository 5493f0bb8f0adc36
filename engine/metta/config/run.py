"""The TOML file as a whole."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from metta.config.agent import AgentModelConfig
from metta.config.batch_plan import batch_problems
from metta.config.compile import CompileConfig
from metta.config.curriculum import AnyCurriculum, CurriculumConfig
from metta.config.distributed import DistributedConfig
from metta.config.env.env_config import EnvConfig
from metta.config.kickstarting import KickstartingConfig
from metta.config.self_play import SelfPlayConfig, num_opponents, self_play_problems
from metta.config.training import (
    CheckpointConfig,
    ExperienceConfig,
    LoggingConfig,
    LRScheduleConfig,
    NormalizationConfig,
    OptimizerConfig,
    PPOConfig,
    PrioritizedSamplingConfig,
    SimulationConfig,
    VTraceConfig,
)
from metta.config.validation.frozen_model import FilePath, FrozenModel, Name
from metta.errors import Problem, RulesError


class RunSection(FrozenModel):
    """The run itself."""

    name: Name = Field(default="metta", description="name of the run, part of its directory's")
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of every random stream")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: CUDA where there is one")
    total_timesteps: int = Field(default=10_000_000, ge=1, lt=2**53, description="agent steps to train for")
    run_dir: FilePath = Field(default="", description="run directory; empty: runs/NAME-DATE-TIME")


class RunConfig(FrozenModel):
    """Everything a training run needs: what a TOML file holds, where a file may hold only what differs."""

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
        if self.curriculum.scenes:  # which may have other numbers of agents and other groups
            problems = batch_fits(self.experience, 1)
        elif not (problems := opponents_fit(self.self_play, self.env)):
            problems = batch_fits(self.experience, self.env.game.num_agents - num_opponents(self.self_play, self.env))
        if problems := [*problems, *frame_fits(self.agent, self.env)]:
            raise RulesError(problems)
        return self


def frame_fits(agent: AgentModelConfig, env: EnvConfig) -> list[Problem]:
    """What of `[agent]` cannot be had with the window of this world."""
    height, width = env.game.observation_height, env.game.observation_width
    if not agent.egocentric or height == width:
        return []
    window = f"observation_height is {height} and observation_width {width}"
    return [Problem(("agent", "egocentric"), f"needs a square window, which can be turned; {window}")]


def batch_fits(experience: ExperienceConfig, num_learners: int) -> list[Problem]:
    """What of `[experience]` cannot be had where so many agents of a world learn."""
    return [
        Problem(("experience", *problem.path), problem.message) for problem in batch_problems(experience, num_learners)
    ]


def opponents_fit(self_play: SelfPlayConfig, env: EnvConfig) -> list[Problem]:
    """What of `[self_play]` cannot be had in this world."""
    problems = self_play_problems(self_play, env)
    return [Problem(("self_play", *problem.path), problem.message) for problem in problems]
