"""Curriculum: the tasks that a policy is trained on, and the probability that a world's next episode plays each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError, model_validator

from metta.config.curriculum import AnyCurriculum
from metta.config.env.env_config import EnvConfig
from metta.config.loading.curriculum_tasks import Tasks, make_tasks
from metta.config.loading.load import load_tasks, read_config
from metta.config.loading.renamed_keys import rename_keys
from metta.config.run import RunConfig
from metta.config.validation.error_messages import first_problem, problems_in
from metta.errors import CheckpointError, ConfigError, Problem, UsageError
from metta.rl.curricula.task_samplers import make_task_sampler
from metta.rl.rollout import BatchInfo

_CONFIG: TypeAdapter[AnyCurriculum] = TypeAdapter(AnyCurriculum)


class _SavedCurriculum(BaseModel):
    """The keys and types of `Curriculum.state()`, for validation."""

    names: list[str]
    env_configs: list[EnvConfig]
    config: dict[str, Any] | None = None
    weights: list[float] = []
    draw: dict[str, Any] = {}

    @model_validator(mode="after")
    def _has_scenes(self) -> Self:
        if not self.names or len(self.names) != len(self.env_configs):
            raise ValueError(f"{len(self.names)} names for {len(self.env_configs)} scenes")
        return self


class Curriculum:
    """Tasks (environment configs) with sampling probabilities.

    One policy plays all tasks: they have the same observations and number of agents, and each has the actions of all
    tasks, of which those that its scene lacks fail.

    `MettaGridEnv(curriculum.env_configs, task_weights=curriculum.weights)` samples a task whenever a world resets. To
    adapt the probabilities to the rewards in a training loop:

        batch = rollout(experience, agent)
        curriculum.update(batch)
        experience.set_task_weights(curriculum.weights)
    """

    def __init__(self, config: AnyCurriculum, tasks: Tasks):
        self.config = config
        self.tasks = tasks
        self._sampler = make_task_sampler(config, tasks.scene_of)

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        """The curriculum of `[curriculum]`. Without scenes, the only scene is the run's `[env]`."""
        return cls(config.curriculum, load_tasks(config))

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each task: the name of its scene, followed by the values of its buckets."""
        return self.tasks.names

    @property
    def env_configs(self) -> tuple[EnvConfig, ...]:
        """Environment config of each task."""
        return self.tasks.env_configs

    @property
    def weights(self) -> tuple[float, ...]:
        """Probability of each task at the next reset of a world; the sum is 1."""
        return tuple(self._sampler.probabilities().tolist())

    @property
    def probabilities(self) -> dict[str, float]:
        """`weights`, by task name."""
        return dict(zip(self.names, self.weights, strict=True))

    @property
    def scores(self) -> dict[str, float]:
        """The score from which the sampler computes the probabilities, by the name of each task with an episode.

        - low_reward: from 0 for the task with the highest average reward to 1 for the lowest
        - learning_progress: absolute difference of the fast and slow moving averages
        - progressive: moving average of the reward
        - fixed: no scores, an empty dictionary
        """
        return {self.names[task]: score for task, score in self._sampler.scores().items()}

    def update(self, batch: BatchInfo) -> None:
        """Update the probabilities from the episodes that ended in a batch that `rollout` returned."""
        episodes = list(zip(batch.episode_tasks, batch.episode_returns or (), strict=True))
        self._sampler.update(episodes, batch.total_env_steps)

    @cached_property
    def description(self) -> dict[str, Any]:
        """The scenes and the `[curriculum]` config, as plain values."""
        return {
            "names": [name for name, _ in self.tasks.scenes],
            "env_configs": [config.model_dump(exclude_none=True) for _, config in self.tasks.scenes],
            "config": self.config.model_dump(exclude_none=True, exclude={"worlds"}),
        }

    def state(self) -> dict[str, Any]:
        """`description` and the sampler's state, as plain values.

        A resumed run uses the scenes in this state, even if their files have changed.
        """
        return self.description | {"draw": self._sampler.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The curriculum whose `state()` was saved. Raises CheckpointError if the state is invalid."""
        rename_keys({"env": {"map_builder": state.get("env_configs")}}, "the saved curriculum")
        try:
            saved = _SavedCurriculum.model_validate(state)
            # states of version 1 have weights instead of a config: only fixed curricula existed
            config = _CONFIG.validate_python(saved.config or {"scenes": saved.names, "weights": saved.weights})
            scenes = list(zip(saved.names, saved.env_configs, strict=True))
            curriculum = cls(config, make_tasks(config, scenes))
        except ValidationError as error:
            raise CheckpointError(f"its curriculum is invalid: {first_problem(error)}") from None
        except ConfigError as error:
            raise CheckpointError(f"its curriculum is invalid: {error.problems[0].message}") from None
        curriculum._sampler.load_state(saved.draw)
        weights = np.asarray(curriculum.weights)
        if not np.isfinite(weights).all() or weights.min() < 0 or abs(weights.sum() - 1) > 1e-6:
            raise CheckpointError("its curriculum has task probabilities that are negative or do not sum to 1")
        return curriculum

    def check_matches(self, config: RunConfig) -> None:
        """Raise CheckpointError unless `config` has the same scene names and the same curriculum type.

        Without scenes in `config`, its `[env]` must equal the saved one.
        """
        names, env_configs = zip(*self.tasks.scenes, strict=True)
        scenes = config.curriculum.scenes
        has_same_worlds = list(names) == scenes if scenes else env_configs == (config.env,)
        if self.config.type != config.curriculum.type or not has_same_worlds:
            raise CheckpointError("the worlds of the run's config.toml are not those of the run")


def make_curriculum(
    env_path: str | Path = "/env/mettagrid/simple",
    scenes: Sequence[str | Path | EnvConfig] | None = None,
    weights: Sequence[float] | None = None,
    type: Literal["fixed", "low_reward", "learning_progress", "progressive"] = "fixed",
    **settings: Any,
) -> Curriculum:
    """Make a curriculum of one environment or several scenes, with the settings of `[curriculum]`.

    `env_path` is the name of a preset or the path of a TOML file; a scene can also be an EnvConfig. `scenes`, if given,
    replace `env_path`. `weights` are the relative weights of the scenes in a fixed curriculum, equal by default. Other
    keys of `[curriculum]` are keyword arguments:
    `make_curriculum("arena", type="learning_progress", buckets={"game.max_steps": {"values": [100, 200]}})`.

    Raises ConfigError for invalid settings, UsageError if `scenes` is empty or a scene does not exist.
    """
    sources = [env_path] if scenes is None else list(scenes)
    if not sources:
        raise UsageError("scenes is empty; a curriculum needs at least one scene")
    names = [f"scene {index}" if isinstance(scene, EnvConfig) else str(scene) for index, scene in enumerate(sources)]
    env_configs = [scene if isinstance(scene, EnvConfig) else read_config(scene).env for scene in sources]
    data = {"type": type, "scenes": names} | settings | ({} if weights is None else {"weights": list(weights)})
    try:
        config = RunConfig.model_validate({"curriculum": data}).curriculum
    except ValidationError as error:
        problems = problems_in(error, RunConfig, {"curriculum": data})
        raise ConfigError(
            "make_curriculum", [Problem(problem.path[1:], problem.message) for problem in problems]
        ) from None
    return Curriculum(config, make_tasks(config, list(zip(names, env_configs, strict=True))))
