"""One of two processes that train together: `python two_processes.py RANK PORT SCENARIO DIRECTORY`.

`test_distributed.py` starts both and compares the files that they write to the directory.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_runs import TEAM, Recorder, ignore, only_learner, tiny_config

from metta.agent.policy import make_agent
from metta.api import Notice, Override, resume_run, train_run
from metta.config.training import OptimizerConfig, PPOConfig
from metta.rl.advantages import compute_advantages
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.distributed import SINGLE_PROCESS, Processes
from metta.rl.experience import Experience, make_experience_manager
from metta.rl.optimizer import make_optimizer
from metta.rl.ppo import UpdateSettings, update_policy
from metta.rl.rollout import rollout
from metta.run.training_run import TrainingRun
from metta.world.env import MettaGridEnv

CONFIG = tiny_config("", "agent.lstm_layers=2", "agent.mask_actions=true", "agent.critic='world'")
STEADY = ("lr_schedule.anneal_lr=false", "agent.hidden_dim=8")
# episodes outlive the snapshots that play in them, and end at other times in the two processes
SELF_PLAY = (
    "self_play.share=0.5",
    "self_play.snapshot_interval=1",
    "self_play.pool_size=1",
    "env.game.max_steps=30",
    "experience.stagger_episodes=true",
)
TEACHER = ("kickstarting.teacher='scripted'", "kickstarting.label_share=0.5")
PPO = PPOConfig(ent_coef=0.02, vf_coef=0.7, l2_reg_loss_coef=0.001, max_grad_norm=0.5, norm_adv=True)


class HalfOf(Experience):
    """The segments of every second world in each minibatch of another experience: the share of one of two processes."""

    def __init__(self, whole: Experience, rank: int):
        self.__dict__.update(whole.__dict__)
        self.whole = whole
        self.rank = rank

    def minibatches(self, sampling=None):
        for minibatch in self.whole.minibatches(sampling):
            horizon, segments = minibatch.episode_starts.shape
            mine = torch.arange(segments).view(-1, self.plan.num_learners)[self.rank :: 2].flatten()
            half = {
                name: value[:, mine].contiguous()
                for name, value in minibatch.__dict__.items()
                if isinstance(value, torch.Tensor) and name != "groups"
            }
            rows = torch.arange(horizon).unsqueeze(1) * segments + mine
            yield dataclasses.replace(
                minibatch,
                **half,
                groups=minibatch.groups[:, self.rank :: 2],
                observations=minibatch.observations.select(rows.flatten()),
                memory=minibatch.memory.select(mine),
            )


def gradients(directory: Path, processes: Processes) -> None:
    """An update of both processes on their halves of each minibatch, and of a single process on whole minibatches."""
    torch.manual_seed(0)
    env = MettaGridEnv(CONFIG.env, seed=3)
    agent = make_agent(env.single_observation_space, env.single_action_space, [], "cpu", CONFIG.agent)
    experience = make_experience_manager(env, agent, CONFIG.experience.model_copy(update={"minibatch_size": 512}))
    rollout(experience, agent)
    compute_advantages(experience)
    alone = copy.deepcopy(agent)
    if not processes.is_rank_zero:  # all processes get the weights of rank 0
        with torch.no_grad():
            agent.ahead.add_(1.0)
    state = experience.shuffle_generator.get_state()
    result = {}
    for name, policy, seen, company in (
        ("together", agent, HalfOf(experience, processes.rank), processes),
        ("alone", alone, experience, SINGLE_PROCESS),
    ):
        experience.shuffle_generator.set_state(state)
        optimizer = make_optimizer(policy, OptimizerConfig(learning_rate=1e-3))
        stats = update_policy(policy, optimizer, seen, UpdateSettings(PPO, processes=company))
        gradient = {key: weight.grad for key, weight in policy.named_parameters()}
        result[name] = {"stats": stats, "gradient": gradient, "weights": policy.state_dict()}
    torch.save(result, directory / f"gradients_{processes.rank}.pt")


def runs(directory: Path, processes: Processes) -> None:
    """A run without a break, the same run stopped and resumed, and the observations of this process."""
    train_run(tiny_config(directory / "straight", *STEADY, *SELF_PLAY, *TEACHER, "run.total_timesteps=2048"), ignore)
    train_run(tiny_config(directory / "stopped", *STEADY, *SELF_PLAY, *TEACHER, "run.total_timesteps=1024"), ignore)
    resume_run(directory / "stopped", ignore, [Override.parse("run.total_timesteps=2048")])
    team = (
        *STEADY,
        *TEAM,
        "agent.critic='group'",
        "policies.deer.self_play={share=0.5, snapshot_interval=1, pool_size=1}",
    )
    train_run(tiny_config(directory / "team_straight", *team, "run.total_timesteps=1536"), ignore)
    train_run(tiny_config(directory / "team_stopped", *team, "run.total_timesteps=512"), ignore)
    resume_run(directory / "team_stopped", ignore, [Override.parse("run.total_timesteps=1536")])
    for batch in ("global", "per_process"):
        config = tiny_config("", f"distributed.batch='{batch}'")
        run = TrainingRun(config, Curriculum.from_config(config), processes=processes)
        run.sync_ranks()
        collected = run.collect()[""].total_env_steps
        seen = torch.stack([only_learner(run).experience.observations.padded(0).long().sum(), torch.tensor(collected)])
        torch.save(seen, directory / f"{batch}_{processes.rank}.pt")
    config = tiny_config("", *STEADY, f"run.init_from='{directory / 'straight'}'")
    run = TrainingRun(config, Curriculum.from_config(config), processes=processes)
    weights = {"weights": only_learner(run).agent.state_dict(), "reference": only_learner(run).agent.initial_weights}
    torch.save(weights, directory / f"init_from_{processes.rank}.pt")


def workers(directory: Path, processes: Processes) -> None:
    """The same run without workers, and with one worker for each process."""
    for count in (0, 1):
        settings = (*STEADY, "run.total_timesteps=1024", f"experience.workers={count}")
        train_run(tiny_config(directory / f"workers_{count}", *settings), ignore)


def resumed(directory: Path, processes: Processes) -> None:
    """Resume, with both processes, a run that a single process started."""
    recorder = Recorder()
    resume_run(directory / "alone", recorder, [Override.parse("run.total_timesteps=2048")])
    if processes.is_rank_zero:
        notices = [event.text for event in recorder.events if isinstance(event, Notice)]
        (directory / "alone" / "notices.txt").write_text("\n".join(notices))


def main() -> None:
    rank, port, scenario, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0, timeout=timedelta(seconds=120))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    with Processes.connect() as processes:
        {"gradients": gradients, "runs": runs, "resumed": resumed, "workers": workers}[scenario](directory, processes)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
