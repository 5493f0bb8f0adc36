"""Every problem of a config file at once, also those that one pass of validation would not reach."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from metta.config.env.env_config import EnvConfig
from metta.config.run import RunConfig, experience_problems
from metta.config.training import ExperienceConfig
from metta.config.validation.error_messages import UnknownKey, problems_in
from metta.config.validation.frozen_model import FrozenModel
from metta.config.validation.key_paths import KeyPath, child, table_at
from metta.errors import Problem

_RULED = ("width", "height", "num_agents", "inventory_item_names", "groups", "reward_sharing_groups", "item_max")
"""Settings of env.game that rules between fields depend on; a wrong one leaves the rules undecided."""


def all_problems(error: ValidationError, data: dict[str, Any]) -> list[Problem]:
    """Every problem of a config file, also those that pydantic stops short of.

    Rules between fields are judged by pydantic only when every field of the table is right. So wrong values that no
    rule depends on are put right in a copy, misspelled keys above all, and the rules are judged there.
    """
    problems = problems_in(error, RunConfig, data)
    repaired, doubtful, written = _repaired(problems, data)
    judged: list[Problem] = []
    tables: dict[str, FrozenModel] = {}
    for name in RunConfig.model_fields:
        model = table_at(RunConfig, (name,), data)
        if model and name not in doubtful:
            try:
                tables[name] = model.model_validate(repaired.get(name, {}))
            except ValidationError as second:
                judged += [
                    Problem((name, *problem.path), problem.message)
                    for problem in problems_in(second, model, repaired.get(name, {}))
                ]
    env, experience = tables.get("env"), tables.get("experience")
    if isinstance(experience, ExperienceConfig):
        has_scenes = child(data.get("curriculum"), "scenes")
        num_agents = env.game.num_agents if isinstance(env, EnvConfig) and not has_scenes else 1
        judged += experience_problems(experience, num_agents)
    problems += [replace(problem, path=_as_written(problem.path, written)) for problem in judged]
    return list(dict.fromkeys(problems))


def _repaired(problems: list[Problem], data: dict[str, Any]) -> tuple[dict[str, Any], set[str], dict[KeyPath, KeyPath]]:
    """The data with unknown keys renamed or left out, tables that cannot be judged, and what was renamed."""
    repaired = deepcopy(data)
    doubtful = set()
    written: dict[KeyPath, KeyPath] = {}
    for problem in problems:
        holder: Any = repaired
        for part in problem.path[:-1]:
            holder = child(holder, part)
        if isinstance(problem, UnknownKey):
            value = holder.pop(problem.path[-1])
            if problem.meant and problem.meant not in holder:
                holder[problem.meant] = value
                written[*problem.path[:-1], problem.meant] = problem.path
        elif problem.path[:2] == ("env", "game") and len(problem.path) > 2 and problem.path[2] not in _RULED:
            holder.pop(problem.path[-1], None)
        else:
            doubtful.add(str(problem.path[0]))
    return repaired, doubtful, written


def _as_written(path: KeyPath, written: dict[KeyPath, KeyPath]) -> KeyPath:
    """The path as it is in the file, where a key of it may be misspelled."""
    for depth in range(len(path), 0, -1):
        if path[:depth] in written:
            return written[path[:depth]] + path[depth:]
    return path
