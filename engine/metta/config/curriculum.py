"""What worlds are drawn: `[curriculum]`, one model per value of `type`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from metta.config.validation.error_messages import shown
from metta.config.validation.frozen_model import FrozenModel
from metta.errors import Problem, RulesError

Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Value = int | float | bool | str


class BucketConfig(FrozenModel):
    """Values of one setting of the world: a list, or a range in bins. Each value or bin makes tasks of its own."""

    values: list[Value] = Field(default_factory=list, max_length=1000, description="the values, one a task")
    range: list[int | float] = Field(
        default_factory=list, description="or lowest and highest value; whole numbers where the setting is one"
    )
    bins: int = Field(
        default=1, ge=1, le=1000, description="equal parts of the range, each a task that plays its middle value"
    )

    @model_validator(mode="before")
    @classmethod
    def _is_no_path(cls, data: Any) -> Any:
        """Without quotes, the dots of a setting's path make tables of tables."""
        if isinstance(data, Mapping) and data and not cls.model_fields.keys() & data.keys():
            message = 'must have values = [...] or range = [lowest, highest]; a path needs quotes: "game.max_steps"'
            raise RulesError([Problem((), message)])
        return data

    @model_validator(mode="after")
    def _values_or_range(self) -> Self:
        problems = []
        if bool(self.values) == bool(self.range):
            problems.append(Problem((), "must have either values = [...] or range = [lowest, highest]"))
        if self.values and self.bins != 1:
            problems.append(Problem(("bins",), "goes with range; with values, each value is a task"))
        if self.range and len(self.range) != 2:
            problems.append(Problem(("range",), f"must be [lowest, highest]; got {shown(self.range)}"))
        elif self.range and self.range[0] > self.range[1]:
            problems.append(Problem(("range",), f"is empty: {self.range[0]:g} is more than {self.range[1]:g}"))
        if len(set(map(repr, self.values))) < len(self.values):
            problems.append(Problem(("values",), "must not have a value twice"))
        if problems:
            raise RulesError(problems)
        return self


class SceneTable(FrozenModel):
    """What all curricula have: the worlds that their tasks are made of."""

    type: str
    scenes: list[str] = Field(
        default_factory=list,
        max_length=1000,
        description="presets, or TOML files (beside this one, else in the working directory), whose [env] tables are "
        "played; empty: this file's own",
    )
    buckets: dict[str, BucketConfig] = Field(
        default_factory=dict,
        max_length=100,
        description='setting of the world, such as "map_builder.objects.altar" -> its values or range; '
        "every combination, in every scene, is a task",
    )


class CurriculumConfig(SceneTable):
    """Tasks drawn with fixed probabilities: the `[env]` table alone, scenes by weight, the bins of a scene alike."""

    type: Literal["fixed"] = Field(default="fixed", description="fixed: probabilities that never change")
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


class LowRewardConfig(SceneTable):
    """The worst first: a task is drawn the more often, the lower its reward is among the tasks."""

    type: Literal["low_reward"] = Field(description="low_reward: the tasks of lowest reward most often")
    average_rate: Rate = Field(default=0.1, description="weight of an episode in the moving average of its task")
    exploration: Share = Field(default=0.1, description="share of episodes drawn evenly from all tasks")


class LearningProgressConfig(SceneTable):
    """Where most is being learned: by the distance between a fast and a slow moving average of a task's reward.

    After Oudeyer, Kaplan and Hafner, "Intrinsic motivation systems for autonomous mental development" (2007), and
    Kanitscheider et al., "Multi-task curriculum learning in a complex, visual, hard-exploration domain" (2021).
    """

    type: Literal["learning_progress"] = Field(
        description="learning_progress: the tasks whose reward changes most, most often"
    )
    fast_rate: Rate = Field(default=0.1, description="weight of an episode in the fast moving average of its task")
    slow_rate: Rate = Field(default=0.01, description="the same for the slow one; less than fast_rate")
    exploration: Share = Field(default=0.2, description="share of episodes drawn evenly from all tasks")
    min_episodes: int = Field(
        default=10, ge=1, lt=2**31, description="episodes before which a task counts as the one learned best"
    )
    success_reward: float | None = Field(
        default=None, description="average success, 1 for an episode of at least this reward, else 0; unset: the reward"
    )

    @model_validator(mode="after")
    def _slow_is_slower(self) -> Self:
        if self.slow_rate >= self.fast_rate:
            message = f"must be less than fast_rate = {self.fast_rate:g}; got {self.slow_rate:g}"
            raise RulesError([Problem(("slow_rate",), message)])
        return self


class ProgressiveConfig(SceneTable):
    """One task after the other, in the order they are listed; the next one when this one is done."""

    type: Literal["progressive"] = Field(description="progressive: one task after the other")
    thresholds: list[float] = Field(
        default_factory=list,
        description="moving average of the reward at which a task is done: one for all, or one for each but the last",
    )
    agent_steps: int = Field(
        default=0, ge=0, lt=2**53, description="agent steps after which a task is done in any case; 0: never"
    )
    average_rate: Rate = Field(default=0.1, description="weight of an episode in the moving average of the reward")
    min_episodes: int = Field(default=10, ge=1, lt=2**31, description="episodes of a task before its reward is judged")
    earlier_share: Share = Field(
        default=0.0, description="share of episodes drawn evenly from the tasks that are done, against forgetting"
    )

    @model_validator(mode="after")
    def _can_move_on(self) -> Self:
        if not self.thresholds and not self.agent_steps:
            message = "needs curriculum.thresholds or curriculum.agent_steps, or it would never move on"
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
"""Any curriculum; without `type` it is `fixed`."""
