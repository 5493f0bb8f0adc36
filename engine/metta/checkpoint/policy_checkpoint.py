"""Policies on disk: weights with the configs that rebuild the agent and its world, and metadata."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from metta.agent.heads import initial_statistics
from metta.agent.policy import MettaAgent, make_agent
from metta.checkpoint.file_format import read_torch_file, write_torch_file
from metta.checkpoint.weight_remapping import missing_pairs, other_numbers, remap_rows, row_names, unknown_here
from metta.config.agent import BACKBONES, OBSERVATION_PROCESSORS, AgentModelConfig
from metta.config.curriculum import AnyCurriculum
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.env.map_generators import MAP_BUILDERS
from metta.config.loading.curriculum_tasks import make_tasks
from metta.config.loading.renamed_keys import rename_keys
from metta.config.plan.network_size import num_weights
from metta.config.validation.error_messages import first_problem
from metta.errors import CheckpointError, ConfigError, UsageError
from metta.extensions import Registry
from metta.spaces import ActionSpace, ObservationSpace

KIND = "policy checkpoint"

# What gives a policy's inputs their shape. Features, types, items and actions find their places by name.
_WINDOW = ("observation_height", "observation_width")


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy rebuilt from nothing but its file."""

    agent: MettaAgent
    """with the world it plays in as its `env_config`"""
    metadata: dict[str, Any]
    """what was saved with it, and its `epoch`"""
    unknown: tuple[str, ...] = ()
    """what there is in its world that it was not made for: objects and items it does not see, actions it never takes"""


class _TasksOfFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    names: list[str]
    env_configs: list[EnvConfig]
    config: AnyCurriculum


class _PolicyFile(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", strict=True)

    epoch: int
    metadata: dict[Any, Any]
    agent_config: AgentModelConfig
    env_config: EnvConfig
    global_features: list[str]
    weights: dict[str, torch.Tensor]
    curriculum: _TasksOfFile | None = None
    """the tasks it was trained in; None for one alone, and in files of before there was this"""


def save_checkpoint(
    agent: MettaAgent, path: str | Path, epoch: int = 0, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write `checkpoint_000100.pt` for epoch 100 into the directory `path`, which is made if need be.

    It holds the weights, the configs that rebuild agent and world, and `metadata` (numbers, text, tensors, and
    lists and dictionaries of them); `torch.load(weights_only=True)` reads it.
    """
    if epoch < 0:
        raise UsageError(f"epoch must be at least 0; got {epoch}")
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    write_torch_file(directory / checkpoint_name(epoch), KIND, checkpoint_content(agent, epoch, metadata))


def checkpoint_content(
    agent: MettaAgent,
    epoch: int = 0,
    metadata: Mapping[str, Any] | None = None,
    curriculum: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a checkpoint file holds, with the `Curriculum.description` it is trained by where that has several tasks.

    The weights are the agent's own, not copies.
    """
    return {
        "epoch": epoch,
        "metadata": dict(metadata or {}),
        "agent_config": agent.config.model_dump(),
        "env_config": agent.env_config.model_dump(exclude_none=True),
        "global_features": list(agent.global_features),
        "weights": agent.state_dict(),
        **({} if curriculum is None else {"curriculum": dict(curriculum)}),
    }


def load_checkpoint(agent: MettaAgent, path: str | Path) -> dict[str, Any]:
    """Load the weights of a checkpoint into `agent`; its metadata, with `epoch`.

    Features, object types, items and actions are those of the same name, wherever they stand in the lists of the
    agent's world. What that world has beside them adds nothing to what the policy sees, and is never done.
    Raises CheckpointError, and leaves the agent as it was, if the file is missing, damaged or foreign, or if the
    policy in it has another window, takes actions that there are not here, or is built otherwise than `agent`.
    """
    policy = _read(Path(path))
    agent.load_state_dict(_weights_for(agent, policy, Path(path)))
    return policy.metadata | {"epoch": policy.epoch}


def load_policy(
    path: str | Path, device: torch.device | None = None, env_config: EnvConfig | None = None
) -> LoadedPolicy:
    """The policy in a checkpoint file, with an agent built from the configs in the file alone.

    `env_config` is a world to play in instead of its own, where it finds by name what it knows, as in
    `load_checkpoint`. Raises CheckpointError for the same reasons.
    """
    policy = _read(Path(path))
    env_config = env_config or policy.env_config
    agent = make_agent(
        observation_space=ObservationSpace(env_config),
        action_space=ActionSpace(env_config),
        global_features=policy.global_features,
        device=device or torch.device("cpu"),
        config=policy.agent_config,
    )
    agent.load_state_dict(_weights_for(agent, policy, Path(path)))
    unknown = tuple(unknown_here(policy.env_config.spec, agent.spec))
    return LoadedPolicy(agent, policy.metadata | {"epoch": policy.epoch}, unknown)


def trained_tasks(path: str | Path) -> dict[str, EnvConfig]:
    """The worlds of the tasks that the policy in a file was trained in, by name; its own where it had no curriculum.

    Raises CheckpointError for a file that holds none that can be.
    """
    policy = _read(Path(path))
    if policy.curriculum is None:
        return {"its own world": policy.env_config}
    names, worlds = policy.curriculum.names, policy.curriculum.env_configs
    if len(names) != len(worlds) or not names:
        raise CheckpointError(f"{path} has {len(names)} names of scenes for {len(worlds)} worlds")
    try:
        return make_tasks(policy.curriculum.config, list(zip(names, worlds, strict=True))).by_name
    except ConfigError as error:
        raise CheckpointError(f"{path} names tasks that cannot be: {error}") from None


def checkpoint_name(epoch: int) -> str:
    """The file name of the policy after `epoch` epochs."""
    return f"checkpoint_{epoch:06d}.pt"


def checkpoint_paths(directory: Path) -> list[Path]:
    """The policy checkpoints in a directory, newest first."""
    return sorted(directory.glob("checkpoint_*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)


def _read(path: Path) -> _PolicyFile:
    if os.path.isdir(path):  # which takes any name, however long
        newest = [*checkpoint_paths(path), *checkpoint_paths(path / "checkpoints"), path / checkpoint_name(100)][0]
        raise CheckpointError(f"{path} is a directory; name a checkpoint in it, such as {newest}")
    content = read_torch_file(path, KIND)
    env_configs = [content.get("env_config"), content.get("curriculum")]
    rename_keys({"agent": content.get("agent_config"), "env": {"map_builder": env_configs}}, str(path))
    _check_parts_are_there(path, content.get("agent_config"), content.get("env_config"))
    try:
        policy = _PolicyFile.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{path} is not laid out as a {KIND}: {first_problem(error)}") from None
    # before any network is made: the config alone could ask for one of any size
    asked = num_weights(policy.agent_config, policy.env_config.spec)
    held = sum(weight.numel() for weight in policy.weights.values())
    if held < asked:
        raise CheckpointError(
            f"{path} is not sound: its config is of a network of {asked:,} weights, and it has {held:,}"
        )
    # files from before there was a normalization of values have none of its statistics
    plain = {f"value_head.{name}": statistic for name, statistic in initial_statistics().items()}
    return policy.model_copy(update={"weights": plain | policy.weights})


def _check_parts_are_there(path: Path, agent_config: object, env_config: object) -> None:
    """Raise CheckpointError, saying what is missing, if the policy has a part of somebody's own that is not here."""
    settings = agent_config if isinstance(agent_config, dict) else {}
    named: list[tuple[Registry[Any], object]] = [
        (BACKBONES, settings.get("backbone")),
        (OBSERVATION_PROCESSORS, settings.get("obs_process_func")),
        *((MAP_BUILDERS, table.get("name")) for table in _tables(env_config) if table.get("type") == "Custom"),
    ]
    for registry, name in named:
        if isinstance(name, str) and name not in registry:
            raise CheckpointError(
                f'{path} needs the {registry.kind} "{name}", which is not here; install the package that '
                f"has it, or register it in your program (here are: {', '.join(registry.names()) or 'none'})"
            )


def _tables(data: object) -> Iterator[dict[Any, Any]]:
    """Every table in nested data."""
    if isinstance(data, dict):
        yield data
    for inner in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _tables(inner)


def _weights_for(agent: MettaAgent, policy: _PolicyFile, path: Path) -> dict[str, torch.Tensor]:
    """The weights in the file, each row where `agent` looks for it; CheckpointError where the two do not fit."""
    differences = [
        f"agent.{name} is {_short(ours)} here and {_short(theirs)} there"
        for name, ours in agent.config.architecture.items()
        if ours != (theirs := policy.agent_config.architecture[name])
    ]
    here, there = agent.spec, policy.env_config.spec
    differences += _differences_of_meaning(here, there)
    if BACKBONES.is_custom(policy.agent_config.backbone):
        differences += [
            f'{entities} have other numbers here, and the backbone "{policy.agent_config.backbone}" reads numbers'
            for entities in other_numbers(there, here)
        ]
    if list(agent.global_features) != policy.global_features:
        differences.append(f"global_features are {agent.global_features} here and {policy.global_features} there")
    weights = policy.weights
    if not differences:
        differences = _differences_of_rows(weights, there, policy.agent_config)
    if not differences:
        weights = remap_rows(weights, policy.agent_config, there, here)
        differences = _differences_of_shape(agent.state_dict(), weights)
    if differences:
        more = f", and {len(differences) - 3} more differences" if len(differences) > 3 else ""
        raise CheckpointError(f"{path} does not fit this agent: {'; '.join(differences[:3])}{more}")
    return weights


def _differences_of_meaning(here: EnvSpec, there: EnvSpec) -> list[str]:
    differences = [
        f"{name} is {ours} here and {theirs} there"
        for name in _WINDOW
        if (ours := getattr(here, name)) != (theirs := getattr(there, name))
    ]
    scales = dict(zip(here.feature_names, here.feature_scales, strict=True))
    for name, theirs in zip(there.feature_names, there.feature_scales, strict=True):
        if scales.get(name, theirs) != theirs:
            differences.append(f"feature {name} is divided by {scales[name]:g} here and by {theirs:g} there")
    differences += [f"it may {pair}, which nobody can do here" for pair in missing_pairs(there, here)]
    return differences


def _differences_of_rows(weights: Mapping[str, torch.Tensor], there: EnvSpec, config: AgentModelConfig) -> list[str]:
    """Weights in a file that are not as large as the world in the same file makes them."""
    return [
        f"{name} is missing there"
        if name not in weights
        else f"{name} is {list(weights[name].shape)} there, in a world that asks for {len(names)}"
        for name, (dimension, names) in row_names(there, config).items()
        if name not in weights
        or not weights[name].is_floating_point()
        or weights[name].shape[dimension : dimension + 1] != (len(names),)
    ]


def _differences_of_shape(here: Mapping[str, torch.Tensor], there: Mapping[str, torch.Tensor]) -> list[str]:
    differences = [f"{name} is missing there" for name in here if name not in there]
    differences += [f"{name} is unknown here" for name in there if name not in here]
    differences += [
        f"{name} is {list(here[name].shape)} here and {list(there[name].shape)} there"
        for name in here
        if name in there and here[name].shape != there[name].shape
    ]
    return differences


def _short(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
