"""Registered policies: `random`, `scripted`, and those of programs and packages, made by name for an environment."""

from __future__ import annotations

from collections.abc import Mapping

from metta.agent.policy import Policy, check_policy_fits
from metta.baselines import random_policy, scripted  # noqa: F401  # they register themselves
from metta.config.env.env_config import EnvConfig
from metta.config.training import POLICIES
from metta.errors import ConfigError, Problem, UsageError

_MEMBERS = ("spec", "uses_action_masks", "initial_memory", "act")


def make_policy(name: str, env_config: EnvConfig) -> Policy:
    """The registered policy of that name for environments of `env_config`.

    Raises UsageError if no policy has that name, or if it cannot play in these environments.
    """
    policy: Policy = POLICIES.find(name)(env_config)
    if missing := [member for member in _MEMBERS if not hasattr(policy, member)]:
        raise UsageError(
            f'the policy "{name}" must be a function from an EnvConfig to a metta.api.Policy; what it returns lacks '
            f"{', '.join(missing)}"
        )
    check_policy_fits(policy, env_config.spec)
    return policy


def teacher_policies(name: str, env_configs: Mapping[str, EnvConfig]) -> list[Policy]:
    """The registered policy of that name as teacher (kickstarting) in each task; `env_configs` by the task's name.

    Raises ConfigError, at `kickstarting.teacher`, if it cannot play in a task.
    """
    policies, problems = [], []
    for task, env_config in env_configs.items():
        try:
            policies.append(make_policy(name, env_config))
        except UsageError as error:
            where = f"in the task {task}, " if len(env_configs) > 1 else ""
            problems.append(Problem(("kickstarting", "teacher"), f"{where}{error}"))
    if problems:
        raise ConfigError("the config", problems)
    return policies
