"""Minibatches: the tensors of a gradient step, gathered from the experience."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metta.agent.memory.state import Memory
from metta.agent.sparse_tokens import PackedTokens


@dataclass(frozen=True)
class Labels:
    """The teacher's choices and values in the steps of a minibatch (kickstarting)."""

    probabilities: Tensor
    """`[horizon, segments, actions] float32`: probabilities of the teacher's actions; 0 where it was not asked"""
    values: Tensor | None
    """`[horizon, segments] float32`; None unless the teacher of every task is a network"""
    weights: Tensor
    """`[segments] float32`: 1 / fraction of labeled agents, or 0 for agents that are not labeled"""


@dataclass(frozen=True)
class Minibatch:
    """Segments of `horizon` consecutive steps of an agent, in time-major tensors, on the agent's device."""

    observations: PackedTokens
    """of `horizon * segments` agents: those of all segments at the first step, then those at the second, ..."""
    action_index: Tensor
    """`[horizon, segments] int64`: indices of the actions taken, in `EnvSpec.flat_actions`"""
    log_probs: Tensor
    """`[horizon, segments] float32`: log-probabilities of these actions under the policy that collected them"""
    values: Tensor
    """`[horizon, segments] float32`: values from the policy that collected the steps"""
    advantages: Tensor
    """`[horizon, segments] float32`"""
    returns: Tensor
    """`[horizon, segments] float32`: value targets"""
    episode_starts: Tensor
    """`[horizon, segments] bool`: first step of an episode, before which the memory is cleared"""
    memory: Memory
    """the policy's memory before the first step"""
    weights: Tensor | None
    """`[segments] float32`: importance weights; None without prioritized sampling"""
    rows: Tensor
    """`[horizon, segments] int64`: indices into the experience's arrays, flattened to `[steps * agents, ...]`"""
    labels: Labels | None = None
    """what the teacher would do; None without a teacher"""
    action_masks: Tensor | None = None
    """`[horizon, segments, actions] bool`: actions that could succeed; None unless the agent uses action masks"""
    groups: Tensor | None = None
    """`[horizon, worlds, learners] int16`: groups of the agents, if the segments are those of whole worlds"""
    start_steps: list[bool] | None = None
    """`[horizon]`: whether any segment has an episode start at a step, in host memory"""


def segments_of(units: Tensor, together: int) -> Tensor:
    """`[units, together]`: the segments of each of some `units` of consecutive segments, all by index."""
    return units.unsqueeze(1) * together + torch.arange(together)
