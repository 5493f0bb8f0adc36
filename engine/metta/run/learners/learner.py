"""Learner: a policy in training, with its optimizer, learning rate, teacher, opponents and experience."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from metta.agent.compile_layers import compile_agent
from metta.agent.policy import MettaAgent, Policy, make_agent
from metta.checkpoint.policy_file import checkpoint_content
from metta.checkpoint.state_validation import SCHEDULE_PROGRESS
from metta.config.policies import PolicySettings, table_of
from metta.config.run import RunConfig
from metta.errors import TrainingError
from metta.rl.advantages import compute_advantages
from metta.rl.experience import Experience
from metta.rl.frozen_policies.self_play import OpponentPool, opponent_file
from metta.rl.optimizer import make_lr_scheduler, make_optimizer, schedule_factor
from metta.rl.ppo import UpdateSettings, update_policy
from metta.rl.weight_analysis import analyze_weights
from metta.run.learners.policy_files import load_initial_weights, own_file, teacher_file
from metta.spaces import ActionSpace, ObservationSpace


class Learner:
    """A policy in training. It learns from the steps of the agents that it plays, as its own settings say."""

    experience: Experience
    """the steps of its agents; the run makes it, since all learners of a run share their worlds"""

    def __init__(
        self,
        config: RunConfig,
        settings: PolicySettings,
        spaces: tuple[ObservationSpace, ActionSpace],
        device: torch.device,
        teacher: list[Policy] | None,
        opponents: OpponentPool | None,
        batch_size: int,
        is_new: bool,
    ):
        """Build the policy of `settings` with new weights, or in a new run with those of its `init_from`.

        Uses torch's global random generator. `batch_size` are the agent steps of the run in an epoch, by which the
        learning rate advances.
        """
        self.settings = settings
        self.teacher = teacher
        self.opponents = opponents
        self.batch_size = batch_size
        self._total_timesteps = config.run.total_timesteps
        self.agent = make_agent(*spaces, global_features=[], device=device, config=settings.agent)
        self.transfer = load_initial_weights(self.agent, config, settings) if is_new else None
        """what a new run took over from the policy `init_from`; None without one"""
        compile_agent(self.agent, config.compile)
        if opponents is not None and settings.self_play.snapshot_interval and is_new:
            opponents.add_snapshot(0, self.agent)
        self.optimizer = make_optimizer(self.agent, settings.optimizer)
        schedule = settings.lr_schedule
        self.scheduler: LRScheduler | None = make_lr_scheduler(
            self.optimizer,
            self._total_timesteps,
            batch_size,
            schedule.warmup_steps,
            schedule.schedule_type,
            schedule.anneal_lr,
        )

    @property
    def name(self) -> str:
        """Name of the policy; empty without `[policies]`."""
        return self.settings.name

    @property
    def table(self) -> str:
        """Name of the table `[policies.NAME]` that describes the policy."""
        return table_of(self.settings)

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the policy."""
        return sum(weight.numel() for weight in self.agent.parameters())

    def end_kickstarting(self, agent_step: int) -> None:
        """Remove the teacher if the run has left the part in which it teaches."""
        if not self.settings.kickstarting.share(agent_step):
            self.experience.remove_teacher()
            self.teacher = None

    def update(self, agent_step: int, settings: UpdateSettings) -> dict[str, float]:
        """Update the policy on the collected batch. Returns the statistics of `update_policy`.

        `settings` are those that all learners of the run have in common.
        """
        own = self.settings
        share = own.kickstarting.share(agent_step)
        settings = replace(
            settings,
            ppo=own.ppo,
            teacher_coef=own.kickstarting.coef * share,
            teacher_value_coef=own.kickstarting.value_coef * share,
            vtrace=own.vtrace,
            prioritized_sampling=own.prioritized_sampling,
            normalization=own.normalization,
        )
        try:
            compute_advantages(self.experience, own.ppo.gamma, own.ppo.gae_lambda, own.normalization)
            return update_policy(self.agent, self.optimizer, self.experience, settings)
        except TrainingError as error:
            if not self.name:
                raise
            raise type(error)(f"policy {self.name}: {error}") from error

    def finish_epoch(self, epoch: int) -> None:
        """Advance the learning rate, the reference of the l2-init loss, and the snapshots, after `epoch` epochs."""
        if self.scheduler is not None:
            self.scheduler.step()
        if _is_due(epoch, self.settings.agent.l2_init_weight_update_interval):
            self.agent.update_initial_weights()
        if self.opponents is not None and _is_due(epoch, self.settings.self_play.snapshot_interval):
            self.opponents.add_snapshot(epoch, self.agent)

    def analyze_weights(self, epoch: int) -> dict[str, float]:
        """Statistics of the weights after `epoch` epochs, if they are due; else an empty dictionary."""
        is_due = _is_due(epoch, self.settings.agent.analyze_weights_interval)
        return analyze_weights(self.agent, self.experience) if is_due else {}

    @property
    def current_learning_rate(self) -> float:
        """The learning rate of the optimizer."""
        return float(self.optimizer.param_groups[0]["lr"])

    def learning_rate(self, settings: PolicySettings, total_timesteps: int, agent_step: int) -> float:
        """The learning rate of the epoch after `agent_step`, with the schedule of `settings`."""
        schedule, rate = settings.lr_schedule, settings.optimizer.learning_rate
        if not schedule.anneal_lr:
            return rate
        factor = schedule_factor(total_timesteps, self.batch_size, schedule.warmup_steps, schedule.schedule_type)
        return rate * factor(agent_step // self.batch_size)

    def frozen_files(self) -> dict[str, dict[str, Any]]:
        """The content of the files of teacher and opponents, by path relative to the checkpoint directory."""
        networks = [policy for policy in self.teacher or () if isinstance(policy, MettaAgent)]
        files = {teacher_file(self.name): checkpoint_content(networks[0])} if networks else {}
        for policy in self.opponents.policies if self.opponents is not None else ():
            files[own_file(self.name, opponent_file(policy.name))] = checkpoint_content(policy.agent)
        return files

    def state(self) -> dict[str, Any]:
        """The `LEARNER_ENTRIES` of a trainer state: everything but the weights and the experience."""
        keeps_initial = self.settings.ppo.l2_init_loss_coef > 0
        return {
            "optimizer_state_dict": self.optimizer.state_dict(),
            "lr_scheduler_state_dict": self.scheduler.state_dict() if self.scheduler is not None else None,
            "opponents": [] if self.opponents is None else [policy.name for policy in self.opponents.policies],
            "initial_weights": self.agent.initial_weights if keeps_initial else None,
        }

    def load_state(self, state: Mapping[str, Any], agent_step: int, is_same_size: bool) -> None:
        """Load what `state()` returned, after `agent_step` agent steps, except the names of the opponents.

        `is_same_size` says whether an epoch has as many agent steps as before.
        """
        weights = {"state": state["optimizer_state_dict"]["state"]}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | weights)
        self._load_schedule(state["lr_scheduler_state_dict"], agent_step, is_same_size)
        if self.settings.ppo.l2_init_loss_coef > 0:
            initial, device = state["initial_weights"], self.agent.device
            self.agent.initial_weights = {name: initial[name].to(device) for name in self.agent.initial_weights}

    def _load_schedule(self, saved: Mapping[str, Any] | None, agent_step: int, is_same_size: bool) -> None:
        """Load the progress of the learning rate schedule; its length comes from the config and may have changed."""
        if not isinstance(self.scheduler, LambdaLR):
            return
        if saved is not None:
            progress = {name: saved[name] for name in SCHEDULE_PROGRESS}
            self.scheduler.load_state_dict(self.scheduler.state_dict() | progress)
        if saved is None or not is_same_size:  # it was off, or the number of steps in an epoch may have changed
            self.scheduler.last_epoch = agent_step // self.batch_size
        schedule = zip(self.optimizer.param_groups, self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
        for group, base, factor in schedule:
            group["lr"] = base * factor(self.scheduler.last_epoch)


def _is_due(epoch: int, interval: int) -> bool:
    return interval > 0 and epoch % interval == 0
