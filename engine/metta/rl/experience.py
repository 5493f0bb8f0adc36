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

from metta.agent.memory import Memory
from metta.agent.policy import MettaAgent, check_plays
from metta.config.batch import BatchPlan, batch_problems, plan_batch
from metta.config.training import ExperienceConfig
from metta.errors import ConfigError, UsageError
from metta.world.env import MettaGridEnv
from metta.world.summary import StepInfo


@dataclass(frozen=True)
class Minibatch:
    """Whole segments, time first."""

    observations: Tensor
    """`[horizon, segments, tokens, 3] uint8`"""
    pairs: Tensor
    """`[horizon, segments] int64`: what was done"""
    log_probs: Tensor
    """`[horizon, segments] float32`: when it was done"""
    values: Tensor
    """`[horizon, segments] float32`: when it was done"""
    advantages: Tensor
    """`[horizon, segments] float32`"""
    resets: Tensor
    """`[horizon, segments] bool`: memory is cleared before this step"""
    memory: Memory
    """before the first step"""

    @property
    def returns(self) -> Tensor:
        """`[horizon, segments] float32`: advantages + values, what the value head learns."""
        return self.advantages + self.values


@dataclass(frozen=True)
class Outcome:
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


class Group:
    """Some of the worlds, stepped together, and the policy's memory in them."""

    def __init__(self, env: MettaGridEnv, begin: int, memory: Memory):
        self.env = env
        self.rows = slice(begin, begin + env.agents)
        self.memory = memory
        self.pending: Future[Outcome] | Outcome | None = None

    def step(self, actions: np.ndarray, out: np.ndarray | None) -> Outcome:
        """Step the worlds; observations go to `out` if given."""
        begin = time.perf_counter()
        observations, rewards, terminated, truncated, info = self.env.step(actions, out=out)
        return Outcome(observations, rewards, terminated, truncated, info, time.perf_counter() - begin)


class Experience:
    """The worlds of a run, of the same configs as `env`, and the experience of its current epoch.

    All arrays are time-major, `[steps, agents, ...]` with the agents of all worlds in a row, so that the simulator
    writes a step as one block. `observations` and `resets` have one step more: the one the next epoch begins with.
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
    ):
        check_plays(agent, env.spec)
        problems = batch_problems(config, env.num_agents)
        if problems:
            raise ConfigError("the experience config", problems)
        self.config = config
        self.plan: BatchPlan = plan_batch(config, env.num_agents)
        self.device = agent.device
        self.storage_device = storage_device(config, agent.device)
        plan, spec = self.plan, agent.spec
        steps, agents = plan.rounds * plan.horizon, plan.agents
        memory = agent.initial_memory(agents)

        self.observations = self._empty(steps + 1, agents, spec.num_observation_tokens, 3, dtype=torch.uint8)
        self.resets = self._empty(steps + 1, agents, dtype=torch.bool)
        self.pairs = self._empty(steps, agents, dtype=torch.int64)
        self.log_probs = self._empty(steps, agents)
        self.values = self._empty(steps, agents)
        self.rewards = self._empty(steps, agents)
        self.terminated = self._empty(steps, agents, dtype=torch.bool)
        self.truncated = self._empty(steps, agents, dtype=torch.bool)
        self.final_values = self._empty(steps, agents)
        self.next_values = self._empty(agents)
        self.memory_hidden = self._empty(plan.rounds, *memory.hidden.shape)
        self.memory_cell = self._empty(plan.rounds, *memory.cell.shape)
        self.steps_collected = 0
        """Steps of each agent in the arrays: 0 before the first rollout."""
        self.advantages: Tensor | None = None
        """`[steps, agents] float32`, once computed for this rollout"""

        # the first two streams, of maps and worlds, are drawn by the simulator for itself, from the same seed
        _, _, policy_seed, shuffle_seed = np.random.SeedSequence(seed).spawn(4)
        self.policy_generator = _generator(policy_seed)
        self.shuffle_generator = _generator(shuffle_seed)
        self.groups: list[Group] = []
        begin = 0
        for worlds in np.array_split(np.arange(plan.num_worlds), plan.num_groups):
            own = MettaGridEnv(env.configs, len(worlds), seed, int(worlds[0]), env.task_weights)
            group = Group(own, begin, agent.initial_memory(own.agents))
            observations, _ = own.reset()
            self.observations[0, group.rows].copy_(torch.from_numpy(observations))
            self.groups.append(group)
            begin += own.agents
        self.resets[0] = True
        self._worker = ThreadPoolExecutor(1, "simulator") if plan.num_groups > 1 else None

    def begin(self) -> None:
        """Start a new epoch's experience where the last one ended."""
        self.observations[0].copy_(self.observations[self.steps_collected])
        self.resets[0].copy_(self.resets[self.steps_collected])
        self.final_values.zero_()
        self.steps_collected = 0
        self.advantages = None

    def submit(self, group: Group, actions: np.ndarray, step: int) -> None:
        """Let the worlds of a group take the step after which they are at `step`."""
        out = None
        if self.config.zero_copy and self.storage_device.type == "cpu":
            out = self.observations[step, group.rows].numpy()
        if self._worker is None:
            group.pending = group.step(actions, out)
        else:
            group.pending = self._worker.submit(group.step, actions, out)

    def receive(self, group: Group, step: int) -> Outcome:
        """Wait for the step after which the worlds are at `step`, and put down what it brought."""
        assert group.pending is not None
        outcome = group.pending.result() if isinstance(group.pending, Future) else group.pending
        group.pending = None
        rows = group.rows
        stored = self.observations[step, rows]
        if not (self.config.zero_copy and self.storage_device.type == "cpu"):
            stored.copy_(torch.from_numpy(outcome.observations))
        self.rewards[step - 1, rows] = torch.from_numpy(outcome.rewards).to(self.storage_device)
        terminated = torch.from_numpy(outcome.terminated).to(self.storage_device)
        truncated = torch.from_numpy(outcome.truncated).to(self.storage_device)
        self.terminated[step - 1, rows] = terminated
        self.truncated[step - 1, rows] = truncated
        self.resets[step, rows] = terminated | truncated
        return outcome

    def minibatches(self) -> Iterator[Minibatch]:
        """The experience once over, as minibatches of whole segments in a new random order, on the agent's device."""
        if self.advantages is None:
            raise UsageError("advantages are missing: call compute_advantages(experience) first")
        horizon, agents = self.plan.horizon, self.plan.agents
        segments = self.steps_collected // horizon * agents
        count = max(1, -(-self.plan.num_minibatches * segments // self.plan.segments))
        order = torch.randperm(segments, generator=self.shuffle_generator)
        for chosen in order.tensor_split(min(count, segments)):
            rounds, columns = chosen // agents, chosen % agents
            first = rounds * horizon * agents + columns
            rows = (first + torch.arange(horizon).unsqueeze(1) * agents).to(self.storage_device)
            rounds, columns = rounds.to(self.storage_device), columns.to(self.storage_device)
            yield Minibatch(
                self._gather(self.observations, rows),
                self._gather(self.pairs, rows),
                self._gather(self.log_probs, rows),
                self._gather(self.values, rows),
                self._gather(self.advantages, rows),
                self._gather(self.resets, rows),
                Memory(
                    self.memory_hidden[rounds, :, columns].transpose(0, 1).contiguous(),
                    self.memory_cell[rounds, :, columns].transpose(0, 1).contiguous(),
                ).to(self.device),
            )

    def set_task_weights(self, weights: Sequence[float]) -> None:
        """From now on worlds draw their tasks by these weights, at each reset."""
        for group in self.groups:
            group.env.set_task_weights(weights)

    def state(self) -> dict[str, Any]:
        """All that the next rollout depends on beside the agent's weights: tensors, numbers and strings only."""
        return {
            "worlds": [_as_tensors(group.env.state()) for group in self.groups],
            "memory": [{"hidden": group.memory.hidden, "cell": group.memory.cell} for group in self.groups],
            "observations": self.observations[self.steps_collected].clone(),
            "resets": self.resets[self.steps_collected].clone(),
            "policy_generator": self.policy_generator.get_state(),
            "shuffle_generator": self.shuffle_generator.get_state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state()` was taken, with the same environment and experience config."""
        if len(state["worlds"]) != len(self.groups) or state["resets"].shape != self.resets[0].shape:
            raise UsageError(
                f"the saved experience has {len(state['resets'])} agents in {len(state['worlds'])} groups of worlds, "
                f"this one {self.plan.agents} in {len(self.groups)}"
            )
        for group, worlds, memory in zip(self.groups, state["worlds"], state["memory"], strict=True):
            group.env.load_state(_as_arrays(worlds))
            group.memory = Memory(memory["hidden"], memory["cell"]).to(self.device)
        self.observations[0].copy_(state["observations"])
        self.resets[0].copy_(state["resets"])
        self.policy_generator.set_state(state["policy_generator"].cpu())
        self.shuffle_generator.set_state(state["shuffle_generator"].cpu())
        self.steps_collected = 0
        self.advantages = None

    def close(self) -> None:
        """End the worker thread and the worlds."""
        if self._worker is not None:
            self._worker.shutdown()
        for group in self.groups:
            group.env.close()

    def _gather(self, array: Tensor, rows: Tensor) -> Tensor:
        """`array [steps, agents, ...]` at flat `rows [horizon, segments]`, on the agent's device."""
        flat = array.flatten(0, 1).index_select(0, rows.flatten())
        return flat.view(*rows.shape, *flat.shape[1:]).to(self.device, non_blocking=True)

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        pinned = self.device.type == "cuda" and self.storage_device.type == "cpu"
        return torch.zeros(shape, dtype=dtype, device=self.storage_device, pin_memory=pinned)


def make_experience_manager(
    env: MettaGridEnv, agent: MettaAgent, config: ExperienceConfig | None = None, seed: int | None = None
) -> Experience:
    """Experience of `agent` in worlds like `env`'s, which itself is left alone.

    How many worlds follows from the config (`metta.config.batch.plan_batch`). `seed` determines maps, worlds, the
    policy's samples and the order of minibatches; by default it is the env's.
    """
    return Experience(env, agent, config or ExperienceConfig(), env.seed if seed is None else seed)


def storage_device(config: ExperienceConfig, device: torch.device) -> torch.device:
    """Where experience is kept: beside the agent, or in host memory with `cpu_offload`."""
    return torch.device("cpu") if config.cpu_offload else device


def _generator(seed: np.random.SeedSequence) -> torch.Generator:
    return torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))


def _as_tensors(state: Any) -> Any:
    """NumPy arrays inside dictionaries and lists as tensors, NumPy scalars as numbers."""
    if isinstance(state, Mapping):
        return {key: _as_tensors(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_as_tensors(value) for value in state]
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state.copy())
    return state.item() if isinstance(state, np.generic) else state


def _as_arrays(state: Any) -> Any:
    """The reverse of `_as_tensors`."""
    if isinstance(state, Mapping):
        return {key: _as_arrays(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_as_arrays(value) for value in state]
    return state.cpu().numpy() if isinstance(state, Tensor) else state
