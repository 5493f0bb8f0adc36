"""What worlds a policy is trained in: one, or several scenes drawn by weight at each reset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from metta.config.env import EnvConfig
from metta.config.load import load_config
from metta.config.run import RunConfig
from metta.errors import UsageError


@dataclass(frozen=True)
class Curriculum:
    """Scenes and how often each is played. One policy plays them all, so they differ in rules and maps alone."""

    names: tuple[str, ...]
    env_configs: tuple[EnvConfig, ...]
    weights: tuple[float, ...]
    """relative frequency of each scene"""

    def __post_init__(self) -> None:
        if not self.names or not len(self.names) == len(self.env_configs) == len(self.weights):
            raise UsageError(
                f"a curriculum needs scenes, each with a weight; got {len(self.names)} names, "
                f"{len(self.env_configs)} scenes and {len(self.weights)} weights"
            )
        if min(self.weights) < 0 or not sum(self.weights) > 0:
            raise UsageError(f"weights of scenes must not be negative and not all zero; got {list(self.weights)}")

    @classmethod
    def of_run(cls, config: RunConfig) -> Self:
        """The scenes of `[curriculum]`, else the file's own `[env]`."""
        if not config.curriculum.scenes:
            return cls((config.run.name,), (config.env,), (1.0,))
        return cls._of_scenes(config.curriculum.scenes, config.curriculum.weights or None)

    @classmethod
    def _of_scenes(cls, scenes: Sequence[str | EnvConfig], weights: Sequence[float] | None) -> Self:
        names = [scene if isinstance(scene, str) else f"scene {index}" for index, scene in enumerate(scenes)]
        env_configs = [load_config(scene).env if isinstance(scene, str) else scene for scene in scenes]
        return cls(tuple(names), tuple(env_configs), tuple(weights or [1.0] * len(names)))

    def state(self) -> dict[str, Any]:
        """The curriculum in plain values, so that a run goes on in the same scenes if their files change."""
        return {
            "names": list(self.names),
            "env_configs": [config.model_dump(exclude_none=True) for config in self.env_configs],
            "weights": list(self.weights),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The curriculum that `state` described."""
        env_configs = tuple(EnvConfig.model_validate(values) for values in state["env_configs"])
        return cls(tuple(state["names"]), env_configs, tuple(state["weights"]))


def make_curriculum(
    env_path: str | Path = "/env/mettagrid/simple",
    scenes: Sequence[str | EnvConfig] | None = None,
    weights: Sequence[float] | None = None,
) -> Curriculum:
    """The curriculum of one world, or of several scenes drawn by `weights` (all alike if None).

    `env_path` and each scene are a preset's name, a TOML file or, for scenes, an EnvConfig; `scenes`, if given, stand
    in place of `env_path`. `MettaGridEnv(curriculum.env_configs, task_weights=curriculum.weights)` plays it.
    """
    return Curriculum._of_scenes([str(env_path)] if scenes is None else scenes, weights)
