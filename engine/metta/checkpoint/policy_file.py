"""Content of policy checkpoints: the policies of a run or a team, the configs that rebuild them, and metadata."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from metta.agent.heads import initial_statistics
from metta.agent.policy import MettaAgent
from metta.agent.team import Team, as_team, listed
from metta.agent.window import WINDOW_FIELDS
from metta.checkpoint.file_format import files_by_epoch, read_torch_file
from metta.config.agent import BACKBONES, MEMORIES, OBSERVATION_PROCESSORS, AgentModelConfig
from metta.config.curriculum import AnyCurriculum
from metta.config.env.env_config import EnvConfig
from metta.config.env.map_generators import MAP_BUILDERS
from metta.config.loading.renamed_keys import apply_renames, warn_of_renamed
from metta.config.parts.registries import PART_TABLES
from metta.config.plan.network_size import num_weights
from metta.config.validation.error_messages import first_problem
from metta.config.validation.file_paths import split_policy_name
from metta.config.validation.frozen_model import Name
from metta.errors import CheckpointError, SkippedFileWarning, UsageError, similar_name
from metta.extensions import Registry

KIND: Final = "policy checkpoint"

_POLICY_NAME: Final = TypeAdapter(Name | Literal[""])

_NETWORK: Final = ("agent_config", "global_features", "weights")
"""Entries of a policy. In a file, a policy without a name has them beside the entries that all policies share."""


class _PolicyEntries(BaseModel):
    """The entries of a policy with a name."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", strict=True)

    groups: list[str] = []
    member: Annotated[int, Field(ge=0)] | None = None
    window: dict[Literal["observation_height", "observation_width", "num_observation_tokens"], int] = {}
    agent_config: AgentModelConfig
    global_features: list[str]
    weights: dict[str, torch.Tensor]


class _SavedTasks(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    names: list[str]
    env_configs: list[EnvConfig]
    config: AnyCurriculum


class _SharedEntries(BaseModel):
    """The entries that all policies of a file share."""

    model_config = ConfigDict(extra="forbid", strict=True)

    epoch: int
    metadata: dict[Any, Any]
    env_config: EnvConfig
    curriculum: _SavedTasks | None = None


@dataclass(frozen=True)
class SavedPolicy:
    """A policy in a checkpoint file."""

    agent_config: AgentModelConfig
    env_config: EnvConfig
    """the world of the file, with the window that the network reads"""
    global_features: list[str]
    weights: dict[str, torch.Tensor]
    groups: tuple[str, ...] = ()
    """names of the groups of agents that it plays; empty: all agents"""
    member: int | None = None
    """index of its only agent among those of the groups, in ascending order; None: all of them"""


@dataclass(frozen=True)
class PolicyFile:
    """The content of a checkpoint file."""

    epoch: int
    metadata: dict[Any, Any]
    env_config: EnvConfig
    """the world in which the policies are evaluated"""
    policies: Mapping[str, SavedPolicy]
    """the policies by name: those of a run with `[policies]` or of a `Team`, or one whose name is empty"""
    curriculum: _SavedTasks | None = None
    """the tasks of the training; None if there was only one, and in files of older versions"""

    def only(self, path: str | Path, name: str = "") -> PolicyFile:
        """The file as if it held only the policy `name`, or its only policy, which then plays all agents.

        Raises CheckpointError, with the names of the policies, if there is none of this name, or several without one.
        """
        names = list(self.policies)
        if not name and len(names) > 1:
            raise CheckpointError(
                f"{path} holds several policies ({listed(names)}); name one of them, such as {path}:{names[0]}"
            )
        if name and name not in names:
            found = f"it holds {listed(names)}{similar_name(name, names)}" if any(names) else "its only one has no name"
            raise CheckpointError(f'{path} has no policy "{name}": {found}')
        saved = self.policies[name or names[0]]
        return replace(self, env_config=saved.env_config, policies={"": replace(saved, groups=(), member=None)})


def checkpoint_content(
    policy: MettaAgent | Team,
    epoch: int = 0,
    metadata: Mapping[str, Any] | None = None,
    curriculum: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a checkpoint file; `curriculum` is the `Curriculum.description` of a run with several tasks.

    The weights share memory with those of the agents. The window of a policy is that of its network. Raises UsageError
    for a policy without weights.
    """
    team = as_team(policy)
    agents = {name: _network(name, player) for name, player in team.policies.items()}
    networks = {
        name: {
            "agent_config": agent.config.model_dump(),
            "global_features": list(agent.global_features),
            "weights": agent.state_dict(),
        }
        for name, agent in agents.items()
    }
    windows = {
        name: {field: getattr(agent.network_spec, field) for field in WINDOW_FIELDS} for name, agent in agents.items()
    }
    env_config = next(iter(agents.values())).env_config.model_dump(exclude_none=True)
    if list(agents) == [""]:
        env_config["game"] |= windows[""]
        policies = networks[""]
    else:
        policies = {
            "policies": {
                name: {"groups": list(team.groups.get(name, ())), "member": team.members.get(name)}
                | {"window": windows[name]}
                | networks[name]
                for name in agents
            }
        }
    return {
        "epoch": epoch,
        "metadata": dict(metadata or {}),
        "env_config": env_config,
        **policies,
        **({} if curriculum is None else {"curriculum": dict(curriculum)}),
    }


def _network(name: str, policy: object) -> MettaAgent:
    if not isinstance(policy, MettaAgent):
        raise UsageError(f'a checkpoint holds networks; the policy "{name}" is a {type(policy).__name__}')
    return policy


def read_policy_file(path: str | Path) -> PolicyFile:
    """Read and validate a checkpoint file; of `FILE:NAME` only the policy of that name.

    Raises CheckpointError if the file is missing or not valid, or has no policy of that name.
    """
    path, name = split_policy_name(path)
    if os.path.isdir(path):  # unlike Path.is_dir, it raises no OSError for a name that is too long
        newest = [*checkpoint_paths(path), *checkpoint_paths(path / "checkpoints"), path / checkpoint_name(100)][0]
        raise CheckpointError(f"{path} is a directory; name a checkpoint in it, such as {newest}")
    file = _validated(path, read_torch_file(path, KIND))
    return file.only(path, name) if name else file


def _validated(path: Path, content: dict[str, Any]) -> PolicyFile:
    """The policies in the content of a file. Raises CheckpointError if it is not valid."""
    entries = {key: value for key, value in content.items() if key in _NETWORK}
    named = content.get("policies")
    policies = named if isinstance(named, dict) and named and not entries else {"": entries}
    tables = [table for table in policies.values() if isinstance(table, dict)]
    worlds = [content.get("env_config"), content.get("curriculum")]
    renamed: list[str] = []
    for table in tables:
        data = {"agent": table.get("agent_config"), "env": {"map_builder": worlds}}
        renamed += apply_renames(data, str(path))
        _check_extensions(path, table.get("agent_config"), content.get("env_config"))
    warn_of_renamed(str(path), renamed)
    known = {*entries, "policies"} if policies is named else {*entries}
    try:
        shared = _SharedEntries.model_validate({key: value for key, value in content.items() if key not in known})
        saved = {name: _saved_policy(path, name, table, shared.env_config) for name, table in policies.items()}
    except ValidationError as error:
        raise CheckpointError(f"{path} is not a valid {KIND}: {first_problem(error)}") from None
    return PolicyFile(shared.epoch, shared.metadata, shared.env_config, saved, shared.curriculum)


def _saved_policy(path: Path, name: object, table: object, world: EnvConfig) -> SavedPolicy:
    """A policy in a file whose world is `world`. Raises CheckpointError if it is not valid."""
    try:
        _POLICY_NAME.validate_python(name, strict=True)
        entries = _PolicyEntries.model_validate(table)
        game = {"game": world.model_dump(exclude_none=True)["game"] | entries.window} if entries.window else {}
        env_config = EnvConfig.model_validate(world.model_dump(exclude_none=True) | game) if game else world
    except ValidationError as error:
        where = f"policies.{name}." if name else ""
        raise CheckpointError(f"{path} is not a valid {KIND}: {where}{first_problem(error)}") from None
    # checked before the network is built: a config alone could describe one that does not fit in memory
    expected = num_weights(entries.agent_config, env_config.spec)
    found = sum(weight.numel() for weight in entries.weights.values())
    if found < expected:
        raise CheckpointError(f"{path} is not a valid {KIND}: its config needs {expected:,} weights; it has {found:,}")
    # files written before value normalization existed have no statistics
    statistics = {f"value_head.{key}": statistic for key, statistic in initial_statistics().items()}
    weights = entries.weights | (statistics | entries.weights)
    groups = tuple(entries.groups)
    return SavedPolicy(entries.agent_config, env_config, entries.global_features, weights, groups, entries.member)


def _check_extensions(path: Path, agent_config: object, env_config: object) -> None:
    """Raise CheckpointError if the policy or its map builder needs an extension that is not installed."""
    settings = agent_config if isinstance(agent_config, dict) else {}
    needed: list[tuple[Registry[Any], object]] = [
        (BACKBONES, settings.get("backbone")),
        (MEMORIES, settings.get("memory")),
        (OBSERVATION_PROCESSORS, settings.get("obs_process_func")),
        *((MAP_BUILDERS, table.get("name")) for table in _nested_tables(env_config) if table.get("type") == "Custom"),
        *_parts(env_config),
    ]
    for registry, name in needed:
        if isinstance(name, str) and name not in registry:
            raise CheckpointError(
                f'{path} needs the {registry.kind} "{name}", which is not installed; install the package that provides '
                f"it, or register it in your program (available: {', '.join(registry.names()) or 'none'})"
            )


def _parts(env_config: object) -> Iterator[tuple[Registry[Any], object]]:
    """The registry and name of each custom rule of an environment config that is not validated."""
    tables = env_config if isinstance(env_config, dict) else {}
    for key, registry in PART_TABLES.items():
        listed = tables.get(key)
        for entry in listed if isinstance(listed, list) else []:
            yield registry, entry.get("type") if isinstance(entry, dict) else None


def _nested_tables(data: object) -> Iterator[dict[Any, Any]]:
    """Yield every dictionary in nested dictionaries and lists."""
    if isinstance(data, dict):
        yield data
    for inner in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _nested_tables(inner)


def checkpoint_name(epoch: int) -> str:
    """The file name of the policy after `epoch` epochs."""
    return f"checkpoint_{epoch:06d}.pt"


def checkpoint_paths(directory: Path) -> list[Path]:
    """The policy checkpoints in a directory, latest epoch first."""
    return list(files_by_epoch(directory, "checkpoint"))


def newest_valid(paths: Sequence[Path]) -> Path:
    """The first valid policy checkpoint of `paths`, with a SkippedFileWarning that names those before it.

    Raises CheckpointError if none is valid.
    """
    problems = []
    for path in paths:
        try:
            status = path.stat()
            _check_policy_file(path, status.st_mtime_ns, status.st_size)
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}")
        except CheckpointError as error:
            problems.append(str(error))
        else:
            for problem in problems:
                warnings.warn(f"{problem}; using {path.name}", SkippedFileWarning, stacklevel=2)
            return path
    raise CheckpointError("\n  ".join(["no policy is valid:", *problems]))


@lru_cache
def _check_policy_file(path: Path, mtime_ns: int, size: int) -> None:
    """Raise CheckpointError unless a file is a policy checkpoint. A file that has not changed is checked once."""
    read_torch_file(path, KIND)
