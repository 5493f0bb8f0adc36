"""V-trace: off-policy correction of advantages and value targets. Espeholt et al. 2018, arXiv:1802.01561."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from metta.agent.devices import to_device
from metta.config.training import PPOConfig, VTraceConfig
from metta.rl.advantages import temporal_differences
from metta.rl.buffers.minibatch import Minibatch
from metta.rl.experience import Experience


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
    """V-trace advantages and value targets, both `[steps, agents] float32`.

    e_t = rho_t delta_t + gamma lambda c_t (1 - done_t) e_{t+1},  rho_t = min(rho_clip, pi / mu)
    v_t = V_t + e_t                                               c_t   = min(c_clip, pi / mu)
    A_t = delta_t + gamma lambda (1 - done_t) e_{t+1}

    `ratios [steps, agents]` are pi / mu: the probability of the action taken, under the current policy pi divided by
    that under the policy mu that collected it. delta and the other arguments are those of `temporal_differences`.

    v is equation 1 of the paper, with lambda c_t instead of c_t (remark 2). The paper's policy gradient is rho_t A_t
    grad log pi; PPO replaces rho_t by its clipped ratio, so A_t is returned without it. If all ratios are 1 and both
    clips are at least 1, A is the advantage of GAE, and v = V + A.
    """
    delta, decay = temporal_differences(
        rewards, values, next_value, terminated, truncated, final_values, gamma, lambda_
    )
    rho, c = ratios.clamp(max=rho_clip), ratios.clamp(max=c_clip)
    advantages, errors = torch.empty_like(delta), torch.empty_like(delta)
    error = torch.zeros_like(next_value)
    for t in range(len(rewards) - 1, -1, -1):
        decayed = decay[t] * error
        advantages[t] = delta[t] + decayed
        error = torch.addcmul(rho[t] * delta[t], c[t], decayed)
        errors[t] = error
    return advantages, values + errors


class VTraceCorrection:
    """V-trace advantages and value targets of a batch, computed again for each minibatch.

    The ratios and values of a minibatch's segments are those of the current policy. For each other segment, they are
    from the last minibatch that contained it, or from the rollout if none did. The recursion runs over the whole batch,
    so that errors propagate across segment boundaries, as in GAE. `final_values` and `next_values` are always those of
    the rollout.
    """

    def __init__(self, experience: Experience, ppo_config: PPOConfig, config: VTraceConfig):
        self.experience = experience
        self.ppo_config = ppo_config
        self.config = config
        self.values = experience.values[: experience.steps_collected].clone()
        self.ratios = torch.ones_like(self.values)
        ends = (experience.terminated, experience.truncated)
        self._terminated, self._truncated = (
            to_device(each[: experience.steps_collected], self.values.device) for each in ends
        )

    def correct(self, minibatch: Minibatch, log_ratios: Tensor, values: Tensor) -> Minibatch:
        """The minibatch with new advantages and returns, which are also stored in the experience.

        `log_ratios`, log(pi / mu), and `values` are from the current policy, both `[horizon, segments]`.
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
            self._terminated,
            self._truncated,
            experience.final_values[:steps],
            self.ratios,
            self.ppo_config.gamma,
            self.ppo_config.gae_lambda,
            self.config.rho_clip,
            self.config.c_clip,
        )
        return dataclasses.replace(
            minibatch,
            advantages=experience.select_rows(experience.advantages, minibatch.rows),
            returns=experience.select_rows(experience.returns, minibatch.rows),
        )
