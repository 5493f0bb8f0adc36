"""Collecting experience: the policy decides, the worlds step, and what happened is written down."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metta.agent.matmul_backend import fast_matmul
from metta.agent.policy import MettaAgent
from metta.agent.recurrent_memory import Memory
from metta.errors import UsageError
from metta.rl.distributed import Processes
from metta.rl.experience import Experience, StepResult, WorldBatch
from metta.world.episode_summary import EpisodeSummary


@dataclass(frozen=True)
class BatchInfo:
    """What one rollout collected."""

    total_env_steps: int
    """agent steps"""
    episode_returns: list[float] | None
    """of each episode that ended: the mean over its agents that learn of their reward; empty if none ended"""
    episode_lengths: list[int] | None
    """steps of each episode that ended"""
    episode_tasks: list[int] = field(default_factory=list)
    """which of the environment configs each episode that ended played"""
    stats: dict[str, float] = field(default_factory=dict)
    """counters of the episodes that ended: the mean over episodes of the mean over agents"""
    opponent_returns: list[float] = field(default_factory=list)
    """of each episode that ended: the mean over agents that frozen policies played, none without them"""
    seconds_simulating: float = 0.0
    """wall clock inside the simulator, also while the policy ran beside it"""
    seconds_infer: float = 0.0
    """wall clock inside the policy"""
    seconds_waiting: float = 0.0
    """wall clock in which the policy waited for the simulator"""

    def joined(self, processes: Processes) -> BatchInfo:
        """What all processes collected, in the order of their ranks; seconds are this one's own."""
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


def rollout(experience: Experience, agent: MettaAgent, num_steps: int | None = None) -> BatchInfo:
    """Play one batch, or at least `num_steps` agent steps rounded up to whole segments of all agents.

    The experience then holds what was collected, for `compute_advantages` and `train_ppo`.
    """
    plan = experience.plan
    horizon, per_round = plan.horizon, plan.agents * plan.horizon
    segments_per_agent = plan.segments_per_agent if num_steps is None else -(-num_steps // per_round)
    if not 1 <= segments_per_agent <= plan.segments_per_agent:
        raise UsageError(
            f"num_steps = {num_steps} does not fit: a batch holds 1 to {plan.batch_size} agent steps "
            f"(ExperienceConfig.batch_size = {experience.config.batch_size})"
        )
    with fast_matmul(agent.device):
        return _play(experience, agent, segments_per_agent * horizon)


def _play(experience: Experience, agent: MettaAgent, steps: int) -> BatchInfo:
    experience.begin()
    tally = _Tally()
    for t in range(steps):
        for group in experience.groups:
            if t:
                _receive(experience, agent, group, t, tally)
            _decide(experience, agent, group, t, tally)
    for group in experience.groups:
        _receive(experience, agent, group, steps, tally)
    experience.steps_collected = steps
    begin = time.perf_counter()
    for group in experience.groups:
        rows = group.rows
        observations = experience.observations[steps, rows].to(agent.device)
        episode_starts = experience.episode_starts[steps, rows].to(agent.device)
        experience.next_values[rows] = agent.value(observations, group.memory, episode_starts).to(
            experience.storage_device
        )
    tally.deciding += time.perf_counter() - begin
    return tally.batch_info(steps * experience.plan.agents)


def _decide(experience: Experience, agent: MettaAgent, group: WorldBatch, t: int, tally: _Tally) -> None:
    """Let the policy choose the group's actions of step t, and send the worlds off."""
    begin = time.perf_counter()
    rows = group.rows
    round_, step_of_segment = divmod(t, experience.plan.horizon)
    if step_of_segment == 0:
        experience.memory_hidden[round_, :, rows] = group.memory.hidden.to(experience.storage_device)
        experience.memory_cell[round_, :, rows] = group.memory.cell.to(experience.storage_device)
    observations = experience.observations[t, rows].to(agent.device)
    episode_starts = experience.episode_starts[t, rows].to(agent.device)
    decision = agent.act(observations, group.memory, episode_starts, experience.policy_generator)
    group.memory = decision.memory
    experience.action_index[t, rows] = decision.action_index.to(experience.storage_device)
    experience.log_probs[t, rows] = decision.log_probs.to(experience.storage_device)
    experience.values[t, rows] = decision.values.to(experience.storage_device)
    actions = decision.actions.cpu().numpy()
    tally.deciding += time.perf_counter() - begin
    experience.submit(group, actions, t + 1)
    if experience.teacher is not None:  # while the worlds step, if a thread steps them
        begin = time.perf_counter()
        _ask_teacher(experience, experience.teacher, group, t, observations, episode_starts)
        tally.deciding += time.perf_counter() - begin


@torch.no_grad()
def _ask_teacher(
    experience: Experience, teacher: MettaAgent, group: WorldBatch, t: int, observations: Tensor, episode_starts: Tensor
) -> None:
    """Write down what the teacher would do in step t, by its own memory of what the policy has lived through."""
    assert group.teacher_memory is not None
    logits, values, group.teacher_memory = teacher(
        observations.unsqueeze(0), group.teacher_memory, episode_starts.unsqueeze(0)
    )
    experience.teacher_log_probs[t, group.rows] = logits[0].log_softmax(-1).to(experience.storage_device)
    experience.teacher_values[t, group.rows] = values[0].to(experience.storage_device)


def _receive(experience: Experience, agent: MettaAgent, group: WorldBatch, t: int, tally: _Tally) -> None:
    """Take in the step that brought the group's worlds to t."""
    begin = time.perf_counter()
    outcome = experience.receive(group, t)
    tally.waiting += time.perf_counter() - begin
    tally.simulating += outcome.seconds
    tally.episodes += outcome.info.episodes
    tally.opponent_returns += outcome.opponent_returns
    begin = time.perf_counter()
    _value_final_observations(experience, agent, group, outcome, t)
    tally.deciding += time.perf_counter() - begin


def _value_final_observations(
    experience: Experience, agent: MettaAgent, group: WorldBatch, outcome: StepResult, t: int
) -> None:
    """What truncated episodes were still worth, by the memory of that moment."""
    ended = outcome.info.ended_agents
    was_cut = outcome.truncated[ended] & ~outcome.terminated[ended]
    if not was_cut.any():
        return
    agents = torch.from_numpy(ended[was_cut])
    memory: Memory = group.memory.select(agents.to(agent.device))
    observations = torch.from_numpy(outcome.info.final_observations[was_cut]).to(agent.device)
    values = agent.value(observations, memory)
    experience.final_values[t - 1, group.rows.start + agents] = values.to(experience.storage_device)


class _Tally:
    """What a rollout counts on its way."""

    def __init__(self) -> None:
        self.episodes: list[EpisodeSummary] = []
        self.opponent_returns: list[float] = []
        self.simulating = self.deciding = self.waiting = 0.0

    def batch_info(self, agent_steps: int) -> BatchInfo:
        totals: Counter[str] = Counter()
        for episode in self.episodes:
            totals.update(episode.stats)
        return BatchInfo(
            total_env_steps=agent_steps,
            episode_returns=[float(episode.rewards.mean()) for episode in self.episodes],
            episode_lengths=[episode.length for episode in self.episodes],
            episode_tasks=[episode.task for episode in self.episodes],
            stats={name: totals[name] / len(self.episodes) for name in sorted(totals)},
            opponent_returns=self.opponent_returns,
            seconds_simulating=self.simulating,
            seconds_infer=self.deciding,
            seconds_waiting=self.waiting,
        )
