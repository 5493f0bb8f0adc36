"""Policies from files for a run: initial weights, frozen policies, teachers and opponents.

A new run loads them from the files in its config, a resumed one from the copies in its checkpoint directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from metta.agent.policy import MettaAgent, Policy
from metta.baselines.registered import teacher_policies
from metta.checkpoint.file_format import read_torch_file
from metta.checkpoint.policy_checkpoint import load_policy
from metta.checkpoint.policy_file import KIND, checkpoint_name, read_policy_file
from metta.checkpoint.weight_transfer import WeightTransfer, transfer_weights
from metta.config.policies import PolicySettings, table_of
from metta.config.run import RunConfig, policy_settings
from metta.config.training import POLICIES
from metta.config.validation.file_paths import join_policy_name, split_policy_name
from metta.config.validation.key_paths import KeyPath
from metta.errors import CheckpointError, ConfigError, Problem, UsageError
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.frozen_policies.self_play import GIVEN, FrozenPolicy, OpponentPool, opponent_file
from metta.run.run_directory import policy_file


@dataclass(frozen=True)
class SavedPolicies:
    """Where a resumed run finds all policies but those that it trains: in its checkpoint directory."""

    directory: Path
    epoch: int
    opponents: Mapping[str, Sequence[str]]
    """names of the opponents of each policy in training"""


def own_file(policy: str, file: str) -> str:
    """Path, relative to the checkpoint directory, of a file that belongs to one policy of a run, such as its teacher.

    Those of a policy without a name are in the checkpoint directory, those of any other in a directory of its name.
    """
    return f"{policy}/{file}" if policy else file


def teacher_file(policy: str) -> str:
    """Path of the copy of a policy's teacher, from which a resumed run loads it."""
    return own_file(policy, "teacher.pt")


def load_teacher(
    config: RunConfig, policy: PolicySettings, curriculum: Curriculum, device: torch.device, saved: SavedPolicies | None
) -> list[Policy] | None:
    """The teacher of `[kickstarting]` in the world of each task, or one in all of them; None without a teacher."""
    teacher = policy.kickstarting.teacher
    if not teacher:
        return None
    key = _key(config, policy, "kickstarting", "teacher")
    if teacher in POLICIES:
        return teacher_policies(teacher, dict(zip(curriculum.names, curriculum.env_configs, strict=True)))
    if saved is not None and Path(teacher).name == teacher:  # paths in `config.toml` have a directory
        raise UsageError(
            f'{".".join(map(str, key))}: the policy "{teacher}", the teacher of this run, is not installed; install '
            "the package that provides it, or register it in your program "
            f"(available: {', '.join(POLICIES.names())})"
        )
    path = saved.directory / teacher_file(policy.name) if saved else teacher
    with _locating(key, is_new=saved is None):
        return [load_policy(_own_policy(path, policy.name), device, curriculum.env_configs[0]).agent]


def load_opponents(
    config: RunConfig, policy: PolicySettings, curriculum: Curriculum, device: torch.device, saved: SavedPolicies | None
) -> OpponentPool | None:
    """The frozen policies of `[self_play]`, for the worlds of the run; None without self-play."""
    if not policy.self_play.is_on:
        return None
    paths: dict[str, str | Path] = {}
    if saved is None:
        paths |= {f"{GIVEN}{index:03d}": path for index, path in enumerate(policy.self_play.policies)}
    else:
        names = saved.opponents[policy.name]
        paths |= {name: saved.directory / own_file(policy.name, opponent_file(name)) for name in names}
    policies = []
    for index, (name, path) in enumerate(paths.items()):
        with _locating((*_key(config, policy, "self_play", "policies"), index), is_new=saved is None):
            agent = load_policy(_own_policy(path, policy.name), device, curriculum.env_configs[0]).agent
        policies.append(FrozenPolicy(name, agent))
    return OpponentPool(policy.self_play, policies)


def load_frozen(
    config: RunConfig, policy: PolicySettings, curriculum: Curriculum, device: torch.device, saved: SavedPolicies | None
) -> MettaAgent:
    """A policy of `[policies]` that does not learn, for the worlds of the run."""
    env = curriculum.env_configs[0]
    if saved is not None:
        return load_policy(saved.directory / checkpoint_name(saved.epoch), device, env, policy=policy.name).agent
    with _locating(_initial_key(config, policy)):
        return load_policy(_own_policy(policy.init_from, policy.name), device, env).agent


def load_initial_weights(
    agent: MettaAgent, config: RunConfig, policy: PolicySettings | None = None
) -> WeightTransfer | None:
    """Load the weights of the policy `init_from` that fit `agent`, as `transfer_weights` does; None without one.

    `policy` is the policy that `agent` becomes, by default the only one of the config.

    Raises ConfigError if nothing fits, or if a policy that the config names is missing or damaged.
    """
    config = with_policy_files(config)
    if policy is None:
        (policy,) = policy_settings(config)
    own = config.policies[table_of(policy)].init_from if policy.name else ""
    if not (path := own or config.run.init_from):
        return None
    with _locating(_initial_key(config, policy)):
        return replace(transfer_weights(agent, _own_policy(path, policy.name)), policy=policy.name)


def with_policy_files(config: RunConfig) -> RunConfig:
    """The config with the file of each policy in it, such as the newest policy of a run.

    Raises ConfigError with all policies that are missing or damaged.
    """
    problems: list[Problem] = []

    def file_of(key: KeyPath, path: str) -> str:
        try:
            file = policy_file(path, POLICIES.names() if "kickstarting" in key else ())
            read_torch_file(Path(split_policy_name(str(file))[0]), KIND)
        except (CheckpointError, UsageError) as error:
            no_weights = f"must be a policy checkpoint or a run; the policy {path} has no weights"
            problems.append(Problem(key, no_weights if path in POLICIES else str(error).replace("\n  ", " ")))
            return path
        return str(file)

    found = config.with_policies(file_of)
    if problems:
        raise ConfigError("the config", problems)
    return found


def _own_policy(path: str | Path, name: str) -> str:
    """The path with the policy in the file that is meant for the policy `name` of the run: the one of that name.

    If there is none, or if the path names one itself (`FILE:NAME`), it is the path as given.
    """
    return join_policy_name(path, name if name in read_policy_file(path).policies else "")


def _key(config: RunConfig, policy: PolicySettings, table: str, key: str) -> KeyPath:
    """The place in the config of a setting of the policy: its own table, if that has the key, or the run's."""
    if policy.name and key in config.policies[table_of(policy)].overrides(table):
        return "policies", table_of(policy), table, key
    return table, key


def _initial_key(config: RunConfig, policy: PolicySettings) -> KeyPath:
    """The place in the config of the file of the policy's initial weights."""
    if policy.name and config.policies[table_of(policy)].init_from:
        return "policies", table_of(policy), "init_from"
    return "run", "init_from"


@contextmanager
def _locating(key: KeyPath, is_new: bool = True) -> Iterator[None]:
    """For a new run, convert errors about a policy that does not fit to a ConfigError with the key that names it."""
    try:
        yield
    except CheckpointError as error:
        if not is_new:
            raise
        raise ConfigError("the config", [Problem(key, str(error))]) from None
