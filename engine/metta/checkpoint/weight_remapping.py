"""What single rows of a policy's weights stand for, by name, so that they find their place in another world.

A policy numbers what it can see and do as its world does: items and actions in the order of their lists, types by their
ids. Another world may number the same things otherwise, know more of them, or fewer.

One thing has no name in tokens: at an episode's first step they show action 0 as the one before, whichever that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from metta.agent.tokens import channel_names
from metta.config.agent import AgentModelConfig
from metta.config.env.env_spec import EnvSpec

Names = Sequence[tuple[object, ...]]

NEVER: Final = -1e4
"""Bias of the logit of an action that a policy does not know: it is never sampled, and nothing overflows."""

_LOGIT_BIAS = "policy_head.output.bias"


def row_names(spec: EnvSpec, config: AgentModelConfig) -> dict[str, tuple[int, Names]]:
    """By weight whose size goes with the world: the dimension that does, and what each index of it stands for.

    Of a backbone of one's own nobody knows; see `other_numbers`.
    """
    channels = channel_names(spec)
    pairs = pair_names(spec)
    rows: dict[str, tuple[int, Names]] = {
        "policy_head.output.weight": (0, pairs),
        _LOGIT_BIAS: (0, pairs),
    }
    if config.use_cell_ahead:
        rows["ahead"] = (0, channels)
    if config.use_prev_action:
        rows["action_embedding.weight"] = (0, [*pairs, ("none of them",)])
    if config.backbone == "cnn":
        rows["backbone.convolution.weight"] = (1, channels)
    elif config.backbone == "attention":
        rows["backbone.channels.weight"] = (0, channels)
    elif config.backbone == "mlp":
        cells = range(spec.observation_height * spec.observation_width)
        rows["backbone.table"] = (0, [(cell, *channel) for cell in cells for channel in channels])
    return rows


def pair_names(spec: EnvSpec) -> list[tuple[str, int]]:
    """(action name, argument) of each logit."""
    return [(spec.action_names[action], argument) for action, argument in spec.flat_actions]


def remap_rows(
    weights: Mapping[str, Tensor], config: AgentModelConfig, there: EnvSpec, here: EnvSpec
) -> dict[str, Tensor]:
    """The weights of a policy made for worlds of `there` as they do the same in worlds of `here`.

    What is unknown there adds nothing to the features; actions unknown there are never chosen. The caller has seen to
    it that all actions known there are known here (`missing_pairs`).
    """
    moved = dict(weights)
    names_here = row_names(here, config)
    for name, (dimension, names) in row_names(there, config).items():
        places = {row: index for index, row in enumerate(names)}
        wanted = names_here[name][1]
        source = torch.tensor([places.get(row, -1) for row in wanted], dtype=torch.int64)
        rows = weights[name].index_select(dimension, source.clamp(min=0).to(weights[name].device))
        unknown = (source < 0).nonzero().squeeze(1).to(rows.device)
        moved[name] = rows.index_fill_(dimension, unknown, NEVER if name == _LOGIT_BIAS else 0.0)
    return moved


def missing_pairs(there: EnvSpec, here: EnvSpec) -> list[str]:
    """What a policy made for `there` may do and nobody can do `here`, in words."""
    known = set(pair_names(here))
    return [f"{name} with argument {argument}" for name, argument in pair_names(there) if (name, argument) not in known]


def unknown_here(there: EnvSpec, here: EnvSpec) -> list[str]:
    """What there is in worlds of `here` that a policy made for `there` neither sees nor does, in words."""
    known = set(map(_thing, channel_names(there)))
    unseen = dict.fromkeys(entity for channel in channel_names(here) if (entity := _thing(channel)) not in known)
    actions = set(pair_names(there))
    undone = dict.fromkeys(f"action {pair[0]}" for pair in pair_names(here) if pair not in actions)
    return [*unseen, *undone]


def other_numbers(there: EnvSpec, here: EnvSpec) -> list[str]:
    """What two worlds number otherwise, in words: who reads tokens by number can play only where it is nothing."""
    names = {"features": "feature_names", "types of objects": "object_type_names", "groups": "group_ids"}
    return [words for words, name in names.items() if getattr(there, name) != getattr(here, name)]


def _thing(channel: tuple[object, ...]) -> str:
    """What a channel is about, in words; for an item it is the same whatever the count."""
    feature, *value = map(str, channel)
    if feature.startswith("inv:"):
        return f"item {feature.removeprefix('inv:')}"
    kinds = {"type_id": "object", "agent:group": "group"}
    return f"{kinds[feature]} {value[0]}" if feature in kinds else f"feature {feature}"
