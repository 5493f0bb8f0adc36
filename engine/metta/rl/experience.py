"""Experience: worlds being played, and what was seen, done and earned in them, laid out along time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metta.agent.policy import MettaAgent, check_policy_fits
from metta.agent.recurrent_memory import Memory
from metta.config.batch_plan import BatchPlan, batch_problems, plan_batch
from metta.config.self_play import num_opponents
from metta.config.training import ExperienceConfig
from metta.errors import ConfigError, TrainingError, UsageError
from metta.random_streams import RandomStream
from metta.rl.prioritized_sampling import PrioritizedSampling
from metta.rl.reward_normalization import RewardScale
from metta.rl.self_play import OpponentPool, Opponents
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import StepInfo


@dataclass(frozen=True)
class Minibatch:
    """Whole segments, time first."""

    observations: Tensor
    """`[horizon, segments, tokens, 3] uint8`"""
    action_index: Tensor
    """`[horizon, segments] int64`: what was done"""
    log_probs: Tensor
    """`[horizon, segments] float32`: when it was done"""
    values: Tensor
    """`[horizon, segments] float32`: when it was done"""
    advantages: Tensor
    """`[horizon, segments] float32`"""
    returns: Tensor
    """`[horizon, segments] float32`: what the value head learns"""
    episode_starts: Tensor
    """`[horizon, segments] bool`: memory is cleared before this step"""
    memory: Memory
    """before the first step"""
    weights: Tensor | None
    """`[segments] float32`: importance weights; None where each segment is drawn once"""
    rows: Tensor
    """`[horizon, segments] int64`: which rows of the experience's flattened `[steps, agents]` these are"""
    teacher_log_probs: Tensor | None = None
    """`[horizon, segments, actions] float32`: what the teacher would have done; None without one"""
    teacher_values: Tensor | None = None
    """`[horizon, segments] float32`: what the teacher expected"""


@dataclass(frozen=True)
class StepResult:
    """What a step of one group's worlds brought."""

    observations: np.ndarray
    """`[agents, tokens, 3] uint8`"""
    rewards: np.ndarray
    """`[agents] float32`"""
    terminated: np.ndarray
    """`[agents] bool`"""
    truncated: np.ndarray
    """`[agents] bool`"""
    info: StepInfo
    seconds: float
    """wall clock the simulator took"""
    opponent_returns: tuple[float, ...] = ()
    """of each episode that ended: the mean over the agents that frozen policies play"""


class WorldBatch:
    """Some of the worlds, stepped together, and the policy's memory in them."""

    def __init__(self, env: MettaGridEnv, begin: int, memory: Memory, opponents: Opponents | None = None):
        self.env = env
        self.opponents = opponents
        """who plays the agents that do not learn, if any"""
        self.rows = slice(begin, begin + memory.hidden.shape[1])
        self.memory = memory
        self.teacher_memory: Memory | None = None
        self.pending: Future[StepResult] | StepResult | None = None

    def step(self, actions: np.ndarray, out: np.ndarray | None) -> StepResult:
        """Step the worlds; observations go to `out` if given."""
        begin = time.perf_counter()
        observations, rewards, terminated, truncated, info = self.env.step(actions, out=out)
        return StepResult(observations, rewards, terminated, truncated, info, time.perf_counter() - begin)


class Experience:
    """The worlds of a run, of the same configs as `env`, and the experience of its current epoch.

    All arrays are time-major, `[steps, agents, ...]` with the agents of all worlds in a row, so that the simulator
    writes a step as one block. `observations` and `episode_starts` have one step more: the next epoch's first.
    Worlds are split into groups (`async_factor`); with more than one, a worker thread steps one while the policy
    decides for another. Each group has worlds of its own and the policy decides for groups in a fixed order, so
    results do not depend on the threads' timing.
    """

    def __init__(
        self,
        env: MettaGridEnv,
        agent: MettaAgent,
        config: ExperienceConfig,
        seed: int,
        teacher: MettaAgent | None = None,
        rank: int = 0,
        opponents: OpponentPool | None = None,
    ):
        check_policy_fits(agent, env.spec)
        if teacher is not None:
            check_policy_fits(teacher, env.spec)
        if opponents is not None:
            opponents.check_policy_fits(env.spec)
        frozen = 0 if opponents is None else num_opponents(opponents.config, env.configs[0])
        problems = batch_problems(config, env.num_agents - frozen)
        if problems:
            raise ConfigError("the experience config", problems)
        self.config = config
        self.plan: BatchPlan = plan_batch(config, env.num_agents, frozen)
        self.device = agent.device
        self.storage_device = storage_device(config, agent.device)
        plan, spec = self.plan, agent.spec
        steps, agents = plan.segments_per_agent * plan.horizon, plan.agents
        memory = agent.initial_memory(agents)

        self.observations = self._empty(steps + 1, agents, spec.num_observation_tokens, 3, dtype=torch.uint8)
        self.episode_starts = self._empty(steps + 1, agents, dtype=torch.bool)
        self.action_index = self._empty(steps, agents, dtype=torch.int64)
        self.log_probs = self._empty(steps, agents)
        self.values = self._empty(steps, agents)
        self.rewards = self._empty(steps, agents)
        self.terminated = self._empty(steps, agents, dtype=torch.bool)
        self.truncated = self._empty(steps, agents, dtype=torch.bool)
        self.final_values = self._empty(steps, agents)
        self.next_values = self._empty(agents)
        self.memory_hidden = self._empty(plan.segments_per_agent, *memory.hidden.shape)
        self.memory_cell = self._empty(plan.segments_per_agent, *memory.cell.shape)
        self.steps_collected = 0
        """Steps of each agent in the arrays: 0 before the first rollout."""
        self.advantages: Tensor | None = None
        """`[steps, agents] float32`, once computed for this rollout"""
        self.returns: Tensor | None = None
        """`[steps, agents] float32`: what the values are to be, computed with the advantages"""
        self.learned_rewards: Tensor | None = None
        """`[steps, agents] float32`: what both were computed from: the rewards, or the rewards scaled"""
        self.reward_scale = RewardScale(agents, self.storage_device)

        self.policy_generator = _generator(RandomStream.POLICY, seed, rank)
        self.shuffle_generator = _generator(RandomStream.SHUFFLE, seed, rank)
        self.opponent_generator = _generator(RandomStream.OPPONENTS, seed, rank)
        first_world = rank * plan.num_worlds
        self.groups: list[WorldBatch] = []
        begin = 0
        for worlds in np.array_split(np.arange(plan.num_worlds), plan.num_groups):
            own = MettaGridEnv(env.configs, len(worlds), seed, first_world + int(worlds[0]), env.task_weights)
            side = None if opponents is None else Opponents(own, opponents, self.opponent_generator)
            group = WorldBatch(own, begin, agent.initial_memory(len(worlds) * plan.num_learners), side)
            observations, _ = own.reset(staggered=config.stagger_episodes)
            if side is not None:
                observations = side.begin(observations)
            self.observations[0, group.rows].copy_(torch.from_numpy(observations))
            self.groups.append(group)
            begin = group.rows.stop
        self.episode_starts[0] = True
        self._worker = ThreadPoolExecutor(1, "simulator") if plan.num_groups > 1 else None
        self.teacher = teacher
        """who says at each step what it would do, if anyone"""
        if teacher is not None:
            self.teacher_log_probs = self._empty(steps, agents, len(spec.flat_actions))
            self.teacher_values = self._empty(steps, agents)
            for group in self.groups:
                group.teacher_memory = teacher.initial_memory(group.rows.stop - group.rows.start)

    def begin(self) -> None:
        """Start a new epoch's experience where the last one ended."""
        self.observations[0].copy_(self.observations[self.steps_collected])
        self.episode_starts[0].copy_(self.episode_starts[self.steps_collected])
        self.final_values.zero_()
        self.steps_collected = 0
        self.advantages = self.returns = self.learned_rewards = None

    def submit(self, group: WorldBatch, actions: np.ndarray, step: int) -> None:
        """Let the worlds of a group take the step after which they are at `step`."""
        out = None
        if group.opponents is not None:
            actions = group.opponents.actions(actions)
        elif self._writes_straight:
            out = self.observations[step, group.rows].numpy()
        if self._worker is None:
            group.pending = group.step(actions, out)
        else:
            group.pending = self._worker.submit(group.step, actions, out)

    def receive(self, group: WorldBatch, step: int) -> StepResult:
        """Wait for the step after which the worlds are at `step`, and put down what it brought."""
        assert group.pending is not None
        outcome = group.pending.result() if isinstance(group.pending, Future) else group.pending
        group.pending = None
        rows = group.rows
        if not np.isfinite(outcome.rewards).all():
            raise TrainingError(self._what_broke(outcome.rewards, rows.start, step))
        if group.opponents is not None:
            outcome = _learners_part(outcome, group.opponents)
        if group.opponents is not None or not self._writes_straight:
            self.observations[step, rows].copy_(torch.from_numpy(outcome.observations))
        self.rewards[step - 1, rows] = torch.from_numpy(outcome.rewards).to(self.storage_device)
        terminated = torch.from_numpy(outcome.terminated).to(self.storage_device)
        truncated = torch.from_numpy(outcome.truncated).to(self.storage_device)
        self.terminated[step - 1, rows] = terminated
        self.truncated[step - 1, rows] = truncated
        self.episode_starts[step, rows] = terminated | truncated
        return outcome

    def minibatches(self, sampling: PrioritizedSampling | None = None) -> Iterator[Minibatch]:
        """Minibatches of whole segments, on the agent's device: as many as hold the experience once over.

        Each segment once, in a new random order; with `sampling`, drawn by the advantages as they are by then.
        """
        if self.advantages is None:
            raise UsageError("advantages are missing: call compute_advantages(experience) first")
        horizon, agents = self.plan.horizon, self.plan.agents
        segments = self.steps_collected // horizon * agents
        count = max(1, -(-self.plan.num_minibatches * segments // self.plan.segments))
        order = torch.arange(segments)
        if sampling is None:
            order = torch.randperm(segments, generator=self.shuffle_generator)
        for part in order.tensor_split(min(count, segments)):
            chosen, weights = part, None
            if sampling is not None:
                chosen, weights = sampling.draw(self.advantages, horizon, len(part), self.shuffle_generator)
                weights = weights.to(self.device)
            yield self._minibatch(chosen, weights)

    def set_task_weights(self, weights: Sequence[float]) -> None:
        """From now on worlds draw their tasks by these weights, at each reset."""
        for group in self.groups:
            group.env.set_task_weights(weights)

    def state(self) -> dict[str, Any]:
        """All that the next rollout depends on beside the agent's weights: tensors, numbers and strings only."""
        teacher_memories = [group.teacher_memory for group in self.groups if group.teacher_memory is not None]
        return {
            "worlds": [_as_tensors(group.env.state()) for group in self.groups],
            "memory": [{"hidden": group.memory.hidden, "cell": group.memory.cell} for group in self.groups],
            "teacher_memory": [{"hidden": memory.hidden, "cell": memory.cell} for memory in teacher_memories],
            "observations": self.observations[self.steps_collected].clone(),
            "episode_starts": self.episode_starts[self.steps_collected].clone(),
            "policy_generator": self.policy_generator.get_state(),
            "shuffle_generator": self.shuffle_generator.get_state(),
            "reward_scale": self.reward_scale.state(),
            "opponent_generator": self.opponent_generator.get_state(),
            "opponents": [group.opponents.state() for group in self.groups if group.opponents is not None],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state()` was taken, with the same environment and experience config."""
        if len(state["worlds"]) != len(self.groups) or state["episode_starts"].shape != self.episode_starts[0].shape:
            raise UsageError(
                f"the saved experience has {len(state['episode_starts'])} agents in {len(state['worlds'])} groups of "
                f"worlds, this one {self.plan.agents} in {len(self.groups)}"
            )
        for group, worlds, memory in zip(self.groups, state["worlds"], state["memory"], strict=True):
            group.env.load_state(as_arrays(worlds))
            group.memory = Memory(memory["hidden"], memory["cell"]).to(self.device)
        if not state.get("teacher_memory"):
            self.dismiss_teacher()
        else:
            for group, memory in zip(self.groups, state["teacher_memory"], strict=True):
                group.teacher_memory = Memory(memory["hidden"], memory["cell"]).to(self.device)
        self.observations[0].copy_(state["observations"])
        self.episode_starts[0].copy_(state["episode_starts"])
        self.policy_generator.set_state(state["policy_generator"].cpu())
        self.shuffle_generator.set_state(state["shuffle_generator"].cpu())
        if "reward_scale" in state:
            self.reward_scale.load_state(state["reward_scale"])
        if "opponent_generator" in state:  # which runs of older versions lack
            self.opponent_generator.set_state(state["opponent_generator"].cpu())
        for group, opponents in zip(self.groups, state.get("opponents", ()), strict=False):
            if group.opponents is not None:
                group.opponents.load_state(opponents)
        self.steps_collected = 0
        self.advantages = self.returns = self.learned_rewards = None

    def dismiss_teacher(self) -> None:
        """Ask the teacher no more, and free what it takes."""
        if self.teacher is not None:
            self.teacher = None
            del self.teacher_log_probs, self.teacher_values
            for group in self.groups:
                group.teacher_memory = None

    def close(self) -> None:
        """End the worker thread and the worlds."""
        if self._worker is not None:
            self._worker.shutdown()
        for group in self.groups:
            group.env.close()

    def _what_broke(self, rewards: np.ndarray, begin: int, step: int) -> str:
        """Which of a group's rewards is not finite, the group's first agent being `begin`."""
        first = int(np.flatnonzero(~np.isfinite(rewards))[0])
        world, agent = divmod(begin + first, self.plan.num_agents)
        return (
            f"the reward of agent {agent} in world {world} is {rewards[first]} (step {step} of the rollout); "
            "look for a reward in env.game that is too large, or at what the environment returned"
        )

    def _minibatch(self, segments: Tensor, weights: Tensor | None) -> Minibatch:
        """The segments of these numbers: segment n is round n // agents of agent n % agents."""
        assert self.advantages is not None
        assert self.returns is not None
        horizon, agents = self.plan.horizon, self.plan.agents
        segments_per_agent, columns = segments // agents, segments % agents
        first = segments_per_agent * horizon * agents + columns
        rows = (first + torch.arange(horizon).unsqueeze(1) * agents).to(self.storage_device)
        segments_per_agent, columns = segments_per_agent.to(self.storage_device), columns.to(self.storage_device)
        return Minibatch(
            self.gathered(self.observations, rows),
            self.gathered(self.action_index, rows),
            self.gathered(self.log_probs, rows),
            self.gathered(self.values, rows),
            self.gathered(self.advantages, rows),
            self.gathered(self.returns, rows),
            self.gathered(self.episode_starts, rows),
            Memory(
                self.memory_hidden[segments_per_agent, :, columns].transpose(0, 1).contiguous(),
                self.memory_cell[segments_per_agent, :, columns].transpose(0, 1).contiguous(),
            ).to(self.device),
            weights,
            rows,
            None if self.teacher is None else self.gathered(self.teacher_log_probs, rows),
            None if self.teacher is None else self.gathered(self.teacher_values, rows),
        )

    def gathered(self, array: Tensor, rows: Tensor) -> Tensor:
        """`array [steps, agents, ...]` at flat `rows [horizon, segments]`, on the agent's device."""
        flat = array.flatten(0, 1)
        # into pinned memory, from where a GPU fetches it while the computer goes on; torch keeps the block until then
        chosen = torch.empty(rows.numel(), *flat.shape[1:], dtype=flat.dtype, device=flat.device, pin_memory=self._pins)
        torch.index_select(flat, 0, rows.flatten(), out=chosen)
        return chosen.view(*rows.shape, *flat.shape[1:]).to(self.device, non_blocking=True)

    @property
    def _writes_straight(self) -> bool:
        """Whether the simulator writes what agents see into these very arrays."""
        return self.config.zero_copy and self.storage_device.type == "cpu"

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.storage_device, pin_memory=self._pins)

    @property
    def _pins(self) -> bool:
        """Whether arrays are pinned in host memory, for a GPU to fetch."""
        return self.device.type == "cuda" and self.storage_device.type == "cpu"


def make_experience_manager(
    env: MettaGridEnv,
    agent: MettaAgent,
    config: ExperienceConfig | None = None,
    seed: int | None = None,
    teacher: MettaAgent | None = None,
    rank: int = 0,
    opponents: OpponentPool | None = None,
) -> Experience:
    """Experience of `agent` in worlds like `env`'s, which itself is left alone.

    How many worlds follows from the config (`metta.config.batch_plan.plan_batch`). `seed` determines maps, worlds, the
    policy's samples and the order of minibatches; by default it is the env's. `teacher` is asked at
    each step what it would do, with its own memory, for `train_ppo` to learn from (kickstarting).
    Of several processes that train together each names its `rank`, and gets worlds and samples of its own.
    With `opponents` frozen policies play some agents of each world, whose steps are no experience (self-play).
    """
    return Experience(
        env, agent, config or ExperienceConfig(), env.seed if seed is None else seed, teacher, rank, opponents
    )


def storage_device(config: ExperienceConfig, device: torch.device) -> torch.device:
    """Where experience is kept: beside the agent, or in host memory with `cpu_offload`."""
    return torch.device("cpu") if config.cpu_offload else device


def _learners_part(outcome: StepResult, opponents: Opponents) -> StepResult:
    """What a step brought the agents that learn."""
    rewards, terminated, truncated, info, returns = opponents.learners_part(
        outcome.rewards, outcome.terminated, outcome.truncated, outcome.info
    )
    observations = opponents.see(outcome.observations)
    return StepResult(observations, rewards, terminated, truncated, info, outcome.seconds, tuple(returns))


def _generator(stream: RandomStream, seed: int, rank: int) -> torch.Generator:
    """A generator of the stream: rank 0 draws what a single process draws, every other rank has its own numbers."""
    return torch.Generator().manual_seed(stream.seed(seed, *((rank - 1,) if rank else ())))


def _as_tensors(state: Any) -> Any:
    """NumPy arrays inside dictionaries and lists as tensors, NumPy scalars as numbers."""
    if isinstance(state, Mapping):
        return {key: _as_tensors(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_as_tensors(value) for value in state]
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state.copy())
    return state.item() if isinstance(state, np.generic) else state


def as_arrays(state: Any) -> Any:
    """Tensors inside dictionaries and lists as NumPy arrays: what `state()` made of worlds, as these load it."""
    if isinstance(state, Mapping):
        return {key: as_arrays(value) for key, value in state.items()}
    if isinstance(state, list):
        return [as_arrays(value) for value in state]
    return state.cpu().numpy() if isinstance(state, Tensor) else state
