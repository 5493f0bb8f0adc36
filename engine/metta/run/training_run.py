"""Training run: policy, environments, optimizer and curriculum, and the steps of an epoch (collect, update, finish)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from metta.agent.compile_layers import compile_agent
from metta.agent.policy import MettaAgent, Policy, make_agent
from metta.baselines.registered import teacher_policies
from metta.checkpoint.file_format import read_torch_file, write_torch_file
from metta.checkpoint.kept_policies import BEST, BestPolicy
from metta.checkpoint.policy_checkpoint import load_policy
from metta.checkpoint.policy_file import KIND, checkpoint_content, checkpoint_name
from metta.checkpoint.state_validation import SCHEDULE_PROGRESS
from metta.checkpoint.trainer_state import TrainingState
from metta.checkpoint.weight_transfer import WeightTransfer, transfer_weights
from metta.config.batch_plan import experience_of_process
from metta.config.loading.curriculum_tasks import evaluation_world
from metta.config.loading.load import NEVER_ENDS
from metta.config.run import RunConfig
from metta.config.training import POLICIES, ExperienceConfig
from metta.config.validation.key_paths import KeyPath
from metta.errors import CheckpointError, ConfigError, Problem, UsageError
from metta.evaluation.confidence_intervals import Interval
from metta.evaluation.evaluate import EvalResult, evaluate
from metta.random_streams import RandomStream
from metta.replay.recording import record_episode
from metta.replay.replay_files import replay_title, write_replay
from metta.rl.advantages import compute_advantages
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.distributed import SINGLE_PROCESS, Processes, serialize
from metta.rl.experience import Experience, make_experience_manager
from metta.rl.frozen_policies.self_play import GIVEN, FrozenPolicy, OpponentPool, opponent_file
from metta.rl.optimizer import make_lr_scheduler, make_optimizer, schedule_factor
from metta.rl.ppo import UpdateSettings, update_policy
from metta.rl.rollout import BatchInfo, ProgressCallback, rollout
from metta.run.device import find_device
from metta.run.epoch_metrics import EpochProgress
from metta.run.events import ReplaySaved, RunBegan
from metta.run.pending_checkpoint import PendingCheckpoint, with_other_experiences
from metta.run.run_directory import policy_file
from metta.spans import span
from metta.world.env import MettaGridEnv

EVALUATION_EPISODES = 10
"""Episodes of an evaluation during training; the same ones each time, so that policies can be compared."""
FRESH_EPISODES = 30
"""Episodes of the evaluation of the best policy at the end, on maps by which it was not chosen."""
TEACHER = "teacher.pt"
"""File name of the copy of the teacher in the checkpoint directory, from which a resumed run loads it."""
RECORDED_STEPS = 1000
"""Maximum steps of a recorded episode; training waits while it is recorded."""


class TrainingRun:
    """The state of a training run. An epoch calls `collect`, `update` and `finish_epoch`, in this order.

    Between epochs, `pending_checkpoint` copies the run, and `state` and `load_state` save and restore it.
    """

    def __init__(
        self,
        config: RunConfig,
        curriculum: Curriculum,
        saved_policies: Path | None = None,
        processes: Processes = SINGLE_PROCESS,
        opponents: Sequence[str] = (),
    ):
        """Build a run at epoch 0. Writes no files.

        Teacher and opponents are loaded from the files in the config; for a resumed run, from their copies in the
        directory `saved_policies`, with `opponents` as the names of the opponents.
        """
        self.config = config = config if saved_policies else with_policy_files(config)
        self.processes = processes
        self.curriculum = curriculum
        self.device = find_device(config.run.device)
        self.teacher = self._load_teacher(saved_policies)
        self.opponents = self._load_opponents(saved_policies, opponents)
        torch.manual_seed(config.run.seed)
        tasks = curriculum.tasks
        self.env = MettaGridEnv(tasks.union.fit(evaluation_world(config.env, tasks)), seed=config.run.seed)
        """evaluation environment: the world that `evaluation_world` selects"""
        if config.checkpoint.keep_best and not self.can_evaluate:
            raise ConfigError("the config", [Problem(("checkpoint", "keep_best"), NEVER_ENDS)])
        self.worlds = MettaGridEnv(curriculum.env_configs, seed=config.run.seed, task_weights=curriculum.weights)
        """training environment, for all tasks of the curriculum"""
        spaces = self.env.single_observation_space, self.env.single_action_space
        self.agent = make_agent(*spaces, global_features=[], device=self.device, config=config.agent)
        self.transfer = load_initial_weights(self.agent, config) if saved_policies is None else None
        """what a new run took over from the policy of `run.init_from`; None without one"""
        compile_agent(self.agent, config.compile)
        if self.opponents is not None and config.self_play.snapshot_interval and saved_policies is None:
            self.opponents.add_snapshot(0, self.agent)
        self.optimizer = make_optimizer(self.agent, config.optimizer)
        self.experience = self.make_experience(
            experience_of_process(config.experience, config.distributed, processes.size)
        )
        self._batch_size = self.experience.plan.batch_size * processes.size
        schedule, steps = config.lr_schedule, config.run.total_timesteps
        self.scheduler = make_lr_scheduler(
            self.optimizer, steps, self._batch_size, schedule.warmup_steps, schedule.schedule_type, schedule.anneal_lr
        )
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

    def _load_teacher(self, saved_policies: Path | None) -> list[Policy] | None:
        """The teacher of `[kickstarting]` in the world of each task, or in all of them; None without a teacher."""
        teacher, curriculum = self.config.kickstarting.teacher, self.curriculum
        if not teacher:
            return None
        if teacher in POLICIES:
            return teacher_policies(teacher, dict(zip(curriculum.names, curriculum.env_configs, strict=True)))
        if saved_policies is not None and Path(teacher).name == teacher:  # paths in `config.toml` have a directory
            raise UsageError(
                f'kickstarting.teacher: the policy "{teacher}", the teacher of this run, is not installed; install the '
                f"package that provides it, or register it in your program (available: {', '.join(POLICIES.names())})"
            )
        path = saved_policies / TEACHER if saved_policies else teacher
        with _locating("kickstarting", "teacher", is_new=saved_policies is None):
            return [load_policy(path, self.device, curriculum.env_configs[0]).agent]

    def _load_opponents(self, saved_policies: Path | None, names: Sequence[str]) -> OpponentPool | None:
        """The frozen policies of `[self_play]`, for the worlds of this run; None without self-play."""
        config = self.config.self_play
        if not config.is_on:
            return None
        if saved_policies is None:
            paths = {f"{GIVEN}{index:03d}": Path(path) for index, path in enumerate(config.policies)}
        else:
            paths = {name: saved_policies / opponent_file(name) for name in names}
        policies = []
        for index, (name, path) in enumerate(paths.items()):
            with _locating("self_play", "policies", index, is_new=saved_policies is None):
                agent = load_policy(path, self.device, self.curriculum.env_configs[0]).agent
            policies.append(FrozenPolicy(name, agent))
        return OpponentPool(config, policies)

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
            self.experience.plan,
            str(self.device),
            sum(weight.numel() for weight in self.agent.parameters()),
            self.epoch,
            self.agent_step,
            self.processes.size,
        )

    def sync_ranks(self) -> None:
        """Broadcast the weights of rank 0 and gather the experience of all ranks on rank 0. Every rank must call it."""
        if self.processes.size > 1:
            self.agent.load_state_dict(self.processes.broadcast(self.agent.state_dict()))
            self._gather_experiences()

    def collect(self, on_progress: ProgressCallback | None = None) -> BatchInfo:
        """Collect one batch of experience. Returns its statistics, merged over all processes."""
        with span("collect") as measured:
            if not self.config.kickstarting.share(self.agent_step):
                self.experience.remove_teacher()
                self.teacher = None
            own = rollout(self.experience, self.agent, on_progress=on_progress)
            batch = own.merged(self.processes)
        self._own_steps += own.total_env_steps
        self._collect_seconds = measured.seconds
        return batch

    def update(self, on_progress: ProgressCallback | None = None) -> dict[str, float]:
        """Update the policy on the collected batch. Returns the statistics of `update_policy`."""
        config = self.config
        share = config.kickstarting.share(self.agent_step)
        settings = UpdateSettings(
            ppo=config.ppo,
            update_epochs=config.experience.update_epochs,
            teacher_coef=config.kickstarting.coef * share,
            teacher_value_coef=config.kickstarting.value_coef * share,
            vtrace=config.vtrace,
            prioritized_sampling=config.prioritized_sampling,
            progress=self.agent_step / config.run.total_timesteps,
            normalization=config.normalization,
            processes=self.processes,
            on_progress=on_progress,
        )
        with span("learn") as measured:
            compute_advantages(self.experience, config.ppo.gamma, config.ppo.gae_lambda, config.normalization)
            losses = update_policy(self.agent, self.optimizer, self.experience, settings)
        self._update_seconds = measured.seconds
        return losses

    def finish_epoch(self, batch: BatchInfo) -> EpochProgress:
        """Advance the counts of epochs and steps, the learning rate, the curriculum and the opponent pool."""
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self.epoch += 1
        self.agent_step += batch.total_env_steps
        self.seconds += self._collect_seconds + self._update_seconds
        if self.scheduler is not None:
            self.scheduler.step()
        if _is_due(self.epoch, self.config.agent.l2_init_weight_update_interval):
            self.agent.update_initial_weights()
        self.curriculum.update(batch)
        self.experience.set_task_weights(self.curriculum.weights)
        if self.opponents is not None:
            if _is_due(self.epoch, self.config.self_play.snapshot_interval):
                self.opponents.add_snapshot(self.epoch, self.agent)
            if self.opponents.evicted:  # the processes keep the same ones: those that any of them plays against
                in_use = self.processes.all_gather(self.experience.opponents_in_use())
                self.opponents.remove_evicted(set().union(*in_use))
        if self.processes.size > 1:
            self._gather_experiences()
        return EpochProgress(
            self.epoch, self.agent_step, learning_rate, self.seconds, self._collect_seconds, self._update_seconds
        )

    def evaluate(self) -> EvalResult:
        """Evaluate the policy in new copies of the evaluation environment, on maps of its own split "validation"."""
        return evaluate(self.agent, self.env, EVALUATION_EPISODES, split="validation")

    def keep_if_best(self, result: EvalResult, checkpoints: Path) -> None:
        """Write the policy as `best.pt` if its evaluation has a higher mean reward than those before."""
        if self.best is None or result.mean_reward > self.best.mean_reward:
            reward = result.reward_interval
            best = BestPolicy(self.epoch, self.agent_step, reward.mean, reward.half_width, len(result.episodes))
            write_torch_file(checkpoints / BEST, KIND, self._policy_content(best.metadata))
            self.best = best

    def evaluate_best(self, checkpoints: Path) -> Interval:
        """Mean reward of `best.pt` in episodes by which it was not chosen: those of `metta eval` with the run's seed.

        Uses torch's global random generator.
        """
        agent = load_policy(checkpoints / BEST, self.device, self.env.config).agent
        return evaluate(agent, self.env, FRESH_EPISODES).reward_interval

    def record(self, replays: Path, run_name: str = "", prefix: str = "") -> ReplaySaved:
        """Record an episode in the directory `replays`. Cycles through the tasks; each uses the same map every time.

        The title of the page begins with `run_name`, by default that of the config; names of files begin with `prefix`.
        """
        tasks = [task for task, weight in enumerate(self.curriculum.weights) if weight > 0]
        task = tasks[self._episodes_recorded % len(tasks)]
        replay = record_episode(self.agent, self.curriculum.env_configs[task], self.config.run.seed, RECORDED_STEPS)
        title = replay_title(run_name or self.config.run.name, f"epoch {self.epoch}", self.curriculum.names[task])
        paths = write_replay(replay, replays, f"{prefix}replay_{self.epoch:06d}", title, overwrite=False)
        self._episodes_recorded += 1
        return ReplaySaved(paths.page, paths.mettascope, self.epoch)

    def save(self, checkpoints: Path) -> Path:
        """Write the policy, then the trainer state that refers to it. Returns the path of the policy."""
        return self.pending_checkpoint().save(checkpoints)

    def pending_checkpoint(self) -> PendingCheckpoint:
        """A copy of the run that further training does not change."""
        networks = [policy for policy in self.teacher or () if isinstance(policy, MettaAgent)]
        frozen = {TEACHER: checkpoint_content(networks[0])} if networks else {}
        for policy in self.opponents.policies if self.opponents is not None else ():
            frozen[opponent_file(policy.name)] = checkpoint_content(policy.agent)
        return PendingCheckpoint.copy_of(self._policy_content(), self._own_state(), self._other_experiences, frozen)

    def _policy_content(self, more_metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The content of the policy's file; the weights share memory with those of the agent."""
        metadata = {
            "run": self.config.run.name,
            "seed": self.config.run.seed,
            "agent_step": self.agent_step,
            "scenes": [name for name, _ in self.curriculum.tasks.scenes],
        }
        curriculum = self.curriculum.description if len(self.curriculum.names) > 1 else None
        return checkpoint_content(self.agent, self.epoch, metadata | dict(more_metadata or {}), curriculum)

    def state(self) -> TrainingState:
        """Everything that the run needs to resume, except the weights, which are in `policy_path`."""
        return with_other_experiences(self._own_state(), self._other_experiences)

    def _own_state(self) -> TrainingState:
        """The state without the experience of other processes."""
        keeps_initial = self.config.ppo.l2_init_loss_coef > 0
        return TrainingState(
            epoch=self.epoch,
            agent_step=self._own_steps,
            total_agent_step=self.agent_step,
            optimizer_state_dict=self.optimizer.state_dict(),
            lr_scheduler_state_dict=self.scheduler.state_dict() if self.scheduler is not None else None,
            policy_path=checkpoint_name(self.epoch),
            stopwatch_state={"seconds": self.seconds},
            extra_args={
                "curriculum": self.curriculum.state(),
                "experience": self.experience.state(),
                "opponents": [] if self.opponents is None else [policy.name for policy in self.opponents.policies],
                "initial_weights": self.agent.initial_weights if keeps_initial else None,
                "episodes_recorded": self._episodes_recorded,
                "torch_generator": torch.get_rng_state(),
                "torch_threads": torch.get_num_threads(),
                "device": self.device.type,
            },
        )

    def load_state(self, state: TrainingState) -> None:
        """Load a state that `restore_run` has validated. Curriculum and policies are loaded separately."""
        extra = state.extra_args
        experiences = [extra["experience"], *extra.get("other_experiences", ())]
        if len(experiences) == self.processes.size:
            self._other_experiences = [serialize(experience) for experience in experiences[1:]]
            self.experience.load_state(experiences[self.processes.rank])
        else:
            self._reset_environments(state.epoch)
        weights = {"state": state.optimizer_state_dict["state"]}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | weights)
        self._load_schedule(state, is_same_size=len(experiences) == self.processes.size)
        if self.config.ppo.l2_init_loss_coef > 0:
            initial = extra["initial_weights"]
            self.agent.initial_weights = {name: initial[name].to(self.device) for name in self.agent.initial_weights}
        torch.set_rng_state(extra["torch_generator"])
        self.epoch = state.epoch
        self.agent_step = state.total_agent_step
        self._own_steps = state.agent_step
        self._episodes_recorded = extra["episodes_recorded"]
        self.seconds = float((state.stopwatch_state or {})["seconds"])

    def _load_schedule(self, state: TrainingState, is_same_size: bool) -> None:
        """Load the progress of the learning rate schedule; its length comes from the config and may have changed."""
        if not isinstance(self.scheduler, LambdaLR):
            return
        saved = state.lr_scheduler_state_dict
        if saved is not None:
            progress = {name: saved[name] for name in SCHEDULE_PROGRESS}
            self.scheduler.load_state_dict(self.scheduler.state_dict() | progress)
        if saved is None or not is_same_size:  # it was off, or the number of steps in an epoch may have changed
            self.scheduler.last_epoch = state.total_agent_step // self._batch_size
        schedule = zip(self.optimizer.param_groups, self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
        for group, base, factor in schedule:
            group["lr"] = base * factor(self.scheduler.last_epoch)

    def learning_rate(self, config: RunConfig, batches_from_now: int = 0) -> float:
        """The learning rate with the schedule of `config` of the next epoch, or of one before or after it."""
        schedule, rate = config.lr_schedule, config.optimizer.learning_rate
        if not schedule.anneal_lr:
            return rate
        factor = schedule_factor(
            config.run.total_timesteps, self._batch_size, schedule.warmup_steps, schedule.schedule_type
        )
        return rate * factor(self.agent_step // self._batch_size + batches_from_now)

    def _reset_environments(self, epoch: int) -> None:
        """Reset all worlds with a new seed, and the recurrent memory of the policy to its initial value."""
        self.experience.close()
        seed = RandomStream.NEW_WORLDS.seed(self.config.run.seed, epoch)
        self.experience = self.make_experience(self.experience.config, seed)

    def make_experience(self, config: ExperienceConfig, seed: int | None = None) -> Experience:
        """An experience with new worlds of this run; `seed` is by default that of the run."""
        return make_experience_manager(
            self.worlds,
            self.agent,
            config,
            seed,
            self.teacher,
            self.processes.rank,
            self.opponents,
            self.config.kickstarting.label_share,
        )

    def _gather_experiences(self) -> None:
        """Gather the experience of all processes on rank 0, which saves it."""
        self._other_experiences = self.processes.gather_serialized(self.experience.state())[1:]

    def close(self) -> None:
        """Close the worlds."""
        self.experience.close()
        self.env.close()
        self.worlds.close()


def load_initial_weights(agent: MettaAgent, config: RunConfig) -> WeightTransfer | None:
    """Load the weights of the policy `run.init_from` that fit `agent`, as `transfer_weights` does; None without one.

    Raises ConfigError if nothing fits, or if a policy that the config names is missing or damaged.
    """
    config = with_policy_files(config)
    if not config.run.init_from:
        return None
    with _locating("run", "init_from"):
        return transfer_weights(agent, config.run.init_from)


def with_policy_files(config: RunConfig) -> RunConfig:
    """The config with the file of each policy in it, such as the newest policy of a run.

    Raises ConfigError with all policies that are missing or damaged.
    """
    problems: list[Problem] = []

    def file_of(key: KeyPath, path: str) -> str:
        try:
            file = policy_file(path, POLICIES.names() if key[0] == "kickstarting" else ())
            read_torch_file(file, KIND)
        except (CheckpointError, UsageError) as error:
            problems.append(Problem(key, str(error).replace("\n  ", " ")))
            return path
        return str(file)

    found = config.with_policies(file_of)
    if problems:
        raise ConfigError("the config", problems)
    return found


@contextmanager
def _locating(*key: str | int, is_new: bool = True) -> Iterator[None]:
    """For a new run, convert errors about a policy that does not fit to a ConfigError with the key that names it."""
    try:
        yield
    except CheckpointError as error:
        if not is_new:
            raise
        raise ConfigError("the config", [Problem(key, str(error))]) from None


def _is_due(epoch: int, interval: int) -> bool:
    return interval > 0 and epoch % interval == 0
