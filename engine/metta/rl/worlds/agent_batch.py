"""Agent batches: the agents of one world batch that one policy plays, with what it needs to play or label them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metta.agent.memory.state import Memory
from metta.agent.sparse_tokens import PackedTokens
from metta.config.policies import num_agents_of
from metta.rl.frozen_policies.kickstarting import Teacher
from metta.rl.frozen_policies.opponents import Opponents
from metta.rl.worlds.policy_role import PolicyRole
from metta.rl.worlds.world_batch import StepResult, WorldBatch
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import EpisodeSummary
from metta.world.processes.process_worlds import ProcessWorlds


class AgentBatch:
    """The agents of a world batch that one policy plays: learners, whose steps it learns from, and opponents.

    Which agents they are is chosen when an episode starts; their numbers per world never change. If the learners are
    all agents of the worlds, nothing is copied or reordered.
    """

    def __init__(self, world_batch: WorldBatch, role: PolicyRole):
        env = world_batch.env
        self.world_batch = world_batch
        self.role = role
        self.num_opponents = role.num_opponents(env.configs[0])
        """number of opponents in each world"""
        self.agent_order = np.zeros((env.num_worlds, num_agents_of(role, env.configs[0])), np.int64)
        """`[worlds, agents of the policy]`: agent indices in each world: first learners, then opponents, ascending"""
        self.num_learners = self.agent_order.shape[1] - self.num_opponents
        """number of learners in each world"""
        self.is_whole = self.num_learners == env.num_agents
        """whether the learners are all agents"""
        first_row = world_batch.first_world * self.num_learners
        self.rows = slice(first_row, first_row + env.num_worlds * self.num_learners)
        """indices of the learners along the `agents` axis of the experience's arrays"""
        self.opponents: Opponents | None = None
        """agents that frozen policies control; None without any"""
        if role.pool is not None:
            self.opponents = Opponents(role.pool, env.num_worlds, self.num_opponents, role.generator)
        self.memory = Memory()
        """memory of the learners"""
        self.teacher: Teacher | None = None
        self.seen_by_teacher: PackedTokens | None = None
        """observations of the labeled learners before the next step, in host memory; None without a teacher"""
        self.action_masks: Tensor | None = None
        """`[learners, actions] bool`: actions that can succeed in the next step; None if no policy needs them"""
        self._set_rows()

    @property
    def env(self) -> MettaGridEnv | ProcessWorlds:
        """The worlds."""
        return self.world_batch.env

    def _set_rows(self) -> None:
        """Compute the rows of learners and opponents among the batch's agents, world by world, from `agent_order`."""
        rows = self.agent_order + np.arange(len(self.agent_order))[:, None] * self.env.num_agents
        self.learner_rows: np.ndarray = rows[:, : self.num_learners].ravel()
        """`[learners] int64`: rows of the learners among the batch's agents, world by world"""
        self.opponent_rows: np.ndarray = rows[:, self.num_learners :].flatten()
        """`[opponents] int64`: rows of the opponents among the batch's agents, world by world"""

    def assign_agents(self, worlds: Iterable[int]) -> None:
        """Choose learners and opponents of episodes that start, and sample the policies of the opponents."""
        env = self.env
        groups = env.groups.reshape(env.num_worlds, env.num_agents)
        for world in worlds:
            config = env.configs[env.tasks[world]]
            self.agent_order[world] = self.role.agents(
                config, groups[world], self.agent_order.shape[1], self.num_opponents
            )
            if self.opponents is not None:
                self.opponents.sample_policy(world)
        if self.opponents is not None:
            self.opponents.forget_unused()
        self._set_rows()

    def observe(self, observations: PackedTokens, done: np.ndarray, ended_worlds: Sequence[int]) -> PackedTokens:
        """Store the opponents' part of the observations of all agents, and return the learners' part.

        `done [agents] bool` marks the agents whose episode ended. Learners, opponents and the policies of the
        `ended_worlds` are chosen again before the observations are split.
        """
        if self.is_whole:
            return observations
        if self.opponents is not None:
            self.opponents.episode_starts = torch.from_numpy(done[self.opponent_rows])
        if ended_worlds:
            self.assign_agents(ended_worlds)
        if self.opponents is not None:
            self.opponents.observations = observations.select(torch.from_numpy(self.opponent_rows))
        return observations.select(torch.from_numpy(self.learner_rows))

    def observe_action_masks(self, action_masks: np.ndarray | None) -> None:
        """Store `action_masks [agents, actions] bool` of the next step. Call after `observe`."""
        self.action_masks = None if action_masks is None else torch.from_numpy(self._of_learners(action_masks))
        if self.opponents is not None:
            of_opponents = None if action_masks is None else torch.from_numpy(action_masks[self.opponent_rows])
            self.opponents.action_masks = of_opponents

    def groups(self) -> Tensor:
        """The group of each learner, as an index into `env.game.groups`, `[learners] int16`. Call after `observe`."""
        return torch.from_numpy(self._of_learners(self.env.groups).astype(np.int16))

    def keep_for_teacher(self, observations: PackedTokens) -> None:
        """Keep what the teacher needs of the learners' observations before the next step, which may overwrite them."""
        if self.teacher is not None:
            self.seen_by_teacher = observations.select(self.teacher.rows)

    def write_actions(self, actions: np.ndarray, of_learners: np.ndarray | None) -> None:
        """Write the given actions `[learners, 2]`, and those sampled for the opponents, to `actions [agents, 2]`."""
        if of_learners is not None:
            actions[self.learner_rows] = of_learners
        if self.opponents is not None:
            actions[self.opponent_rows] = self.opponents.act()

    def receive(self, result: StepResult) -> StepResult:
        """The learners' part of a step's result; the observations and masks of the opponents are stored.

        In worlds whose episode ended, agents are chosen again: observations and masks are those of the new learners,
        all other arrays those of the learners of the ended episode.
        """
        if not self.is_whole:
            result = self._learners_part(result)
        self.observe_action_masks(result.action_masks)
        self.keep_for_teacher(result.observations)
        return result

    def _learners_part(self, result: StepResult) -> StepResult:
        learners, info = self.learner_rows, result.info
        if info.episodes:
            learner_of_agent = np.full(len(result.rewards), -1)
            learner_of_agent[learners] = np.arange(len(learners))
            ended = learner_of_agent[info.ended_agents]
            rewards = [self.split_rewards(episode) for episode in info.episodes]
            info = replace(
                info,
                ended_agents=ended[ended >= 0],
                final_observations=info.final_observations[ended >= 0],
                episodes=tuple(
                    replace(episode, rewards=of_learners)
                    for episode, (of_learners, _) in zip(info.episodes, rewards, strict=True)
                ),
            )
            returns = tuple(float(each.mean()) for _, each in rewards) if self.opponents is not None else ()
        else:
            returns = ()
        done = result.terminated | result.truncated
        observations = self.observe(result.observations, done, [episode.world for episode in info.episodes])
        return StepResult(
            observations=observations,
            rewards=result.rewards[learners],
            terminated=result.terminated[learners],
            truncated=result.truncated[learners],
            info=info,
            opponent_returns=returns,
            action_masks=result.action_masks,
        )

    def split_rewards(self, episode: EpisodeSummary) -> tuple[np.ndarray, np.ndarray]:
        """The rewards `[learners]` and `[opponents]` of an ended episode. Call before agents are chosen again."""
        rewards = episode.rewards[self.agent_order[episode.world]]
        return rewards[: self.num_learners], rewards[self.num_learners :]

    def _of_learners(self, values: np.ndarray) -> np.ndarray:
        """The entries of the learners along the first axis."""
        return values if self.is_whole else values[self.learner_rows]

    def opponents_state(self) -> dict[str, Any]:
        """The state of the opponents, as tensors: who they are, their policies, observations and memories."""
        assert self.opponents is not None
        state = self.opponents.state(self.env.spec.num_observation_tokens)
        return {"seats": torch.from_numpy(self.agent_order.copy())} | state

    def restore_agents(self, opponents_state: Mapping[str, Any] | None) -> None:
        """Restore who the learners and opponents are, after the worlds were restored.

        `opponents_state` is what `opponents_state()` returned, or None without opponents.
        """
        if self.opponents is None:
            if not self.is_whole:
                self.assign_agents(range(self.env.num_worlds))
        elif opponents_state is not None:
            self.agent_order = opponents_state["seats"].numpy().copy()
            self.opponents.load_state(opponents_state)
            self._set_rows()
