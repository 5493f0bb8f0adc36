"""Kickstarting: the teacher labels what the learners observe with the probabilities of its actions and its values.

The policy in training acts, and the teacher, which has its own memory, says what it would do there (DAgger, Ross et
al. 2011, arXiv:1011.0686). The teacher is any `Policy`, and each task of the worlds has its own, since a scripted
policy is made for one config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metta.agent.devices import to_device
from metta.agent.policy import MettaAgent, Policy, PolicyOutput, reads_groups
from metta.agent.sparse_tokens import PackedTokens
from metta.baselines.scripted import ScriptedPolicy
from metta.world.episodes import INVERSE_GOLDEN_RATIO


def labeled_agents(agents: int, share: float, together: int = 1) -> Tensor:
    """`[agents] bool`: the agents that the teacher labels, a fraction `share` of them and at least one.

    They are spread evenly (a Weyl sequence), over the worlds and over the positions within a world, or over units of
    `together` consecutive agents: of all learners of a world, if values of the teacher depend on them. An agent is
    labeled at every step or never, because the teacher's memory needs whole episodes.
    """
    return torch.from_numpy((np.arange(agents // together) * INVERSE_GOLDEN_RATIO % 1 < share).repeat(together))


class Teacher:
    """The teacher of the learners of one world batch: its policies, and their memories.

    `policies` has one policy for each task, or a single one for all; tasks may share a policy. `is_labeled [learners]`
    marks the learners that it labels. Each policy has a memory for all of them. At the start of an episode with another
    task, an agent gets another policy, whose memory of the agent is cleared then.
    """

    def __init__(self, policies: Sequence[Policy], is_labeled: Tensor, learners_per_world: int):
        self.rows = is_labeled.nonzero().flatten()
        """`[labeled] int64`: indices of the labeled learners"""
        self.policies = list(dict.fromkeys(policies))
        self._learners_per_world = learners_per_world
        self._world = self.rows.numpy() // learners_per_world
        self._policy_of_task = np.array([self.policies.index(policy) for policy in policies])
        self.memories = [policy.initial_memory(len(self.rows)) for policy in self.policies]

    @torch.no_grad()
    def label(
        self,
        observations: PackedTokens,
        episode_starts: Tensor,
        tasks: np.ndarray,
        generator: torch.Generator,
        action_masks: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Probabilities of the teacher's actions, `[labeled, actions] float32`, and its values, `[labeled] float32`.

        `observations` of the labeled agents, `episode_starts [labeled] bool`, `tasks [worlds] int64`,
        `action_masks [labeled, actions] bool`, which only the policies that use masks need, `groups [labeled]`, which
        only those need whose values depend on them; all in host memory. The results are on the device of the policies.
        """
        labeled, result_device = len(self.rows), self.memories[0].device
        probabilities = torch.zeros(labeled, len(self.policies[0].spec.flat_actions), device=result_device)
        values = torch.zeros(labeled, device=result_device)
        policy_of_agent = self._policy_of_task[tasks[self._world] if len(self._policy_of_task) > 1 else 0]
        for index, policy in enumerate(self.policies):
            memory = self.memories[index]
            agents = torch.from_numpy(np.broadcast_to(policy_of_agent == index, labeled).nonzero()[0])
            if not len(agents):
                continue
            is_alone = len(agents) == labeled
            device = memory.device
            in_result, on_device = to_device(agents, result_device), to_device(agents, device)
            masks = None
            if action_masks is not None and policy.uses_action_masks:
                masks = to_device(action_masks[agents], device)
            act: Callable[..., PolicyOutput] = policy.act
            if groups is not None and reads_groups(policy):
                of_worlds = groups[agents].view(-1, self._learners_per_world)
                act = partial(act, groups=to_device(of_worlds, device))
            output = act(
                _readable(policy, observations if is_alone else observations.select(agents)).to(device),
                memory if is_alone else memory.select(on_device),
                to_device(episode_starts[agents], device),
                generator,
                action_masks=masks,
            )
            if is_alone:
                self.memories[index] = output.memory
            else:
                memory.assign(on_device, output.memory)
            probabilities[in_result] = _probabilities(policy, output).to(result_device)
            values[in_result] = output.values.to(result_device)
        return probabilities, values

    def state(self) -> list[dict[str, Tensor]]:
        """The memory of each policy, as tensors."""
        return [memory.state() for memory in self.memories]

    def load_state(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """Restore the memories that `state()` returned."""
        self.memories = [memory.restored(saved) for memory, saved in zip(self.memories, state, strict=True)]


def among_allowed(probabilities: Tensor, action_masks: Tensor) -> Tensor:
    """The teacher's distribution over the actions that `action_masks [labeled, actions] bool` allow to the student.

    It is zero where all actions that the teacher may take are masked: such a step teaches nothing.
    """
    allowed = probabilities * action_masks
    return allowed / allowed.sum(-1, keepdim=True).clamp(min=torch.finfo(allowed.dtype).tiny)


def _readable(policy: Policy, observations: PackedTokens) -> Any:
    """The observations as `policy.act` reads them: packed if it is a network or the scripted policy, else padded."""
    reads_packed = isinstance(policy, MettaAgent | ScriptedPolicy)
    return observations if reads_packed else observations.padded(policy.spec.num_observation_tokens)


def _probabilities(policy: Policy, output: PolicyOutput) -> Tensor:
    """`[agents, actions] float32`: the policy's distribution, or its choice if it tells no more."""
    if output.logits is not None:
        return output.logits.float().softmax(-1)
    return nn.functional.one_hot(output.action_index, len(policy.spec.flat_actions)).float()
