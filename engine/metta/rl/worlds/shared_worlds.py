"""Shared worlds: the worlds of a training run, in which the agents of all its policies act at the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

import numpy as np

from metta.agent.sparse_tokens import PackedTokens
from metta.config.batch_plan import BatchPlan, batch_problems, plan_batch
from metta.config.plan.worker_count import worker_count
from metta.config.policies import num_agents_of
from metta.config.training import ExperienceConfig
from metta.errors import ConfigError, UsageError
from metta.rl.plain_values import arrays_to_tensors, tensors_to_arrays
from metta.rl.worlds.agent_batch import AgentBatch
from metta.rl.worlds.policy_role import PolicyRole
from metta.rl.worlds.world_batch import StepResult, WorldBatch
from metta.world.env import MettaGridEnv
from metta.world.processes.process_worlds import make_worlds


class SharedWorlds:
    """The worlds of a process, in world batches, and the agents that each policy plays in them.

    The worlds have the configs and task weights of `env`, which itself is not stepped. The `roles` are those of the
    policies in training, then those of frozen policies; together they have each agent once.

    Worlds are split into `async_factor` world batches. With more than one, a thread steps one batch while the policies
    compute the actions of another. With `workers`, processes step the worlds instead, a share each. Each world is in
    one batch, and the policies act in the batches in a fixed order, so results depend neither on the timing of threads
    and processes nor on their number.
    """

    def __init__(
        self,
        env: MettaGridEnv,
        roles: Sequence[PolicyRole],
        config: ExperienceConfig,
        seed: int,
        rank: int,
        device_type: str,
    ):
        self.config = config
        self.spec = env.spec
        self.roles = tuple(roles)
        self.plan = plan = _plan(env, roles, config)
        """the layout of the experience of all policies together"""
        self.world_batches: list[WorldBatch] = []
        self.agent_batches: list[list[AgentBatch]] = []
        """by world batch, in the order of `roles`"""
        sizes = [len(worlds) for worlds in np.array_split(np.arange(plan.num_worlds), plan.num_world_batches)]
        workers, is_auto = worker_count(config, plan, device_type).count, config.workers == "auto"
        first_world = 0
        for batch_env in make_worlds(env, sizes, seed, rank * plan.num_worlds, workers, is_auto):
            batch = WorldBatch(batch_env, first_world, config.zero_copy)
            self.world_batches.append(batch)
            self.agent_batches.append([AgentBatch(batch, role) for role in roles])
            first_world += batch_env.num_worlds
        needs_thread = len(sizes) > 1 and not self.world_batches[0].in_processes
        self._thread = ThreadPoolExecutor(1, "simulator") if needs_thread else None

    @property
    def learners(self) -> tuple[str, ...]:
        """Names of the policies in training."""
        return tuple(role.name for role in self.roles if role.learns)

    def batches_of(self, name: str) -> list[AgentBatch]:
        """The agents of a policy in each world batch."""
        index = [role.name for role in self.roles].index(name)
        return [batches[index] for batches in self.agent_batches]

    def reset(self) -> dict[str, list[PackedTokens]]:
        """Start an episode in every world; the observations of each policy's learners, by world batch."""
        observations: dict[str, list[PackedTokens]] = {role.name: [] for role in self.roles}
        for batch, agent_batches in zip(self.world_batches, self.agent_batches, strict=True):
            of_all = batch.reset(self.config.stagger_episodes)
            is_done, worlds = np.ones(batch.env.agents, np.bool_), range(batch.env.num_worlds)
            for agents in agent_batches:
                observations[agents.role.name].append(agents.observe(of_all, is_done, worlds))
            self._observe_action_masks(batch, agent_batches)
        return observations

    def submit(self, index: int, actions: Sequence[np.ndarray]) -> None:
        """Start stepping a world batch, with the `actions [learners, 2]` of each policy in training."""
        batch, agent_batches = self.world_batches[index], self.agent_batches[index]
        if agent_batches[0].is_whole:
            of_all = actions[0]
        else:
            of_all = np.empty((batch.env.agents, 2), np.int64)
            for agents, of_learners in zip_longest(agent_batches, actions):
                agents.write_actions(of_all, of_learners)
        batch.needs_action_masks = self._needs_action_masks
        batch.start_step(of_all, self._thread)

    def receive(self, index: int, step: int) -> list[StepResult]:
        """Wait for the step that `submit` started; return the learners' part of its result for each role.

        Raises TrainingError, which names `step`, if a reward is not finite.
        """
        batch = self.world_batches[index]
        result = batch.finish_step()
        batch.check_rewards(result.rewards, step)
        return [agents.receive(result) for agents in self.agent_batches[index]]

    @property
    def _needs_action_masks(self) -> bool:
        return any(role.needs_action_masks for role in self.roles)

    def _observe_action_masks(self, batch: WorldBatch, agent_batches: Sequence[AgentBatch]) -> None:
        """Store the current action masks of a world batch that was reset or restored."""
        batch.needs_action_masks = self._needs_action_masks
        masks = batch.current_action_masks()
        for agents in agent_batches:
            agents.observe_action_masks(masks)

    def set_task_weights(self, weights: Sequence[float]) -> None:
        """Set the relative weights `[tasks]` with which the next resets of worlds sample their tasks."""
        for batch in self.world_batches:
            batch.env.set_task_weights(weights)

    def state(self) -> dict[str, Any]:
        """The state of the worlds and of the policies that do not learn, as tensors, numbers and text."""
        frozen = {
            role.name: {
                "generator": role.generator.get_state(),
                "opponents": [batch.opponents_state() for batch in self.batches_of(role.name)],
            }
            for role in self.roles
            if not role.learns
        }
        return {"worlds": [arrays_to_tensors(batch.env.state()) for batch in self.world_batches], "frozen": frozen}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state()` returned for the same environment, policies and `[experience]`.

        Restore the experiences of all policies afterwards. Raises UsageError for another number of world batches.
        """
        if len(state["worlds"]) != len(self.world_batches):
            raise UsageError(
                f"the saved worlds are in {len(state['worlds'])} world batches; these are in {len(self.world_batches)}"
            )
        for batch, worlds in zip(self.world_batches, state["worlds"], strict=True):
            batch.env.load_state(tensors_to_arrays(worlds))
        for role in self.roles:
            if not role.learns:
                saved = state["frozen"][role.name]
                role.generator.set_state(saved["generator"].cpu())
                self.restore_agents(role.name, saved["opponents"])

    def restore_agents(self, name: str, opponents: Sequence[Mapping[str, Any]]) -> None:
        """Restore which agents a policy plays, after the worlds were restored.

        `opponents` are the states of its opponents in each world batch; without opponents, there are none.
        """
        for batch, agents, saved in zip_longest(self.world_batches, self.batches_of(name), opponents):
            agents.restore_agents(saved)
            self._observe_action_masks(batch, [agents])

    def close(self) -> None:
        """Close the worlds, and end the thread or the processes that step them."""
        if self._thread is not None:
            self._thread.shutdown()
        for batch in self.world_batches:
            batch.env.close()


def _plan(env: MettaGridEnv, roles: Sequence[PolicyRole], config: ExperienceConfig) -> BatchPlan:
    """The batch plan of all policies together.

    Raises ConfigError if sizes do not divide each other, UsageError if the numbers of agents differ between tasks.
    """
    num_opponents, together, learners = 0, 1, []
    for role in roles:
        of_worlds = [(num_agents_of(role, world), role.num_opponents(world)) for world in env.configs]
        for what, each in zip(("agents", "opponents"), zip(*of_worlds, strict=True), strict=True):
            counts = sorted(set(each))
            if len(counts) > 1:
                raise UsageError(
                    f"{role.label} must have the same number of {what} in all scenes; it has "
                    f"{', '.join(map(str, counts))}"
                )
        agents, opponents = of_worlds[0]
        num_opponents += opponents
        if role.learns:
            learners.append(agents - opponents)
        if role.keeps_worlds:
            together = max(together, agents - opponents)
    if problems := batch_problems(config, env.num_agents - num_opponents, together):
        raise ConfigError("the experience config", problems)
    return plan_batch(config, env.num_agents, num_opponents, min(learners))
