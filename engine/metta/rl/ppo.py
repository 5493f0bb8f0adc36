"""PPO's update: minibatches of whole segments, each replayed from the memory it began with.

Every number `train_ppo` reports is defined in its docstring; the terms of the loss are in `metta.rl.losses`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metta.agent.policy import MettaAgent
from metta.config.training import PPOConfig
from metta.errors import TrainingError, UsageError
from metta.rl import losses
from metta.rl.advantages import compute_advantages
from metta.rl.experience import Experience, Minibatch
from metta.rl.products import fast_products


def train_ppo(
    agent: MettaAgent,
    optimizer: torch.optim.Optimizer,
    experience: Experience,
    ppo_config: PPOConfig | None = None,
    update_epochs: int = 1,
) -> dict[str, float]:
    """Improve the agent on the last rollout, `update_epochs` times over; returns what happened.

    Uses the advantages of the last `compute_advantages` call, or computes them itself. The statistics,
    each the mean over minibatches unless said otherwise:

    - `loss`: policy_loss - ent_coef entropy + vf_coef value_loss + the l2 terms, which is what is minimised
    - `policy_loss`: the clipped surrogate objective, negated
    - `value_loss`: half the mean squared error of the values, clipped if `clip_vloss`
    - `entropy`: of the policy, nats
    - `approx_kl`: estimate of KL(old policy, new policy), nats
    - `clipfrac`: fraction of samples whose probability ratio is outside 1 +- clip_coef
    - `l2_reg_loss`, `l2_init_loss`: the weighted l2 terms
    - `grad_norm`: norm of all gradients together, after the element-wise and before the norm clip
    - `explained_variance`: 1 - var(returns - values) / var(returns) of the values while collecting; whole batch
    - `mean_value`, `mean_return`: while collecting; whole batch
    - `updates`: gradient steps taken, a count
    - `stopped_early`: 1 if `target_kl` ended the updates, else 0

    Raises TrainingError, before the weights are touched, if a loss or a gradient is not finite.
    """
    if update_epochs < 1:
        raise UsageError(f"update_epochs must be at least 1; got {update_epochs}")
    config = ppo_config or PPOConfig()
    with fast_products(agent.device):
        return _updates(agent, optimizer, experience, config, update_epochs)


def _updates(
    agent: MettaAgent,
    optimizer: torch.optim.Optimizer,
    experience: Experience,
    config: PPOConfig,
    update_epochs: int,
) -> dict[str, float]:
    if experience.advantages is None:
        compute_advantages(experience, config.gamma, config.gae_lambda)
    assert experience.advantages is not None
    old_values = experience.values[: experience.steps_collected]
    returns = experience.advantages + old_values
    totals: dict[str, float] = {}
    updates, stopped_early = 0, False
    optimizer.zero_grad(set_to_none=True)  # if nothing is learned, no older gradients are left to report
    for epoch in range(update_epochs):
        for index, minibatch in enumerate(experience.minibatches()):
            place = f"update epoch {epoch + 1} of {update_epochs}, minibatch {index + 1}"
            terms = loss_terms(agent, minibatch, config)
            kl = float(terms["approx_kl"])
            stopped_early = config.target_kl is not None and kl > config.target_kl
            if stopped_early:
                break
            norm = _step(agent, optimizer, terms, config, place)
            updates += 1
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach())
            totals["grad_norm"] = totals.get("grad_norm", 0.0) + norm
        if stopped_early:
            break
    if not totals:  # the very first minibatch was already too far off: what it showed is the news
        totals = {name: float(value.detach()) for name, value in terms.items()} | {"grad_norm": 0.0}
    return {
        **{name: total / max(1, updates) for name, total in totals.items()},
        "explained_variance": losses.explained_variance(old_values, returns),
        "mean_value": float(old_values.mean()),
        "mean_return": float(returns.mean()),
        "updates": float(updates),
        "stopped_early": float(stopped_early),
    }


def loss_terms(agent: MettaAgent, minibatch: Minibatch, config: PPOConfig) -> dict[str, Tensor]:
    """The loss of a minibatch under `loss`, differentiable, and the terms and diagnostics it is reported with."""
    evaluation = agent.evaluate(minibatch.observations, minibatch.pairs, minibatch.memory, minibatch.resets)
    log_ratio = evaluation.log_probs - minibatch.log_probs
    advantages = losses.normalised(minibatch.advantages) if config.norm_adv else minibatch.advantages
    policy = losses.policy_loss(log_ratio, advantages, config.clip_coef)
    value = losses.value_loss(
        evaluation.values,
        minibatch.values,
        minibatch.returns,
        config.vf_clip_coef if config.clip_vloss else None,
    )
    entropy = evaluation.entropy.mean()
    zero = torch.zeros((), device=agent.device)
    l2_reg = config.l2_reg_loss_coef * losses.l2_loss(agent) if config.l2_reg_loss_coef else zero
    l2_init = (
        config.l2_init_loss_coef * losses.l2_loss(agent, agent.initial_weights) if config.l2_init_loss_coef else zero
    )
    with torch.no_grad():
        kl = losses.approximate_kl(log_ratio)
        clipped = losses.clip_fraction(log_ratio, config.clip_coef)
    return {
        "loss": policy - config.ent_coef * entropy + config.vf_coef * value + l2_reg + l2_init,
        "policy_loss": policy.detach(),
        "value_loss": value.detach(),
        "entropy": entropy.detach(),
        "approx_kl": kl,
        "clipfrac": clipped,
        "l2_reg_loss": l2_reg.detach(),
        "l2_init_loss": l2_init.detach(),
    }


def _step(
    agent: MettaAgent, optimizer: torch.optim.Optimizer, terms: dict[str, Tensor], config: PPOConfig, place: str
) -> float:
    """One gradient step; returns the norm of the gradient. Nothing is changed if anything is not finite."""
    if not bool(torch.isfinite(terms["loss"])):
        wrong = [f"{name} = {float(term.detach())}" for name, term in terms.items() if not bool(torch.isfinite(term))]
        raise TrainingError(f"the loss is not finite ({place}): {', '.join(wrong)}; the weights were left as they are")
    optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    clip_range = agent.config.clip_range
    named = [(name, weight) for name, weight in agent.named_parameters() if weight.grad is not None]
    if clip_range:
        torch.nn.utils.clip_grad_value_([weight for _, weight in named], clip_range)
    gradients = [weight.grad for _, weight in named if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not bool(torch.isfinite(norm)):
        wrong = [name for name, weight in named if weight.grad is not None and not bool(weight.grad.isfinite().all())]
        optimizer.zero_grad(set_to_none=True)
        raise TrainingError(
            f"a gradient is not finite ({place}): of {', '.join(wrong)}; the weights were left as they are"
        )
    if config.max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_([weight for _, weight in named], config.max_grad_norm, norm)
    optimizer.step()
    return float(norm)
