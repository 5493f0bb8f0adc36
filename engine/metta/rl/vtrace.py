"""V-trace (Espeholt et al. 2018, arXiv:1802.01561): what a batch teaches a policy that is no longer its author."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from metta.config.training import PPOConfig, VTraceConfig
from metta.rl.experience import Experience, Minibatch


def vtrace(
    rewards: Tensor,
    values: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_values: Tensor,
    ratios: Tensor,
    gamma: float,
    lambda_: float,
    rho_clip: float,
    c_clip: float,
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets, both `[steps, agents]`, of experience laid out along time.

    delta_t = r_t + gamma V'_t - V_t
    e_t     = rho_t delta_t + gamma lambda c_t (1 - done_t) e_{t+1},  rho_t = min(rho_clip, pi / mu)
    v_t     = V_t + e_t                                               c_t   = min(c_clip, pi / mu)
    A_t     = delta_t + gamma lambda (1 - done_t) e_{t+1}

    with V'_t, what comes after step t, as in `generalized_advantages`, and `ratios [steps, agents]` pi / mu: the
    probability of what was done now over that when it was done. v is equation 1 of the paper, with lambda c_t for
    its c_t (remark 2). A is what its policy gradient multiplies by rho_t; here PPO's clipped ratio stands in that
    place. Where all ratios are 1 and neither clip is below, A is GAE's advantage and v = V + A.
    """
    steps = len(rewards)
    done = terminated | truncated
    following = torch.cat([values[1:], next_value.unsqueeze(0)])
    following = torch.where(done, torch.where(terminated, 0.0, final_values), following)
    delta = rewards + gamma * following - values
    decay = gamma * lambda_ * (~done).to(rewards.dtype)
    rho, c = ratios.clamp(max=rho_clip), ratios.clamp(max=c_clip)
    advantages, errors = torch.empty_like(delta), torch.empty_like(delta)
    error = torch.zeros_like(next_value)
    for t in range(steps - 1, -1, -1):
        carried = decay[t] * error
        advantages[t] = delta[t] + carried
        error = torch.addcmul(rho[t] * delta[t], c[t], carried)
        errors[t] = error
    return advantages, values + errors


class VTrace:
    """A batch's targets, kept up with the policy minibatch by minibatch.

    A minibatch is whole segments, and once the policy has been asked about them their ratios and values are known as
    of now; those of the agents' other segments are known as of the last minibatch they were in, and at first as of
    collecting. With these the recursion runs over the whole batch, so that errors reach back over the ends of
    segments as they do in GAE. Values of final observations, and of the step after the last, stay as of collecting.
    """

    def __init__(self, experience: Experience, ppo_config: PPOConfig, config: VTraceConfig):
        self.experience = experience
        self.ppo_config = ppo_config
        self.config = config
        self.values = experience.values[: experience.steps_collected].clone()
        self.ratios = torch.ones_like(self.values)

    def corrected(self, minibatch: Minibatch, log_ratios: Tensor, values: Tensor) -> Minibatch:
        """The minibatch with targets by what the policy now thinks of it: log(pi / mu) and values of its steps.

        The experience's advantages and returns follow.
        """
        rows, device = minibatch.rows.flatten(), self.values.device
        self.ratios.view(-1)[rows] = log_ratios.detach().exp().flatten().to(device)
        self.values.view(-1)[rows] = values.detach().flatten().to(device)
        experience, steps = self.experience, self.experience.steps_collected
        assert experience.learned_rewards is not None
        experience.advantages, experience.returns = vtrace(
            experience.learned_rewards,
            self.values,
            experience.next_values,
            experience.terminated[:steps],
            experience.truncated[:steps],
            experience.final_values[:steps],
            self.ratios,
            self.ppo_config.gamma,
            self.ppo_config.gae_lambda,
            self.config.rho_clip,
            self.config.c_clip,
        )
        return dataclasses.replace(
            minibatch,
            advantages=experience.gathered(experience.advantages, minibatch.rows),
            returns=experience.gathered(experience.returns, minibatch.rows),
        )
