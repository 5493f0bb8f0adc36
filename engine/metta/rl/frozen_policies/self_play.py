"""Self-play: the pool of frozen policies, which control the opponents in the training worlds.

In each world some agents are learners, controlled by the policy in training. Others are opponents, controlled by one
frozen policy of the pool. When an episode starts, the opponents (at random or by group) and their policy are chosen
again, and the recurrent memories of all agents are cleared.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from metta.agent.policy import MettaAgent, check_policy_fits
from metta.config.env.env_spec import EnvSpec
from metta.config.self_play import SelfPlayConfig
from metta.errors import CheckpointError, UsageError

OPPONENTS = "opponents"
"""Name of the directory of frozen policies, inside the checkpoint directory."""

GIVEN = "given_"
"""Start of the names of policies from files; a number follows."""


@dataclass
class FrozenPolicy:
    """A policy of the pool, whose weights never change."""

    name: str
    """`given_000` for the first file of `self_play.policies`, `epoch_000010` for the snapshot after epoch 10"""
    agent: MettaAgent

    @property
    def epoch(self) -> int | None:
        """The epoch after which the policy in training was copied; None for a policy from a file."""
        return snapshot_epoch(self.name)

    @property
    def number(self) -> int:
        """A number that no other policy of the run has: the epoch of a snapshot, below 0 for a policy from a file."""
        return -1 - int(self.name.removeprefix(GIVEN)) if self.epoch is None else self.epoch


def snapshot_epoch(name: str) -> int | None:
    """The epoch in a snapshot's name, such as 10 for `epoch_000010`; None for any other name."""
    match = re.fullmatch(r"epoch_([0-9]+)", name)
    return int(match[1]) if match else None


def opponent_file(name: str) -> str:
    """Path of the file of a frozen policy, relative to the checkpoint directory."""
    return f"{OPPONENTS}/{name}.pt"


def check_opponent_names(names: Sequence[str]) -> None:
    """Raise CheckpointError for an invalid name, which as part of a path could lead to another directory."""
    for name in names:
        if not re.fullmatch(rf"({GIVEN}|epoch_)[0-9]{{1,15}}", name):
            raise CheckpointError(
                f'its opponents contain the invalid name "{name}"; names have the form given_000 or epoch_000100'
            )


class OpponentPool:
    """The frozen policies: those from files, and the newest `pool_size` snapshots of the policy in training."""

    def __init__(self, config: SelfPlayConfig, policies: Sequence[FrozenPolicy]):
        self.config = config
        self.policies = list(policies)
        """the policies of the pool, and evicted snapshots against which episodes still run; snapshots by epoch"""

    def add_snapshot(self, epoch: int, agent: MettaAgent) -> None:
        """Add a copy of the policy. In a full pool, it evicts the oldest snapshot."""
        frozen = copy.deepcopy(agent).to(agent.device).requires_grad_(False)  # `to` joins the weights of LSTMs again
        frozen.initial_weights = {}
        self.policies.append(FrozenPolicy(f"epoch_{epoch:06d}", frozen))

    @property
    def evicted(self) -> list[FrozenPolicy]:
        """The snapshots that no new episode is played against: all but the newest `pool_size`, oldest first."""
        return self._snapshots()[: -self.config.pool_size]

    def remove_evicted(self, in_use: Collection[int]) -> None:
        """Remove the evicted snapshots, except those with the numbers `in_use`."""
        removed = {policy.number for policy in self.evicted} - set(in_use)
        self.policies = [policy for policy in self.policies if policy.number not in removed]

    def sample(self, generator: torch.Generator) -> FrozenPolicy:
        """Sample the policy of an episode's opponents: the newest snapshot with probability `newest_share`.

        Otherwise, or without a snapshot, the policy is uniform over the pool.
        """
        newest, uniform = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        snapshots = self._snapshots()
        if snapshots and newest < self.config.newest_share:
            return snapshots[-1]
        evicted = {policy.number for policy in self.evicted}
        current = [policy for policy in self.policies if policy.number not in evicted]
        return current[int(uniform * len(current))]

    @property
    def uses_action_masks(self) -> bool:
        """Whether a policy of the pool uses action masks."""
        return any(policy.agent.uses_action_masks for policy in self.policies)

    def check_fits(self, spec: EnvSpec) -> None:
        """Raise UsageError if the pool is empty, or a policy was trained for another observation or action space."""
        if not self.policies:
            raise UsageError("the pool of opponents is empty: add_snapshot(0, agent) adds a copy of an agent")
        for policy in self.policies:
            check_policy_fits(policy.agent, spec)

    def _snapshots(self) -> list[FrozenPolicy]:
        """The snapshots, oldest first."""
        return sorted(
            (policy for policy in self.policies if policy.epoch is not None), key=lambda policy: policy.number
        )
