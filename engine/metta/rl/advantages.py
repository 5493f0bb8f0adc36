"""Generalized advantage estimation (Schulman et al. 2015, arXiv:1506.02438)."""

from __future__ import annotations

import torch
from torch import Tensor

from metta.config.training import NormalizationConfig
from metta.errors import UsageError
from metta.rl.experience import Experience


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_values: Tensor,
    gamma: float,
    lambda_: float,
) -> Tensor:
    """The advantages `[steps, agents]` of experience laid out along time.

    delta_t = r_t + gamma V'_t - V_t
    A_t     = delta_t + gamma lambda (1 - done_t) A_{t+1}

    where V'_t is what comes after step t: 0 if the episode terminated there, the value of its final observation
    (`final_values [steps, agents]`) if it was truncated, else V_{t+1}; after the last step `next_value [agents]`.
    """
    steps = len(rewards)
    done = terminated | truncated
    following = torch.cat([values[1:], next_value.unsqueeze(0)])
    following = torch.where(done, torch.where(terminated, 0.0, final_values), following)
    delta = rewards + gamma * following - values
    decay = gamma * lambda_ * (~done).to(rewards.dtype)
    advantages = torch.empty_like(delta)
    advantage = torch.zeros_like(next_value)
    for t in range(steps - 1, -1, -1):
        advantage = torch.addcmul(delta[t], decay[t], advantage)
        advantages[t] = advantage
    return advantages


def compute_advantages(
    experience: Experience,
    gamma: float = 0.977,
    gae_lambda: float = 0.916,
    normalization: NormalizationConfig | None = None,
) -> Tensor:
    """The advantages `[steps, agents] float32` of the last rollout, time first, agents of all worlds after.

    They are also kept in the experience for `train_ppo`, with the returns: advantages + values. Where
    `normalization` has rewards scaled, both are of scaled rewards; the first call after a rollout counts its rewards.
    """
    for name, value in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name} must be from 0 to 1; got {value}")
    if not experience.steps_collected:
        raise UsageError("there is no experience to compute advantages of: call rollout(experience, agent) first")
    steps = experience.steps_collected
    rewards = experience.rewards[:steps]
    if normalization is not None and normalization.rewards:
        if experience.learned_rewards is None:
            experience.reward_scale.observe(rewards, experience.episode_starts[1 : steps + 1], gamma)
        rewards = experience.reward_scale.scaled(rewards, normalization.reward_clip)
    experience.learned_rewards = rewards
    experience.advantages = generalized_advantages(
        rewards,
        experience.values[:steps],
        experience.next_values,
        experience.terminated[:steps],
        experience.truncated[:steps],
        experience.final_values[:steps],
        gamma,
        gae_lambda,
    )
    experience.returns = experience.advantages + experience.values[:steps]
    return experience.advantages
