"""Collection of all problems of a config file, including those that a single validation does not reach."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from metta.config.env.env_config import EnvConfig
from metta.config.policies import POLICY_TABLES, PolicyConfig
from metta.config.run import RunConfig, team_problems
from metta.config.validation.error_messages import problems_in
from metta.config.validation.frozen_model import FrozenModel
from metta.config.validation.key_paths import KeyPath, child, table_at, value_at
from metta.config.validation.unknown_keys import UnknownKey
from metta.errors import Problem

_USED_BY_RULES = (
    "width",
    "height",
    "num_agents",
    "inventory_item_names",
    "groups",
    "reward_sharing_groups",
    "item_max",
)
"""Keys of [env.game] that rules between fields use; where one of them is invalid, the rules cannot be checked."""


def all_problems(error: ValidationError, data: dict[str, Any]) -> list[Problem]:
    """All problems of a config file whose validation raised `error`.

    Pydantic checks rules between fields only if every field of the table is valid. Therefore misspelled keys and
    invalid values that no rule uses are repaired in a copy of the data, and the rules are checked on that copy.
    """
    problems = problems_in(error, RunConfig, data)
    repaired, unchecked, spellings = _repaired(problems, data)
    found: list[Problem] = []
    tables: dict[str, FrozenModel] = {}
    for name in RunConfig.model_fields:
        model = table_at(RunConfig, (name,), data)
        if model and name not in unchecked:
            try:
                tables[name] = model.model_validate(repaired.get(name, {}))
            except ValidationError as second:
                found += [
                    replace(problem, path=(name, *problem.path))
                    for problem in problems_in(second, model, repaired.get(name, {}))
                ]
    policies = {} if "policies" in unchecked else _policies(repaired, tables)
    valid: dict[str, Any] = {**tables, "policies": policies}
    env, config = tables.get("env"), RunConfig.model_construct(**valid)
    if child(data.get("curriculum"), "scenes"):
        rules = team_problems(config, None)
    elif isinstance(env, EnvConfig):
        rules = team_problems(config, env)
    else:
        rules = team_problems(config, None, _num_agents(repaired, problems))
    found += [problem for problem in rules if problem.path[0] in tables or problem.path[0] == "policies"]
    problems += [replace(problem, path=_as_spelled(problem.path, spellings)) for problem in found]
    return list(dict.fromkeys(problems))


def _policies(data: dict[str, Any], tables: dict[str, FrozenModel]) -> dict[str, PolicyConfig]:
    """The policies of a repaired file, without their values for tables that are invalid."""
    policies = {}
    for name, table in data.get("policies", {}).items():
        kept = {key: value for key, value in table.items() if key in tables or key not in POLICY_TABLES}
        policies[name] = PolicyConfig.model_validate(kept)
    return policies


def _repaired(problems: list[Problem], data: dict[str, Any]) -> tuple[dict[str, Any], set[str], dict[KeyPath, KeyPath]]:
    """The data with unknown keys renamed or removed, the tables that cannot be checked, and the renamed paths."""
    repaired = deepcopy(data)
    unchecked = set()
    spellings: dict[KeyPath, KeyPath] = {}
    for problem in sorted(problems, key=lambda problem: not isinstance(problem, UnknownKey)):  # before tables go
        holder: Any = repaired
        for part in problem.path[:-1]:
            holder = child(holder, part)
        if isinstance(problem, UnknownKey):
            value = holder.pop(problem.path[-1])
            if problem.suggestion and problem.suggestion not in holder:
                holder[problem.suggestion] = value
                spellings[*problem.path[:-1], problem.suggestion] = problem.path
        elif problem.path[:2] == ("env", "game") and len(problem.path) > 2 and problem.path[2] not in _USED_BY_RULES:
            holder.pop(problem.path[-1], None)
        elif problem.path[0] == "policies" and problem.path[2:3] and problem.path[2] in POLICY_TABLES:
            data_of_policy = child(child(repaired, "policies"), problem.path[1])
            data_of_policy.pop(problem.path[2], None)
        else:
            unchecked.add(str(problem.path[0]))
    return repaired, unchecked, spellings


def _num_agents(data: dict[str, Any], problems: list[Problem]) -> int:
    """The number of agents in an `[env]` that is invalid for other reasons; 1 if it is unknown."""
    path = ("env", "game", "num_agents")
    given = value_at(data, path)
    return given if isinstance(given, int) and path not in {problem.path for problem in problems} else 1


def _as_spelled(path: KeyPath, spellings: dict[KeyPath, KeyPath]) -> KeyPath:
    """The path as spelled in the file, where keys may be misspelled."""
    for depth in range(len(path), 0, -1):
        if path[:depth] in spellings:
            return spellings[path[:depth]] + path[depth:]
    return path
