"""Generalized advantage estimation (GAE), optionally of scaled rewards: Schulman et al. 2015, arXiv:1506.02438."""

from __future__ import annotations

import torch
from torch import Tensor

from metta.agent.devices import to_device
from metta.config.training import NormalizationConfig
from metta.errors import UsageError
from metta.rl.experience import Experience


def temporal_differences(
    rewards: Tensor,
    values: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_values: Tensor,
    gamma: float,
    lambda_: float,
) -> tuple[Tensor, Tensor]:
    """Temporal-difference (TD) errors and the decay factors of the advantage recursion, both `[steps, agents] float32`.

    delta_t = r_t + gamma V'_t - V_t
    decay_t = gamma lambda (1 - done_t),   done_t = terminated_t or truncated_t

    V'_t is the value of the observation after step t: 0 if step t terminated the episode, `final_values[t]` (the value
    of the episode's final observation) if it truncated the episode, otherwise V_{t+1}, which is `next_value` at the
    last step. `next_value` is `[agents]`; all other tensors are `[steps, agents]`, in order of time.
    """
    done = terminated | truncated
    next_values = torch.cat([values[1:], next_value.unsqueeze(0)])
    next_values = torch.where(done, torch.where(terminated, 0.0, final_values), next_values)
    return rewards + gamma * next_values - values, gamma * lambda_ * (~done).to(rewards.dtype)


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
    """Advantages, `[steps, agents] float32` (equation 16 of the paper, as a recursion).

    A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}

    delta and the arguments are those of `temporal_differences`.
    """
    delta, decay = temporal_differences(
        rewards, values, next_value, terminated, truncated, final_values, gamma, lambda_
    )
    advantages = torch.empty_like(delta)
    advantage = torch.zeros_like(next_value)
    for t in range(len(rewards) - 1, -1, -1):
        advantage = torch.addcmul(delta[t], decay[t], advantage)
        advantages[t] = advantage
    return advantages


def compute_advantages(
    experience: Experience,
    gamma: float = 0.977,
    gae_lambda: float = 0.916,
    normalization: NormalizationConfig | None = None,
) -> Tensor:
    """Compute the advantages of the last rollout, `[steps, agents] float32`.

    Also stores them in `experience.advantages`, and the value targets (advantages + values) in `experience.returns`,
    where `train_ppo` reads both. With `normalization.rewards`, both are computed from scaled rewards, and the first
    call after a rollout updates the running statistics of the reward scale.

    Raises UsageError if `gamma` or `gae_lambda` is outside 0 to 1, or before the first rollout.
    """
    for name, value in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name} must be from 0 to 1; got {value}")
    if not experience.steps_collected:
        raise UsageError("the experience has no steps; call rollout(experience, agent) first")
    steps = experience.steps_collected
    rewards = experience.rewards[:steps]
    if normalization is not None and normalization.rewards:
        if experience.learned_rewards is None:
            experience.reward_scaler.observe(rewards, experience.episode_starts[1 : steps + 1], gamma)
        rewards = experience.reward_scaler.scale(rewards, normalization.reward_clip)
    device = experience.storage_device
    experience.learned_rewards = to_device(rewards, device)
    experience.advantages = generalized_advantages(
        experience.learned_rewards,
        experience.values[:steps],
        experience.next_values,
        to_device(experience.terminated[:steps], device),
        to_device(experience.truncated[:steps], device),
        experience.final_values[:steps],
        gamma,
        gae_lambda,
    )
    experience.returns = experience.advantages + experience.values[:steps]
    return experience.advantages
