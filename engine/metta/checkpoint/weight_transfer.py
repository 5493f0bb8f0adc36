"""Weights of a checkpoint as the start of new training, in another world and in another network: all those that fit."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from metta.agent.policy import MettaAgent
from metta.agent.window import WINDOW_FIELDS
from metta.checkpoint.policy_checkpoint import quoted, row_mismatches
from metta.checkpoint.policy_file import SavedPolicy, read_policy_file
from metta.checkpoint.weight_remapping import renumbered, row_names, select_rows, unknown_names
from metta.config.agent import BACKBONES
from metta.config.validation.file_paths import user_path
from metta.errors import CheckpointError

_KEEP_NEW_ROWS: Final = ("policy_head.output", "action_embedding", "backbone.cells")
"""Layers whose rows of new actions and cells keep the agent's weights; those of new features become zero."""

_PARTS: Final = {"ahead": "cell ahead", "action_embedding": "previous action", "extra_inputs": "previous reward"}
"""Parts of the network with other names in messages than in the code."""


@dataclass(frozen=True)
class WeightTransfer:
    """Which weights of a checkpoint an agent took over, and which did not fit; also the event of a run that did so."""

    path: Path
    """the checkpoint file"""
    num_loaded: int
    """number of the agent's weights that come from the checkpoint"""
    num_weights: int
    """number of the agent's weights"""
    new: tuple[str, ...]
    """what the checkpoint lacks: parts of the network, items, objects, groups and actions"""
    dropped: tuple[str, ...]
    """what only the checkpoint has"""
    differing: tuple[str, ...]
    """settings of network and window that differ, such as `agent.hidden_dim is 256 here and 128 in the file`"""
    policy: str = ""
    """name of the policy of the run that took them over; empty without `[policies]`"""


def transfer_weights(agent: MettaAgent, path: str | Path) -> WeightTransfer:
    """Load the weights of a checkpoint that fit `agent`, to train on in another world or with another network.

    Features, object types, items, actions and cells of the window are matched by name and position. A layer fits if its
    shape is then equal; other layers keep the weights of `agent`. New features have zero weights, so that the policy
    ignores them at first; new actions keep the weights of `agent`, so that they are explored (unlike in `load_policy`,
    where they are never taken). If everything fits, the policy acts as the saved one does.

    Running statistics of value normalization restart: they are folded into the value head, whose values stay the
    same. The reference of the l2-init loss becomes the new weights.

    `FILE:NAME` names one policy of a file with several. Raises CheckpointError, and does not change the agent, if the
    file is missing, damaged or not a policy checkpoint, if it holds several policies, or if no layer fits.
    """
    path = user_path(path)
    policy = read_policy_file(path).only(path).policies[""]
    saved, here = policy.env_config.spec, agent.network_spec
    if invalid := row_mismatches(policy.weights, saved, policy.agent_config):
        raise CheckpointError(f"{path} is not valid: {invalid[0]}")
    differing = tuple(_differences(agent, policy))
    current = agent.state_dict()
    loaded, num_new = _fitting(agent, policy, current)
    unfit = {_layer(name) for name in current if name not in loaded}
    loaded = {name: weight for name, weight in loaded.items() if _layer(name) not in unfit}
    if not loaded:
        raise CheckpointError(
            f"no weights of {path} fit this network: {'; '.join(differing)}; set these as in the file, "
            "or start without it"
        )
    agent.load_state_dict(current | loaded)
    agent.value_head.fold_statistics()
    agent.update_initial_weights()
    sizes = {name: weight.numel() for name, weight in agent.named_parameters()}
    return WeightTransfer(
        path,
        sum(sizes[name] - num_new.get(name, 0) for name in loaded if name in sizes),
        sum(sizes.values()),
        (*_part_names(current, loaded), *unknown_names(saved, here)),
        (*_part_names(policy.weights, loaded), *unknown_names(here, saved)),
        differing,
    )


def _fitting(
    agent: MettaAgent, policy: SavedPolicy, current: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The weights in the file, remapped to the agent's names, that have the shapes of `current`.

    Also the number of entries of each that are new.
    """
    unrelated = tuple(_unrelated_parts(agent, policy))
    rows = row_names(agent.network_spec, agent.config)
    saved_rows = row_names(policy.env_config.spec, policy.agent_config)
    fitting, num_new = {}, {}
    for name, weight in policy.weights.items():
        if name not in current or name.startswith(unrelated):
            continue
        weight = weight.to(current[name].device)
        unknown = torch.zeros(0, dtype=torch.int64, device=weight.device)
        dimension = 0
        if name in rows and name in saved_rows:
            dimension, names = saved_rows[name]
            weight, unknown = select_rows(weight, dimension, names, rows[name][1])
        if weight.shape != current[name].shape:
            continue
        if len(unknown):
            kept = current[name].index_select(dimension, unknown) * (_layer(name) in _KEEP_NEW_ROWS)
            weight = weight.index_copy(dimension, unknown, kept.to(weight.dtype))
            num_new[name] = kept.numel()
        fitting[name] = weight
    return fitting, num_new


def _unrelated_parts(agent: MettaAgent, policy: SavedPolicy) -> Iterator[str]:
    """Prefixes of weights that mean something else in the file, even where their shapes are equal."""
    ours, theirs = agent.config.architecture, policy.agent_config.architecture
    is_custom = BACKBONES.is_custom(agent.config.backbone)
    if ours["backbone"] != theirs["backbone"] or (is_custom and renumbered(policy.env_config.spec, agent.network_spec)):
        yield "backbone."
    if ours.get("memory") != theirs.get("memory"):
        yield "memory."
    if ours["critic"] != theirs["critic"]:
        yield "value_head.summary"
    if ours["use_prev_reward"] != theirs["use_prev_reward"] or agent.global_features != policy.global_features:
        yield "extra_inputs."


def _differences(agent: MettaAgent, policy: SavedPolicy) -> Iterator[str]:
    """Settings of network and observation window that differ, as sentences."""
    here, there = (
        {f"agent.{name}": value for name, value in config.architecture.items()}
        | {"agent.mask_actions": config.mask_actions}
        | {f"env.game.{name}": getattr(spec, name) for name in WINDOW_FIELDS}
        | {"global_features": features}
        for config, spec, features in (
            (agent.config, agent.network_spec, agent.global_features),
            (policy.agent_config, policy.env_config.spec, policy.global_features),
        )
    )
    for name, value in here.items():
        if value != there[name]:
            yield f"{name} is {quoted(value)} here and {quoted(there[name])} in the file"


def _layer(name: str) -> str:
    """The layer of a weight. Its weight and bias only work together, and so do value head and value statistics."""
    if re.fullmatch(r"value_head\.(mean|std|moments)", name):
        return "value_head.output"
    return re.sub(r"\b(weight|bias)_?", "", name).rstrip(".")


def _part_names(weights: Collection[str], loaded: Collection[str]) -> Iterator[str]:
    """Layers of `weights` that are not in `loaded`: `memory` if it is the whole part, else `policy head (output)`."""
    layers = dict.fromkeys(map(_layer, weights))
    kept = set(map(_layer, loaded))
    for part in dict.fromkeys(layer.partition(".")[0] for layer in layers):
        own = [layer for layer in layers if layer.partition(".")[0] == part]
        missing = [layer for layer in own if layer not in kept]
        name = _PARTS.get(part, part.replace("_", " "))
        if missing:
            inner = [layer.partition(".")[2] or layer for layer in missing]
            yield name if missing == own else f"{name} ({', '.join(inner)})"
