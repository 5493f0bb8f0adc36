"""Rollouts: collection of one batch of experience with the current policy, and statistics of its episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from metta.agent.devices import HostCopy, to_device
from metta.agent.matmul_backend import fast_matmul
from metta.agent.policy import MettaAgent, check_policy_fits, reads_groups
from metta.agent.sparse_tokens import PackedTokens
from metta.agent.team import listed
from metta.errors import UsageError
from metta.rl.distributed import Processes
from metta.rl.experience import Experience
from metta.rl.frozen_policies.kickstarting import Teacher, among_allowed
from metta.rl.worlds.agent_batch import AgentBatch
from metta.rl.worlds.shared_worlds import SharedWorlds
from metta.rl.worlds.world_batch import StepResult
from metta.spans import span
from metta.world.episode_summary import EpisodeSummary


@dataclass(frozen=True)
class BatchInfo:
    """Statistics of one rollout. Lists have one entry per episode that ended, in the order in which they ended."""

    total_env_steps: int
    """environment steps, summed over learners (agent steps)"""
    episode_returns: list[float] | None
    """undiscounted return of an episode, mean over its learners, or over all agents of a policy that does not learn;
    empty if no episode ended"""
    episode_lengths: list[int] | None
    """length of an episode, in steps"""
    episode_tasks: list[int] = field(default_factory=list)
    """index of an episode's task in the environment configs"""
    stats: dict[str, float] = field(default_factory=dict)
    """counters of `EpisodeSummary.stats` by name: mean over episodes"""
    reward_terms: dict[str, float] = field(default_factory=dict)
    """`EpisodeSummary.reward_terms` by name: mean over episodes"""
    opponent_returns: list[float] = field(default_factory=list)
    """undiscounted return of an episode, mean over its opponents; empty without self-play"""
    seconds_infer: float = 0.0
    """seconds of wall-clock time spent in the policy (and in the teacher)"""

    def merged(self, processes: Processes) -> BatchInfo:
        """Statistics of the rollouts of all processes, in order of rank; `seconds_infer` is that of this process."""
        batches = [BatchInfo(**values) for values in processes.all_gather(dataclasses.asdict(self))]
        episodes = [len(batch.episode_returns or ()) for batch in batches]
        return dataclasses.replace(
            self,
            total_env_steps=sum(batch.total_env_steps for batch in batches),
            episode_returns=[entry for batch in batches for entry in batch.episode_returns or ()],
            episode_lengths=[entry for batch in batches for entry in batch.episode_lengths or ()],
            episode_tasks=[entry for batch in batches for entry in batch.episode_tasks],
            opponent_returns=[entry for batch in batches for entry in batch.opponent_returns],
            stats=_weighted_means([batch.stats for batch in batches], episodes),
            reward_terms=_weighted_means([batch.reward_terms for batch in batches], episodes),
        )


def _weighted_means(tables: Sequence[Mapping[str, float]], weights: Sequence[int]) -> dict[str, float]:
    """The weighted mean of each name; a name that a table lacks is 0 there."""
    names = sorted({name for table in tables for name in table})
    return {
        name: sum(table.get(name, 0.0) * weight for table, weight in zip(tables, weights, strict=True)) / sum(weights)
        for name in names
    }


ProgressCallback = Callable[[int, int], None]
"""Receives the agent steps done and their total, after each step of a rollout or minibatch of an update."""


def rollout(
    experience: Experience, agent: MettaAgent, num_steps: int | None = None, on_progress: ProgressCallback | None = None
) -> BatchInfo:
    """Collect one batch with the current policy, and store it in `experience` for the update.

    Collects `plan.batch_size` agent steps, or `num_steps` rounded up to whole segments of all agents. `on_progress` is
    called after each step.

    Raises UsageError if `num_steps` is not from 1 to the batch size, if `experience` was made for another
    agent, or if other policies have experiences in its worlds: see `rollout_policies`. Raises TrainingError if a reward
    is not finite.
    """
    return rollout_policies({experience.name: experience}, {experience.name: agent}, num_steps, on_progress)[
        experience.name
    ]


def rollout_policies(
    experiences: Mapping[str, Experience],
    agents: Mapping[str, MettaAgent],
    num_steps: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> dict[str, BatchInfo]:
    """Collect one batch with several policies, which act in the same worlds, and store it in their experiences.

    `experiences` are those that `make_experiences` returned, and `agents` the policies in training by the same names.
    Collects `experience.worlds.plan.batch_size` agent steps of all of them together, or `num_steps` rounded up to whole
    segments. `on_progress` is called after each step.

    Returns the statistics by name, also of the policies that do not learn. Lists have the same episodes for each.

    Raises UsageError if `num_steps` is not from 1 to the batch size, if an experience was made for another
    agent, or if names differ; TrainingError if a reward is not finite.
    """
    worlds = _check_fits(experiences, agents)
    plan = worlds.plan
    totals = {role.name: _RolloutTotals() for role in worlds.roles}
    learners = [_Learner(experiences[name], agents[name], totals[name]) for name in worlds.learners]
    steps_per_segment = plan.agents * plan.horizon
    segments_per_agent = plan.segments_per_agent if num_steps is None else -(-num_steps // steps_per_segment)
    if not 1 <= segments_per_agent <= plan.segments_per_agent:
        raise UsageError(
            f"num_steps must be from 1 to {plan.batch_size}, the agent steps of a batch "
            f"(ExperienceConfig.batch_size = {worlds.config.batch_size}); got {num_steps}"
        )
    steps = segments_per_agent * plan.horizon
    with fast_matmul(learners[0].agent.device):
        _collect(worlds, learners, totals, steps, on_progress)
    episodes = next(iter(totals.values())).episodes
    means = {
        "stats": _weighted_means([episode.stats for episode in episodes], [1] * len(episodes)),
        "reward_terms": _weighted_means([episode.reward_terms for episode in episodes], [1] * len(episodes)),
    }
    return {
        role.name: totals[role.name].batch_info(steps * plan.num_worlds * batch.num_learners, means, learns=role.learns)
        for role, batch in zip(worlds.roles, worlds.agent_batches[0], strict=True)
    }


def _check_fits(experiences: Mapping[str, Experience], agents: Mapping[str, MettaAgent]) -> SharedWorlds:
    """Raise UsageError unless these are all experiences in the same worlds, each with its agent; the worlds."""
    if not experiences:
        raise UsageError("there are no experiences; make_experiences(env, agents, groups) makes them")
    worlds = next(iter(experiences.values())).worlds
    for given, names in (("experiences", set(experiences)), ("agents", set(agents))):
        if names != set(worlds.learners):
            raise UsageError(
                f"rollout_policies needs the {given} of all policies in training ({listed(worlds.learners)}); "
                f"got {listed(sorted(names))}"
            )
    for name, experience in experiences.items():
        agent = agents[name]
        if experience.worlds is not worlds:
            raise UsageError(f"the experience of {name} is of other worlds; make all by one call of make_experiences")
        check_agent_fits(experience, agent)
    return worlds


def check_agent_fits(experience: Experience, agent: MettaAgent) -> None:
    """Raise UsageError if the experience was made for an agent of another environment, with other masks or memory."""
    check_policy_fits(agent, experience.worlds.spec)
    ours = {name: tensor[:, 0].shape for name, tensor in agent.initial_memory(1).tensors.items()}
    theirs = {name: tensor[0, :, 0].shape for name, tensor in experience.segment_memories.items()}
    differing = {
        "mask_actions": agent.uses_action_masks != (experience.action_masks is not None),
        "critic": reads_groups(agent) != experience.role.keeps_worlds,
        "memory and hidden_dim": ours != theirs,
        "device": agent.device != experience.device,
    }
    if any(differing.values()):
        names = ", ".join(name for name, differs in differing.items() if differs)
        raise UsageError(
            f"the experience was made for another agent, whose {names} differ; make one for this agent: "
            "make_experience_manager(env, agent, ...)"
        )


@dataclass(frozen=True)
class _Learner:
    """A policy in training during a rollout."""

    experience: Experience
    agent: MettaAgent
    totals: _RolloutTotals


def _collect(
    worlds: SharedWorlds,
    learners: Sequence[_Learner],
    totals: Mapping[str, _RolloutTotals],
    steps: int,
    on_progress: ProgressCallback | None,
) -> None:
    """Collect `steps` steps of every agent. One world batch steps while the policies compute actions for another."""
    for learner in learners:
        learner.experience.start_epoch()
    for t in range(steps):
        for index in range(len(worlds.world_batches)):
            if t:
                _receive(worlds, learners, totals, index, t)
            _act(worlds, learners, index, t)
        if on_progress and t:
            on_progress(t * worlds.plan.agents, steps * worlds.plan.agents)
    for index in range(len(worlds.world_batches)):
        _receive(worlds, learners, totals, index, steps)
    if on_progress:
        on_progress(steps * worlds.plan.agents, steps * worlds.plan.agents)
    for learner in learners:
        experience, agent = learner.experience, learner.agent
        experience.steps_collected = steps
        with learner.totals.infer():
            for batch in experience.agent_batches:
                observations = experience.observations.at(steps, batch.rows).to(agent.device)
                episode_starts = to_device(experience.episode_starts[steps, batch.rows], agent.device)
                values = agent.value(
                    observations, batch.memory, episode_starts, experience.groups_of(steps, batch.rows)
                )
                experience.next_values[batch.rows] = values.to(experience.storage_device)


def _act(worlds: SharedWorlds, learners: Sequence[_Learner], index: int, t: int) -> None:
    """Choose the actions of step t in a world batch, and start the step."""
    copies, actions = [], []
    for learner in learners:
        with learner.totals.infer():
            copies.append(_choose_actions(learner.experience, learner.agent, index, t))
    for learner, copied in zip(learners, copies, strict=True):
        with learner.totals.infer():
            actions.append(copied.wait().numpy())
    tasks = worlds.world_batches[index].env.tasks.copy()
    worlds.submit(index, actions)
    for learner in learners:  # after submit: the worlds step at the same time
        batch = learner.experience.agent_batches[index]
        if batch.teacher is not None and batch.seen_by_teacher is not None:
            with learner.totals.infer():
                _label(learner.experience, batch, batch.teacher, batch.seen_by_teacher, t, tasks)


def _choose_actions(experience: Experience, agent: MettaAgent, index: int, t: int) -> HostCopy:
    """Sample the learners' actions of step t in a world batch, and store them; a copy of `[learners, 2]` actions."""
    batch = experience.agent_batches[index]
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
    output = agent.act(
        observations,
        batch.memory,
        episode_starts,
        experience.policy_generator,
        action_masks=masks,
        groups=experience.groups_of(t, rows),
    )
    actions = HostCopy(output.actions)  # what is stored is computed meanwhile
    batch.memory = output.memory
    experience.action_index[t, rows] = output.action_index.to(experience.storage_device)
    experience.log_probs[t, rows] = output.log_probs.to(experience.storage_device)
    experience.values[t, rows] = output.values.to(experience.storage_device)
    return actions


def _label(
    experience: Experience, batch: AgentBatch, teacher: Teacher, seen: PackedTokens, t: int, tasks: NDArray[np.int64]
) -> None:
    """Store what the teacher would do at step t, where it has `seen` the labeled agents' observations.

    `tasks [worlds]` are those of the worlds.
    """
    labeled = batch.rows.start + teacher.rows
    rows = to_device(labeled, experience.storage_device)
    episode_starts = experience.episode_starts[t, labeled]
    masks = None if batch.action_masks is None else batch.action_masks[teacher.rows]
    groups = None if experience.groups is None else experience.groups[t, labeled]
    probabilities, values = (
        to_device(labels, experience.storage_device)
        for labels in teacher.label(seen, episode_starts, tasks, experience.teacher_generator, masks, groups)
    )
    if experience.action_masks is not None:
        probabilities = among_allowed(probabilities, experience.action_masks[t, rows])
    experience.teacher_probs[t, rows] = probabilities
    experience.teacher_values[t, rows] = values


def _receive(
    worlds: SharedWorlds, learners: Sequence[_Learner], totals: Mapping[str, _RolloutTotals], index: int, t: int
) -> None:
    """Wait for a world batch to reach time t, and store the result of the step."""
    results = dict(zip(totals, worlds.receive(index, t), strict=True))
    for name, result in results.items():
        totals[name].episodes += result.info.episodes
        totals[name].opponent_returns += result.opponent_returns
    for learner in learners:
        experience, result = learner.experience, results[learner.experience.name]
        experience.store(experience.agent_batches[index], result, t)
        with learner.totals.infer():
            _value_final_observations(experience, learner.agent, experience.agent_batches[index], result, t)


def _value_final_observations(
    experience: Experience, agent: MettaAgent, batch: AgentBatch, result: StepResult, t: int
) -> None:
    """Store the values of the final observations of truncated episodes, for bootstrapping."""
    ended = result.info.ended_agents
    is_truncated = result.truncated[ended] & ~result.terminated[ended]
    if not is_truncated.any():
        return
    agents = torch.from_numpy(ended[is_truncated])
    memory = batch.memory.select(to_device(agents, agent.device))
    observations = PackedTokens.pack(torch.from_numpy(result.info.final_observations[is_truncated]))
    groups = experience.groups_of(t - 1, batch.rows.start + agents)
    values = agent.value(observations.to(agent.device), memory, groups=groups)
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

    def batch_info(self, agent_steps: int, means: Mapping[str, dict[str, float]], learns: bool) -> BatchInfo:
        """The statistics of a policy that learns from `agent_steps`, or of one that does not learn.

        `means` has `stats` and `reward_terms`.
        """
        returns = [float(episode.rewards.mean()) for episode in self.episodes] if learns else self.opponent_returns
        return BatchInfo(
            total_env_steps=agent_steps,
            episode_returns=returns,
            episode_lengths=[episode.length for episode in self.episodes],
            episode_tasks=[episode.task for episode in self.episodes],
            stats=means["stats"],
            reward_terms=means["reward_terms"],
            opponent_returns=self.opponent_returns if learns else [],
            seconds_infer=self.seconds_infer,
        )
