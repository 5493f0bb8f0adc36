"""World batches: worlds that step together, the policy's memory in them, and the result of a step."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np

from metta.agent.recurrent_memory import Memory
from metta.errors import TrainingError
from metta.rl.self_play import Opponents
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import StepInfo


@dataclass(frozen=True)
class StepResult:
    """The result of one step of a world batch: for all its agents, or for its learners (see `learners_only`)."""

    observations: np.ndarray
    """`[agents, tokens, 3] uint8`"""
    rewards: np.ndarray
    """`[agents] float32`"""
    terminated: np.ndarray
    """`[agents] bool`"""
    truncated: np.ndarray
    """`[agents] bool`"""
    info: StepInfo
    opponent_returns: tuple[float, ...] = ()
    """mean reward of the opponents in each episode that ended (self-play)"""


class WorldBatch:
    """Worlds of an experience that step together, with the policy's memory of the learners in them."""

    def __init__(self, env: MettaGridEnv, first_world: int, memory: Memory, opponents: Opponents | None = None):
        self.env = env
        self.first_world = first_world
        """index of the first world in the experience"""
        learners = memory.hidden.shape[1]
        first_row = first_world * (learners // env.num_worlds)
        self.rows = slice(first_row, first_row + learners)
        """the learners, as columns of the experience's arrays"""
        self.memory = memory
        self.teacher_memory: Memory | None = None
        self.opponents = opponents
        """agents that frozen policies play, if any (self-play)"""
        self.pending: Future[StepResult] | StepResult | None = None
        """the step that is under way"""

    def reset(self, staggered: bool) -> np.ndarray:
        """Start an episode in every world; the learners' observations `[learners, tokens, 3] uint8`."""
        observations, _ = self.env.reset(staggered=staggered)
        if self.opponents is None:
            return observations
        return self.opponents.observe(observations, np.ones(self.env.agents, np.bool_), range(self.env.num_worlds))

    def step(self, actions: np.ndarray, out: np.ndarray | None) -> StepResult:
        """Step all agents with `actions [agents, 2]`. Observations are written to `out`, if given."""
        return StepResult(*self.env.step(actions, out=out))

    def check_rewards(self, rewards: np.ndarray, step: int) -> None:
        """Raise TrainingError for the first of the rewards `[agents]` of all agents that is not finite."""
        if np.isfinite(rewards).all():
            return
        row = int(np.flatnonzero(~np.isfinite(rewards))[0])
        world, agent = divmod(row, self.env.num_agents)
        raise TrainingError(
            f"the reward of agent {agent} in world {self.first_world + world} is {rewards[row]} (step {step} of the "
            "rollout); look for a reward in env.game that is too large, or at the rewards that the environment returned"
        )


def learners_only(result: StepResult, opponents: Opponents) -> StepResult:
    """The learners' part of a step. The opponents observe theirs; worlds whose episode ended assign agents anew."""
    learners, info = opponents.learner_rows, result.info
    learner_of_agent = np.full(len(result.rewards), -1)
    learner_of_agent[learners] = np.arange(len(learners))
    ended = learner_of_agent[info.ended_agents]
    rewards = [opponents.split_rewards(episode) for episode in info.episodes]
    learners_info = replace(
        info,
        ended_agents=ended[ended >= 0],
        final_observations=info.final_observations[ended >= 0],
        episodes=tuple(replace(episode, rewards=own) for episode, (own, _) in zip(info.episodes, rewards, strict=True)),
    )
    done = result.terminated | result.truncated
    return StepResult(
        opponents.observe(result.observations, done, [episode.world for episode in info.episodes]),
        result.rewards[learners],
        result.terminated[learners],
        result.truncated[learners],
        learners_info,
        tuple(float(others.mean()) for _, others in rewards),
    )
