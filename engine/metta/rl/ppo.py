"""Proximal policy optimization (PPO): the update of a policy from a batch of experience.

Minibatches hold whole segments; the network replays each from the memory that it had before the segment. The terms of
the loss are in `metta.rl.losses`.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metta.agent.matmul_backend import fast_matmul
from metta.agent.policy import ActionEvaluation, MettaAgent
from metta.config.training import NormalizationConfig, PPOConfig, PrioritizedSamplingConfig, VTraceConfig
from metta.errors import TrainingError, UsageError
from metta.rl import losses
from metta.rl.advantages import compute_advantages
from metta.rl.distributed import SINGLE_PROCESS, Processes
from metta.rl.experience import Experience, Minibatch
from metta.rl.prioritized_sampling import PrioritizedSampling, annealed_beta
from metta.rl.vtrace import VTraceCorrection


@dataclass(frozen=True)
class UpdateSettings:
    """How `update_policy` learns from a batch. The defaults are plain PPO in a single process."""

    ppo: PPOConfig = field(default_factory=PPOConfig)
    update_epochs: int = 1
    """passes over the batch"""
    teacher_coef: float = 0.0
    """weight of the KL divergence from the teacher, where the experience has one (kickstarting)"""
    teacher_value_coef: float = 0.0
    """weight of the squared difference from the teacher's values"""
    vtrace: VTraceConfig = field(default_factory=VTraceConfig)
    """corrects advantages and returns while the policy moves away from the one that collected the batch"""
    prioritized_sampling: PrioritizedSamplingConfig = field(default_factory=PrioritizedSamplingConfig)
    """samples segments by their advantages"""
    progress: float = 0.0
    """fraction of the run that is done, 0 to 1; anneals beta of prioritized sampling"""
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    """normalizes value targets; also scales rewards, unless the advantages of the batch are computed already"""
    processes: Processes = SINGLE_PROCESS
    """processes that update the policy together: gradients are averaged, advantages are normalized over all"""


def train_ppo(
    agent: MettaAgent,
    optimizer: torch.optim.Optimizer,
    experience: Experience,
    ppo_config: PPOConfig | None = None,
    update_epochs: int = 1,
) -> dict[str, float]:
    """Update the agent from the last rollout by PPO, in `update_epochs` passes; the statistics of `update_policy`.

    Uses the advantages of the last `compute_advantages` call, or computes them with gamma and gae_lambda of
    `ppo_config`.
    """
    return update_policy(agent, optimizer, experience, UpdateSettings(ppo_config or PPOConfig(), update_epochs))


def update_policy(
    agent: MettaAgent, optimizer: torch.optim.Optimizer, experience: Experience, settings: UpdateSettings
) -> dict[str, float]:
    """Update the agent from the last rollout; statistics of the update.

    Uses the advantages of the last `compute_advantages` call, or computes them. The statistics are means over
    minibatches, and over processes, unless stated otherwise:

    - `loss`: policy_loss - ent_coef entropy + vf_coef value_loss + the l2 terms + teacher_coef teacher_kl +
      teacher_value_coef teacher_value_loss, which is minimized
    - `policy_loss`: the clipped surrogate objective, negated
    - `value_loss`: half the mean squared error of the values, clipped if `clip_vloss`, over the variance of
      value targets if these are normalized
    - `entropy`: of the policy, nats
    - `approx_kl`: estimate of KL(old policy, new policy), nats
    - `clipfrac`: fraction of samples whose probability ratio is outside 1 +- clip_coef
    - `l2_reg_loss`, `l2_init_loss`: the weighted l2 terms
    - `teacher_kl`: KL(teacher, policy), nats; this and the next only where the experience has a teacher
    - `teacher_value_loss`: half the mean squared difference of the teacher's values and the policy's
    - `grad_norm`: norm of all gradients together, after the element-wise and before the norm clip
    - `explained_variance`: 1 - var(returns - values) / var(returns) of the values at collection; whole batch
    - `mean_value`, `mean_return`: at collection; whole batch, of unscaled rewards
    - `value_target_mean`, `value_target_std`: by which values are normalized; only if they ever were
    - `reward_std`: the divisor of rewards; only if they were ever scaled
    - `updates`: gradient steps taken, a count
    - `stopped_early`: 1 if `target_kl` ended the update, else 0

    Raises TrainingError if a loss or a gradient is not finite, before it changes a weight, or if a gradient step made a
    weight infinite or NaN.
    """
    if settings.update_epochs < 1:
        raise UsageError(f"update_epochs must be at least 1; got {settings.update_epochs}")
    with fast_matmul(agent.device):
        if experience.advantages is None:
            compute_advantages(experience, settings.ppo.gamma, settings.ppo.gae_lambda, settings.normalization)
        assert experience.returns is not None
        # V-trace replaces the returns; the statistics are of those at collection
        values, returns = experience.values[: experience.steps_collected], experience.returns
        head = agent.value_head
        steps = _take_gradient_steps(agent, optimizer, experience, settings)
        statistics = steps | _batch_statistics(values, returns, experience.reward_scaler.std, settings.processes)
        if head.moments[2]:
            statistics |= {"value_target_mean": float(head.mean), "value_target_std": float(head.std)}
        if experience.reward_scaler.count:
            statistics["reward_std"] = experience.reward_scaler.std
        return statistics


def _take_gradient_steps(
    agent: MettaAgent, optimizer: torch.optim.Optimizer, experience: Experience, settings: UpdateSettings
) -> dict[str, float]:
    """Take a gradient step per minibatch, until `target_kl` is exceeded; the means of the terms, and the counts."""
    processes, target_kl = settings.processes, settings.ppo.target_kl
    correction = VTraceCorrection(experience, settings.ppo, settings.vtrace) if settings.vtrace.enabled else None
    restore_value_head = _normalize_value_targets(agent, experience, settings)
    totals: defaultdict[str, float] = defaultdict(float)
    terms: dict[str, Tensor] = {}
    updates, stopped_early, place = 0, False, ""
    optimizer.zero_grad(set_to_none=True)  # the gradients that are reported are those of this update, or none
    try:
        for place, minibatch in _minibatches(experience, settings):
            terms = loss_terms(agent, minibatch, settings, correction)
            optimizer.zero_grad(set_to_none=True)
            # the exchange of the terms overlaps with that of the gradients, which takes longer
            wait_for_means = processes.all_reduce_async(torch.stack([term.detach() for term in terms.values()]))
            processes.backward(terms["loss"])
            terms = dict(zip(terms, wait_for_means(), strict=True))
            if not bool(torch.isfinite(terms["loss"])):  # not an early stop: a policy that only moved has a finite loss
                optimizer.zero_grad(set_to_none=True)
                raise TrainingError(_nonfinite_loss_message(agent, minibatch, terms, place))
            stopped_early = target_kl is not None and float(terms["approx_kl"]) > target_kl
            if stopped_early:
                optimizer.zero_grad(set_to_none=True)
                break
            totals["grad_norm"] += _take_gradient_step(agent, optimizer, settings.ppo, place)
            updates += 1
            for name, value in terms.items():
                totals[name] += float(value)
    except TrainingError:
        if not updates:
            restore_value_head()
        raise
    if nonfinite := _nonfinite_weights(agent):  # of the last step; after any other, the next loss would not be finite
        raise TrainingError(
            f"a gradient step made weights infinite or NaN ({place}): {', '.join(nonfinite)}; "
            "lower optimizer.learning_rate"
        )
    if not updates:  # the first minibatch exceeded target_kl; its terms are reported
        totals |= {name: float(value) for name, value in terms.items()} | {"grad_norm": 0.0}
    means = {name: total / max(1, updates) for name, total in totals.items()}
    return means | {"updates": float(updates), "stopped_early": float(stopped_early)}


def _minibatches(experience: Experience, settings: UpdateSettings) -> Iterator[tuple[str, Minibatch]]:
    """The minibatches of all passes over the batch, each with its place for error messages."""
    sampling = None
    if settings.prioritized_sampling.enabled:
        beta = annealed_beta(settings.prioritized_sampling.beta, settings.progress)
        sampling = PrioritizedSampling(settings.prioritized_sampling.alpha, beta)
    for epoch in range(settings.update_epochs):
        for index, minibatch in enumerate(experience.minibatches(sampling)):
            yield f"update epoch {epoch + 1} of {settings.update_epochs}, minibatch {index + 1}", minibatch


def _normalize_value_targets(agent: MettaAgent, experience: Experience, settings: UpdateSettings) -> Callable[[], None]:
    """Update the value head's statistics from the returns, if values are normalized; a function that reverts it."""
    if not settings.normalization.values:
        return lambda: None
    assert experience.returns is not None
    targets = settings.processes.all_gather_tensor(experience.returns)
    if not bool(targets.isfinite().all()):
        raise TrainingError("a value target is not finite; the weights were not changed")
    head = copy.deepcopy(agent.value_head.state_dict())
    initial = {name: weight.clone() for name, weight in agent.initial_weights.items()}

    def revert() -> None:
        agent.value_head.load_state_dict(head)
        agent.initial_weights = initial

    agent.observe_value_targets(targets, settings.normalization.value_decay)
    return revert


def _batch_statistics(values: Tensor, returns: Tensor, reward_std: float, processes: Processes) -> dict[str, float]:
    """Statistics of the whole batch, the mean over processes."""
    explained = losses.explained_variance(values, returns)
    means = float(values.mean()) * reward_std, float(returns.mean()) * reward_std
    batch = processes.all_reduce_mean(torch.tensor([explained, *means])).tolist()
    return dict(zip(("explained_variance", "mean_value", "mean_return"), batch, strict=True))


def loss_terms(
    agent: MettaAgent, minibatch: Minibatch, settings: UpdateSettings, correction: VTraceCorrection | None = None
) -> dict[str, Tensor]:
    """The loss of a minibatch, `loss`, differentiable; and its terms and diagnostics, detached."""
    config = settings.ppo
    evaluation = settings.processes.evaluate_actions(
        agent, minibatch.observations, minibatch.action_index, minibatch.memory, minibatch.episode_starts
    )
    log_ratio = evaluation.log_probs - minibatch.log_probs
    if correction is not None:
        minibatch = correction.correct(minibatch, log_ratio, evaluation.values)
    weights, advantages = minibatch.weights, minibatch.advantages
    if config.norm_adv:
        advantages = losses.normalize_advantages(advantages, weights, settings.processes.all_gather_tensor)
    policy = losses.policy_loss(log_ratio, advantages, config.clip_coef, weights)
    std = agent.value_head.std
    value = losses.value_loss(
        evaluation.values / std,
        minibatch.values / std,
        minibatch.returns / std,
        config.vf_clip_coef if config.clip_vloss else None,
        weights,
    )
    entropy = losses.weighted_mean(evaluation.entropy, weights)
    zero = torch.zeros((), device=agent.device)
    l2_reg = config.l2_reg_loss_coef * losses.l2_loss(agent) if config.l2_reg_loss_coef else zero
    l2_init = (
        config.l2_init_loss_coef * losses.l2_loss(agent, agent.initial_weights) if config.l2_init_loss_coef else zero
    )
    teacher = _teacher_terms(evaluation, minibatch, std)
    kickstarting = zero
    if teacher:
        kickstarting = (
            settings.teacher_coef * teacher["teacher_kl"] + settings.teacher_value_coef * teacher["teacher_value_loss"]
        )
    with torch.no_grad():
        kl = losses.approximate_kl(log_ratio)
        clipped = losses.clip_fraction(log_ratio, config.clip_coef)
    return {
        "loss": policy - config.ent_coef * entropy + config.vf_coef * value + l2_reg + l2_init + kickstarting,
        "policy_loss": policy.detach(),
        "value_loss": value.detach(),
        "entropy": entropy.detach(),
        "approx_kl": kl,
        "clipfrac": clipped,
        "l2_reg_loss": l2_reg.detach(),
        "l2_init_loss": l2_init.detach(),
        **{name: term.detach() for name, term in teacher.items()},
    }


def _teacher_terms(evaluation: ActionEvaluation, minibatch: Minibatch, value_std: Tensor) -> dict[str, Tensor]:
    """The terms of kickstarting, differentiable; none without a teacher."""
    if minibatch.teacher_log_probs is None or minibatch.teacher_values is None:
        return {}
    values, old_values, targets = (
        each / value_std for each in (evaluation.values, minibatch.values, minibatch.teacher_values)
    )
    return {
        "teacher_kl": losses.teacher_divergence(minibatch.teacher_log_probs, evaluation.logits, minibatch.weights),
        "teacher_value_loss": losses.value_loss(values, old_values, targets, None, minibatch.weights),
    }


def _take_gradient_step(agent: MettaAgent, optimizer: torch.optim.Optimizer, config: PPOConfig, place: str) -> float:
    """Clip the gradients and take one step; their norm. Raises TrainingError, without a step, for one not finite."""
    clip_range = agent.config.clip_range
    named = [(name, weight) for name, weight in agent.named_parameters() if weight.grad is not None]
    if clip_range:
        torch.nn.utils.clip_grad_value_([weight for _, weight in named], clip_range)
    gradients = [weight.grad for _, weight in named if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not bool(torch.isfinite(norm)):
        wrong = [name for name, weight in named if weight.grad is not None and not bool(weight.grad.isfinite().all())]
        optimizer.zero_grad(set_to_none=True)
        raise TrainingError(f"the gradient of {', '.join(wrong)} is not finite ({place}); the weights were not changed")
    if config.max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_([weight for _, weight in named], config.max_grad_norm, norm)
    optimizer.step()
    return float(norm)


def _nonfinite_weights(agent: MettaAgent) -> list[str]:
    """The names of the weights that are not finite."""
    return [name for name, weight in agent.named_parameters() if not bool(weight.isfinite().all())]


def _nonfinite_loss_message(agent: MettaAgent, minibatch: Minibatch, terms: dict[str, Tensor], place: str) -> str:
    """The terms that are not finite, and their source: weights, else experience, else the first such layer."""
    wrong = [f"{name} = {float(term.detach())}" for name, term in terms.items() if not bool(torch.isfinite(term))]
    inputs = {
        "old log_probs": minibatch.log_probs,
        "old values": minibatch.values,
        "advantages": minibatch.advantages,
        "memory": torch.cat((minibatch.memory.hidden, minibatch.memory.cell)),
    }
    sources = [f"weight {name}" for name in _nonfinite_weights(agent)]
    sources = sources or [name for name, values in inputs.items() if not bool(values.isfinite().all())]
    sources = sources or [f"the output of layer {name}" for name in _nonfinite_layers(agent, minibatch)[:1]]
    source = f" from {', '.join(sources)}" if sources else ""
    return f"the loss is not finite ({place}): {', '.join(wrong)}{source}; the weights were not changed"


def _nonfinite_layers(agent: MettaAgent, minibatch: Minibatch) -> list[str]:
    """The layers whose output for a minibatch is not finite, in the order of computation."""
    nonfinite: list[str] = []

    def check_output(name: str, output: object) -> None:
        if isinstance(output, Tensor) and not bool(output.isfinite().all()):
            nonfinite.append(name)

    hooks = [
        layer.register_forward_hook(lambda _, inputs, output, name=name: check_output(name, output))
        for name, layer in agent.named_modules()
    ]
    try:
        with torch.no_grad():
            agent.evaluate_actions(
                minibatch.observations, minibatch.action_index, minibatch.memory, minibatch.episode_starts
            )
    finally:
        for hook in hooks:
            hook.remove()
    return nonfinite
