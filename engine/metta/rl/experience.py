"""Experience: the rollout buffer of one epoch, the worlds whose steps it stores, and minibatches of its segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metta.agent.devices import make_generator, set_generator_state, to_device
from metta.agent.memory.state import Memory
from metta.agent.policy import MettaAgent, Policy, check_policy_fits
from metta.agent.sparse_tokens import PackedTokens
from metta.config.batch_plan import BatchPlan, batch_problems, plan_batch
from metta.config.plan.worker_count import worker_count
from metta.config.self_play import num_opponents
from metta.config.training import ExperienceConfig
from metta.errors import ConfigError, UsageError
from metta.random_streams import RandomStream
from metta.rl.buffers.minibatch import Labels, Minibatch
from metta.rl.buffers.token_store import TokenStore
from metta.rl.frozen_policies.kickstarting import Teacher, labelled_agents
from metta.rl.frozen_policies.self_play import OpponentPool, Opponents
from metta.rl.plain_values import arrays_to_tensors, tensors_to_arrays
from metta.rl.prioritized_sampling import PrioritizedSampling
from metta.rl.reward_normalization import RewardScaler
from metta.rl.world_batch import StepResult, WorldBatch, learners_only
from metta.world.env import MettaGridEnv
from metta.world.processes.process_worlds import make_worlds


class Experience:
    """Rollout buffer of the current epoch, and the worlds whose steps it stores.

    The worlds have the configs and task weights of `env`, which itself is not stepped. `rollout` fills the arrays,
    `compute_advantages` adds advantages and returns, and `minibatches` yields their segments.

    Arrays are time-major, `[steps, agents, ...]`. `agents` counts the learners of all worlds, in world-major order.
    Observations are one list of tokens in the same order. `observations` and `episode_starts` have `steps + 1` entries:
    the last is the first step of the next epoch.

    Worlds are split into `async_factor` world batches. With more than one, a thread steps one batch while the policy
    computes the actions of another. With `workers`, processes step the worlds instead, a share each.
    Each world is in one batch, and the policy acts in the batches in a fixed order, so results depend neither on the
    timing of threads and processes nor on their number.
    """

    def __init__(
        self,
        env: MettaGridEnv,
        agent: MettaAgent,
        config: ExperienceConfig,
        seed: int,
        teacher: Policy | Sequence[Policy] | None = None,
        rank: int = 0,
        opponents: OpponentPool | None = None,
        label_share: float = 1.0,
    ):
        teacher = teacher if teacher is None or isinstance(teacher, Sequence) else [teacher]
        self.config = config
        self.plan = _check_and_plan(env, agent, config, teacher, opponents)
        self.device = agent.device
        self.storage_device = storage_device(config, agent.device)
        self.teacher = teacher
        """policies that label steps (kickstarting), one for all tasks of the worlds or one for each; or None"""
        self._is_labelled = labelled_agents(self.plan.agents, label_share)
        self.label_weights = (self._is_labelled / self._is_labelled.float().mean()).to(self.storage_device)
        """`[agents] float32`: see `Labels.weights`"""
        self.reward_scaler = RewardScaler(self.plan.agents)
        self.policy_generator = _generator(RandomStream.POLICY, seed, rank, agent.device)
        self.shuffle_generator = _generator(RandomStream.SHUFFLE, seed, rank)
        self.opponent_generator = _generator(RandomStream.OPPONENTS, seed, rank)
        self.teacher_generator = _generator(RandomStream.TEACHER, seed, rank)
        self._allocate(agent)
        self.world_batches = self._make_world_batches(env, agent, seed, rank, opponents)
        needs_thread = len(self.world_batches) > 1 and not self.world_batches[0].in_processes
        self._thread = ThreadPoolExecutor(1, "simulator") if needs_thread else None
        try:
            for batch in self.world_batches:
                observations = batch.reset(config.stagger_episodes)
                batch.set_observations(observations)
                self.observations.append(observations)
        except BaseException:
            self.close()
            raise
        self.episode_starts[0] = True

    def _allocate(self, agent: MettaAgent) -> None:
        """Allocate the arrays of an epoch: those that the worlds fill in host memory, others on the storage device."""
        plan, spec, memory = self.plan, agent.spec, agent.initial_memory(self.plan.agents)
        steps, agents = plan.segments_per_agent * plan.horizon, plan.agents
        self.observations = TokenStore(
            steps + 1, agents, spec.num_observation_tokens, self.storage_device, self._pins_memory
        )
        self.episode_starts = torch.zeros(steps + 1, agents, dtype=torch.bool)
        self.rewards = torch.zeros(steps, agents)
        self.terminated = torch.zeros(steps, agents, dtype=torch.bool)
        self.truncated = torch.zeros(steps, agents, dtype=torch.bool)
        self.action_index = self._zeros(steps, agents, dtype=torch.int64)
        self.log_probs = self._zeros(steps, agents)
        self.values = self._zeros(steps, agents)
        self.final_values = self._zeros(steps, agents)
        """`[steps, agents] float32`: value of the final observation where an episode was truncated; elsewhere 0"""
        self.next_values = self._zeros(agents)
        """`[agents] float32`: values of the observations after the last step"""
        self.action_masks: Tensor | None = None
        """`[steps, agents, actions] bool`: masks under which actions were sampled; None if the agent uses none"""
        if agent.uses_action_masks:
            self.action_masks = self._zeros(steps, agents, len(spec.flat_actions), dtype=torch.bool)
        self.segment_memories = {
            name: self._zeros(plan.segments_per_agent, *tensor.shape) for name, tensor in memory.tensors.items()
        }
        """`[segments, layers, agents, ...] float32`, by name: the memory before the first step of each segment"""
        if self.teacher is not None:
            self.teacher_probs = self._zeros(steps, agents, len(spec.flat_actions))
            self.teacher_values = self._zeros(steps, agents)
        self.steps_collected = 0
        """number of steps stored for each agent; 0 before the first rollout"""
        self.advantages: Tensor | None = None
        """`[steps, agents] float32`; None until computed for this rollout"""
        self.returns: Tensor | None = None
        """`[steps, agents] float32`: value targets; None until computed for this rollout"""
        self.learned_rewards: Tensor | None = None
        """`[steps, agents] float32`: the rewards, scaled if so configured, from which both were computed"""

    def _make_world_batches(
        self, env: MettaGridEnv, agent: MettaAgent, seed: int, rank: int, pool: OpponentPool | None
    ) -> list[WorldBatch]:
        """Make the worlds of this process, in world batches. World indices are unique across all ranks."""
        plan, batches, first_world = self.plan, [], 0
        sizes = [len(worlds) for worlds in np.array_split(np.arange(plan.num_worlds), plan.num_world_batches)]
        workers = worker_count(self.config, plan, agent.device.type).count
        is_auto = self.config.workers == "auto"
        for batch_env in make_worlds(env, sizes, seed, rank * plan.num_worlds, workers, is_auto):
            opponents = None if pool is None else Opponents(batch_env, pool, self.opponent_generator)
            learners = batch_env.num_worlds * plan.num_learners
            uses_masks = any(policy.uses_action_masks for policy in (agent, *(self.teacher or ())))
            memory = agent.initial_memory(learners)
            batch = WorldBatch(batch_env, first_world, learners, memory, opponents, uses_masks, self.config.zero_copy)
            if self.teacher is not None:
                batch.teacher = Teacher(self.teacher, self._is_labelled[batch.rows], plan.num_learners)
            batches.append(batch)
            first_world += batch_env.num_worlds
        return batches

    def start_epoch(self) -> None:
        """Discard the stored steps; the first observations of the new epoch are those after the last step."""
        self.observations.restart_with(self.steps_collected)
        self.episode_starts[0].copy_(self.episode_starts[self.steps_collected])
        self.final_values.zero_()
        self.steps_collected = 0
        self.advantages = self.returns = self.learned_rewards = None

    def submit(self, batch: WorldBatch, actions: np.ndarray) -> None:
        """Start stepping a world batch, with the learners' `actions [learners, 2]`."""
        if batch.opponents is not None:
            actions = batch.opponents.all_actions(actions)
        batch.start_step(actions, self._thread)

    def receive(self, batch: WorldBatch, step: int) -> StepResult:
        """Wait for the step that `submit` started, to time `step`, and store its result.

        Raises TrainingError if a reward is not finite.
        """
        result = batch.finish_step()
        batch.check_rewards(result.rewards, step)
        if batch.opponents is not None:
            result = learners_only(result, batch.opponents)
        batch.set_action_masks(result.action_masks)
        rows = batch.rows
        batch.set_observations(result.observations)
        self.observations.append(result.observations)
        self.rewards[step - 1, rows] = torch.from_numpy(result.rewards)
        terminated, truncated = torch.from_numpy(result.terminated), torch.from_numpy(result.truncated)
        self.terminated[step - 1, rows] = terminated
        self.truncated[step - 1, rows] = truncated
        self.episode_starts[step, rows] = terminated | truncated
        return result

    def minibatches(self, sampling: PrioritizedSampling | None = None) -> Iterator[Minibatch]:
        """Yield minibatches for one pass, which together have as many segments as were collected.

        Without `sampling`, each segment occurs once, in random order. With it, segments are sampled with replacement
        from the advantages that are current when the minibatch is made (V-trace changes them between minibatches).

        Raises UsageError if the advantages have not been computed.
        """
        if self.advantages is None:
            raise UsageError("advantages are missing: call compute_advantages(experience) first")
        horizon, agents = self.plan.horizon, self.plan.agents
        segments = self.steps_collected // horizon * agents
        count = max(1, -(-self.plan.num_minibatches * segments // self.plan.segments))
        count = min(count, segments)
        if sampling is None:
            order = torch.randperm(segments, generator=self.shuffle_generator)
            parts = zip(order.tensor_split(count), self._stored(order).tensor_split(count), strict=True)
            for part, stored_part in parts:
                yield self._minibatch(part, stored_part, None)
            return
        for part in torch.arange(segments).tensor_split(count):
            indices, weights = sampling.sample(self.advantages, horizon, len(part), self.shuffle_generator)
            yield self._minibatch(indices, self._stored(indices), to_device(weights, self.device))

    def opponents_in_use(self) -> list[int]:
        """The numbers of the frozen policies against which episodes run (self-play)."""
        opponents = [batch.opponents for batch in self.world_batches if batch.opponents is not None]
        return sorted({number for each in opponents for number in each.policy_numbers.tolist()})

    def set_task_weights(self, weights: Sequence[float]) -> None:
        """Set the relative weights `[tasks]` with which the next resets of worlds sample their tasks."""
        for batch in self.world_batches:
            batch.env.set_task_weights(weights)

    def state(self) -> dict[str, Any]:
        """Everything but the agent's weights that the next rollout depends on, as tensors, numbers and text."""
        batches = self.world_batches
        return {
            "worlds": [arrays_to_tensors(batch.env.state()) for batch in batches],
            "memory": [batch.memory.state() for batch in batches],
            "teacher_memory": [batch.teacher.state() for batch in batches if batch.teacher is not None],
            "observations": self.observations.padded(self.steps_collected),
            "episode_starts": self.episode_starts[self.steps_collected].clone(),
            "policy_generator": self.policy_generator.get_state(),
            "shuffle_generator": self.shuffle_generator.get_state(),
            "reward_scale": self.reward_scaler.state(),
            "opponent_generator": self.opponent_generator.get_state(),
            "teacher_generator": self.teacher_generator.get_state(),
            "opponents": [batch.opponents.state() for batch in batches if batch.opponents is not None],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state()` returned for the same environment and experience configs.

        A state without a teacher's memory removes the teacher. Raises UsageError for another number of agents or world
        batches.
        """
        batches = self.world_batches
        if len(state["worlds"]) != len(batches) or state["episode_starts"].shape != self.episode_starts[0].shape:
            raise UsageError(
                f"the saved experience has {len(state['episode_starts'])} agents in {len(state['worlds'])} world "
                f"batches; this one has {self.plan.agents} in {len(batches)}"
            )
        for batch, worlds, memory in zip(batches, state["worlds"], state["memory"], strict=True):
            batch.env.load_state(tensors_to_arrays(worlds))
            batch.memory = batch.memory.restored(memory)
        if not state.get("teacher_memory"):
            self.remove_teacher()
        else:
            for batch, memories in zip(batches, state["teacher_memory"], strict=True):
                if batch.teacher is not None:
                    batch.teacher.load_state(memories if isinstance(memories, list) else [memories])
        observations = PackedTokens.pack(state["observations"])
        self.observations.restart(observations)
        for batch in batches:
            batch.set_observations(observations.select(torch.arange(batch.rows.start, batch.rows.stop)))
        self.episode_starts[0].copy_(state["episode_starts"])
        set_generator_state(self.policy_generator, state["policy_generator"])
        self.shuffle_generator.set_state(state["shuffle_generator"].cpu())
        if "reward_scale" in state:  # states of older versions lack this key and the next ones
            self.reward_scaler.load_state(state["reward_scale"])
        if "opponent_generator" in state:
            self.opponent_generator.set_state(state["opponent_generator"].cpu())
        if "teacher_generator" in state:
            self.teacher_generator.set_state(state["teacher_generator"].cpu())
        for batch, opponents in zip(batches, state.get("opponents", ()), strict=False):
            if batch.opponents is not None:
                batch.opponents.load_state(opponents)
        for batch in batches:
            batch.set_action_masks(batch.current_action_masks())
        self.steps_collected = 0
        self.advantages = self.returns = self.learned_rewards = None

    def remove_teacher(self) -> None:
        """Remove the teacher and free its arrays; later rollouts do not evaluate it."""
        if self.teacher is not None:
            self.teacher = None
            del self.teacher_probs, self.teacher_values
            for batch in self.world_batches:
                batch.teacher = None
                batch.uses_action_masks = self.action_masks is not None

    def close(self) -> None:
        """Close the worlds, and end the thread or the processes that step them."""
        if self._thread is not None:
            self._thread.shutdown()
        for batch in self.world_batches:
            batch.env.close()

    def _stored(self, tensor: Tensor) -> Tensor:
        """The tensor on the storage device."""
        return to_device(tensor, self.storage_device)

    def _rows(self, segments: Tensor) -> Tensor:
        """`[horizon, segments]`: indices of the steps of segments, in arrays flattened to `[steps * agents, ...]`."""
        horizon, agents = self.plan.horizon, self.plan.agents
        first = segments // agents * (horizon * agents) + segments % agents
        return first + torch.arange(horizon, device=segments.device).unsqueeze(1) * agents

    def _minibatch(self, segments: Tensor, stored_segments: Tensor, weights: Tensor | None) -> Minibatch:
        """The minibatch of some segments, by index: index = segment of the agent * agents + agent.

        The indices are given in host memory, from which sizes are known, and on the storage device.
        """
        assert self.advantages is not None
        assert self.returns is not None
        host_rows = self._rows(segments)
        rows = host_rows if stored_segments is segments else self._rows(stored_segments)
        segment_of_agent, columns = stored_segments // self.plan.agents, stored_segments % self.plan.agents
        starts = self.episode_starts.view(-1)[host_rows]
        return Minibatch(
            self.observations.gather(host_rows).to(self.device),
            self.select_rows(self.action_index, rows),
            self.select_rows(self.log_probs, rows),
            self.select_rows(self.values, rows),
            self.select_rows(self.advantages, rows),
            self.select_rows(self.returns, rows),
            to_device(starts, self.device),
            Memory(
                {
                    name: memories[segment_of_agent, :, columns].transpose(0, 1).contiguous()
                    for name, memories in self.segment_memories.items()
                }
            ).to(self.device),
            weights,
            rows,
            self._labels(rows, columns),
            None if self.action_masks is None else self.select_rows(self.action_masks, rows),
            starts.any(1).tolist(),
        )

    def _labels(self, rows: Tensor, columns: Tensor) -> Labels | None:
        """The teacher's labels of a minibatch of the agents `columns [segments]`."""
        if self.teacher is None:
            return None
        has_values = isinstance(self.teacher[0], MettaAgent)
        return Labels(
            self.select_rows(self.teacher_probs, rows),
            self.select_rows(self.teacher_values, rows) if has_values else None,
            self.label_weights[columns].to(self.device),
        )

    def select_rows(self, array: Tensor, rows: Tensor) -> Tensor:
        """The entries `[horizon, segments, ...]` of an array at `Minibatch.rows`, on the agent's device."""
        flat = array.flatten(0, 1)
        # pinned memory makes the copy to a GPU asynchronous; torch does not reuse the block before the copy is done
        pin = self._pins_memory
        selected = torch.empty(rows.numel(), *flat.shape[1:], dtype=flat.dtype, device=flat.device, pin_memory=pin)
        torch.index_select(flat, 0, rows.flatten(), out=selected)
        return selected.view(*rows.shape, *flat.shape[1:]).to(self.device, non_blocking=True)

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.storage_device, pin_memory=self._pins_memory)

    @property
    def _pins_memory(self) -> bool:
        """Whether arrays are in pinned CPU memory, from which copies to a GPU are asynchronous."""
        return self.device.type == "cuda" and self.storage_device.type == "cpu"


def make_experience_manager(
    env: MettaGridEnv,
    agent: MettaAgent,
    config: ExperienceConfig | None = None,
    seed: int | None = None,
    teacher: Policy | Sequence[Policy] | None = None,
    rank: int = 0,
    opponents: OpponentPool | None = None,
    label_share: float = 1.0,
) -> Experience:
    """Make the experience in which `agent` collects rollouts, with new worlds that have the configs of `env`.

    `env` is not changed. The number of worlds is derived from the config (`metta.config.batch_plan.plan_batch`).

    - `seed`: determines maps, sampled actions and the order of minibatches; by default that given to `env`, or 0
    - `teacher`: policy whose actions are stored as labels at each step, for kickstarting; or one for each task of `env`
    - `rank`: of this process in distributed training; each rank has different worlds and random numbers
    - `opponents`: frozen policies that control some agents of each world, whose steps are not stored (self-play)
    - `label_share`: fraction of the agents that the teacher labels

    Raises ConfigError if sizes do not divide each other, UsageError if a policy does not fit the environment.
    """
    seed = env.default_seed if seed is None else seed
    return Experience(env, agent, config or ExperienceConfig(), seed, teacher, rank, opponents, label_share)


def storage_device(config: ExperienceConfig, device: torch.device) -> torch.device:
    """The device of the experience's arrays: the CPU with `cpu_offload`, otherwise the agent's device."""
    return torch.device("cpu") if config.cpu_offload else device


def _check_and_plan(
    env: MettaGridEnv,
    agent: MettaAgent,
    config: ExperienceConfig,
    teacher: Sequence[Policy] | None,
    opponents: OpponentPool | None,
) -> BatchPlan:
    """Check that the policies fit the environment and that the sizes divide each other; the batch plan."""
    check_policy_fits(agent, env.spec)
    for policy in teacher or ():
        check_policy_fits(policy, env.spec)
    if opponents is not None:
        opponents.check_fits(env.spec)
    opponents_per_world = 0 if opponents is None else num_opponents(opponents.config, env.configs[0])
    problems = batch_problems(config, env.num_agents - opponents_per_world)
    if problems:
        raise ConfigError("the experience config", problems)
    return plan_batch(config, env.num_agents, opponents_per_world)


def _generator(stream: RandomStream, seed: int, rank: int, device: torch.device | None = None) -> torch.Generator:
    """The stream's generator. Rank 0 has the numbers of a run in one process, every other rank different ones."""
    return make_generator(stream.seed(seed, *((rank - 1,) if rank else ())), device or torch.device("cpu"))
