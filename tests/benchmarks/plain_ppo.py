"""PPO with an LSTM in the style of CleanRL (ppo_atari_lstm.py, Huang et al. 2022), on metta's worlds.

The reference for comparisons of speed and learning curves, in one file and with nothing but the algorithm: tokens are
scattered into a dense box, all worlds step, then the policy acts; updates process whole segments, starting from their
stored LSTM states. Where max_steps truncates an episode, the return is bootstrapped with the value of its last
observation, as in metta.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from metta.config.batch_plan import BatchPlan
from metta.config.run import RunConfig
from metta.world.env import MettaGridEnv
from tests.benchmarks.dense_network import HIDDEN, orthogonal

Memory = tuple[Tensor, Tensor]


class PlainAgent(nn.Module):
    def __init__(self, encoder: nn.Module, num_actions: int):
        super().__init__()
        self.encoder = encoder
        self.lstm = nn.LSTM(HIDDEN, HIDDEN)
        for gate_weights in (self.lstm.weight_ih_l0, self.lstm.weight_hh_l0):
            for gate in gate_weights.data.chunk(4):
                nn.init.orthogonal_(gate)
        nn.init.zeros_(self.lstm.bias_hh_l0)
        nn.init.zeros_(self.lstm.bias_ih_l0)
        nn.init.ones_(self.lstm.bias_ih_l0.data.chunk(4)[1])
        self.actor = orthogonal(nn.Linear(HIDDEN, num_actions), 0.01)
        self.critic = orthogonal(nn.Linear(HIDDEN, 1), 0.1)

    def states(self, observations: Tensor, memory: Memory, dones: Tensor) -> tuple[Tensor, Memory]:
        """`[steps, agents, ...]` to LSTM outputs; the state is reset where an episode starts."""
        steps, agents = dones.shape
        features = self.encoder(observations.flatten(0, 1)).view(steps, agents, HIDDEN)
        if not dones.any():  # the common case; CleanRL always goes step by step
            return self.lstm(features, memory)
        outputs = []
        for feature, done in zip(features, dones, strict=True):
            kept = (~done).float().view(1, -1, 1)
            output, memory = self.lstm(feature.unsqueeze(0), (memory[0] * kept, memory[1] * kept))
            outputs.append(output)
        return torch.cat(outputs), memory

    def forward(self, observations: Tensor, memory: Memory, dones: Tensor) -> tuple[Categorical, Tensor, Memory]:
        hidden, memory = self.states(observations, memory, dones)
        return Categorical(logits=self.actor(hidden)), self.critic(hidden).squeeze(-1), memory


class PlainTrainer:
    """Collects one batch at a time and updates the policy with it."""

    def __init__(
        self, config: RunConfig, plan: BatchPlan, make_encoder: Callable[[MettaGridEnv], nn.Module], seed: int = 0
    ):
        torch.manual_seed(seed)
        self.config = config
        self.num_minibatches = plan.num_minibatches
        self.env = MettaGridEnv(config.env, plan.num_worlds, seed)
        self.pairs = np.array(self.env.spec.flat_actions, np.int32)
        self.agent = PlainAgent(make_encoder(self.env), len(self.pairs))
        self.steps = config.experience.bptt_horizon
        ppo, optimizer = config.ppo, config.optimizer
        self.gamma, self.gae_lambda = ppo.gamma, ppo.gae_lambda
        self.optimizer = torch.optim.Adam(
            self.agent.parameters(), optimizer.learning_rate, (optimizer.beta1, optimizer.beta2), optimizer.eps
        )
        agents = self.env.agents
        self.batch_size = agents * self.steps
        self.num_batches = -(-config.run.total_timesteps // self.batch_size)
        self.batches = 0
        self.next_observation = torch.from_numpy(self.env.reset(staggered=config.experience.stagger_episodes)[0])
        self.next_done = torch.ones(agents, dtype=torch.bool)
        self.memory = (torch.zeros(1, agents, HIDDEN), torch.zeros(1, agents, HIDDEN))
        self.seconds = {"simulate": 0.0, "infer": 0.0, "learn": 0.0}

    def train_batch(self) -> list[float]:
        """Collect and learn from one batch; the reward of each episode that ended in it, mean over its agents."""
        begin = time.perf_counter()
        before = self.seconds["simulate"]
        returns = self.collect()
        collected = time.perf_counter()
        self.seconds["infer"] += collected - begin - (self.seconds["simulate"] - before)
        self.learn()
        self.seconds["learn"] += time.perf_counter() - collected
        self.batches += 1
        return returns

    def collect(self) -> list[float]:
        steps, agents = self.steps, self.env.agents
        self.first_memory = self.memory
        self.observations = torch.zeros(steps, *self.next_observation.shape, dtype=torch.uint8)
        self.dones = torch.zeros(steps, agents, dtype=torch.bool)
        self.actions = torch.zeros(steps, agents, dtype=torch.long)
        self.log_probs, self.values, self.rewards, final_values = (torch.zeros(steps, agents) for _ in range(4))
        returns = []
        for t in range(steps):
            self.observations[t], self.dones[t] = self.next_observation, self.next_done
            with torch.no_grad():
                policy, value, self.memory = self.agent(
                    self.next_observation.unsqueeze(0), self.memory, self.next_done.unsqueeze(0)
                )
                action = policy.sample()
                self.actions[t], self.log_probs[t], self.values[t] = action[0], policy.log_prob(action)[0], value[0]
            begin = time.perf_counter()
            observation, reward, terminated, truncated, info = self.env.step(self.pairs[action[0].numpy()])
            self.seconds["simulate"] += time.perf_counter() - begin
            self.next_observation = torch.from_numpy(observation)
            self.rewards[t] = torch.from_numpy(reward)
            self.next_done = torch.from_numpy(terminated | truncated)
            returns += [float(episode.rewards.mean()) for episode in info.episodes]
            if truncated.any():
                ended = torch.from_numpy(info.ended_agents)
                memory = (self.memory[0][:, ended], self.memory[1][:, ended])
                final = torch.from_numpy(info.final_observations).unsqueeze(0)
                with torch.no_grad():
                    _, value, _ = self.agent(final, memory, torch.zeros(1, len(ended), dtype=torch.bool))
                final_values[t, ended] = value[0] * torch.from_numpy(truncated)[ended]
        with torch.no_grad():
            _, next_value, _ = self.agent(self.next_observation.unsqueeze(0), self.memory, self.next_done.unsqueeze(0))
        self.advantages = torch.zeros(steps, agents)
        advantage = torch.zeros(agents)
        for t in reversed(range(steps)):
            done = self.dones[t + 1] if t + 1 < steps else self.next_done
            following = self.values[t + 1] if t + 1 < steps else next_value[0]
            following = torch.where(done, final_values[t], following)
            delta = self.rewards[t] + self.gamma * following - self.values[t]
            advantage = delta + self.gamma * self.gae_lambda * (~done) * advantage
            self.advantages[t] = advantage
        return returns

    def learn(self) -> None:
        config, agents = self.config.ppo, self.env.agents
        if self.config.lr_schedule.anneal_lr:
            left = 1 - self.batches / self.num_batches
            self.optimizer.param_groups[0]["lr"] = left * self.config.optimizer.learning_rate
        returns = self.advantages + self.values
        num_minibatches = self.num_minibatches
        for _ in range(self.config.experience.update_epochs):
            for segments in torch.randperm(agents).tensor_split(num_minibatches):
                memory = (self.first_memory[0][:, segments], self.first_memory[1][:, segments])
                policy, values, _ = self.agent(self.observations[:, segments], memory, self.dones[:, segments])
                log_ratio = policy.log_prob(self.actions[:, segments]) - self.log_probs[:, segments]
                ratio = log_ratio.exp()
                advantages = self.advantages[:, segments]
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                clipped = ratio.clamp(1 - config.clip_coef, 1 + config.clip_coef)
                policy_loss = torch.max(-advantages * ratio, -advantages * clipped).mean()
                old_values, target = self.values[:, segments], returns[:, segments]
                clipped_values = old_values + (values - old_values).clamp(-config.vf_clip_coef, config.vf_clip_coef)
                value_loss = 0.5 * torch.max((values - target) ** 2, (clipped_values - target) ** 2).mean()
                loss = policy_loss - config.ent_coef * policy.entropy().mean() + config.vf_coef * value_loss
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.agent.parameters(), config.max_grad_norm)
                self.optimizer.step()
