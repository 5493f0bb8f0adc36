"""The parts of a run and where it stands; all of it fits in a policy checkpoint and a trainer state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from metta.agent.compile_layers import compile_agent
from metta.agent.policy import MettaAgent, make_agent
from metta.checkpoint.policy_checkpoint import checkpoint_content, checkpoint_name, load_checkpoint, load_policy
from metta.checkpoint.state_validation import (
    check_counts,
    check_experience,
    check_like,
    sound_optimizer_state,
    sound_scheduler_state,
)
from metta.checkpoint.trainer_state import TrainingState
from metta.config.batch_plan import experience_of_process
from metta.config.loading.curriculum_tasks import evaluation_world
from metta.config.run import RunConfig
from metta.errors import CheckpointError, UsageError
from metta.evaluation.evaluate import evaluate
from metta.job_environment import local_rank, local_size
from metta.random_streams import RandomStream
from metta.replay.recording import record_episode
from metta.replay.replay_files import write_replay
from metta.rl.advantages import compute_advantages
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.distributed import SINGLE_PROCESS, Processes, serialize
from metta.rl.experience import make_experience_manager
from metta.rl.optimizer import compute_gradient_stats, make_lr_scheduler, make_optimizer
from metta.rl.ppo import UpdateSettings, update_policy
from metta.rl.rollout import BatchInfo, rollout
from metta.rl.self_play import FrozenPolicy, OpponentPool, check_opponent_names, opponent_file
from metta.rl.weight_analysis import analyze_weights
from metta.run.epoch_metrics import EpochMetrics, mean, rewards_by_task
from metta.run.events import ReplaySaved, RunBegan
from metta.run.memory_check import check_memory
from metta.run.snapshot import Snapshot, with_other_experiences
from metta.world.env import MettaGridEnv

EVALUATION_EPISODES = 10
TEACHER = "teacher.pt"
"""The teacher's copy beside the checkpoints: a run goes on with it whatever becomes of the file it was read from."""
RECORDED_STEPS = 1000
"""Steps of a recorded episode, at most; the policy plays it alone, while training waits."""


_RUN_STATE = {
    "curriculum",
    "episodes_recorded",
    "experience",
    "initial_weights",
    "torch_generator",
    "torch_threads",
}
"""What a run keeps in `TrainingState.extra_args`."""


class TrainingRun:
    """A policy in training: what it is made of, how far it is, and how to take it one epoch further.

    An epoch is `collect`, `update`, `report`, in this order. Between epochs, `save` and `restore` hold everything.
    """

    def __init__(
        self,
        config: RunConfig,
        curriculum: Curriculum,
        kept: Path | None = None,
        processes: Processes = SINGLE_PROCESS,
        opponents: Sequence[str] = (),
    ):
        """A run at its very beginning. Writes nothing to a disk.

        Teacher and opponents come from the files that the config names, or from `kept`, where a run that goes on has
        its copies; those of the `opponents` by their names.
        """
        self.config = config
        self.processes = processes
        experience_config = experience_of_process(config.experience, config.distributed, processes.size)
        self.curriculum = curriculum
        self.device = find_device(config.run.device)
        self.teacher = self._find_teacher(kept)
        self.opponents = self._find_opponents(kept, opponents)
        torch.manual_seed(config.run.seed)
        self.env = MettaGridEnv(evaluation_world(config.env, curriculum.tasks.scenes), seed=config.run.seed)
        """the run's own world, in which it is measured and its policy is at home"""
        self.worlds = MettaGridEnv(curriculum.env_configs, seed=config.run.seed, task_weights=curriculum.weights)
        """all tasks that it trains in"""
        spaces = self.env.single_observation_space, self.env.single_action_space
        self.agent = make_agent(*spaces, global_features=[], device=self.device, config=config.agent)
        compile_agent(self.agent, config.compile)
        if self.opponents is not None and config.self_play.snapshot_interval and kept is None:
            self.opponents.add_snapshot(0, self.agent)
        self.optimizer = make_optimizer(self.agent, config.optimizer)
        self.experience = make_experience_manager(
            self.worlds,
            self.agent,
            experience_config,
            teacher=self.teacher,
            rank=processes.rank,
            opponents=self.opponents,
        )
        self.scheduler = make_lr_scheduler(
            self.optimizer,
            config.run.total_timesteps,
            self.experience.plan.batch_size * processes.size,
            config.lr_schedule.warmup_steps,
            config.lr_schedule.schedule_type,
            config.lr_schedule.anneal_lr,
        )
        self.epoch = 0
        self.agent_step = 0
        self.seconds = 0.0
        self._collect_seconds = 0.0
        self._recorded = 0
        self._update_seconds = 0.0
        self.restored_threads = torch.get_num_threads()
        """threads torch ran on when the state this run was restored from was saved"""
        self.restored_processes = processes.size
        """processes that trained the run when that state was saved"""
        self._own_steps = 0
        self._others: list[torch.Tensor] = []
        """the experience of the other processes, by rank, as it was after the last epoch: packed, for few are saved"""

    @property
    def is_finished(self) -> bool:
        """Whether all agent steps are done."""
        return self.agent_step >= self.config.run.total_timesteps

    @property
    def can_evaluate(self) -> bool:
        """Whether episodes end in the run's own world."""
        return not self.env.config.game.is_endless

    def beginning(self, directory: Path) -> RunBegan:
        """What the run is, for those who watch it."""
        parameters = sum(weight.numel() for weight in self.agent.parameters())
        device, plan = str(self.device), self.experience.plan
        processes = self.processes.size
        return RunBegan(directory, self.config, plan, device, parameters, self.epoch, self.agent_step, processes)

    def sync_ranks(self) -> None:
        """Begin together with the other processes: with the leader's weights, and the leader knowing all worlds."""
        if self.processes.size > 1:
            self.agent.load_state_dict(self.processes.broadcast(self.agent.state_dict()))
            self._others = self.processes.gather_serialized(self.experience.state())[1:]

    def collect(self) -> BatchInfo:
        """Play one batch; what it and those of all other processes brought."""
        begin = time.perf_counter()
        if not self.config.kickstarting.share(self.agent_step):
            self.experience.remove_teacher()
            self.teacher = None
        own = rollout(self.experience, self.agent)
        batch = own.merged(self.processes)
        self._own_steps += own.total_env_steps
        self._collect_seconds = time.perf_counter() - begin
        return batch

    def update(self) -> dict[str, float]:
        """Learn from the batch; the statistics of `update_policy`."""
        begin = time.perf_counter()
        config = self.config
        compute_advantages(self.experience, config.ppo.gamma, config.ppo.gae_lambda, config.normalization)
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
        )
        losses = update_policy(self.agent, self.optimizer, self.experience, settings)
        self._update_seconds = time.perf_counter() - begin
        return losses

    def report(self, batch: BatchInfo, losses: dict[str, float]) -> EpochMetrics:
        """Count the epoch as done; its numbers. The learning rate takes its step, and so does the curriculum."""
        seconds = self._collect_seconds + self._update_seconds
        self.epoch += 1
        self.agent_step += batch.total_env_steps
        self.seconds += seconds
        learning_rate = self.optimizer.param_groups[0]["lr"]
        if self.scheduler is not None:
            self.scheduler.step()
        model = self.config.agent
        if _is_turn(self.epoch, model.l2_init_weight_update_interval):
            self.agent.update_initial_weights()
        is_analyzed = _is_turn(self.epoch, model.analyze_weights_interval)
        self.curriculum.update(batch)
        self.experience.set_task_weights(self.curriculum.weights)
        if self.processes.size > 1:
            self._others = self.processes.gather_serialized(self.experience.state())[1:]
        if self.opponents is not None and _is_turn(self.epoch, self.config.self_play.snapshot_interval):
            self.opponents.add_snapshot(self.epoch, self.agent)
        has_tasks = len(self.curriculum.names) > 1
        return EpochMetrics(
            epoch=self.epoch,
            agent_step=self.agent_step,
            episodes=len(batch.episode_returns or ()),
            reward=mean(batch.episode_returns),
            opponent_reward=mean(batch.opponent_returns),
            episode_length=mean(batch.episode_lengths),
            learning_rate=learning_rate,
            losses=losses,
            gradients=compute_gradient_stats(self.agent),
            stats=batch.stats,
            task_rewards=rewards_by_task(batch, self.curriculum.names) if has_tasks else {},
            task_probabilities=self.curriculum.probabilities if has_tasks else {},
            task_scores=self.curriculum.scores if has_tasks else {},
            weights=analyze_weights(self.agent, self.experience) if is_analyzed else {},
            seconds=self.seconds,
            steps_per_second=batch.total_env_steps / seconds,
            seconds_simulate=max(0.0, self._collect_seconds - batch.seconds_infer),
            seconds_infer=batch.seconds_infer,
            seconds_learn=self._update_seconds,
        )

    def evaluate(self) -> dict[str, float]:
        """How well the policy plays now in the run's own world, apart from training, which is not disturbed."""
        return evaluate(self.agent, self.env, EVALUATION_EPISODES).summary()

    def record(self, replays: Path) -> ReplaySaved:
        """Write an episode of the policy as it plays now. Always the same map, so that episodes can be compared.

        Where there are several tasks, each that can be drawn gets its turn.
        """
        tasks = [task for task, weight in enumerate(self.curriculum.weights) if weight > 0]
        task = tasks[self._recorded % len(tasks)]
        replay = record_episode(self.agent, self.curriculum.env_configs[task], self.config.run.seed, RECORDED_STEPS)
        title = f"{self.curriculum.names[task]} after epoch {self.epoch}"
        paths = write_replay(replay, replays, f"replay_{self.epoch:06d}", title)
        self._recorded += 1
        return ReplaySaved(paths.page, paths.mettascope, self.epoch)

    def save(self, checkpoints: Path) -> Path:
        """Write the policy, then the trainer state that names it; the policy's path."""
        return self.snapshot().save(checkpoints)

    def snapshot(self) -> Snapshot:
        """The run as it is now, in copies that further training leaves alone."""
        metadata = {
            "run": self.config.run.name,
            "seed": self.config.run.seed,
            "agent_step": self.agent_step,
            "scenes": [name for name, _ in self.curriculum.tasks.scenes],
        }
        others = {} if self.teacher is None else {TEACHER: checkpoint_content(self.teacher)}
        for member in self.opponents.policies if self.opponents is not None else ():
            others[opponent_file(member.name)] = checkpoint_content(member.agent)
        curriculum = self.curriculum.description if len(self.curriculum.names) > 1 else None
        content = checkpoint_content(self.agent, self.epoch, metadata, curriculum)
        return Snapshot.of(content, self._own_state(), self._others, others)

    def state(self) -> TrainingState:
        """All that the run needs to go on beside the policy in `policy_path`."""
        return with_other_experiences(self._own_state(), self._others)

    def _own_state(self) -> TrainingState:
        """Without the experience of other processes."""
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
                "opponents": [] if self.opponents is None else [member.name for member in self.opponents.policies],
                "initial_weights": self.agent.initial_weights if keeps_initial else None,
                "episodes_recorded": self._recorded,
                "torch_generator": torch.get_rng_state(),
                "torch_threads": torch.get_num_threads(),
            },
        )

    @classmethod
    def restore(
        cls, config: RunConfig, state: TrainingState, checkpoints: Path, processes: Processes = SINGLE_PROCESS
    ) -> TrainingRun:
        """The run exactly as it was when `state` was saved. Raises CheckpointError if its policy will not load.

        With another number of processes the worlds begin anew, for there are others. The policy comes from the leader,
        when they `sync_ranks`.
        """
        if state.policy_path is None or state.stopwatch_state is None:
            raise CheckpointError(f"the trainer state of epoch {state.epoch} in {checkpoints} is not one of a run")
        extra: dict[str, Any] = state.extra_args
        if missing := _RUN_STATE - extra.keys():
            raise CheckpointError(
                f"the trainer state of epoch {state.epoch} in {checkpoints} is not one of a run: "
                f"it has no {', '.join(sorted(missing))}"
            )
        check_counts(state)
        curriculum, opponents = Curriculum.from_state(extra["curriculum"]), extra.get("opponents", ())
        curriculum.check_matches(config)
        worlds, device = curriculum.env_configs, find_device(config.run.device)
        check_memory(config, worlds, device, processes.size, local_size())
        run = cls(config, curriculum, checkpoints, processes, opponents)
        with ExitStack() as undo:
            undo.callback(run.close)
            run._load(state, checkpoints)
            undo.pop_all()
        if processes.is_rank_zero:  # what was to come of epochs that are trained again
            for path in checkpoints.glob(opponent_file("epoch_*")):
                if path.name > opponent_file(f"epoch_{state.epoch:06d}").rpartition("/")[2]:
                    path.unlink()
        return run

    def _load(self, state: TrainingState, checkpoints: Path) -> None:
        """Go on from `state`. Raises UsageError, naming the part, for one that no run of this config can have come to.

        All that torch or the simulator would only fail on later, or crash on, is judged before it is loaded.
        """
        extra, processes = state.extra_args, self.processes
        if processes.is_rank_zero:
            load_checkpoint(self.agent, checkpoints / checkpoint_name(state.epoch))
        experiences = [extra["experience"], *extra.get("other_experiences", ())]
        self.restored_processes = len(experiences)
        is_as_before = self.restored_processes == processes.size
        self._others = [serialize(experience) for experience in experiences[1:]] if is_as_before else []
        self.optimizer.load_state_dict(sound_optimizer_state(state.optimizer_state_dict, self.optimizer))
        if isinstance(self.scheduler, LambdaLR):
            self.scheduler.load_state_dict(sound_scheduler_state(state.lr_scheduler_state_dict, self.scheduler))
            if not is_as_before:  # an epoch may have other steps now
                self.scheduler.last_epoch = state.total_agent_step // (self.experience.plan.batch_size * processes.size)
            schedule = zip(self.optimizer.param_groups, self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
            for group, base, factor in schedule:  # which ends with total_timesteps, and these may be others now
                group["lr"] = base * factor(self.scheduler.last_epoch)
        if is_as_before:
            for index, experience in enumerate(experiences):
                name = f"other_experiences.{index - 1}" if index else "experience"
                check_experience(experience, self.experience, f"extra_args.{name}")
            self.experience.load_state(experiences[processes.rank])
        else:
            self._begin_other_worlds(state.epoch)
        if self.config.ppo.l2_init_loss_coef > 0:
            check_like(extra["initial_weights"], self.agent.initial_weights, "extra_args.initial_weights")
            self.agent.initial_weights = {
                name: extra["initial_weights"][name].to(self.device) for name in self.agent.initial_weights
            }
        torch.set_rng_state(extra["torch_generator"])
        self.epoch = state.epoch
        self.agent_step = state.total_agent_step
        self._own_steps = state.agent_step
        self.restored_threads = extra["torch_threads"]
        self._recorded = extra["episodes_recorded"]
        self.seconds = float((state.stopwatch_state or {})["seconds"])

    def _find_teacher(self, kept: Path | None) -> MettaAgent | None:
        """The teacher of `[kickstarting]`, made for the worlds played here; None without one."""
        teacher = self.config.kickstarting.teacher
        if not teacher:
            return None
        path = Path(teacher) if kept is None else kept / TEACHER
        return load_policy(path, self.device, self.curriculum.env_configs[0]).agent

    def _find_opponents(self, kept: Path | None, names: Sequence[str]) -> OpponentPool | None:
        """The frozen policies of `[self_play]`, made for the worlds played here; None without any."""
        config = self.config.self_play
        if not config.is_on:
            return None
        if kept is None:
            paths = {f"given_{index:03d}": Path(path) for index, path in enumerate(config.policies)}
        else:
            check_opponent_names(names)
            paths = {name: kept / opponent_file(name) for name in names}
        world = self.curriculum.env_configs[0]
        members = [FrozenPolicy(name, load_policy(path, self.device, world).agent) for name, path in paths.items()]
        return OpponentPool(config, members)

    def _begin_other_worlds(self, epoch: int) -> None:
        """Worlds that no process has played yet, with a policy that remembers nothing."""
        self.experience.close()
        seed = RandomStream.NEW_WORLDS.seed(self.config.run.seed, epoch)
        self.experience = make_experience_manager(
            self.worlds, self.agent, self.experience.config, seed, self.teacher, self.processes.rank, self.opponents
        )

    def close(self) -> None:
        """End the worlds."""
        self.experience.close()
        self.env.close()
        self.worlds.close()


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one. Raises UsageError for CUDA where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UsageError(f'device must be auto, cpu or cuda; got "{name}"')
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError('device is "cuda", but torch finds no CUDA device here; use "auto" or "cpu"')
    return _own_gpu() if name == "cuda" else torch.device(name)


def _own_gpu() -> torch.device:
    """The GPU of this process, of those that a job has on this machine; from now on torch's current one."""
    if local_rank() >= torch.cuda.device_count():
        raise UsageError(
            f"process {local_rank()} of this machine has no GPU: there are {torch.cuda.device_count()}; "
            "start as many processes a machine as it has GPUs"
        )
    device = torch.device("cuda", local_rank())
    torch.cuda.set_device(device)
    return device


def _is_turn(epoch: int, interval: int) -> bool:
    return interval > 0 and epoch % interval == 0
