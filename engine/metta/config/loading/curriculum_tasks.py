"""Tasks of a curriculum: every scene with every combination of the buckets' values, each validated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import ValidationError

from metta.config.curriculum import AnyCurriculum, BucketConfig, CurriculumConfig, ProgressiveConfig, Value
from metta.config.env.env_config import EnvConfig
from metta.config.env.map_sizes import without_inferred_sizes
from metta.config.loading.overrides import put_value, read_path
from metta.config.plan.world_union import WorldUnion
from metta.config.validation.error_messages import problems_in, shown, validate
from metta.config.validation.key_paths import KeyPath, annotation_at, named_entry, table_at, takes_number
from metta.errors import ConfigError, Problem, UsageError, did_you_mean

MAX_TASKS = 2000
"""Largest number of tasks; the world of each is validated before training starts."""

MAX_RULES = 200
"""Largest number of different `EnvConfig.rules_key`; the size of the simulator's tables grows with its square."""


@dataclass(frozen=True)
class Tasks:
    """The worlds that a curriculum draws from; one policy can play all of them."""

    names: tuple[str, ...]
    env_configs: tuple[EnvConfig, ...]
    """world of each task, with the actions of all tasks"""
    scene_of: tuple[int, ...]
    """index of the scene of each task"""
    scenes: tuple[tuple[str, EnvConfig], ...]
    """name and world of each scene, with its own actions"""
    union: WorldUnion
    """the actions of all scenes and tasks"""

    @property
    def by_name(self) -> dict[str, EnvConfig]:
        """The world of each task with its own actions, by its name."""
        return {name: env.without_reserved for name, env in zip(self.names, self.env_configs, strict=True)}


@dataclass(frozen=True)
class _Setting:
    """A setting of the world that a bucket varies, and its values, each with the text for names of tasks."""

    key: str
    path: KeyPath
    values: tuple[tuple[Value, str], ...]


def make_tasks(curriculum: AnyCurriculum, scenes: Sequence[tuple[str, EnvConfig]]) -> Tasks:
    """The tasks of `curriculum` in `scenes` (name and world), ordered by scene, with the last bucket varying fastest.

    Raises ConfigError with every problem: unknown settings, invalid values, worlds that a single policy cannot play, or
    a number of tasks that the curriculum cannot have.
    """
    problems = list(_scene_problems(scenes))
    tables = {id(env): env.model_dump(exclude_none=True) for _, env in scenes}
    worlds = [(name, tables[id(env)]) for name, env in scenes]
    settings = []
    for key, bucket in curriculum.buckets.items():
        found = _setting(key, bucket, worlds)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            settings.append(found)
    count = len(scenes) * math.prod(len(setting.values) for setting in settings)
    if count > MAX_TASKS:
        factors = [f"{len(scenes)} scenes"] if len(scenes) > 1 else []
        factors += [f"{len(setting.values)} of {setting.key}" for setting in settings]
        problems.append(
            Problem(
                ("curriculum", "buckets"), f"make {' x '.join(factors)} = {count:,} tasks; the limit is {MAX_TASKS:,}"
            )
        )
    if not problems:
        problems += _count_problems(curriculum, count)
    if problems:
        raise ConfigError("the curriculum", problems)
    tasks, problems = _make_tasks(settings, scenes)
    if problems:
        raise ConfigError("the curriculum", problems)
    return tasks


def _make_tasks(settings: Sequence[_Setting], scenes: Sequence[tuple[str, EnvConfig]]) -> tuple[Tasks, list[Problem]]:
    """The tasks, and the problems of their worlds."""
    names, env_configs, scene_of = [], [], []
    invalid: dict[tuple[str, str], list[str]] = {}  # (key, message) -> the tasks
    keys = {setting.key for setting in settings}
    place = ("curriculum", "buckets", *keys) if len(keys) == 1 else ("curriculum", "buckets")
    for scene, (scene_name, env) in enumerate(scenes):
        variants = _Variants(env)
        for values in product(*(setting.values for setting in settings)):
            texts = [f"{setting.key}={text}" for setting, (_, text) in zip(settings, values, strict=True)]
            try:
                variant = variants.make([(s.path, value) for s, (value, _) in zip(settings, values, strict=True)])
            except ConfigError as error:
                task = ", ".join(texts) + (f" in {scene_name}" if len(scenes) > 1 else "")
                for problem in error.problems:
                    invalid.setdefault((problem.key, problem.message), []).append(task)
                continue
            names.append(", ".join([scene_name, *texts]))
            env_configs.append(variant)
            scene_of.append(scene)
    problems = []
    for (key, message), tasks in invalid.items():
        others = f" (and {len(tasks) - 1} more)" if len(tasks) > 1 else ""
        of_bucket = ("curriculum", "buckets", key) if key in keys else place
        problems.append(Problem(of_bucket, f"with {tasks[0]}{others}: {key} {message}"))
    union = WorldUnion([*(env for _, env in scenes), *env_configs])
    problems += [
        Problem(place, f"must make worlds that one policy can play; with {name}, {differences[0]}")
        for name, variant in zip(names, env_configs, strict=True)
        if (differences := union.differences(variant))
    ]
    rules = len({config.rules_key for config in env_configs})
    if rules > MAX_RULES:
        message = f"make {rules:,} tasks that differ in more than their maps; the limit is {MAX_RULES}"
        problems.append(Problem(("curriculum", "buckets"), message))
    if not problems:
        env_configs = [union.fit(config) for config in env_configs]
    made = Tasks(_unique(names), tuple(env_configs), tuple(scene_of), tuple(scenes), union)
    return made, list(dict.fromkeys(problems))


def evaluation_world(env: EnvConfig, tasks: Tasks) -> EnvConfig:
    """The world in which a run's policy is evaluated: the `[env]` of its file, with its own actions.

    Where the file has no `[env]`, or one that a policy of the tasks cannot play or has actions that no task has, it is
    the world of the last scene.
    """
    return env if env != EnvConfig() and tasks.union.covers(env) else tasks.scenes[-1][1]


def fixed_probabilities(curriculum: CurriculumConfig, scene_of: Sequence[int]) -> list[float]:
    """The probability of each task: that of its scene, divided evenly among the scene's tasks."""
    weights = curriculum.weights or [1.0] * (max(scene_of) + 1)
    shares = Counter(scene_of)
    return [weights[scene] / shares[scene] / sum(weights) for scene in scene_of]


class _Variants:
    """Copies of a world with some values changed, which share all unchanged parts with it."""

    def __init__(self, env: EnvConfig):
        self.data = {"env": without_inferred_sizes(env)}
        self.env = EnvConfig.model_validate(self.data["env"])

    def make(self, values: Sequence[tuple[KeyPath, Value]]) -> EnvConfig:
        """The world with `values` set. Raises ConfigError if it is invalid."""
        if not values:
            return self.env
        changed = {path[0] for path, _ in values}
        given = {"env": {name: deepcopy(part) for name, part in self.data["env"].items() if name in changed}}
        for path, value in values:
            try:
                put_value(given, ("env", *path), value)
            except UsageError as error:
                raise ConfigError("the curriculum", [Problem(path, str(error))]) from None
        same = {name: getattr(self.env, name) for name in EnvConfig.model_fields if name not in changed}
        try:
            variant = validate(EnvConfig, given["env"] | same)
        except ValidationError as error:
            raise ConfigError("the curriculum", problems_in(error, EnvConfig, given["env"] | same)) from None
        if changed == {"map_builder"} and variant.game.num_agents == self.env.game.num_agents:
            for name in (
                "object_types",
                "action_table",
                "rules_key",
                "spec",
            ):  # slow for 1000 worlds
                variant.__dict__[name] = getattr(self.env, name)
        return variant


def _setting(key: str, bucket: BucketConfig, scenes: Sequence[tuple[str, dict[str, Any]]]) -> _Setting | Problem:
    """The setting that a bucket varies, or the problem with it."""
    place = ("curriculum", "buckets", key)
    try:
        path, rest = read_path(key)
    except ValueError:
        path, rest = (), key
    if rest or not path:
        return Problem(place, "must be the path of a setting of the world, such as map_builder.objects.altar")
    if path[0] == "env":
        path = path[1:]
    if path[:1] == ("game",) and path[1:2] in (("map_builder",), ("objects",), ("actions",)):  # as in the C++ MettaGrid
        path = path[1:]
    is_integer = False
    for name, data in scenes:
        annotation = annotation_at(EnvConfig, path, data)
        if annotation is None or not path or _unknown_name(path, data):
            return Problem(place, f"{_unknown(path, data)}{f' in {name}' if len(scenes) > 1 else ''}")
        is_integer = takes_number(annotation, int)
        if bucket.range and not is_integer and not takes_number(annotation, float):
            return Problem((*place, "range"), "is only for numbers, which this setting is not; list its values instead")
    shown_path = Problem(path, "").key
    if bucket.values:
        return _Setting(shown_path, path, tuple((value, _text(value)) for value in bucket.values))
    low, high = bucket.range
    if not is_integer:
        if low == high and bucket.bins > 1:
            return Problem((*place, "bins"), f"must be 1 for a range of a single value, {low:g}; got {bucket.bins}")
        return _Setting(shown_path, path, tuple(_middles(low, high, bucket.bins)))
    if low != int(low) or high != int(high):
        return Problem((*place, "range"), f"must be of integers, since {shown_path} is an integer; got {bucket.range}")
    size = int(high) - int(low) + 1
    if bucket.bins > size:
        message = f"must be at most {size}, as many as integers from {low:g} to {high:g}; got {bucket.bins}"
        return Problem((*place, "bins"), message)
    return _Setting(shown_path, path, tuple(_integer_middles(int(low), size, bucket.bins)))


def _middles(low: float, high: float, bins: int) -> Iterator[tuple[float, str]]:
    for index in range(bins):
        middle = low + (high - low) * (2 * index + 1) / (2 * bins)
        yield middle, f"{middle:.6g}"


def _integer_middles(low: int, size: int, bins: int) -> Iterator[tuple[int, str]]:
    """The middle, rounded down, of each of `bins` parts of `size` consecutive integers from `low`."""
    for index in range(bins):
        first, last = low + size * index // bins, low + size * (index + 1) // bins - 1
        yield (first + last) // 2, f"{(first + last) // 2}"


def _scene_problems(scenes: Sequence[tuple[str, EnvConfig]]) -> Iterator[Problem]:
    """Scenes that a policy of the scenes before them cannot play."""
    union = WorldUnion(env for _, env in scenes)
    for index, (name, env) in enumerate(scenes[1:], 1):
        if found := union.differences(env):
            others = (other for other, earlier in scenes[:index] if WorldUnion([earlier]).differences(env))
            differs = f'"{name}" differs from "{next(others, scenes[0][0])}": {"; ".join(found)}'
            message = f"must be worlds that one policy can play; {differs}"
            yield Problem(("curriculum", "scenes", index), message)


def _count_problems(curriculum: AnyCurriculum, count: int) -> Iterator[Problem]:
    """Numbers of tasks that do not fit the settings of the curriculum."""
    if isinstance(curriculum, ProgressiveConfig):
        if count == 1:
            yield Problem(("curriculum", "type"), "needs at least 2 tasks; add scenes or buckets")
        elif len(curriculum.thresholds) not in (0, 1, count - 1):
            entries = f"{count - 1}, one for each of {count} tasks but the last"
            message = f"must have 1 entry or {entries}; got {len(curriculum.thresholds)}"
            yield Problem(("curriculum", "thresholds"), message)


def _unknown_name(path: KeyPath, data: dict[str, Any]) -> str:
    """The message for a path of an object or action, by its name, that does not exist; else empty."""
    entry = named_entry(annotation_at(EnvConfig, path[:1], data)) if len(path) > 1 else None
    if entry is None or not isinstance(path[1], str):
        return ""
    listed = [table[entry.NAME_KEY] for table in data[str(path[0])]]
    known = listed if entry.names({}) else list(dict.fromkeys([*entry.known(), *listed]))
    missing = f'there is no setting "env.{Problem(path[:2], "").key}"{did_you_mean(path[1], known)}'
    return missing if path[1] not in known else ""


def _unknown(path: KeyPath, data: dict[str, Any]) -> str:
    """The message for a path of an unknown setting."""
    if message := _unknown_name(path, data):
        return message
    for depth in range(len(path)):
        if annotation_at(EnvConfig, path[: depth + 1], data) is None:
            table = table_at(EnvConfig, path[:depth], data)
            known = list(table.model_fields) if table else []
            key = Problem(path[: depth + 1], "").key
            return f'there is no setting "env.{key}"{did_you_mean(str(path[depth]), known)}'
    return 'must be the path of a setting of the world; got "env", a table'


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with numbers appended to those that occur several times."""
    seen: Counter[str] = Counter()
    several = {name for name, times in Counter(names).items() if times > 1}
    result = []
    for name in names:
        seen[name] += 1
        result.append(f"{name} ({seen[name]})" if name in several else name)
    return tuple(result)


def _text(value: Value) -> str:
    return value if isinstance(value, str) else shown(value)
