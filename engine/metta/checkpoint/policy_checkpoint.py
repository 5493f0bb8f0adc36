"""Policy checkpoints: saving and loading the policies of a run or a team, also for other environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metta.agent.policy import MettaAgent
from metta.agent.team import Team, as_team, listed
from metta.agent.window import network_spec
from metta.checkpoint.file_format import write_torch_file
from metta.checkpoint.policy_file import (
    KIND,
    PolicyFile,
    SavedPolicy,
    checkpoint_content,
    checkpoint_name,
    read_policy_file,
)
from metta.checkpoint.weight_remapping import (
    flat_action_names,
    missing_actions,
    remap_rows,
    renumbered,
    row_names,
    unknown_names,
)
from metta.config.agent import BACKBONES, AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.env.token_features import FEATURE_SCALES, ITEM_PREFIX
from metta.config.loading.curriculum_tasks import make_tasks
from metta.config.validation.file_paths import user_path
from metta.errors import CheckpointError, ConfigError, UsageError
from metta.spaces import ActionSpace, ObservationSpace

MAX_LISTED = 8
"""Maximum number of names listed in a note; the others are counted."""


@dataclass(frozen=True)
class LoadedPolicy:
    """The policies rebuilt from a checkpoint file alone: one, or those of a run or team of several."""

    agents: Mapping[str, MettaAgent]
    """the policies by name; a single one may have an empty name"""
    team: Team
    """the same policies, with the agents that each of them plays; plays wherever a policy plays"""
    metadata: dict[str, Any]
    """the metadata given to `save_checkpoint`, and the `epoch`"""
    unknown: tuple[str, ...] = ()
    """names in the environment that the saved one lacks: objects and items it ignores, actions it never takes"""
    missing: tuple[str, ...] = ()
    """actions of the saved environment that the environment lacks; the policy takes the others instead"""

    @property
    def agent(self) -> MettaAgent:
        """The only policy. Raises UsageError, with their names, if there are several."""
        if len(self.agents) > 1:
            name = next(iter(self.agents))
            raise UsageError(
                f"the checkpoint holds several policies ({listed(self.agents)}); `team` plays with all of them, "
                f'load_policy(path, policy="{name}") loads one'
            )
        return next(iter(self.agents.values()))

    @property
    def env_config(self) -> EnvConfig:
        """The environment in which the policies play."""
        return next(iter(self.agents.values())).env_config

    @property
    def notes(self) -> tuple[str, ...]:
        """How the environment differs from that of the training, in sentences."""
        notes = []
        for name, agent in self.agents.items():
            specs = (agent.network_spec, agent.spec)
            trained, here = ((spec.observation_height, spec.observation_width) for spec in specs)
            if trained != here:
                seen = (min(trained[0], here[0]), min(trained[1], here[1]))
                part = f"the middle {_size(seen)} of {_size(here)}" if seen != here else _size(here)
                policy = f"the policy {name}".rstrip()
                notes.append(f"{policy} was trained with a window of {_size(trained)} cells; here it sees {part}")
        if self.unknown:
            notes.append(f"the policy was trained without these and ignores them: {_listed(self.unknown)}")
        if self.missing:
            notes.append(f"the policy was trained with these, which do not exist here: {_listed(self.missing)}")
        return tuple(notes)


def save_checkpoint(
    agent: MettaAgent | Team, path: str | Path, epoch: int = 0, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write `checkpoint_000100.pt` for epoch 100 into the directory `path`, which is created if it does not exist.

    The file holds the weights, the configs that rebuild agent and environment, and `metadata` (numbers, text, tensors,
    and lists and dictionaries of them); `torch.load(weights_only=True)` reads it. Of a `Team`, it holds all policies,
    and which agents each of them plays. Raises UsageError if `epoch` is negative, or if a policy of the team has no
    weights.
    """
    if epoch < 0:
        raise UsageError(f"epoch must be at least 0; got {epoch}")
    content = checkpoint_content(agent, epoch, metadata)
    directory = user_path(path)
    directory.mkdir(parents=True, exist_ok=True)
    write_torch_file(directory / checkpoint_name(epoch), KIND, content)


def load_checkpoint(agent: MettaAgent | Team, path: str | Path) -> dict[str, Any]:
    """Load the weights of a checkpoint into `agent`; returns its metadata, with `epoch`.

    Of a `Team`, the weights of each policy go to that of the same name. `FILE:NAME` names one policy of a file.

    Features, object types, items and actions are matched by name, so their order in the agent's environment may differ.
    The policy ignores objects and items, and never takes actions, that the saved environment lacks; where it would take
    an action that the agent's environment lacks, it takes one of the others. The loaded weights are also the reference
    of the l2-init loss: to resume a training with that loss exactly, restore `agent.initial_weights` afterwards.

    Raises CheckpointError, and does not change the agent, if the file is missing, damaged or not a policy checkpoint,
    if the policy in it has another observation window (`load_policy` converts observations), another architecture
    (`AgentModelConfig.architecture`) or no action that exists in the agent's environment, or if the file holds other
    policies than the team.
    """
    path = user_path(path)
    file, team = read_policy_file(path), as_team(agent)
    if not isinstance(agent, Team):
        file = file.only(path)
    if file.policies.keys() != team.policies.keys():
        theirs, ours = (listed(names) or "a policy without a name" for names in (file.policies, team.policies))
        raise CheckpointError(f"{path} holds {theirs}; the policies here are {ours}")
    agents = {name: player for name, player in team.policies.items() if isinstance(player, MettaAgent)}
    weights = {name: _matching_weights(each, file.policies[name], path, name) for name, each in agents.items()}
    for name, each in agents.items():
        each.load_state_dict(weights[name])
        each.update_initial_weights()
    return file.metadata | {"epoch": file.epoch}


def load_policy(
    path: str | Path,
    device: torch.device | None = None,
    env_config: EnvConfig | None = None,
    file: PolicyFile | None = None,
    policy: str = "",
) -> LoadedPolicy:
    """Load the policies in a checkpoint file, with agents built from the configs in the file.

    `policy`, or a path `FILE:NAME`, selects one of several policies. `env_config` replaces the saved environment, by
    default the evaluation world of the training, with its own actions; names are matched as in `load_checkpoint`. A
    policy sees the window with which it was trained: of a larger one the cells around the agent, of a smaller one all
    cells. `file` is the content that `read_policy_file` read from `path` before, since a run in training removes old
    policies (`checkpoint.keep_last`).
    Raises CheckpointError for the same reasons as `load_checkpoint`, except windows, or if there is no such policy.
    """
    path = user_path(path)
    file = file or read_policy_file(path)
    file = file.only(path, policy) if policy else file
    env_config = env_config or file.env_config.without_reserved
    agents = {}
    for name, saved in file.policies.items():
        agents[name] = agent = MettaAgent(
            ObservationSpace(env_config),
            ActionSpace(env_config),
            saved.global_features,
            device or torch.device("cpu"),
            saved.agent_config,
            network_spec(env_config.spec, saved.env_config.spec),
        )
        agent.load_state_dict(_matching_weights(agent, saved, path, name))
        agent.update_initial_weights()
    groups = {name: saved.groups for name, saved in file.policies.items() if saved.groups}
    members = {name: saved.member for name, saved in file.policies.items() if saved.member is not None}
    return LoadedPolicy(
        agents,
        Team(agents, groups, members),
        file.metadata | {"epoch": file.epoch},
        tuple(unknown_names(file.env_config.spec, env_config.spec)),
        tuple(missing_actions(file.env_config.spec, env_config.spec)),
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


def _matching_weights(agent: MettaAgent, policy: SavedPolicy, path: Path, name: str) -> dict[str, torch.Tensor]:
    """The weights of a policy in the file, remapped to the agent's environment.

    Raises CheckpointError if they do not fit.
    """
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
        which = f"the policy {name} of {path}" if name else path
        raise CheckpointError(f"{which} does not fit this agent: {'; '.join(mismatches[:3])}{more}")
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
        elif name not in scales and name not in FEATURE_SCALES and not name.startswith(ITEM_PREFIX):
            mismatches.append(f"the feature {name}, which the policy reads, does not exist here")
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
