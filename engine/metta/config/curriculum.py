"""Curricula: the table `[curriculum]`, one model for each value of its key `type`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from metta.config.env.env_config import EnvConfig
from metta.config.validation.error_messages import shown
from metta.config.validation.frozen_model import FrozenModel
from metta.errors import Problem, RulesError

Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Value = int | float | bool | str


class BucketConfig(FrozenModel):
    """Values of one setting of the world: a list, or a range divided into bins. Each value or bin is a task."""

    values: list[Value] = Field(
        default_factory=list, max_length=1000, description="values of the setting, one per task"
    )
    range: list[int | float] = Field(
        default_factory=list,
        description="instead of values: [lowest, highest]; both integers if the setting is an integer",
    )
    bins: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="number of equal parts of the range; each part is a task with its middle value",
    )

    @model_validator(mode="before")
    @classmethod
    def _is_not_a_path(cls, data: Any) -> Any:
        """Reject the nested tables that TOML makes of a setting's path with dots but without quotes."""
        if isinstance(data, Mapping) and data and not cls.model_fields.keys() & data.keys():
            message = 'must have values = [...] or range = [lowest, highest]; a path needs quotes: "game.max_steps"'
            raise RulesError([Problem((), message)])
        return data

    @model_validator(mode="after")
    def _values_or_range(self) -> Self:
        problems = []
        if bool(self.values) == bool(self.range):
            problems.append(Problem((), "must have either values = [...] or range = [lowest, highest], not both"))
        if self.values and self.bins != 1:
            problems.append(Problem(("bins",), "is used only with range; each of the values is a task"))
        if self.range and len(self.range) != 2:
            problems.append(Problem(("range",), f"must be [lowest, highest]; got {shown(self.range)}"))
        elif self.range and self.range[0] > self.range[1]:
            problems.append(Problem(("range",), f"is empty: {self.range[0]:g} is more than {self.range[1]:g}"))
        if len(set(map(repr, self.values))) < len(self.values):
            problems.append(Problem(("values",), "must not have a value twice"))
        if problems:
            raise RulesError(problems)
        return self


class BaseCurriculumConfig(FrozenModel):
    """Keys of all curricula: the scenes and buckets that make the tasks."""

    type: str
    scenes: list[str] = Field(
        default_factory=list,
        max_length=1000,
        description="presets or TOML files (in the directory of this file, else in the working directory) whose [env] "
        "tables are the worlds; empty: the [env] of this file",
    )
    worlds: dict[str, EnvConfig] = Field(
        default_factory=dict,
        max_length=1000,
        description="world of a scene, by its name in scenes, with the keys of [env]; scenes that are not listed here "
        "are read from their files, and a run's config.toml lists all",
    )
    buckets: dict[str, BucketConfig] = Field(
        default_factory=dict,
        max_length=100,
        description='path of a setting of the world, such as "map_builder.objects.altar" or "objects.altar.cooldown" '
        "-> its values or range; every combination in every scene is a task",
    )


class CurriculumConfig(BaseCurriculumConfig):
    """Tasks drawn with fixed probabilities: scenes by weight, the tasks of a scene with equal probability."""

    type: Literal["fixed"] = Field(default="fixed", description="fixed: constant probabilities")
    weights: list[float] = Field(default_factory=list, description="relative frequency of each scene; empty: equal")

    @model_validator(mode="after")
    def _one_weight_per_scene(self) -> Self:
        problems = []
        if self.weights and len(self.weights) != len(self.scenes):
            problems.append(
                Problem(("weights",), f"must have one for each of {len(self.scenes)} scenes; got {len(self.weights)}")
            )
        elif self.weights and (min(self.weights) < 0 or sum(self.weights) <= 0):
            problems.append(Problem(("weights",), f"must not be negative and not all zero; got {self.weights}"))
        if problems:
            raise RulesError(problems)
        return self


class LowRewardConfig(BaseCurriculumConfig):
    """Tasks drawn more often the lower their mean reward is compared with the other tasks."""

    type: Literal["low_reward"] = Field(description="low_reward: tasks with a low mean reward more often")
    average_rate: Rate = Field(
        default=0.1, description="weight of an episode in the moving average of its task's reward"
    )
    exploration: Share = Field(
        default=0.1, description="fraction of episodes drawn from all tasks with equal probability"
    )


class LearningProgressConfig(BaseCurriculumConfig):
    """Tasks drawn by learning progress: the distance between a fast and a slow moving average of a task's reward.

    After Oudeyer, Kaplan and Hafner, "Intrinsic motivation systems for autonomous mental development" (2007), and
    Kanitscheider et al., "Multi-task curriculum learning in a complex, visual, hard-exploration domain" (2021).
    """

    type: Literal["learning_progress"] = Field(
        description="learning_progress: tasks whose mean reward changes most, more often"
    )
    fast_rate: Rate = Field(default=0.1, description="weight of an episode in the fast moving average")
    slow_rate: Rate = Field(
        default=0.01, description="weight of an episode in the slow moving average; less than fast_rate"
    )
    exploration: Share = Field(
        default=0.2, description="fraction of episodes drawn from all tasks with equal probability"
    )
    min_episodes: int = Field(
        default=10,
        ge=1,
        lt=2**31,
        description="episodes of a task before its learning progress is used; until then its progress counts as "
        "the highest of all tasks",
    )
    success_reward: float | None = Field(
        default=None,
        description="average success instead of reward: 1 for an episode of at least this reward, else 0",
    )

    @model_validator(mode="after")
    def _slow_is_slower(self) -> Self:
        if self.slow_rate >= self.fast_rate:
            message = f"must be less than fast_rate = {self.fast_rate:g}; got {self.slow_rate:g}"
            raise RulesError([Problem(("slow_rate",), message)])
        return self


class ProgressiveConfig(BaseCurriculumConfig):
    """One task at a time, in the order of the file; the next one starts when the current one is completed."""

    type: Literal["progressive"] = Field(description="progressive: one task at a time")
    thresholds: list[float] = Field(
        default_factory=list,
        description="moving average of the reward that completes a task: one for all tasks, or for each but the last",
    )
    agent_steps: int = Field(
        default=0, ge=0, lt=2**53, description="agent steps that complete a task regardless of its reward; 0: off"
    )
    average_rate: Rate = Field(default=0.1, description="weight of an episode in the moving average of the reward")
    min_episodes: int = Field(
        default=10, ge=1, lt=2**31, description="episodes of a task before its reward can complete it"
    )
    earlier_share: Share = Field(
        default=0.0,
        description="fraction of episodes drawn from the completed tasks with equal probability, to prevent forgetting",
    )

    @model_validator(mode="after")
    def _completes_tasks(self) -> Self:
        if not self.thresholds and not self.agent_steps:
            message = "needs curriculum.thresholds or curriculum.agent_steps, or it would never leave the first task"
            raise RulesError([Problem(("type",), message)])
        return self


def _curriculum_tag(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("type", "fixed"))
    return str(getattr(value, "type", "fixed"))


AnyCurriculum = Annotated[
    Annotated[CurriculumConfig, Tag("fixed")]
    | Annotated[LowRewardConfig, Tag("low_reward")]
    | Annotated[LearningProgressConfig, Tag("learning_progress")]
    | Annotated[ProgressiveConfig, Tag("progressive")],
    Discriminator(_curriculum_tag),
]
"""Any of the curricula; without `type` it is `fixed`."""
