"""Experience: the rollout buffer of one epoch of a policy, and minibatches of its segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metta.agent.devices import make_generator, set_generator_state, to_device
from metta.agent.memory.state import Memory
from metta.agent.policy import MettaAgent, Policy, reads_groups
from metta.agent.sparse_tokens import PackedTokens
from metta.agent.team import Team
from metta.config.training import ExperienceConfig
from metta.errors import UsageError
from metta.random_streams import RandomStream
from metta.rl.buffers.minibatch import Labels, Minibatch, segments_of
from metta.rl.buffers.token_store import TokenStore
from metta.rl.frozen_policies.kickstarting import Teacher, labeled_agents
from metta.rl.frozen_policies.self_play import OpponentPool
from metta.rl.prioritized_sampling import PrioritizedSampling
from metta.rl.reward_normalization import RewardScaler
from metta.rl.worlds.agent_batch import AgentBatch
from metta.rl.worlds.policy_role import make_roles, stream_keys
from metta.rl.worlds.shared_worlds import SharedWorlds
from metta.rl.worlds.world_batch import StepResult
from metta.world.env import MettaGridEnv


class Experience:
    """Rollout buffer of the current epoch: the steps of the agents that one policy plays, and that it learns from.

    `rollout` steps the worlds and fills the arrays, `compute_advantages` adds advantages and returns, and `minibatches`
    yields their segments. The worlds are shared with the experiences of other policies, if there are several.

    Arrays are time-major, `[steps, agents, ...]`. `agents` counts the policy's learners in all worlds, in world-major
    order. Observations are one list of tokens in the same order. `observations` and `episode_starts` have `steps + 1`
    entries: the last is the first step of the next epoch.
    """

    def __init__(
        self,
        worlds: SharedWorlds,
        name: str,
        agent: MettaAgent,
        seed: int,
        rank: int = 0,
        teacher: Sequence[Policy] | None = None,
        label_share: float = 1.0,
    ):
        self.worlds = worlds
        self.name = name
        """the policy's name; empty for the only one"""
        self.config = worlds.config
        self.agent_batches = worlds.batches_of(name)
        """the policy's agents in each world batch"""
        self.role = self.agent_batches[0].role
        self.plan = worlds.plan.of_policy(self.agent_batches[0].num_learners, self.role.keeps_worlds)
        self.device = agent.device
        self.storage_device = storage_device(self.config, agent.device)
        self.teacher = teacher
        """policies that label steps (kickstarting), one for all tasks of the worlds or one for each; or None"""
        together = self.plan.num_learners if any(map(reads_groups, teacher or ())) else 1
        self._is_labeled = labeled_agents(self.plan.agents, label_share, together)
        self.label_weights = (self._is_labeled / self._is_labeled.float().mean()).to(self.storage_device)
        """`[agents] float32`: see `Labels.weights`"""
        self.reward_scaler = RewardScaler(self.plan.agents)
        keys = stream_keys(rank, worlds.roles.index(self.role))
        self.policy_generator = make_generator(RandomStream.POLICY.seed(seed, *keys), agent.device)
        self.shuffle_generator = make_generator(RandomStream.SHUFFLE.seed(seed, *keys), torch.device("cpu"))
        self.teacher_generator = make_generator(RandomStream.TEACHER.seed(seed, *keys), torch.device("cpu"))
        self._allocate(agent)
        for batch in self.agent_batches:
            batch.memory = agent.initial_memory(batch.rows.stop - batch.rows.start)
            if self.teacher is not None:
                batch.teacher = Teacher(self.teacher, self._is_labeled[batch.rows], self.plan.num_learners)

    def _allocate(self, agent: MettaAgent) -> None:
        """Allocate the arrays of an epoch: those that the worlds fill in host memory, others on the storage device."""
        plan, spec, memory = self.plan, agent.spec, agent.initial_memory(self.plan.agents)
        steps, agents = plan.segments_per_agent * plan.horizon, plan.agents
        self.observations = TokenStore(
            steps + 1, agents, spec.num_observation_tokens, self.storage_device, self._pins_memory
        )
        self.episode_starts = torch.zeros(steps + 1, agents, dtype=torch.bool)
        self.groups: Tensor | None = None
        """`[steps + 1, agents] int16`: group of each agent, as an index into `env.game.groups`; None if neither the
        agent's values nor those of a teacher depend on it"""
        if any(map(reads_groups, (agent, *(self.teacher or ())))):
            self.groups = torch.zeros(steps + 1, agents, dtype=torch.int16)
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

    def start(self, observations: Sequence[PackedTokens]) -> None:
        """Store the first observations of the learners of each world batch, after the worlds were reset."""
        for batch, of_learners in zip(self.agent_batches, observations, strict=True):
            batch.keep_for_teacher(of_learners)
            self.observations.append(of_learners)
            self._store_groups(batch, 0)
        self.episode_starts[0] = True

    def start_epoch(self) -> None:
        """Discard the stored steps; the first observations of the new epoch are those after the last step."""
        self.observations.restart_with(self.steps_collected)
        self.episode_starts[0].copy_(self.episode_starts[self.steps_collected])
        if self.groups is not None:
            self.groups[0].copy_(self.groups[self.steps_collected])
        self.final_values.zero_()
        self.steps_collected = 0
        self.advantages = self.returns = self.learned_rewards = None

    def store(self, batch: AgentBatch, result: StepResult, step: int) -> None:
        """Store the learners' part of the result of a step to time `step`."""
        rows = batch.rows
        self.observations.append(result.observations)
        self.rewards[step - 1, rows] = torch.from_numpy(result.rewards)
        terminated, truncated = torch.from_numpy(result.terminated), torch.from_numpy(result.truncated)
        self.terminated[step - 1, rows] = terminated
        self.truncated[step - 1, rows] = truncated
        self.episode_starts[step, rows] = terminated | truncated
        self._store_groups(batch, step)

    def _store_groups(self, batch: AgentBatch, step: int) -> None:
        """Store the groups of the learners at time `step`, if anything depends on them."""
        if self.groups is not None:
            self.groups[step, batch.rows] = batch.groups()

    def groups_of(self, steps: int | Tensor, agents: slice | Tensor) -> Tensor | None:
        """The groups of `agents`, all of some worlds, as `[..., worlds, learners]` on the agent's device."""
        if self.groups is None:
            return None
        groups = self.groups[steps, agents]
        return to_device(groups.view(*groups.shape[:-1], -1, self.plan.num_learners), self.device)

    def minibatches(self, sampling: PrioritizedSampling | None = None) -> Iterator[Minibatch]:
        """Yield minibatches for one pass, which together have as many segments as were collected.

        Without `sampling`, each segment occurs once, in random order. With it, segments are sampled with replacement
        from the advantages that are current when the minibatch is made (V-trace changes them between minibatches).
        `plan.segments_together` segments, consecutive ones, are always in the same minibatch.

        Raises UsageError if the advantages have not been computed.
        """
        if self.advantages is None:
            raise UsageError("advantages are missing: call compute_advantages(experience) first")
        horizon, together = self.plan.horizon, self.plan.segments_together
        units = self.steps_collected // horizon * self.plan.agents // together  # of segments that stay together
        count = max(1, -(-self.plan.num_minibatches * units * together // self.plan.segments))
        count = min(count, units)
        if sampling is None:
            order = segments_of(torch.randperm(units, generator=self.shuffle_generator), together)
            parts = zip(order.tensor_split(count), self._stored(order).tensor_split(count), strict=True)
            for part, stored_part in parts:
                yield self._minibatch(part.flatten(), stored_part.flatten(), None)
            return
        for part in torch.arange(units).tensor_split(count):
            indices, weights = sampling.sample(self.advantages, horizon, len(part), self.shuffle_generator, together)
            segments, weights = segments_of(indices, together).flatten(), weights.repeat_interleave(together)
            yield self._minibatch(segments, self._stored(segments), to_device(weights, self.device))

    def opponents_in_use(self) -> list[int]:
        """The numbers of the frozen policies against which episodes run (self-play)."""
        opponents = [batch.opponents for batch in self.agent_batches if batch.opponents is not None]
        return sorted({number for each in opponents for number in each.policy_numbers.tolist()})

    def set_task_weights(self, weights: Sequence[float]) -> None:
        """Set the relative weights `[tasks]` with which the next resets of worlds sample their tasks."""
        self.worlds.set_task_weights(weights)

    def state(self) -> dict[str, Any]:
        """The state of the policy's experience and of the worlds, as tensors, numbers and text.

        Everything but weights that the next rollout depends on, if no other policy has an experience in these worlds.
        """
        return self.worlds.state() | self.own_state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state()` returned for the same environment and experience configs.

        A state without a teacher's memory removes the teacher. Raises UsageError for another number of agents or world
        batches.
        """
        self._check_fits(state)
        self.worlds.load_state(state)
        self.load_own_state(state)

    def own_state(self) -> dict[str, Any]:
        """The part of `state` that the experiences of other policies do not have: all but the worlds."""
        batches = self.agent_batches
        return {
            "memory": [batch.memory.state() for batch in batches],
            "teacher_memory": [batch.teacher.state() for batch in batches if batch.teacher is not None],
            "observations": self.observations.padded(self.steps_collected),
            "episode_starts": self.episode_starts[self.steps_collected].clone(),
            "policy_generator": self.policy_generator.get_state(),
            "shuffle_generator": self.shuffle_generator.get_state(),
            "reward_scale": self.reward_scaler.state(),
            "opponent_generator": self.role.generator.get_state(),
            "teacher_generator": self.teacher_generator.get_state(),
            "opponents": [batch.opponents_state() for batch in batches if batch.opponents is not None],
        }

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `own_state()` returned, after that of the worlds was restored: see `load_state`."""
        self._check_fits(state)
        batches = self.agent_batches
        for batch, memory in zip(batches, state["memory"], strict=True):
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
            batch.keep_for_teacher(observations.select(torch.arange(batch.rows.start, batch.rows.stop)))
        self.episode_starts[0].copy_(state["episode_starts"])
        set_generator_state(self.policy_generator, state["policy_generator"])
        self.shuffle_generator.set_state(state["shuffle_generator"].cpu())
        if "reward_scale" in state:  # states of older versions lack this key and the next ones
            self.reward_scaler.load_state(state["reward_scale"])
        if "opponent_generator" in state:
            self.role.generator.set_state(state["opponent_generator"].cpu())
        if "teacher_generator" in state:
            self.teacher_generator.set_state(state["teacher_generator"].cpu())
        self.worlds.restore_agents(self.name, state.get("opponents", ()))
        for batch in batches:
            self._store_groups(batch, 0)
        self.steps_collected = 0
        self.advantages = self.returns = self.learned_rewards = None

    def _check_fits(self, state: Mapping[str, Any]) -> None:
        """Raise UsageError if a state is of another number of agents or world batches."""
        agents, batches = len(state["episode_starts"]), len(state["memory"])
        if agents != self.plan.agents or batches != len(self.agent_batches):
            raise UsageError(
                f"the saved experience has {agents} agents in {batches} world batches; this one has "
                f"{self.plan.agents} in {len(self.agent_batches)}"
            )

    def remove_teacher(self) -> None:
        """Remove the teacher and free its arrays; later rollouts do not evaluate it."""
        if self.teacher is not None:
            self.teacher = None
            del self.teacher_probs, self.teacher_values
            for batch in self.agent_batches:
                batch.teacher = None
            self.role.uses_action_masks = self.action_masks is not None

    def close(self) -> None:
        """Close the worlds, and end the thread or the processes that step them."""
        self.worlds.close()

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
        rows = host_rows if self.storage_device.type == "cpu" else self._rows(stored_segments)
        agents = self.plan.agents
        segment_of_agent, columns = stored_segments // agents, stored_segments % agents
        starts = self.episode_starts.view(-1)[host_rows]
        return Minibatch(
            observations=self.observations.gather(host_rows).to(self.device),
            action_index=self.select_rows(self.action_index, rows),
            log_probs=self.select_rows(self.log_probs, rows),
            values=self.select_rows(self.values, rows),
            advantages=self.select_rows(self.advantages, rows),
            returns=self.select_rows(self.returns, rows),
            episode_starts=to_device(starts, self.device),
            memory=Memory(
                {
                    name: memories[segment_of_agent, :, columns].transpose(0, 1).contiguous()
                    for name, memories in self.segment_memories.items()
                }
            ).to(self.device),
            weights=weights,
            rows=rows,
            labels=self._labels(rows, columns),
            action_masks=None if self.action_masks is None else self.select_rows(self.action_masks, rows),
            groups=self.groups_of(host_rows // agents, host_rows % agents) if self.role.keeps_worlds else None,
            start_steps=starts.any(1).tolist(),
        )

    def _labels(self, rows: Tensor, columns: Tensor) -> Labels | None:
        """The teacher's labels of a minibatch of the agents `columns [segments]`."""
        if self.teacher is None:
            return None
        has_values = all(isinstance(teacher, MettaAgent) for teacher in self.teacher)
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
    experiences = make_experiences(
        env,
        {"": agent},
        config=config,
        seed=seed,
        opponents={} if opponents is None else {"": opponents},
        teachers={} if teacher is None else {"": teacher},
        label_shares={"": label_share},
        rank=rank,
    )
    return experiences[""]


def make_experiences(
    env: MettaGridEnv,
    agents: Mapping[str, MettaAgent],
    groups: Mapping[str, Sequence[str]] | None = None,
    config: ExperienceConfig | None = None,
    seed: int | None = None,
    *,
    members: Mapping[str, int] | None = None,
    frozen: Mapping[str, MettaAgent] | None = None,
    opponents: Mapping[str, OpponentPool] | None = None,
    teachers: Mapping[str, Policy | Sequence[Policy]] | None = None,
    label_shares: Mapping[str, float] | None = None,
    rank: int = 0,
) -> dict[str, Experience]:
    """Make an experience for each of several policies, in which `rollout_policies` collects, by the policy's name.

    They share new worlds that have the configs of `env`, which is not changed. In each world, the policies together
    play every agent once. Sizes in the config count the steps of all agents that learn; a policy has a part of the
    minibatches in proportion to its agents, at least one.

    - `agents`: the policies in training, by name
    - `groups`: names of the groups of agents that a policy plays, by its name; a policy without an entry plays all
    - `members`: index of the only agent that a policy plays among those of its groups; without an entry, all of them
    - `frozen`: policies that play and do not learn, by name
    - `opponents`, `teachers`, `label_shares`: by the name of a policy in training; they and the other parameters are
      those of `make_experience_manager`. Opponents are some of the agents that the policy would play.

    Raises ConfigError if sizes do not divide each other. Raises UsageError if a policy does not fit the environment, an
    agent has no policy or several, or a name is unknown.
    """
    config = config or ExperienceConfig()
    seed = env.default_seed if seed is None else seed
    team = Team({**agents, **(frozen or {})}, groups or {}, members or {})
    labeling = {name: _as_sequence(teacher) for name, teacher in (teachers or {}).items()}
    shares = label_shares or {}
    roles = make_roles(env, team, tuple(agents), opponents or {}, labeling, seed, rank)
    worlds = SharedWorlds(env, roles, config, seed, rank, next(iter(agents.values())).device.type)
    try:
        experiences = {
            name: Experience(worlds, name, agent, seed, rank, labeling.get(name), shares.get(name, 1.0))
            for name, agent in agents.items()
        }
        observations = worlds.reset()
        for name, experience in experiences.items():
            experience.start(observations[name])
    except BaseException:
        worlds.close()
        raise
    return experiences


def storage_device(config: ExperienceConfig, device: torch.device) -> torch.device:
    """The device of the experience's arrays: the CPU with `cpu_offload`, otherwise the agent's device."""
    return torch.device("cpu") if config.cpu_offload else device


def _as_sequence(teacher: Policy | Sequence[Policy]) -> Sequence[Policy]:
    return teacher if isinstance(teacher, Sequence) else [teacher]
