"""Remapping of a policy's weights to another environment, in which the same names have different indices.

Weights are indexed as in the policy's environment: items and actions in the order of their lists, object types by their
ids. Another environment may order the same names differently, and may have more or fewer of them.

One case is not remapped: at an episode's first step the tokens show action 0 as the previous action, which may be a
different action in the other environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from metta.agent.tokens import channel_names
from metta.config.agent import AgentModelConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.env.token_features import ITEM_PREFIX

Names = Sequence[tuple[object, ...]]

UNKNOWN_ACTION_BIAS: Final = -1e4
"""Bias of the logit of an action that the policy does not know: low enough never to be sampled, without overflow."""

_LOGIT_BIAS: Final = "policy_head.output.bias"


def row_names(spec: EnvSpec, config: AgentModelConfig) -> dict[str, tuple[int, Names]]:
    """Map each weight whose size depends on the environment to that dimension and the names of its indices.

    The weights of custom backbones are not included; see `renumbered`.
    """
    channels = channel_names(spec)
    actions = flat_action_names(spec)
    rows: dict[str, tuple[int, Names]] = {
        "policy_head.output.weight": (0, actions),
        _LOGIT_BIAS: (0, actions),
    }
    if config.use_cell_ahead:
        rows["ahead"] = (0, channels)
    if config.use_prev_action:
        rows["action_embedding.weight"] = (0, [*actions, ("other",)])
    if config.backbone == "cnn":
        rows["backbone.convolution.weight"] = (1, channels)
    elif config.backbone == "attention":
        rows["backbone.channels.weight"] = (0, channels)
        rows["backbone.cells.weight"] = (0, _cell_offsets(spec))
    elif config.backbone == "mlp":
        rows["backbone.table"] = (0, [(*cell, *channel) for cell in _cell_offsets(spec) for channel in channels])
    return rows


def _cell_offsets(spec: EnvSpec) -> list[tuple[int, int]]:
    """`[cells]`: (rows, cols) from the agent to each cell of its window."""
    height, width = spec.observation_height, spec.observation_width
    return [(row - height // 2, col - width // 2) for row in range(height) for col in range(width)]


def flat_action_names(spec: EnvSpec) -> list[tuple[str, int, int]]:
    """`[actions]`: (action name, its largest argument, argument) of each logit.

    With another largest argument an action of the same name does something else: `rotate` to a direction, or by an
    angle.
    """
    return [
        (spec.action_names[action], spec.max_action_args[action], argument) for action, argument in spec.flat_actions
    ]


def remap_rows(
    weights: Mapping[str, Tensor], config: AgentModelConfig, source: EnvSpec, target: EnvSpec
) -> dict[str, Tensor]:
    """Remap the weights of a policy made for `source` so that it computes the same in environments of `target`.

    Channels that `source` lacks have zero weights; actions that it lacks are never sampled. The probabilities of
    actions that `target` lacks (see `missing_actions`) go to the others in proportion, as with a mask on the logits
    (Huang and Ontanon 2022, arXiv:2006.14171). At least one action of `source` must exist in `target`.
    """
    remapped = dict(weights)
    target_rows = row_names(target, config)
    for name, (dimension, names) in row_names(source, config).items():
        rows, unknown = select_rows(weights[name], dimension, names, target_rows[name][1])
        remapped[name] = rows.index_fill_(dimension, unknown, UNKNOWN_ACTION_BIAS if name == _LOGIT_BIAS else 0.0)
    return remapped


def select_rows(weight: Tensor, dimension: int, names: Names, target: Names) -> tuple[Tensor, Tensor]:
    """A copy of a weight with the indices `target` instead of `names`, and those that `names` lacks, `[unknown] int64`.

    The rows of the latter are arbitrary.
    """
    index_of = {row: index for index, row in enumerate(names)}
    indices = torch.tensor([index_of.get(row, -1) for row in target], dtype=torch.int64, device=weight.device)
    return weight.index_select(dimension, indices.clamp(min=0)), (indices < 0).nonzero().squeeze(1)


def missing_actions(source: EnvSpec, target: EnvSpec) -> list[str]:
    """The actions of `source` that do not exist in `target`, such as `action attack`."""
    known = set(flat_action_names(target))
    return list(dict.fromkeys(f"action {action[0]}" for action in flat_action_names(source) if action not in known))


def unknown_names(source: EnvSpec, target: EnvSpec) -> list[str]:
    """Names in `target` that `source` lacks and its policies ignore: `item coal`, `group 2`, `action swap`."""
    known = set(map(_subject, channel_names(source)))
    unseen = dict.fromkeys(name for channel in channel_names(target) if (name := _subject(channel)) not in known)
    return [*unseen, *missing_actions(target, source)]


def renumbered(source: EnvSpec, target: EnvSpec) -> list[str]:
    """The kinds of names whose ids differ; a custom backbone, which may depend on ids, then cannot be remapped."""
    fields = {"features": "feature_names", "object types": "object_type_names", "groups": "group_ids"}
    return [kind for kind, field in fields.items() if getattr(source, field) != getattr(target, field)]


def _subject(channel: tuple[object, ...]) -> str:
    """The item, object, group or feature that a channel belongs to, such as `item coal`."""
    feature, *value = map(str, channel)
    if feature.startswith(ITEM_PREFIX):
        return f"item {feature.removeprefix(ITEM_PREFIX)}"
    kinds = {"type_id": "object", "agent:group": "group"}
    return f"{kinds[feature]} {value[0]}" if feature in kinds else f"feature {feature}"
