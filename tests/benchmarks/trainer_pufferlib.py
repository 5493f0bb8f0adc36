"""Trainer process with PufferLib for bench_train.py: `trainer_pufferlib.py FILE SEED KIND [KEY=VALUE ...]`.

Runs in an environment with `pufferlib-core` 3.0, pydantic and tomli-w. Worlds, network, sizes and coefficients are
those of the file; everything else is PufferLib's default. KIND `as-installed` changes nothing; `tuned` has metta's
allocator settings and convolutions as matrix products.

`learn SECONDS EPISODES SEED` before the settings, for bench_learning.py, trains for that long from the start of the
process instead of in turns, then prints the policy's reward on the maps of that seed, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pufferlib
import pufferlib.models
import pufferlib.pufferl
import torch
from torch import Tensor, nn

from metta.agent import action_distribution
from metta.agent.memory.state import Memory
from metta.agent.policy import PolicyOutput
from metta.allocator import keep_freed_memory
from metta.config.batch_plan import BatchPlan, plan_batch
from metta.config.loading.load import load_config
from metta.config.run import RunConfig
from metta.evaluation.evaluate import evaluate
from metta.world.env import MettaGridEnv
from tests.benchmarks.dense_network import (
    HIDDEN,
    Convolution,
    DenseEncoder,
    FeatureBox,
    matrix_convolution,
    plain_convolution,
)
from tests.benchmarks.trainer_protocol import Progress, run_trainer, serve


class Worlds(pufferlib.PufferEnv):
    """All worlds as one native vectorized environment, which writes directly into PufferLib's buffers."""

    def __init__(self, config: RunConfig, num_worlds: int, seed: int):
        self.env = MettaGridEnv(config.env, num_worlds, seed)
        self.pairs = np.array(self.env.spec.flat_actions, np.int32)
        self.num_agents = self.env.agents
        tokens = self.env.spec.num_observation_tokens
        self.single_observation_space = gymnasium.spaces.Box(0, 255, (tokens, 3), np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(len(self.pairs))
        self.agents_per_batch = self.num_agents
        self.seconds = 0.0
        self.episode_rewards: list[float] = []
        super().__init__()

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, list[Any]]:
        self.env.reset(out=self.observations)
        return self.observations, []

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        begin = time.perf_counter()
        _, rewards, terminated, truncated, info = self.env.step(self.pairs[actions], out=self.observations)
        self.rewards[:], self.terminals[:], self.truncations[:] = rewards, terminated, truncated
        self.episode_rewards += [float(episode.rewards.mean()) for episode in info.episodes]
        self.seconds += time.perf_counter() - begin
        return self.observations, self.rewards, self.terminals, self.truncations, []

    def close(self) -> None:
        self.env.close()


class Network(nn.Module):
    """The interface that PufferLib's LSTM wrapper requires of a policy."""

    is_continuous = False
    hidden_size = HIDDEN

    def __init__(self, worlds: Worlds, convolution: Convolution):
        super().__init__()
        self.encoder = DenseEncoder(FeatureBox(worlds.env.spec), convolution)
        self.actor = nn.Linear(HIDDEN, len(worlds.pairs))
        self.critic = nn.Linear(HIDDEN, 1)

    def encode_observations(self, observations: Tensor, state: Any = None) -> Tensor:
        return self.encoder(observations)

    def decode_actions(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(hidden), self.critic(hidden)


class EvaluatedPolicy:
    """The trained policy with the interface that metta's evaluation requires."""

    def __init__(self, policy: pufferlib.models.LSTMWrapper, worlds: Worlds):
        self.policy, self.spec = policy, worlds.env.spec
        self.pairs = torch.from_numpy(worlds.pairs)

    def initial_memory(self, agents: int) -> Memory:
        return Memory({"hidden": torch.zeros(1, agents, HIDDEN), "cell": torch.zeros(1, agents, HIDDEN)})

    @torch.no_grad()
    def act(
        self,
        observations: Tensor,
        memory: Memory,
        episode_starts: Tensor | None = None,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> PolicyOutput:
        if episode_starts is not None:
            memory = memory.cleared(episode_starts)
        state = {"lstm_h": memory.tensors["hidden"][0], "lstm_c": memory.tensors["cell"][0]}
        logits, values = self.policy.forward_eval(observations, state)
        pairs = action_distribution.sample(logits, generator)
        memory = Memory({"hidden": state["lstm_h"].unsqueeze(0), "cell": state["lstm_c"].unsqueeze(0)})
        return PolicyOutput(
            self.pairs[pairs], pairs, action_distribution.log_prob(logits, pairs), values.flatten(), memory
        )


def settings(config: RunConfig, folder: str, seed: int, plan: BatchPlan) -> dict[str, Any]:
    """PufferLib's `[train]` table: sizes and coefficients of the file, defaults for the rest."""
    sizes, ppo, optimizer = config.experience, config.ppo, config.optimizer
    batch_size = plan.batch_size
    minibatch_size = plan.segments // plan.num_minibatches * sizes.bptt_horizon
    return {
        **{"env": "hearts-24", "seed": seed, "device": "cpu", "data_dir": folder, "checkpoint_interval": 10**9},
        **{"torch_deterministic": True, "cpu_offload": False, "compile": False, "precision": "float32"},
        **{"total_timesteps": config.run.total_timesteps, "anneal_lr": config.lr_schedule.anneal_lr, "use_rnn": True},
        **{"batch_size": batch_size, "minibatch_size": minibatch_size, "max_minibatch_size": minibatch_size},
        **{"bptt_horizon": sizes.bptt_horizon, "update_epochs": sizes.update_epochs},
        **{"optimizer": "adam", "learning_rate": optimizer.learning_rate, "adam_eps": optimizer.eps},
        **{"adam_beta1": optimizer.beta1, "adam_beta2": optimizer.beta2},
        **{"gamma": ppo.gamma, "gae_lambda": ppo.gae_lambda, "clip_coef": ppo.clip_coef, "vf_coef": ppo.vf_coef},
        **{"vf_clip_coef": ppo.vf_clip_coef, "ent_coef": ppo.ent_coef, "max_grad_norm": ppo.max_grad_norm},
        **{"vtrace_rho_clip": 1.0, "vtrace_c_clip": 1.0, "prio_alpha": 0.8, "prio_beta0": 0.2},
    }


def main() -> None:
    begin = time.perf_counter()
    source, seed, kind, *changes = sys.argv[1:]
    learning = None
    if changes[:1] == ["learn"]:
        learning, changes = [float(number) for number in changes[1:4]], changes[4:]
    if kind == "tuned":
        keep_freed_memory()
    config = load_config(source, changes)
    torch.manual_seed(int(seed))
    plan = plan_batch(config.experience, config.env.game.num_agents)
    worlds = Worlds(config, plan.num_worlds, int(seed))
    network = Network(worlds, matrix_convolution if kind == "tuned" else plain_convolution)
    policy = pufferlib.models.LSTMWrapper(worlds, network, HIDDEN, HIDDEN)
    seconds = {"simulate": 0.0, "infer": 0.0, "learn": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        trainer = pufferlib.pufferl.PuffeRL(settings(config, folder, int(seed), plan), worlds, policy)

        def train_batch() -> Progress:
            steps, simulated, begin = trainer.global_step, worlds.seconds, time.perf_counter()
            trainer.evaluate()
            collected = time.perf_counter()
            trainer.train()
            seconds["simulate"] += worlds.seconds - simulated
            seconds["infer"] += collected - begin - (worlds.seconds - simulated)
            seconds["learn"] += time.perf_counter() - collected
            rewards, worlds.episode_rewards = worlds.episode_rewards, []
            return Progress(trainer.global_step - steps, dict(seconds), rewards)

        if learning is None:
            serve(train_batch)
        else:
            print(
                json.dumps(learned(train_batch, policy, worlds, config.run.total_timesteps, begin, *learning)),
                file=OUT,
                flush=True,
            )
        trainer.utilization.stop()


def learned(
    train_batch: Callable[[], Progress],
    policy: pufferlib.models.LSTMWrapper,
    worlds: Worlds,
    total_timesteps: int,
    begin: float,
    limit: float,
    episodes: float,
    seed: float,
) -> dict[str, Any]:
    """Train until `total_timesteps`, or `limit` seconds after `begin`; the curve, and the reward on new maps."""
    agent_steps, points = 0, []
    while time.perf_counter() - begin < limit and agent_steps < total_timesteps:
        progress = train_batch()
        agent_steps += progress.agent_steps
        if progress.rewards:
            mean = sum(progress.rewards) / len(progress.rewards)
            points.append([agent_steps, round(time.perf_counter() - begin, 1), round(mean, 3)])
    seconds = time.perf_counter() - begin
    policy.eval()
    result = evaluate(EvaluatedPolicy(policy, worlds), worlds.env, int(episodes), int(seed))
    return {"reward": result.mean_reward, "agent_steps": agent_steps, "seconds": seconds, "curve": points}


if __name__ == "__main__":
    OUT = os.fdopen(os.dup(1), "w")  # PufferLib prints its dashboard on stdout
    if "learn" in sys.argv:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    run_trainer(main)
