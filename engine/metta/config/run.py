"""The TOML file as a whole."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from metta.config.agent import AgentModelConfig
from metta.config.batch import batch_problems
from metta.config.env import EnvConfig
from metta.config.table import Name, Table
from metta.config.training import (
    CheckpointConfig,
    ExperienceConfig,
    LoggingConfig,
    LRScheduleConfig,
    OptimizerConfig,
    PPOConfig,
    SimulationConfig,
)
from metta.errors import Problem, RulesError


class RunSection(Table):
    """The run itself."""

    name: Name = Field(default="metta", description="name of the run, part of its directory's")
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of every random stream")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: CUDA where there is one")
    total_timesteps: int = Field(default=10_000_000, ge=1, lt=2**53, description="agent steps to train for")
    run_dir: str = Field(default="", description="run directory; empty: runs/NAME-DATE-TIME")


class CurriculumConfig(Table):
    """What worlds are drawn: the `[env]` table alone, or several scenes by weight."""

    scenes: list[str] = Field(
        default_factory=list, description="presets or TOML files whose [env] tables are played; empty: this file's own"
    )
    weights: list[float] = Field(default_factory=list, description="relative frequency of each scene; empty: all alike")

    @model_validator(mode="after")
    def _one_weight_per_scene(self) -> Self:
        problems = []
        if self.weights and len(self.weights) != len(self.scenes):
            problems.append(
                Problem(("weights",), f"must be one for each of {len(self.scenes)} scenes; got {len(self.weights)}")
            )
        elif self.weights and (min(self.weights) < 0 or sum(self.weights) <= 0):
            problems.append(Problem(("weights",), f"must not be negative and not all zero; got {self.weights}"))
        if problems:
            raise RulesError(problems)
        return self


class RunConfig(Table):
    """Everything a training run needs: what a TOML file holds, where a file may hold only what differs."""

    run: RunSection = Field(default_factory=RunSection)
    env: EnvConfig = Field(default_factory=EnvConfig)
    agent: AgentModelConfig = Field(default_factory=AgentModelConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    lr_schedule: LRScheduleConfig = Field(default_factory=LRScheduleConfig)
    ppo: PPOConfig = Field(default_factory=PPOConfig)
    experience: ExperienceConfig = Field(default_factory=ExperienceConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    simulation: SimulationConfig = Field(default_factory=SimulationConfig)
    curriculum: CurriculumConfig = Field(default_factory=CurriculumConfig)
    logging: LoggingConfig = Field(default_factory=LoggingConfig)

    @model_validator(mode="after")
    def _tables_agree(self) -> Self:
        num_agents = 1 if self.curriculum.scenes else self.env.game.num_agents  # the scenes may have other numbers
        if problems := batch_fits(self.experience, num_agents):
            raise RulesError(problems)
        return self


def batch_fits(experience: ExperienceConfig, num_agents: int) -> list[Problem]:
    """What of `[experience]` cannot be had with so many agents."""
    return [
        Problem(("experience", *problem.path), problem.message) for problem in batch_problems(experience, num_agents)
    ]
