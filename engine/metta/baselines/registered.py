"""Registered policies: `random`, `scripted`, and those of programs and packages, made by name for an environment."""

from __future__ import annotations

from metta.agent.policy import Policy, check_policy_fits
from metta.baselines import random_policy, scripted  # noqa: F401  # they register themselves
from metta.config.env.env_config import EnvConfig
from metta.config.training import POLICIES


def make_policy(name: str, env_config: EnvConfig) -> Policy:
    """The registered policy of that name for environments of `env_config`.

    Raises UsageError if no policy has that name, or if it cannot play in these environments.
    """
    policy: Policy = POLICIES.find(name)(env_config)
    check_policy_fits(policy, env_config.spec)
    return policy
