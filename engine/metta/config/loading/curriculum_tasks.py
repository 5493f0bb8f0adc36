"""The tasks of a curriculum: every scene with every combination of its buckets' values, each proved sound."""

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
from metta.config.env.env_spec import EnvSpec
from metta.config.env.map_sizes import without_inferred_sizes
from metta.config.loading.overrides import put_value, read_path
from metta.config.validation.error_messages import problems_in, shown
from metta.config.validation.key_paths import KeyPath, annotation_at, table_at, takes_number
from metta.errors import ConfigError, Problem, UsageError, did_you_mean

MOST_TASKS = 2000
"""Tasks of a curriculum: each is a world of its own, built and judged before training starts."""

MOST_RULES = 200
"""Tasks that differ in more than their maps: the tables of what can be done to what grow with their square."""


@dataclass(frozen=True)
class Tasks:
    """The worlds a curriculum draws from, which one policy can play."""

    names: tuple[str, ...]
    env_configs: tuple[EnvConfig, ...]
    scene_of: tuple[int, ...]
    """the scene each task is made of"""
    scenes: tuple[tuple[str, EnvConfig], ...]
    """name and world of each scene"""

    @property
    def by_name(self) -> dict[str, EnvConfig]:
        """The world of each task, by its name."""
        return dict(zip(self.names, self.env_configs, strict=True))


@dataclass(frozen=True)
class _Setting:
    """A setting of the world that a bucket varies, and its values in order, each with the text of a task's name."""

    key: str
    path: KeyPath
    values: tuple[tuple[Value, str], ...]


def make_tasks(curriculum: AnyCurriculum, scenes: Sequence[tuple[str, EnvConfig]]) -> Tasks:
    """The tasks of `curriculum` in `scenes` (name and world); those of a scene together, the last bucket fastest.

    Raises ConfigError with every problem: settings that do not exist, values that no world can have, worlds that no
    one policy can play, a number of tasks that the curriculum cannot have.
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
    if count > MOST_TASKS:
        factors = [f"{len(scenes)} scenes"] if len(scenes) > 1 else []
        factors += [f"{len(setting.values)} of {setting.key}" for setting in settings]
        problems.append(
            Problem(("curriculum", "buckets"), f"make {' x '.join(factors)} = {count:,} tasks; at most {MOST_TASKS:,}")
        )
    if not problems:
        problems += _count_problems(curriculum, count)
    if problems:
        raise ConfigError("the curriculum", problems)
    tasks, problems = _built(settings, scenes)
    if problems:
        raise ConfigError("the curriculum", problems)
    return tasks


def _built(settings: Sequence[_Setting], scenes: Sequence[tuple[str, EnvConfig]]) -> tuple[Tasks, list[Problem]]:
    """The tasks, and what is wrong with their worlds."""
    names, env_configs, scene_of = [], [], []
    problems: list[Problem] = []
    keys = {setting.key for setting in settings}
    place = ("curriculum", "buckets", *keys) if len(keys) == 1 else ("curriculum", "buckets")
    for scene, (scene_name, env) in enumerate(scenes):
        variants = _Variants(env)
        for values in product(*(setting.values for setting in settings)):
            texts = [f"{setting.key}={text}" for setting, (_, text) in zip(settings, values, strict=True)]
            name = ", ".join([scene_name, *texts])
            try:
                variant = variants.make([(s.path, value) for s, (value, _) in zip(settings, values, strict=True)])
            except ConfigError as error:
                made = ", ".join(texts) + (f" in {scene_name}" if len(scenes) > 1 else "")
                problems += [Problem(place, f"with {made}, {p.key} {p.message}") for p in error.problems]
                continue
            if differing := differences(variant.spec, env.spec):
                problems.append(Problem(place, f"must leave what one policy can play; with {name}, {differing[0]}"))
                continue
            names.append(name)
            env_configs.append(variant)
            scene_of.append(scene)
    rules = len({config.rules_key for config in env_configs})
    if rules > MOST_RULES:
        message = f"make {rules:,} tasks that differ in more than their maps; at most {MOST_RULES}"
        problems.append(Problem(("curriculum", "buckets"), message))
    return Tasks(_distinct(names), tuple(env_configs), tuple(scene_of), tuple(scenes)), list(dict.fromkeys(problems))


def own_world(env: EnvConfig, scenes: Sequence[tuple[str, EnvConfig]]) -> EnvConfig:
    """The world that a run is about, in which it is measured: its file's `[env]`.

    It is the last scene's where the file says nothing of a world, or one that no policy of the scenes can play.
    """
    last = scenes[-1][1]
    is_meant = env != EnvConfig() and not differences(env.spec, last.spec)
    return env if is_meant else last


def fixed_weights(curriculum: CurriculumConfig, scene_of: Sequence[int]) -> list[float]:
    """The probability of each task: its scene's by weight, which the scene's tasks share evenly."""
    weights = curriculum.weights or [1.0] * (max(scene_of) + 1)
    shares = Counter(scene_of)
    return [weights[scene] / shares[scene] / sum(weights) for scene in scene_of]


def differences(spec: EnvSpec, first: EnvSpec) -> list[str]:
    """What of a world one policy cannot play beside another, each difference in words."""
    found = []
    for field in EnvSpec.model_fields:
        ours, theirs = getattr(spec, field), getattr(first, field)
        follows = field in ("max_action_args", "action_enabled") and spec.action_names != first.action_names
        if ours == theirs or follows:
            continue
        if field == "action_enabled":
            found += [
                f'the action "{name}" is {"enabled" if own else "disabled"}'
                for name, own, other in zip(spec.action_names, ours, theirs, strict=True)
                if own != other
            ]
        elif isinstance(ours, list) and (more := [entry for entry in ours if entry not in theirs]):
            found.append(f"{field} has {_listed(more)}")
        elif isinstance(ours, list) and (less := [entry for entry in theirs if entry not in ours]):
            found.append(f"{field} lacks {_listed(less)}")
        elif isinstance(ours, list):
            found.append(f"{field} is {_listed(ours)}, not {_listed(theirs)}")
        else:
            found.append(f"{field} is {ours}, not {theirs}")
    return found


class _Variants:
    """Worlds that differ from one by single values, and share with it all that is the same."""

    def __init__(self, env: EnvConfig):
        self.data = {"env": without_inferred_sizes(env)}
        self.env = EnvConfig.model_validate(self.data["env"])

    def make(self, values: Sequence[tuple[KeyPath, Value]]) -> EnvConfig:
        """The world with `values`. Raises ConfigError for one that cannot be."""
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
            variant = EnvConfig.model_validate(given["env"] | same)
        except ValidationError as error:
            raise ConfigError("the curriculum", problems_in(error, EnvConfig, given["env"] | same)) from None
        if changed == {"map_builder"} and variant.game.num_agents == self.env.game.num_agents:
            for name in ("object_types", "action_table", "rules_key", "spec"):  # a thousand worlds need these once
                variant.__dict__[name] = getattr(self.env, name)
        return variant


def _setting(key: str, bucket: BucketConfig, scenes: Sequence[tuple[str, dict[str, Any]]]) -> _Setting | Problem:
    """The setting that a bucket is about, or what is wrong with it."""
    place = ("curriculum", "buckets", key)
    try:
        path, rest = read_path(key)
    except ValueError:
        path, rest = (), key
    if rest or not path:
        return Problem(place, "must be the path of a setting of the world, such as map_builder.objects.altar")
    if path[0] == "env":
        path = path[1:]
    if path[:2] == ("game", "map_builder"):  # where the original metta has it
        path = path[1:]
    is_whole = False
    for name, data in scenes:
        annotation = annotation_at(EnvConfig, path, data)
        if annotation is None or not path:
            return Problem(place, f"{_unknown(path, data)}{f' in {name}' if len(scenes) > 1 else ''}")
        is_whole = takes_number(annotation, int)
        if bucket.range and not is_whole and not takes_number(annotation, float):
            return Problem((*place, "range"), "is for numbers, and this setting is none; list its values instead")
    shown_path = Problem(path, "").key
    if bucket.values:
        return _Setting(shown_path, path, tuple((value, _text(value)) for value in bucket.values))
    low, high = bucket.range
    if not is_whole:
        if low == high and bucket.bins > 1:
            return Problem((*place, "bins"), f"must be 1, since the range is the one value {low:g}; got {bucket.bins}")
        return _Setting(shown_path, path, tuple(_middles(low, high, bucket.bins)))
    if low != int(low) or high != int(high):
        return Problem((*place, "range"), f"must be of whole numbers, as {shown_path} is one; got {bucket.range}")
    there = int(high) - int(low) + 1
    if bucket.bins > there:
        message = f"must be at most {there}, the whole numbers from {low:g} to {high:g}; got {bucket.bins}"
        return Problem((*place, "bins"), message)
    return _Setting(shown_path, path, tuple(_whole_middles(int(low), there, bucket.bins)))


def _middles(low: float, high: float, bins: int) -> Iterator[tuple[float, str]]:
    for index in range(bins):
        middle = low + (high - low) * (2 * index + 1) / (2 * bins)
        yield middle, f"{middle:.6g}"


def _whole_middles(low: int, there: int, bins: int) -> Iterator[tuple[int, str]]:
    """The middle, rounded down, of each part of `there` whole numbers from `low` on."""
    for index in range(bins):
        first, last = low + there * index // bins, low + there * (index + 1) // bins - 1
        yield (first + last) // 2, f"{(first + last) // 2}"


def _scene_problems(scenes: Sequence[tuple[str, EnvConfig]]) -> Iterator[Problem]:
    for index, (name, env) in enumerate(scenes[1:], 1):
        if found := differences(env.spec, scenes[0][1].spec):
            unlike = f'unlike "{scenes[0][0]}", of "{name}" {"; ".join(found)}'
            message = f"must be worlds that one policy can play; {unlike}"
            yield Problem(("curriculum", "scenes", index), message)


def _count_problems(curriculum: AnyCurriculum, count: int) -> Iterator[Problem]:
    """What the curriculum's own settings have against so many tasks."""
    if isinstance(curriculum, ProgressiveConfig):
        if count == 1:
            yield Problem(
                ("curriculum", "type"), "needs at least 2 tasks to go from one to the next: scenes or buckets"
            )
        elif len(curriculum.thresholds) not in (0, 1, count - 1):
            message = f"must be one, or one for each of {count} tasks but the last; got {len(curriculum.thresholds)}"
            yield Problem(("curriculum", "thresholds"), message)


def _unknown(path: KeyPath, data: dict[str, Any]) -> str:
    """What is wrong with a path that leads nowhere."""
    for depth in range(len(path)):
        if annotation_at(EnvConfig, path[: depth + 1], data) is None:
            table = table_at(EnvConfig, path[:depth], data)
            known = list(table.model_fields) if table else []
            key = Problem(path[: depth + 1], "").key
            return f'there is no setting "env.{key}"{did_you_mean(str(path[depth]), known)}'
    return 'must be the path of a setting of the world; got "env", all of it'


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with numbers behind those that are there several times."""
    seen: Counter[str] = Counter()
    several = {name for name, times in Counter(names).items() if times > 1}
    result = []
    for name in names:
        seen[name] += 1
        result.append(f"{name} ({seen[name]})" if name in several else name)
    return tuple(result)


def _listed(entries: Sequence[Any]) -> str:
    text = ", ".join(str(entry) for entry in entries[:5])
    return f"{text}, ..." if len(entries) > 5 else text


def _text(value: Value) -> str:
    return value if isinstance(value, str) else shown(value)
