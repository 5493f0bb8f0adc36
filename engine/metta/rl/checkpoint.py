"""Policies on disk: weights with the configs that rebuild the agent and its world, and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from metta.agent.policy import MettaAgent, make_agent
from metta.config.agent import AgentModelConfig
from metta.config.env import EnvConfig
from metta.config.spec import EnvSpec
from metta.errors import CheckpointError
from metta.rl.torch_file import first_problem, read_torch_file, write_torch_file
from metta.spaces import ActionSpace, ObservationSpace

KIND = "policy checkpoint"

# Settings of the agent that change what the same weights compute; the others only change how they are trained.
_ARCHITECTURE = (
    "hidden_dim",
    "lstm_layers",
    "mlp_layers",
    "backbone",
    "forward_lstm",
    "use_prev_action",
    "use_prev_reward",
    "observation_types",
    "obs_scale",
    "obs_process_func",
)
# What gives a policy's inputs and outputs their meaning. The number of agents and the tokens' capacity may differ.
_MEANING = (
    "action_names",
    "max_action_args",
    "action_enabled",
    "feature_names",
    "feature_scales",
    "object_type_names",
    "group_ids",
    "observation_height",
    "observation_width",
)


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy rebuilt from nothing but its file."""

    agent: MettaAgent
    """with the world it plays in as its `env_config`"""
    metadata: dict[str, Any]
    """what was saved with it, and its `epoch`"""


class _PolicyFile(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", strict=True)

    epoch: int
    metadata: dict[Any, Any]
    agent_config: AgentModelConfig
    env_config: EnvConfig
    global_features: list[str]
    weights: dict[str, torch.Tensor]


def save_checkpoint(
    agent: MettaAgent, path: str | Path, epoch: int = 0, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write `checkpoint_000100.pt` for epoch 100 into the directory `path`, which is made if need be.

    It holds the weights, the configs that rebuild agent and world, and `metadata` (numbers, text, tensors, and
    lists and dictionaries of them); `torch.load(weights_only=True)` reads it.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "epoch": epoch,
        "metadata": dict(metadata or {}),
        "agent_config": agent.config.model_dump(),
        "env_config": agent.env_config.model_dump(exclude_none=True),
        "global_features": list(agent.global_features),
        "weights": agent.state_dict(),
    }
    write_torch_file(directory / checkpoint_name(epoch), KIND, content)


def load_checkpoint(agent: MettaAgent, path: str | Path) -> dict[str, Any]:
    """Load the weights of a checkpoint into `agent`; its metadata, with `epoch`.

    Raises CheckpointError, and leaves the agent as it was, if the file is missing, damaged or foreign, or if the
    policy in it reads other tokens, chooses among other actions, or is built otherwise than `agent`.
    """
    policy = _read(Path(path))
    _check_fit(Path(path), policy, agent)
    agent.load_state_dict(policy.weights)
    return policy.metadata | {"epoch": policy.epoch}


def load_policy(
    path: str | Path, device: torch.device | None = None, env_config: EnvConfig | None = None
) -> LoadedPolicy:
    """The policy in a checkpoint file, with an agent built from the configs in the file alone.

    `env_config` is a world to play in instead of its own. Raises CheckpointError, beside the reasons of
    `load_checkpoint`, if that world has other tokens or actions.
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
    _check_fit(Path(path), policy, agent)
    agent.load_state_dict(policy.weights)
    return LoadedPolicy(agent, policy.metadata | {"epoch": policy.epoch})


def checkpoint_name(epoch: int) -> str:
    """The file name of the policy after `epoch` epochs."""
    return f"checkpoint_{epoch:06d}.pt"


def checkpoint_paths(directory: Path) -> list[Path]:
    """The policy checkpoints in a directory, newest first."""
    return sorted(directory.glob("checkpoint_*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)


def _read(path: Path) -> _PolicyFile:
    if path.is_dir():
        newest = [*checkpoint_paths(path), *checkpoint_paths(path / "checkpoints"), path / checkpoint_name(100)][0]
        raise CheckpointError(f"{path} is a directory; name a checkpoint in it, such as {newest}")
    try:
        return _PolicyFile.model_validate(read_torch_file(path, KIND))
    except ValidationError as error:
        raise CheckpointError(f"{path} is not laid out as a {KIND}: {first_problem(error)}") from None


def _check_fit(path: Path, policy: _PolicyFile, agent: MettaAgent) -> None:
    """Raise CheckpointError with everything in which the policy in the file and `agent` differ."""
    differences = [
        f"agent.{name} is {_short(ours)} here and {_short(theirs)} there"
        for name in _ARCHITECTURE
        if (ours := getattr(agent.config, name)) != (theirs := getattr(policy.agent_config, name))
    ]
    differences += _differences_of_meaning(agent.spec, policy.env_config.spec)
    if list(agent.global_features) != policy.global_features:
        differences.append(f"global_features are {agent.global_features} here and {policy.global_features} there")
    if not differences:
        differences = _differences_of_shape(agent.state_dict(), policy.weights)
    if differences:
        more = f", and {len(differences) - 3} more differences" if len(differences) > 3 else ""
        raise CheckpointError(f"{path} does not fit this agent: {'; '.join(differences[:3])}{more}")


def _differences_of_meaning(here: EnvSpec, there: EnvSpec) -> list[str]:
    differences = []
    for name in _MEANING:
        ours, theirs = getattr(here, name), getattr(there, name)
        if ours != theirs and isinstance(ours, list):
            where = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            if where is None:
                differences.append(f"there are {len(ours)} {name} here and {len(theirs)} there")
            else:
                differences.append(f"{name}[{where}] is {_short(ours[where])} here and {_short(theirs[where])} there")
        elif ours != theirs:
            differences.append(f"{name} is {ours} here and {theirs} there")
    return differences


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
