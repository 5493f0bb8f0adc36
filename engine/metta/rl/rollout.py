"""Rollouts: collection of one batch of experience with the current policy, and statistics of its episodes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from metta.agent.devices import HostCopy, to_device
from metta.agent.matmul_backend import fast_matmul
from metta.agent.policy import MettaAgent
from metta.agent.sparse_tokens import PackedTokens
from metta.errors import UsageError
from metta.rl.distributed import Processes
from metta.rl.experience import Experience
from metta.rl.frozen_policies.kickstarting import Teacher, among_allowed
from metta.rl.world_batch import StepResult, WorldBatch
from metta.spans import span
from metta.world.episode_summary import EpisodeSummary


@dataclass(frozen=True)
class BatchInfo:
    """Statistics of one rollout. Lists have one entry per episode that ended, in the order in which they ended."""

    total_env_steps: int
    """environment steps, summed over learners (agent steps)"""
    episode_returns: list[float] | None
    """undiscounted return of an episode, mean over its learners; empty if no episode ended"""
    episode_lengths: list[int] | None
    """length of an episode, in steps"""
    episode_tasks: list[int] = field(default_factory=list)
    """index of an episode's task in the environment configs"""
    stats: dict[str, float] = field(default_factory=dict)
    """counters of `EpisodeSummary.stats` by name: mean over episodes"""
    opponent_returns: list[float] = field(default_factory=list)
    """undiscounted return of an episode, mean over its opponents; empty without self-play"""
    seconds_infer: float = 0.0
    """seconds of wall-clock time spent in the policy (and in the teacher)"""

    def merged(self, processes: Processes) -> BatchInfo:
        """Statistics of the rollouts of all processes, in order of rank; `seconds_infer` is that of this process."""
        batches = [BatchInfo(**values) for values in processes.all_gather(dataclasses.asdict(self))]
        episodes = [len(batch.episode_returns or ()) for batch in batches]
        names = sorted({name for batch in batches for name in batch.stats})
        sums = {
            name: sum(batch.stats.get(name, 0.0) * count for batch, count in zip(batches, episodes, strict=True))
            for name in names
        }
        return dataclasses.replace(
            self,
            total_env_steps=sum(batch.total_env_steps for batch in batches),
            episode_returns=[entry for batch in batches for entry in batch.episode_returns or ()],
            episode_lengths=[entry for batch in batches for entry in batch.episode_lengths or ()],
            episode_tasks=[entry for batch in batches for entry in batch.episode_tasks],
            opponent_returns=[entry for batch in batches for entry in batch.opponent_returns],
            stats={name: total / sum(episodes) for name, total in sums.items()},
        )


ProgressCallback = Callable[[int, int], None]
"""Receives the agent steps done and their total, after each step of a rollout or minibatch of an update."""


def rollout(
    experience: Experience, agent: MettaAgent, num_steps: int | None = None, on_progress: ProgressCallback | None = None
) -> BatchInfo:
    """Collect one batch with the current policy, and store it in `experience` for the update.

    Collects `plan.batch_size` agent steps, or `num_steps` rounded up to whole segments of all agents. `on_progress` is
    called after each step.

    Raises UsageError if `num_steps` is not from 1 to the batch size, or if `experience` was made for an agent with
    another `agent.mask_actions`; TrainingError if a reward is not finite.
    """
    if agent.uses_action_masks != (experience.action_masks is not None):
        raise UsageError(
            f"the agent has mask_actions = {agent.uses_action_masks}, and the experience was made for an agent with "
            f"{not agent.uses_action_masks}; make another experience: make_experience_manager(env, agent, ...)"
        )
    plan = experience.plan
    steps_per_segment = plan.agents * plan.horizon
    segments_per_agent = plan.segments_per_agent if num_steps is None else -(-num_steps // steps_per_segment)
    if not 1 <= segments_per_agent <= plan.segments_per_agent:
        raise UsageError(
            f"num_steps must be from 1 to {plan.batch_size}, the agent steps of a batch "
            f"(ExperienceConfig.batch_size = {experience.config.batch_size}); got {num_steps}"
        )
    with fast_matmul(agent.device):
        return _collect(experience, agent, segments_per_agent * plan.horizon, on_progress)


def _collect(experience: Experience, agent: MettaAgent, steps: int, on_progress: ProgressCallback | None) -> BatchInfo:
    """Collect `steps` steps of every agent. One world batch steps while the policy computes actions for another."""
    experience.start_epoch()
    totals = _RolloutTotals()
    for t in range(steps):
        for batch in experience.world_batches:
            if t:
                _receive(experience, agent, batch, t, totals)
            _act(experience, agent, batch, t, totals)
        if on_progress:
            on_progress(t * experience.plan.agents, steps * experience.plan.agents)
    for batch in experience.world_batches:
        _receive(experience, agent, batch, steps, totals)
    experience.steps_collected = steps
    with totals.infer():
        for batch in experience.world_batches:
            rows = batch.rows
            observations = experience.observations.at(steps, rows).to(agent.device)
            episode_starts = to_device(experience.episode_starts[steps, rows], agent.device)
            values = agent.value(observations, batch.memory, episode_starts)
            experience.next_values[rows] = values.to(experience.storage_device)
    return totals.batch_info(steps * experience.plan.agents)


def _act(experience: Experience, agent: MettaAgent, batch: WorldBatch, t: int, totals: _RolloutTotals) -> None:
    """Choose the actions of step t in a world batch, and start the step."""
    with totals.infer():
        actions, tasks = _choose_actions(experience, agent, batch, t)
        seen = batch.seen_by_teacher
    experience.submit(batch, actions)
    if batch.teacher is not None and seen is not None:  # after submit: the worlds step at the same time
        with totals.infer():
            _label(experience, batch, batch.teacher, seen, t, tasks)


def _choose_actions(
    experience: Experience, agent: MettaAgent, batch: WorldBatch, t: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sample the actions of step t in a world batch, and store them: `[learners, 2]`, and the tasks of its worlds."""
    rows = batch.rows
    segment, step_of_segment = divmod(t, experience.plan.horizon)
    if step_of_segment == 0:
        for name, tensor in batch.memory.tensors.items():
            experience.segment_memories[name][segment, :, rows] = tensor.to(experience.storage_device)
    observations = experience.observations.at(t, rows).to(agent.device)
    episode_starts = to_device(experience.episode_starts[t, rows], agent.device)
    masks = None
    if experience.action_masks is not None and batch.action_masks is not None:
        stored_masks = to_device(batch.action_masks, experience.storage_device)
        experience.action_masks[t, rows] = stored_masks
        masks = to_device(stored_masks, agent.device)
    output = agent.act(observations, batch.memory, episode_starts, experience.policy_generator, action_masks=masks)
    actions = HostCopy(output.actions)  # what is stored is computed meanwhile
    batch.memory = output.memory
    experience.action_index[t, rows] = output.action_index.to(experience.storage_device)
    experience.log_probs[t, rows] = output.log_probs.to(experience.storage_device)
    experience.values[t, rows] = output.values.to(experience.storage_device)
    return actions.wait().numpy(), batch.env.tasks.copy()


def _label(
    experience: Experience, batch: WorldBatch, teacher: Teacher, seen: PackedTokens, t: int, tasks: NDArray[np.int64]
) -> None:
    """Store what the teacher would do at step t, where it has `seen` the labelled agents' observations.

    `tasks [worlds]` are those of the worlds.
    """
    labelled = batch.rows.start + teacher.rows
    rows = to_device(labelled, experience.storage_device)
    episode_starts = experience.episode_starts[t, labelled]
    masks = None if batch.action_masks is None else batch.action_masks[teacher.rows]
    probabilities, values = (
        to_device(labels, experience.storage_device)
        for labels in teacher.label(seen, episode_starts, tasks, experience.teacher_generator, masks)
    )
    if experience.action_masks is not None:
        probabilities = among_allowed(probabilities, experience.action_masks[t, rows])
    experience.teacher_probs[t, rows] = probabilities
    experience.teacher_values[t, rows] = values


def _receive(experience: Experience, agent: MettaAgent, batch: WorldBatch, t: int, totals: _RolloutTotals) -> None:
    """Wait for a world batch to reach time t, and store the result of the step."""
    result = experience.receive(batch, t)
    totals.episodes += result.info.episodes
    totals.opponent_returns += result.opponent_returns
    with totals.infer():
        _value_final_observations(experience, agent, batch, result, t)


def _value_final_observations(
    experience: Experience, agent: MettaAgent, batch: WorldBatch, result: StepResult, t: int
) -> None:
    """Store the values of the final observations of truncated episodes, for bootstrapping."""
    ended = result.info.ended_agents
    is_truncated = result.truncated[ended] & ~result.terminated[ended]
    if not is_truncated.any():
        return
    agents = torch.from_numpy(ended[is_truncated])
    memory = batch.memory.select(to_device(agents, agent.device))
    observations = PackedTokens.pack(torch.from_numpy(result.info.final_observations[is_truncated]))
    values = agent.value(observations.to(agent.device), memory)
    rows = to_device(batch.rows.start + agents, experience.storage_device)
    experience.final_values[t - 1, rows] = values.to(experience.storage_device)


class _RolloutTotals:
    """Statistics that accumulate during a rollout."""

    def __init__(self) -> None:
        self.episodes: list[EpisodeSummary] = []
        self.opponent_returns: list[float] = []
        self.seconds_infer = 0.0

    @contextmanager
    def infer(self) -> Iterator[None]:
        """Context in which the policy or the teacher computes."""
        with span("infer") as measured:
            yield
        self.seconds_infer += measured.seconds

    def batch_info(self, agent_steps: int) -> BatchInfo:
        counters: Counter[str] = Counter()
        for episode in self.episodes:
            counters.update(episode.stats)
        return BatchInfo(
            total_env_steps=agent_steps,
            episode_returns=[float(episode.rewards.mean()) for episode in self.episodes],
            episode_lengths=[episode.length for episode in self.episodes],
            episode_tasks=[episode.task for episode in self.episodes],
            stats={name: counters[name] / len(self.episodes) for name in sorted(counters)},
            opponent_returns=self.opponent_returns,
            seconds_infer=self.seconds_infer,
        )
