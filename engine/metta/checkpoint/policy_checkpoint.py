"""Policy checkpoints: files with a policy's weights, the configs that rebuild it and its environment, and metadata."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from metta.agent.heads import initial_statistics
from metta.agent.policy import MettaAgent
from metta.agent.window import WINDOW_FIELDS, network_spec
from metta.checkpoint.file_format import read_torch_file, write_torch_file
from metta.checkpoint.weight_remapping import (
    flat_action_names,
    missing_actions,
    remap_rows,
    renumbered,
    row_names,
    unknown_names,
)
from metta.config.agent import BACKBONES, MEMORIES, OBSERVATION_PROCESSORS, AgentModelConfig
from metta.config.curriculum import AnyCurriculum
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.env.map_generators import MAP_BUILDERS
from metta.config.loading.curriculum_tasks import make_tasks
from metta.config.loading.renamed_keys import rename_keys
from metta.config.plan.network_size import num_weights
from metta.config.validation.error_messages import first_problem
from metta.config.validation.file_paths import user_path
from metta.errors import CheckpointError, ConfigError, SkippedFileWarning, UsageError
from metta.extensions import Registry
from metta.spaces import ActionSpace, ObservationSpace

KIND = "policy checkpoint"

MAX_LISTED = 8
"""Maximum number of names listed in a note; the others are counted."""


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy rebuilt from its checkpoint file alone."""

    agent: MettaAgent
    """the policy; its `env_config` is the environment in which it plays"""
    metadata: dict[str, Any]
    """the metadata given to `save_checkpoint`, and the `epoch`"""
    unknown: tuple[str, ...] = ()
    """names in its environment that the saved one lacks: objects and items it ignores, actions it never takes"""
    missing: tuple[str, ...] = ()
    """actions of the saved environment that its environment lacks; the policy takes the others instead"""

    @property
    def notes(self) -> tuple[str, ...]:
        """How its environment differs from that of its training, in sentences."""
        notes = []
        specs = (self.agent.network_spec, self.agent.spec)
        trained, here = ((spec.observation_height, spec.observation_width) for spec in specs)
        if trained != here:
            seen = (min(trained[0], here[0]), min(trained[1], here[1]))
            part = f"the middle {_size(seen)} of {_size(here)}" if seen != here else _size(here)
            notes.append(f"the policy was trained with a window of {_size(trained)} cells; here it sees {part}")
        if self.unknown:
            notes.append(f"the policy was trained without these and ignores them: {_listed(self.unknown)}")
        if self.missing:
            notes.append(f"the policy was trained with these, which do not exist here: {_listed(self.missing)}")
        return tuple(notes)


class _SavedTasks(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    names: list[str]
    env_configs: list[EnvConfig]
    config: AnyCurriculum


class PolicyFile(BaseModel):
    """The content of a checkpoint file."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", strict=True)

    epoch: int
    metadata: dict[Any, Any]
    agent_config: AgentModelConfig
    env_config: EnvConfig
    global_features: list[str]
    weights: dict[str, torch.Tensor]
    curriculum: _SavedTasks | None = None
    """the tasks of its training; None if there was only one, and in files of older versions"""


def save_checkpoint(
    agent: MettaAgent, path: str | Path, epoch: int = 0, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write `checkpoint_000100.pt` for epoch 100 into the directory `path`, which is created if it does not exist.

    The file holds the weights, the configs that rebuild agent and environment, and `metadata` (numbers, text, tensors,
    and lists and dictionaries of them); `torch.load(weights_only=True)` reads it. Raises UsageError if `epoch` is
    negative.
    """
    if epoch < 0:
        raise UsageError(f"epoch must be at least 0; got {epoch}")
    directory = user_path(path)
    directory.mkdir(parents=True, exist_ok=True)
    write_torch_file(directory / checkpoint_name(epoch), KIND, checkpoint_content(agent, epoch, metadata))


def checkpoint_content(
    agent: MettaAgent,
    epoch: int = 0,
    metadata: Mapping[str, Any] | None = None,
    curriculum: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a checkpoint file; `curriculum` is the `Curriculum.description` of a run with several tasks.

    The weights share memory with those of the agent. The window in the saved environment is that of the network.
    """
    env_config = agent.env_config.model_dump(exclude_none=True)
    env_config["game"] |= {field: getattr(agent.network_spec, field) for field in WINDOW_FIELDS}
    return {
        "epoch": epoch,
        "metadata": dict(metadata or {}),
        "agent_config": agent.config.model_dump(),
        "env_config": env_config,
        "global_features": list(agent.global_features),
        "weights": agent.state_dict(),
        **({} if curriculum is None else {"curriculum": dict(curriculum)}),
    }


def load_checkpoint(agent: MettaAgent, path: str | Path) -> dict[str, Any]:
    """Load the weights of a checkpoint into `agent`; returns its metadata, with `epoch`.

    Features, object types, items and actions are matched by name, so their order in the agent's environment may differ.
    The policy ignores objects and items, and never takes actions, that the saved environment lacks; where it would take
    an action that the agent's environment lacks, it takes one of the others.

    Raises CheckpointError, and does not change the agent, if the file is missing, damaged or not a policy checkpoint,
    or if the policy in it has another observation window (`load_policy` converts observations), another architecture
    (`AgentModelConfig.architecture`) or no action that exists in the agent's environment.
    """
    path = user_path(path)
    policy = read_policy_file(path)
    agent.load_state_dict(_matching_weights(agent, policy, path))
    return policy.metadata | {"epoch": policy.epoch}


def load_policy(
    path: str | Path,
    device: torch.device | None = None,
    env_config: EnvConfig | None = None,
    file: PolicyFile | None = None,
) -> LoadedPolicy:
    """Load the policy in a checkpoint file, with an agent built from the configs in the file.

    `env_config` replaces the saved environment, by default the evaluation world of the training, with its own actions;
    names are matched as in `load_checkpoint`. The policy sees the window with which it was trained: of a larger one the
    cells around the agent, of a smaller one all cells. `file` is the content that `read_policy_file` read from `path`
    before, since a run in training removes old policies (`checkpoint.keep_last`).
    Raises CheckpointError for the same reasons, except windows.
    """
    path = user_path(path)
    policy = file or read_policy_file(path)
    env_config = env_config or policy.env_config.without_reserved
    saved = policy.env_config.spec
    agent = MettaAgent(
        ObservationSpace(env_config),
        ActionSpace(env_config),
        policy.global_features,
        device or torch.device("cpu"),
        policy.agent_config,
        network_spec(env_config.spec, saved),
    )
    agent.load_state_dict(_matching_weights(agent, policy, path))
    return LoadedPolicy(
        agent,
        policy.metadata | {"epoch": policy.epoch},
        tuple(unknown_names(saved, agent.spec)),
        tuple(missing_actions(saved, agent.spec)),
    )


def trained_tasks(path: str | Path, file: PolicyFile | None = None) -> dict[str, EnvConfig]:
    """The environments of the tasks in which a saved policy was trained, by name; one if it had no curriculum.

    `file` is as in `load_policy`. Raises CheckpointError if the file's tasks are invalid.
    """
    policy = file or read_policy_file(path)
    if policy.curriculum is None:
        return {"evaluation world": policy.env_config.without_reserved}
    names, worlds = policy.curriculum.names, policy.curriculum.env_configs
    if len(names) != len(worlds) or not names:
        raise CheckpointError(f"{path} is invalid: {len(names)} task names for {len(worlds)} environments")
    try:
        return make_tasks(policy.curriculum.config, list(zip(names, worlds, strict=True))).by_name
    except ConfigError as error:
        raise CheckpointError(f"{path} is invalid: its tasks cannot be trained together: {error}") from None


def checkpoint_name(epoch: int) -> str:
    """The file name of the policy after `epoch` epochs."""
    return f"checkpoint_{epoch:06d}.pt"


def checkpoint_paths(directory: Path) -> list[Path]:
    """The policy checkpoints in a directory, latest epoch first."""
    return sorted(directory.glob("checkpoint_*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)


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


def read_policy_file(path: str | Path) -> PolicyFile:
    """Read and validate a checkpoint file. Raises CheckpointError if it is missing or not valid."""
    path = user_path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, it raises no OSError for a name that is too long
        newest = [*checkpoint_paths(path), *checkpoint_paths(path / "checkpoints"), path / checkpoint_name(100)][0]
        raise CheckpointError(f"{path} is a directory; name a checkpoint in it, such as {newest}")
    content = read_torch_file(path, KIND)
    env_configs = [content.get("env_config"), content.get("curriculum")]
    rename_keys({"agent": content.get("agent_config"), "env": {"map_builder": env_configs}}, str(path))
    _check_extensions(path, content.get("agent_config"), content.get("env_config"))
    try:
        policy = PolicyFile.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{path} is not a valid {KIND}: {first_problem(error)}") from None
    # checked before the network is built: a config alone could describe one that does not fit in memory
    expected = num_weights(policy.agent_config, policy.env_config.spec)
    found = sum(weight.numel() for weight in policy.weights.values())
    if found < expected:
        raise CheckpointError(f"{path} is not a valid {KIND}: its config needs {expected:,} weights; it has {found:,}")
    # files written before value normalization existed have no statistics
    statistics = {f"value_head.{name}": statistic for name, statistic in initial_statistics().items()}
    return policy.model_copy(update={"weights": policy.weights | (statistics | policy.weights)})


def _check_extensions(path: Path, agent_config: object, env_config: object) -> None:
    """Raise CheckpointError if the policy or its map builder needs an extension that is not installed."""
    settings = agent_config if isinstance(agent_config, dict) else {}
    needed: list[tuple[Registry[Any], object]] = [
        (BACKBONES, settings.get("backbone")),
        (MEMORIES, settings.get("memory")),
        (OBSERVATION_PROCESSORS, settings.get("obs_process_func")),
        *((MAP_BUILDERS, table.get("name")) for table in _nested_tables(env_config) if table.get("type") == "Custom"),
    ]
    for registry, name in needed:
        if isinstance(name, str) and name not in registry:
            raise CheckpointError(
                f'{path} needs the {registry.kind} "{name}", which is not installed; install the package that provides '
                f"it, or register it in your program (available: {', '.join(registry.names()) or 'none'})"
            )


def _nested_tables(data: object) -> Iterator[dict[Any, Any]]:
    """Yield every dictionary in nested dictionaries and lists."""
    if isinstance(data, dict):
        yield data
    for inner in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _nested_tables(inner)


def _matching_weights(agent: MettaAgent, policy: PolicyFile, path: Path) -> dict[str, torch.Tensor]:
    """The weights in the file, remapped to the agent's environment; raises CheckpointError if they do not fit."""
    current, saved = agent.network_spec, policy.env_config.spec
    mismatches = [
        f"agent.{name} is {quoted(ours)} here and {quoted(theirs)} in the file"
        for name, ours in agent.config.architecture.items()
        if ours != (theirs := policy.agent_config.architecture[name])
    ]
    mismatches += _spec_mismatches(current, saved)
    if BACKBONES.is_custom(policy.agent_config.backbone):
        mismatches += [
            f"{kind} have different ids here, and the custom backbone "
            f'"{policy.agent_config.backbone}" may depend on ids'
            for kind in renumbered(saved, current)
        ]
    if list(agent.global_features) != policy.global_features:
        mismatches.append(f"global_features are {agent.global_features} here and {policy.global_features} in the file")
    weights = policy.weights
    if not mismatches:
        mismatches = row_mismatches(weights, saved, policy.agent_config)
    if not mismatches:
        weights = remap_rows(weights, policy.agent_config, saved, current)
        mismatches = _shape_mismatches(agent.state_dict(), weights)
    if mismatches:
        more = f", and {len(mismatches) - 3} more differences" if len(mismatches) > 3 else ""
        raise CheckpointError(f"{path} does not fit this agent: {'; '.join(mismatches[:3])}{more}")
    return weights


def _spec_mismatches(current: EnvSpec, saved: EnvSpec) -> list[str]:
    """Differences between environments that matching by name cannot resolve."""
    mismatches = [
        f"{name} is {ours} here and {theirs} in the file (metta.api.load_policy with env_config converts observations)"
        for name in ("observation_height", "observation_width")
        if (ours := getattr(current, name)) != (theirs := getattr(saved, name))
    ]
    scales = dict(zip(current.feature_names, current.feature_scales, strict=True))
    for name, theirs in zip(saved.feature_names, saved.feature_scales, strict=True):
        if scales.get(name, theirs) != theirs:
            mismatches.append(f"feature {name} is divided by {scales[name]:g} here and by {theirs:g} in the file")
    actions = flat_action_names(saved)
    if not set(actions).intersection(flat_action_names(current)):
        names = ", ".join(dict.fromkeys(name for name, *_ in actions))
        mismatches.append(f"none of the policy's actions ({names}) exists in this environment")
    return mismatches


def row_mismatches(weights: Mapping[str, torch.Tensor], spec: EnvSpec, config: AgentModelConfig) -> list[str]:
    """Weights that are missing in the file or do not have the size that the configs in the file require."""
    return [
        f"{name} is missing in the file"
        if name not in weights
        else f"{name} has shape {list(weights[name].shape)} in the file; dimension {dimension} must be {len(names)}"
        for name, (dimension, names) in row_names(spec, config).items()
        if name not in weights
        or not weights[name].is_floating_point()
        or weights[name].shape[dimension : dimension + 1] != (len(names),)
    ]


def _shape_mismatches(current: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor]) -> list[str]:
    mismatches = [f"{name} is missing in the file" for name in current if name not in saved]
    mismatches += [f"{name} in the file is unknown here" for name in saved if name not in current]
    mismatches += [
        f"{name} has shape {list(current[name].shape)} here and {list(saved[name].shape)} in the file"
        for name in current
        if name in saved and current[name].shape != saved[name].shape
    ]
    return mismatches


def _listed(names: Sequence[str]) -> str:
    """The first names, separated by commas, and the number of all others."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def _size(window: tuple[int, int]) -> str:
    return f"{window[0]} x {window[1]}"


def quoted(value: object) -> str:
    """The value in messages: texts in quotation marks."""
    return f'"{value}"' if isinstance(value, str) else str(value)
