"""World batches: worlds of one process or its workers that are stepped by one call, and the results of their steps."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
import torch

from metta.agent.sparse_tokens import PackedTokens
from metta.errors import TrainingError
from metta.spans import span
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import StepInfo
from metta.world.observation.packed import PackedObservations
from metta.world.processes.process_worlds import ProcessWorlds


@dataclass(frozen=True)
class StepResult:
    """The result of one step of a world batch, for all its agents or for the learners of one policy."""

    observations: PackedTokens
    """in memory that the next step of the world batch may overwrite"""
    rewards: np.ndarray
    """`[agents] float32`"""
    terminated: np.ndarray
    """`[agents] bool`"""
    truncated: np.ndarray
    """`[agents] bool`"""
    info: StepInfo
    opponent_returns: tuple[float, ...] = ()
    """undiscounted return of each episode that ended, mean over the agents that frozen policies control; empty if
    there are none"""
    action_masks: np.ndarray | None = None
    """`[agents, actions] bool`: actions that can succeed after the step; None if no policy needs them"""


class WorldBatch:
    """Worlds that are stepped by one call."""

    def __init__(self, env: MettaGridEnv | ProcessWorlds, first_world: int, zero_copy: bool = True):
        self.env = env
        self.first_world = first_world
        """index of the batch's first world among all worlds of the process"""
        self.needs_action_masks = False
        """whether steps return action masks, because a policy uses them"""
        self.buffer: PackedObservations | None = None
        """where the simulator writes observations without padding; None: it makes padded ones, which are then packed"""
        if isinstance(env, ProcessWorlds):
            self.buffer = env.observations
        elif zero_copy:
            self.buffer = PackedObservations(env.agents, env.spec.num_observation_tokens)
        self.pending: Future[StepResult] | StepResult | None = None
        """result of a step that was started in this process and not yet received"""

    def reset(self, staggered: bool) -> PackedTokens:
        """Start an episode in every world; the observations of all agents."""
        if isinstance(self.env, ProcessWorlds):
            return self._packed(self.env.reset(staggered))
        return self._packed(self.env.reset(staggered=staggered, out=self.buffer)[0])

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
