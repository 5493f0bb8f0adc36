"""The parts of a run and where it stands; all of it fits in a policy checkpoint and a trainer state."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from metta.agent.policy import make_agent
from metta.config.run import RunConfig
from metta.errors import CheckpointError, UsageError
from metta.replay.recording import record_episode
from metta.replay.write import write_replay
from metta.rl.advantages import compute_advantages
from metta.rl.checkpoint import checkpoint_name, load_checkpoint, save_checkpoint
from metta.rl.curriculum import Curriculum
from metta.rl.evaluate import evaluate
from metta.rl.events import ReplaySaved, RunBegan
from metta.rl.experience import make_experience_manager
from metta.rl.optimizer import compute_gradient_stats, make_lr_scheduler, make_optimizer
from metta.rl.ppo import train_ppo
from metta.rl.progress import EpochMetrics, mean, rewards_by_task
from metta.rl.rollout import BatchInfo, rollout
from metta.rl.training_state import TrainingState
from metta.rl.weight_analysis import analyze_weights
from metta.world.env import MettaGridEnv

EVALUATION_EPISODES = 10
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

    def __init__(self, config: RunConfig, curriculum: Curriculum):
        """A run at its very beginning. Touches no disk."""
        self.config = config
        self.curriculum = curriculum
        self.device = find_device(config.run.device)
        torch.manual_seed(config.run.seed)
        self.env = MettaGridEnv(curriculum.env_configs, seed=config.run.seed, task_weights=curriculum.weights)
        spaces = self.env.single_observation_space, self.env.single_action_space
        self.agent = make_agent(*spaces, global_features=[], device=self.device, config=config.agent)
        self.optimizer = make_optimizer(self.agent, config.optimizer)
        self.experience = make_experience_manager(self.env, self.agent, config.experience)
        self.scheduler = make_lr_scheduler(
            self.optimizer,
            config.run.total_timesteps,
            self.experience.plan.batch_size,
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

    @property
    def is_finished(self) -> bool:
        """Whether all agent steps are done."""
        return self.agent_step >= self.config.run.total_timesteps

    @property
    def can_evaluate(self) -> bool:
        """Whether episodes end in every scene."""
        return not any(config.game.is_endless for config in self.curriculum.env_configs)

    def beginning(self, directory: Path) -> RunBegan:
        """What the run is, for those who watch it."""
        parameters = sum(weight.numel() for weight in self.agent.parameters())
        device, plan = str(self.device), self.experience.plan
        return RunBegan(directory, self.config, plan, device, parameters, self.epoch, self.agent_step)

    def collect(self) -> BatchInfo:
        """Play one batch."""
        begin = time.perf_counter()
        batch = rollout(self.experience, self.agent)
        self._collect_seconds = time.perf_counter() - begin
        return batch

    def update(self) -> dict[str, float]:
        """Learn from the batch; the statistics of `train_ppo`."""
        begin = time.perf_counter()
        config = self.config
        compute_advantages(self.experience, config.ppo.gamma, config.ppo.gae_lambda)
        losses = train_ppo(self.agent, self.optimizer, self.experience, config.ppo, config.experience.update_epochs)
        self._update_seconds = time.perf_counter() - begin
        return losses

    def report(self, batch: BatchInfo, losses: dict[str, float]) -> EpochMetrics:
        """Count the epoch as done; its numbers. The learning rate takes its step."""
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
        has_tasks = len(self.curriculum.names) > 1
        return EpochMetrics(
            epoch=self.epoch,
            agent_step=self.agent_step,
            episodes=len(batch.episode_returns or ()),
            reward=mean(batch.episode_returns),
            episode_length=mean(batch.episode_lengths),
            learning_rate=learning_rate,
            losses=losses,
            gradients=compute_gradient_stats(self.agent),
            stats=batch.stats,
            task_rewards=rewards_by_task(batch, self.curriculum.names) if has_tasks else {},
            weights=analyze_weights(self.agent, self.experience) if is_analyzed else {},
            seconds=self.seconds,
            steps_per_second=batch.total_env_steps / seconds,
            seconds_simulate=max(0.0, self._collect_seconds - batch.seconds_deciding),
            seconds_infer=batch.seconds_deciding,
            seconds_learn=self._update_seconds,
        )

    def evaluate(self) -> dict[str, float]:
        """How well the policy plays now, in episodes apart from training, which they do not disturb."""
        return evaluate(self.agent, self.env, EVALUATION_EPISODES).summary()

    def record(self, replays: Path) -> ReplaySaved:
        """Write an episode of the policy as it plays now. Always the same map, so that episodes can be compared.

        Where there are several scenes, each gets its turn.
        """
        scene = self._recorded % len(self.curriculum.names)
        self._recorded += 1
        replay = record_episode(self.agent, self.curriculum.env_configs[scene], self.config.run.seed, RECORDED_STEPS)
        title = f"{self.curriculum.names[scene]} after epoch {self.epoch}"
        paths = write_replay(replay, replays, f"replay_{self.epoch:06d}", title)
        return ReplaySaved(paths.page, paths.mettascope, self.epoch)

    def save(self, checkpoints: Path) -> Path:
        """Write the policy, then the trainer state that names it; the policy's path."""
        metadata = {
            "run": self.config.run.name,
            "seed": self.config.run.seed,
            "agent_step": self.agent_step,
            "scenes": list(self.curriculum.names),
        }
        save_checkpoint(self.agent, checkpoints, self.epoch, metadata)
        self.state().save(checkpoints)
        return checkpoints / checkpoint_name(self.epoch)

    def state(self) -> TrainingState:
        """All that the run needs to go on beside the policy in `policy_path`."""
        keeps_initial = self.config.ppo.l2_init_loss_coef > 0
        return TrainingState(
            epoch=self.epoch,
            agent_step=self.agent_step,
            total_agent_step=self.agent_step,
            optimizer_state_dict=self.optimizer.state_dict(),
            lr_scheduler_state_dict=self.scheduler.state_dict() if self.scheduler is not None else None,
            policy_path=checkpoint_name(self.epoch),
            stopwatch_state={"seconds": self.seconds},
            extra_args={
                "curriculum": self.curriculum.state(),
                "experience": self.experience.state(),
                "initial_weights": self.agent.initial_weights if keeps_initial else None,
                "episodes_recorded": self._recorded,
                "torch_generator": torch.get_rng_state(),
                "torch_threads": torch.get_num_threads(),
            },
        )

    @classmethod
    def restore(cls, config: RunConfig, state: TrainingState, checkpoints: Path) -> TrainingRun:
        """The run exactly as it was when `state` was saved. Raises CheckpointError if its policy will not load."""
        if state.policy_path is None or state.stopwatch_state is None:
            raise CheckpointError(f"the trainer state of epoch {state.epoch} in {checkpoints} is not one of a run")
        extra: dict[str, Any] = state.extra_args
        if missing := _RUN_STATE - extra.keys():
            raise CheckpointError(
                f"the trainer state of epoch {state.epoch} in {checkpoints} is not one of a run: "
                f"it has no {', '.join(sorted(missing))}"
            )
        run = cls(config, Curriculum.from_state(extra["curriculum"]))
        load_checkpoint(run.agent, checkpoints / state.policy_path)
        run.optimizer.load_state_dict(state.optimizer_state_dict)
        if isinstance(run.scheduler, LambdaLR) and state.lr_scheduler_state_dict is not None:
            run.scheduler.load_state_dict(state.lr_scheduler_state_dict)
            schedule = zip(run.optimizer.param_groups, run.scheduler.base_lrs, run.scheduler.lr_lambdas, strict=True)
            for group, base, factor in schedule:  # which ends with total_timesteps, and these may be others now
                group["lr"] = base * factor(run.scheduler.last_epoch)
        run.experience.load_state(extra["experience"])
        if extra["initial_weights"] is not None:
            run.agent.initial_weights = {
                name: weight.to(run.device) for name, weight in extra["initial_weights"].items()
            }
        torch.set_rng_state(extra["torch_generator"])
        run.epoch = state.epoch
        run.agent_step = state.agent_step
        run.restored_threads = extra["torch_threads"]
        run._recorded = extra["episodes_recorded"]
        run.seconds = state.stopwatch_state["seconds"]
        return run

    def close(self) -> None:
        """End the worlds."""
        self.experience.close()
        self.env.close()


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one. Raises UsageError for CUDA where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise UsageError(f'device must be auto, cpu or cuda; got "{name}"')
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError('device is "cuda", but torch finds no CUDA device here; use "auto" or "cpu"')
    return torch.device(name)


def _is_turn(epoch: int, interval: int) -> bool:
    return interval > 0 and epoch % interval == 0
