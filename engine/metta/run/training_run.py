"""Training run: the worlds and the policies that learn in them, and the steps of an epoch (collect, update, finish)."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metta.agent.policy import MettaAgent
from metta.agent.team import Team
from metta.checkpoint.file_format import write_torch_file
from metta.checkpoint.kept_policies import BEST, BestPolicy
from metta.checkpoint.policy_checkpoint import load_policy
from metta.checkpoint.policy_file import KIND, checkpoint_content, checkpoint_name
from metta.checkpoint.trainer_state import LEARNER_ENTRIES, TrainingState, by_policy, learner_states, own_states
from metta.config.batch_plan import BatchPlan, experience_of_process
from metta.config.loading.curriculum_tasks import evaluation_world
from metta.config.loading.load import NEVER_ENDS, dump_config
from metta.config.policies import joint_plan
from metta.config.run import RunConfig, policy_settings
from metta.config.training import ExperienceConfig
from metta.errors import ConfigError, Problem
from metta.evaluation.confidence_intervals import Interval, mean_interval
from metta.evaluation.evaluate import EvalResult, evaluate, mean_rewards
from metta.random_streams import RandomStream
from metta.replay.recording import record_episode
from metta.replay.replay_files import replay_title, write_replay
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.distributed import SINGLE_PROCESS, Processes, serialize
from metta.rl.experience import Experience, make_experiences
from metta.rl.ppo import UpdateSettings
from metta.rl.rollout import BatchInfo, ProgressCallback, rollout_policies
from metta.run.device import find_device
from metta.run.epoch_metrics import EpochProgress
from metta.run.events import ReplaySaved, RunBegan, RunPolicy
from metta.run.learners.learner import Learner
from metta.run.learners.policy_files import (
    SavedPolicies,
    load_frozen,
    load_opponents,
    load_teacher,
    with_policy_files,
)
from metta.run.pending_checkpoint import PendingCheckpoint, with_other_experiences
from metta.spans import span
from metta.world.env import MettaGridEnv

EVALUATION_EPISODES = 10
"""Episodes of an evaluation during training; the same ones each time, so that policies can be compared."""
FRESH_EPISODES = 30
"""Episodes of the evaluation of the best policy at the end, on maps by which it was not chosen."""
RECORDED_STEPS = 1000
"""Maximum steps of a recorded episode; training waits while it is recorded."""


class TrainingRun:
    """The state of a training run. An epoch calls `collect`, `update` and `finish_epoch`, in this order.

    Between epochs, `pending_checkpoint` copies the run, and `state` and `load_state` save and restore it. Batches and
    statistics of an epoch are dictionaries by the name of the policy; a run without `[policies]` has one policy, `""`.
    """

    def __init__(
        self,
        config: RunConfig,
        curriculum: Curriculum,
        saved: SavedPolicies | None = None,
        processes: Processes = SINGLE_PROCESS,
    ):
        """Build a run at epoch 0. Writes no files.

        Teachers, opponents and frozen policies are loaded from the files in the config; for a resumed run, from the
        copies in `saved`.
        """
        self.config = config = config if saved else with_policy_files(config)
        self.processes = processes
        self.curriculum = curriculum
        self.device = find_device(config.run.device)
        self.policies = policy_settings(config, curriculum.env_configs[0])
        """settings of each policy"""
        trained = [policy for policy in self.policies if policy.train]
        files = (curriculum, self.device, saved)
        teachers = {policy.name: load_teacher(config, policy, *files) for policy in trained}
        opponents = {policy.name: load_opponents(config, policy, *files) for policy in trained}
        self.frozen = {policy.name: load_frozen(config, policy, *files) for policy in self.policies if not policy.train}
        """the policies that do not learn, by name"""
        torch.manual_seed(config.run.seed)
        tasks = curriculum.tasks
        self.env = MettaGridEnv(tasks.union.fit(evaluation_world(config.env, tasks)), seed=config.run.seed)
        """evaluation environment: the world that `evaluation_world` selects"""
        if config.checkpoint.keep_best and not self.can_evaluate:
            raise ConfigError("the config", [Problem(("checkpoint", "keep_best"), NEVER_ENDS)])
        self.worlds = MettaGridEnv(curriculum.env_configs, seed=config.run.seed, task_weights=curriculum.weights)
        """training environment, for all tasks of the curriculum"""
        spaces = self.env.single_observation_space, self.env.single_action_space
        experience = experience_of_process(config.experience, config.distributed, processes.size)
        batch_size = joint_plan(experience, self.policies, curriculum.env_configs[0]).batch_size * processes.size
        self.learners = {
            policy.name: Learner(
                config,
                policy,
                spaces,
                self.device,
                teachers[policy.name],
                opponents[policy.name],
                batch_size,
                is_new=saved is None,
            )
            for policy in trained
        }
        """the policies in training, by name"""
        self._set_experiences(self.make_experiences(experience))
        self.best: BestPolicy | None = None
        """the best policy so far, with `checkpoint.keep_best`"""
        self.epoch = 0
        self.agent_step = 0
        self.seconds = 0.0
        self._own_steps = 0  # agent steps of this process
        self._episodes_recorded = 0
        self._collect_seconds = 0.0
        self._update_seconds = 0.0
        self._other_experiences: list[torch.Tensor] = []  # of the other processes, by rank, serialized

    @property
    def team(self) -> Team:
        """All policies of the run, and the agents that each of them plays."""
        agents = self.agents | self.frozen
        return Team(
            {policy.name: agents[policy.name] for policy in self.policies},
            {policy.name: policy.groups for policy in self.policies if policy.groups},
            {policy.name: policy.member for policy in self.policies if policy.member is not None},
        )

    @property
    def agents(self) -> dict[str, MettaAgent]:
        """The policies in training, by name."""
        return {name: learner.agent for name, learner in self.learners.items()}

    @property
    def experiences(self) -> dict[str, Experience]:
        """The experience of each policy in training, by name; they share their worlds."""
        return {name: learner.experience for name, learner in self.learners.items()}

    @property
    def plan(self) -> BatchPlan:
        """The batch plan of this process: the steps of all learners together."""
        return self._any_experience.worlds.plan

    @property
    def is_finished(self) -> bool:
        """Whether all agent steps are done."""
        return self.agent_step >= self.config.run.total_timesteps

    @property
    def can_evaluate(self) -> bool:
        """Whether episodes of the evaluation environment end."""
        return not self.env.config.game.is_endless

    def description(self, directory: Path) -> RunBegan:
        """The `RunBegan` event of the run in `directory`."""
        return RunBegan(
            directory,
            self.config,
            self.plan,
            str(self.device),
            sum(learner.num_parameters for learner in self.learners.values()),
            self.epoch,
            self.agent_step,
            self.processes.size,
            tuple(
                RunPolicy(
                    name,
                    learner.settings.groups,
                    learner.num_parameters,
                    learner.experience.plan.num_learners,
                )
                for name, learner in self.learners.items()
                if name
            ),
        )

    def sync_ranks(self) -> None:
        """Broadcast the weights of rank 0 and gather the experience of all ranks on rank 0. Every rank must call it."""
        if self.processes.size > 1:
            weights = {name: agent.state_dict() for name, agent in self.agents.items()}
            for name, received in self.processes.broadcast(weights).items():
                self.learners[name].agent.load_state_dict(received)
            self._gather_experiences()

    def collect(self, on_progress: ProgressCallback | None = None) -> dict[str, BatchInfo]:
        """Collect one batch of experience. Returns the statistics of each policy, merged over all processes."""
        with span("collect") as measured:
            for learner in self.learners.values():
                learner.end_kickstarting(self.agent_step)
            own = rollout_policies(self.experiences, self.agents, on_progress=on_progress)
            batches = {name: batch.merged(self.processes) for name, batch in own.items()}
        self._own_steps += sum(batch.total_env_steps for batch in own.values())
        self._collect_seconds = measured.seconds
        return batches

    def update(self, on_progress: ProgressCallback | None = None) -> dict[str, dict[str, float]]:
        """Update each policy on its part of the collected batch. Returns the statistics of `update_policy`."""
        config, losses = self.config, {}
        update_epochs = config.experience.update_epochs
        total, done = self.plan.batch_size * update_epochs, 0
        with span("learn") as measured:
            for name, learner in self.learners.items():
                settings = UpdateSettings(
                    update_epochs=update_epochs,
                    progress=self.agent_step / config.run.total_timesteps,
                    processes=self.processes,
                    on_progress=on_progress and _part_of(on_progress, done, total),
                )
                losses[name] = learner.update(self.agent_step, settings)
                done += learner.experience.plan.batch_size * update_epochs
        self._update_seconds = measured.seconds
        return losses

    def finish_epoch(self, batches: Mapping[str, BatchInfo]) -> EpochProgress:
        """Advance the counts of epochs and steps, the curriculum, and what belongs to each policy in training."""
        rates = {name: learner.current_learning_rate for name, learner in self.learners.items()}
        batch = self.joint_batch(batches)
        self.epoch += 1
        self.agent_step += batch.total_env_steps
        self.seconds += self._collect_seconds + self._update_seconds
        for learner in self.learners.values():
            learner.finish_epoch(self.epoch)
        self.curriculum.update(batch)
        self._any_experience.set_task_weights(self.curriculum.weights)
        for learner in self.learners.values():
            if learner.opponents is not None and learner.opponents.evicted:
                # the processes keep the same ones: those that any of them plays against
                in_use = self.processes.all_gather(learner.experience.opponents_in_use())
                learner.opponents.remove_evicted(set().union(*in_use))
        if self.processes.size > 1:
            self._gather_experiences()
        return EpochProgress(
            self.epoch, self.agent_step, rates, self.seconds, self._collect_seconds, self._update_seconds, batch
        )

    def joint_batch(self, batches: Mapping[str, BatchInfo]) -> BatchInfo:
        """The statistics of all policies in training together; rewards are means over the agents that learn."""
        counts = {name: experience.plan.num_learners for name, experience in self.experiences.items()}
        total = sum(counts.values())
        (first, *_), own = batches.values(), [batches[name] for name in counts]
        shares = [count / total for count in counts.values()]
        returns = zip(*(batch.episode_returns or () for batch in own), strict=True)
        return replace(
            first,
            total_env_steps=sum(batch.total_env_steps for batch in own),
            episode_returns=[sum(map(operator.mul, shares, each)) for each in returns],
            opponent_returns=[reward for batch in own for reward in batch.opponent_returns],
            seconds_infer=sum(batch.seconds_infer for batch in own),
        )

    def evaluate(self) -> EvalResult:
        """Evaluate the policies in new copies of the evaluation environment, on maps of its own split "validation"."""
        return evaluate(self.team, self.env, EVALUATION_EPISODES, split="validation")

    def keep_if_best(self, result: EvalResult, checkpoints: Path) -> None:
        """Write the policies as `best.pt` if their evaluation has a higher mean reward than those before."""
        reward = self._learners_reward(result)
        if self.best is None or reward.mean > self.best.mean_reward:
            best = BestPolicy(self.epoch, self.agent_step, reward.mean, reward.half_width, len(result.episodes))
            write_torch_file(checkpoints / BEST, KIND, self._policy_content(best.metadata))
            self.best = best

    def evaluate_best(self, checkpoints: Path) -> Interval:
        """Mean reward of `best.pt` in episodes by which it was not chosen: those of `metta eval` with the run's seed.

        Uses torch's global random generator.
        """
        team = load_policy(checkpoints / BEST, self.device, self.env.config).team
        return self._learners_reward(evaluate(team, self.env, FRESH_EPISODES))

    def _learners_reward(self, result: EvalResult) -> Interval:
        """Mean reward of the agents whose policies are in training."""
        if not self.frozen:
            return result.reward_interval
        is_theirs = np.logical_or.reduce([result.players[name] for name in self.learners])
        return mean_interval(mean_rewards(result.episodes, is_theirs))

    def record(self, replays: Path, run_name: str = "", prefix: str = "") -> ReplaySaved:
        """Record an episode in the directory `replays`. Cycles through the tasks; each uses the same map every time.

        The title of the page begins with `run_name`, by default that of the config; names of files begin with `prefix`.
        """
        tasks = [task for task, weight in enumerate(self.curriculum.weights) if weight > 0]
        task = tasks[self._episodes_recorded % len(tasks)]
        replay = record_episode(self.team, self.curriculum.env_configs[task], self.config.run.seed, RECORDED_STEPS)
        title = replay_title(run_name or self.config.run.name, f"epoch {self.epoch}", self.curriculum.names[task])
        paths = write_replay(replay, replays, f"{prefix}replay_{self.epoch:06d}", title, overwrite=False)
        self._episodes_recorded += 1
        return ReplaySaved(paths.page, paths.mettascope, self.epoch)

    def save(self, checkpoints: Path) -> Path:
        """Write the policies, then the trainer state that refers to them. Returns the path of the policies."""
        return self.pending_checkpoint().save(checkpoints)

    def pending_checkpoint(self) -> PendingCheckpoint:
        """A copy of the run that further training does not change."""
        files: dict[str, dict[str, Any]] = {}
        for learner in self.learners.values():
            files |= learner.frozen_files()
        return PendingCheckpoint.copy_of(self._policy_content(), self._own_state(), self._other_experiences, files)

    def _policy_content(self, more_metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The content of the file of the policies; the weights share memory with those of the agents."""
        metadata = {
            "run": self.config.run.name,
            "seed": self.config.run.seed,
            "agent_step": self.agent_step,
            "scenes": [name for name, _ in self.curriculum.tasks.scenes],
        }
        curriculum = self.curriculum.description if len(self.curriculum.names) > 1 else None
        return checkpoint_content(self.team, self.epoch, metadata | dict(more_metadata or {}), curriculum)

    def state(self) -> TrainingState:
        """Everything that the run needs to resume, except the weights, which are in `policy_path`."""
        return with_other_experiences(self._own_state(), self._other_experiences)

    def _own_state(self) -> TrainingState:
        """The state without the experience of other processes."""
        states = {name: learner.state() for name, learner in self.learners.items()}
        entries = {key: by_policy({name: state[key] for name, state in states.items()}) for key in LEARNER_ENTRIES}
        return TrainingState(
            epoch=self.epoch,
            agent_step=self._own_steps,
            total_agent_step=self.agent_step,
            optimizer_state_dict=entries["optimizer_state_dict"],
            lr_scheduler_state_dict=entries["lr_scheduler_state_dict"],
            policy_path=checkpoint_name(self.epoch),
            stopwatch_state={"seconds": self.seconds},
            extra_args={
                "curriculum": self.curriculum.state(),
                "experience": self._experience_state(),
                "opponents": entries["opponents"],
                "initial_weights": entries["initial_weights"],
                "episodes_recorded": self._episodes_recorded,
                "torch_generator": torch.get_rng_state(),
                "torch_threads": torch.get_num_threads(),
                "device": self.device.type,
                "config": self._config_text,
            },
        )

    @cached_property
    def _config_text(self) -> str:
        """The config as in `config.toml`, for a run that may be moved and resumed in another working directory."""
        config = self.config.with_policies(lambda key, path: os.path.abspath(path))
        return dump_config(config.with_values(run={"run_dir": ""}))

    def _experience_state(self) -> dict[str, Any]:
        """The state of the worlds, and of the experience of each policy in them."""
        own = {name: experience.own_state() for name, experience in self.experiences.items()}
        return self._any_experience.worlds.state() | own.get("", {"policies": own})

    def load_state(self, state: TrainingState) -> None:
        """Load a state that `restore_run` has validated. Curriculum and policies are loaded separately."""
        extra = state.extra_args
        experiences = [extra["experience"], *extra.get("other_experiences", ())]
        is_same_size = len(experiences) == self.processes.size
        if is_same_size:
            self._other_experiences = [serialize(experience) for experience in experiences[1:]]
            own = experiences[self.processes.rank]
            self._any_experience.worlds.load_state(own)
            for name, values in own_states(own).items():
                self.learners[name].experience.load_own_state(values)
        else:
            self._reset_environments(state.epoch)
            for name, values in own_states(extra["experience"]).items():
                if "reward_scale" in values:  # states of earlier versions lack it
                    self.learners[name].experience.reward_scaler.load_statistics(values["reward_scale"])
        for name, values in learner_states(state, list(self.learners)).items():
            self.learners[name].load_state(values, state.total_agent_step, is_same_size)
        torch.set_rng_state(extra["torch_generator"])
        self.epoch = state.epoch
        self.agent_step = state.total_agent_step
        self._own_steps = state.agent_step
        self._episodes_recorded = extra["episodes_recorded"]
        self.seconds = float(state.stopwatch_state["seconds"])

    def _reset_environments(self, epoch: int) -> None:
        """Reset all worlds with a new seed, and the recurrent memories of the policies to their initial values."""
        config = self._any_experience.config
        self._any_experience.close()
        seed = RandomStream.NEW_WORLDS.seed(self.config.run.seed, epoch)
        self._set_experiences(self.make_experiences(config, seed))

    def make_experiences(self, config: ExperienceConfig, seed: int | None = None) -> dict[str, Experience]:
        """Experiences of all policies in training with new worlds of this run; `seed` is by default that of the run."""
        learners, team = self.learners, self.team
        return make_experiences(
            self.worlds,
            self.agents,
            team.groups,
            config,
            seed,
            members=team.members,
            frozen=self.frozen,
            teachers={name: learner.teacher for name, learner in learners.items() if learner.teacher is not None},
            opponents={name: learner.opponents for name, learner in learners.items() if learner.opponents is not None},
            label_shares={name: learner.settings.kickstarting.label_share for name, learner in learners.items()},
            rank=self.processes.rank,
        )

    def _set_experiences(self, experiences: Mapping[str, Experience]) -> None:
        for name, experience in experiences.items():
            self.learners[name].experience = experience

    @property
    def _any_experience(self) -> Experience:
        """The experience of one policy, through which the worlds of all are reached."""
        return next(iter(self.learners.values())).experience

    def _gather_experiences(self) -> None:
        """Gather the experience of all processes on rank 0, which saves it."""
        self._other_experiences = self.processes.gather_serialized(self._experience_state())[1:]

    def close(self) -> None:
        """Close the worlds."""
        self._any_experience.close()
        self.env.close()
        self.worlds.close()


def _part_of(on_progress: ProgressCallback, done_before: int, total: int) -> ProgressCallback:
    """A callback for a part of a phase, after `done_before` of the `total` steps of the phase."""
    return lambda done, _: on_progress(done_before + done, total)
