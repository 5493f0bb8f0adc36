"""World batches: groups of worlds stepped by one call, with their recurrent memories and step results."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from metta.agent.memory.state import Memory
from metta.agent.sparse_tokens import PackedTokens
from metta.errors import TrainingError
from metta.rl.frozen_policies.kickstarting import Teacher
from metta.rl.frozen_policies.self_play import Opponents
from metta.spans import span
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import StepInfo
from metta.world.observation.packed import PackedObservations
from metta.world.processes.process_worlds import ProcessWorlds


@dataclass(frozen=True)
class StepResult:
    """The result of one step of a world batch, for all its agents or only for its learners (see `learners_only`)."""

    observations: PackedTokens
    """in memory that the next step of the world batch overwrites"""
    rewards: np.ndarray
    """`[agents] float32`"""
    terminated: np.ndarray
    """`[agents] bool`"""
    truncated: np.ndarray
    """`[agents] bool`"""
    info: StepInfo
    opponent_returns: tuple[float, ...] = ()
    """undiscounted return of each episode that ended, mean over its opponents (self-play)"""
    action_masks: np.ndarray | None = None
    """`[agents, actions] bool`, always of all agents: actions that can succeed after the step; None if not needed"""


class WorldBatch:
    """Worlds of an experience that are stepped by one call, with the recurrent memory of their learners."""

    def __init__(
        self,
        env: MettaGridEnv | ProcessWorlds,
        first_world: int,
        learners: int,
        memory: Memory,
        opponents: Opponents | None = None,
        uses_action_masks: bool = False,
        zero_copy: bool = True,
    ):
        self.env = env
        self.first_world = first_world
        """index of the batch's first world in the experience"""
        first_row = first_world * (learners // env.num_worlds)
        self.rows = slice(first_row, first_row + learners)
        """indices of the batch's learners along the `agents` axis of the experience's arrays"""
        self.memory = memory
        self.teacher: Teacher | None = None
        self.opponents = opponents
        """agents that frozen policies control, or None without self-play"""
        self.uses_action_masks = uses_action_masks
        """whether the policy in training, or its teacher, uses action masks"""
        self.action_masks: Tensor | None = None
        """`[learners, actions] bool`: actions that can succeed in the next step; None if no policy needs them"""
        self.buffer: PackedObservations | None = None
        """where the simulator writes observations without padding; None: it makes padded ones, which are then packed"""
        if isinstance(env, ProcessWorlds):
            self.buffer = env.observations
        elif zero_copy:
            self.buffer = PackedObservations(env.agents, env.spec.num_observation_tokens)
        self.seen_by_teacher: PackedTokens | None = None
        """observations of the labelled learners before the next step, in host memory; None without a teacher"""
        self.pending: Future[StepResult] | StepResult | None = None
        """result of a step that was started in this process and not yet received"""

    def reset(self, staggered: bool) -> PackedTokens:
        """Start an episode in every world; the learners' observations."""
        if isinstance(self.env, ProcessWorlds):
            observations = self._packed(self.env.reset(staggered))
        else:
            observations = self._packed(self.env.reset(staggered=staggered, out=self.buffer)[0])
        if self.opponents is not None:
            is_done = np.ones(self.env.agents, np.bool_)
            observations = self.opponents.observe(observations, is_done, range(self.env.num_worlds))
        self.set_action_masks(self.current_action_masks())
        return observations

    def set_observations(self, observations: PackedTokens) -> None:
        """Keep what the teacher needs of the learners' observations before the next step, which may overwrite them."""
        if self.teacher is not None:
            self.seen_by_teacher = observations.select(self.teacher.rows)

    @property
    def in_processes(self) -> bool:
        """Whether worker processes step the worlds."""
        return isinstance(self.env, ProcessWorlds)

    def start_step(self, actions: np.ndarray, thread: Executor | None) -> None:
        """Start stepping all worlds with `actions [agents, 2]`: in workers, in `thread`, or without one here."""
        if isinstance(self.env, ProcessWorlds):
            self.env.start_step(actions, self.needs_action_masks)
        elif thread is not None:
            self.pending = thread.submit(self.step, actions)
        else:
            self.pending = self.step(actions)

    def finish_step(self) -> StepResult:
        """Wait for the step that was started last. The next one may overwrite the arrays, except masks."""
        if isinstance(self.env, ProcessWorlds):
            with span("wait"):
                observations, rewards, terminated, truncated, info = self.env.finish_step()
            masks = self.env.stepped_action_masks.copy() if self.needs_action_masks else None
            return StepResult(self._packed(observations), rewards, terminated, truncated, info, action_masks=masks)
        result, self.pending = self.pending, None
        if isinstance(result, Future):
            with span("wait"):
                result = result.result()
        assert result is not None
        return result

    def step(self, actions: np.ndarray) -> StepResult:
        """Step worlds of this process: see `start_step`."""
        assert isinstance(self.env, MettaGridEnv)
        with span("simulate"):
            observations, rewards, terminated, truncated, info = self.env.step(actions, out=self.buffer)
            masks = self.current_action_masks()
            return StepResult(self._packed(observations), rewards, terminated, truncated, info, action_masks=masks)

    @property
    def needs_action_masks(self) -> bool:
        """Whether the policy in training, its teacher or one of its opponents uses action masks."""
        return self.uses_action_masks or (self.opponents is not None and self.opponents.uses_action_masks)

    def _packed(self, observations: np.ndarray) -> PackedTokens:
        """What `env.step` returned as observations, as tensors that share its memory if it wrote to the buffer."""
        if self.buffer is None:
            return PackedTokens.pack(torch.from_numpy(observations))
        return PackedTokens(torch.from_numpy(observations), torch.from_numpy(self.buffer.offsets))

    def current_action_masks(self) -> np.ndarray | None:
        """The environment's action masks, `[agents, actions] bool`, in a new array; None if no policy needs them."""
        if not self.needs_action_masks:
            return None
        masks = self.env.action_masks()
        return masks.copy() if isinstance(self.env, ProcessWorlds) else masks

    def set_action_masks(self, action_masks: np.ndarray | None) -> None:
        """Set the masks of the next step: `[agents, actions] bool`, after the sides of its worlds were chosen."""
        if self.opponents is not None:
            action_masks = self.opponents.observe_action_masks(action_masks)
        self.action_masks = None if action_masks is None else torch.from_numpy(action_masks)

    def check_rewards(self, rewards: np.ndarray, step: int) -> None:
        """Raise TrainingError, with agent and world, if one of `rewards [agents]` (all agents) is not finite."""
        if np.isfinite(rewards).all():
            return
        row = int(np.flatnonzero(~np.isfinite(rewards))[0])
        world, agent = divmod(row, self.env.num_agents)
        raise TrainingError(
            f"the reward of agent {agent} in world {self.first_world + world} is {rewards[row]} (step {step} of the "
            "rollout); look for a reward in env.game that is too large"
        )


def learners_only(result: StepResult, opponents: Opponents) -> StepResult:
    """The learners' part of a step's result; the observations of the opponents are stored in `opponents`.

    In worlds whose episode ended, sides are chosen again: observations are those of the new learners, all other arrays
    those of the learners of the ended episode.
    """
    learners, info = opponents.learner_rows, result.info
    learner_of_agent = np.full(len(result.rewards), -1)
    learner_of_agent[learners] = np.arange(len(learners))
    ended = learner_of_agent[info.ended_agents]
    rewards = [opponents.split_rewards(episode) for episode in info.episodes]
    learners_info = replace(
        info,
        ended_agents=ended[ended >= 0],
        final_observations=info.final_observations[ended >= 0],
        episodes=tuple(
            replace(episode, rewards=of_learners)
            for episode, (of_learners, _) in zip(info.episodes, rewards, strict=True)
        ),
    )
    done = result.terminated | result.truncated
    return StepResult(
        opponents.observe(result.observations, done, [episode.world for episode in info.episodes]),
        result.rewards[learners],
        result.terminated[learners],
        result.truncated[learners],
        learners_info,
        tuple(float(of_opponents.mean()) for _, of_opponents in rewards),
        result.action_masks,
    )
