"""Proximal policy optimization (PPO): the update of a policy from a batch of experience.

Minibatches consist of whole segments. The network evaluates each segment from the recurrent memory that was stored
before its first step. The terms of the loss are in `metta.rl.losses`.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metta.agent.devices import HostCopy, exact_dtype
from metta.agent.heads import ValueHead
from metta.agent.matmul_backend import fast_matmul
from metta.agent.policy import ActionEvaluation, MettaAgent
from metta.config.training import NormalizationConfig, PPOConfig, PrioritizedSamplingConfig, VTraceConfig
from metta.errors import TrainingError, UsageError
from metta.rl import losses
from metta.rl.advantages import compute_advantages
from metta.rl.buffers.minibatch import Minibatch
from metta.rl.distributed import SINGLE_PROCESS, Processes
from metta.rl.experience import Experience
from metta.rl.prioritized_sampling import PrioritizedSampling, annealed_beta
from metta.rl.rollout import ProgressCallback, check_agent_fits
from metta.rl.vtrace import VTraceCorrection


@dataclass(frozen=True)
class UpdateSettings:
    """Settings of `update_policy`. The defaults are PPO without extensions, in a single process."""

    ppo: PPOConfig = field(default_factory=PPOConfig)
    update_epochs: int = 1
    """passes over the batch"""
    teacher_coef: float = 0.0
    """weight of KL(teacher, policy) in the loss, if the experience has a teacher (kickstarting)"""
    teacher_value_coef: float = 0.0
    """weight of half the mean squared error to the teacher's values in the loss"""
    vtrace: VTraceConfig = field(default_factory=VTraceConfig)
    """off-policy correction of advantages and value targets with the current policy"""
    prioritized_sampling: PrioritizedSamplingConfig = field(default_factory=PrioritizedSamplingConfig)
    """sampling of segments by their mean |advantage|"""
    progress: float = 0.0
    """completed fraction of the run, 0 to 1; anneals beta of prioritized sampling"""
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    """normalization of value targets; scaling of rewards only if this update computes the advantages"""
    processes: Processes = SINGLE_PROCESS
    """processes that update the policy together, with averaged gradients and jointly normalized advantages"""
    on_progress: ProgressCallback | None = None
    """called after each minibatch with the agent steps used so far and in all passes over the batch"""


def train_ppo(
    agent: MettaAgent,
    optimizer: torch.optim.Optimizer,
    experience: Experience,
    ppo_config: PPOConfig | None = None,
    update_epochs: int = 1,
) -> dict[str, float]:
    """Update the agent from the last rollout by PPO, in `update_epochs` passes over the batch.

    `ExperienceConfig.update_epochs` is the setting of `metta train` for it, which an own loop passes here.

    Uses the advantages of the last `compute_advantages` call, or if there are none, computes them with `gamma` and
    `gae_lambda` of `ppo_config`. Returns the statistics that `update_policy` describes, and raises its errors.
    """
    return update_policy(agent, optimizer, experience, UpdateSettings(ppo_config or PPOConfig(), update_epochs))


def update_policy(
    agent: MettaAgent, optimizer: torch.optim.Optimizer, experience: Experience, settings: UpdateSettings
) -> dict[str, float]:
    """Update the agent from the last rollout, and return statistics of the update.

    Uses the advantages of the last `compute_advantages` call, or if there are none, computes them. The statistics are
    means over minibatches and processes, unless stated otherwise:

    - `loss`: the minimized loss: policy_loss - ent_coef * entropy + vf_coef * value_loss + l2_reg_loss + l2_init_loss
      + teacher_coef * teacher_kl + teacher_value_coef * teacher_value_loss
    - `policy_loss`: negated clipped surrogate objective
    - `value_loss`: half the mean squared error of the values, clipped if `clip_vloss`; divided by the variance of
      value targets if these are normalized
    - `entropy`: entropy of the policy, nats
    - `approx_kl`: estimate of KL(old policy, new policy), nats
    - `clipfrac`: fraction of samples whose probability ratio is outside 1 +- clip_coef
    - `l2_reg_loss`, `l2_init_loss`: L2 terms, multiplied by their coefficients
    - `teacher_kl`: KL(teacher, policy), nats, over the labeled steps; only if the experience has a teacher
    - `teacher_value_loss`: like `value_loss` without clipping, with the teacher's values as targets; only if the
      teacher is a network
    - `grad_norm`: L2 norm of all gradients together, after clipping by value and before clipping by norm
    - `explained_variance`: 1 - var(returns - values) / var(returns), over the whole batch, with the rollout's values
    - `mean_value`, `mean_return`: over the whole batch as collected, in units of unscaled rewards
    - `value_target_mean`, `value_target_std`: statistics that normalize value targets; absent if never updated
    - `reward_std`: divisor of rewards; absent if rewards were never scaled
    - `updates`: number of gradient steps
    - `stopped_early`: 1 if `target_kl` ended the update, otherwise 0

    Gradients that the agent's weights have from elsewhere are discarded. Advantages may also be the user's own:
    `experience.advantages [steps, agents] float32`; if `experience.returns` are None, they are advantages + values.

    Raises UsageError if `update_epochs` is below 1, if the experience was made for another agent, if the optimizer has
    none of the agent's weights, or if the experience has no steps, or advantages of another shape. Raises TrainingError
    if a value target, a loss or a gradient is not finite, before the step that would use it; also if a gradient step
    made a weight infinite or NaN.
    """
    if settings.update_epochs < 1:
        raise UsageError(f"update_epochs must be at least 1; got {settings.update_epochs}")
    check_agent_fits(experience, agent)
    trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    if trained.isdisjoint(map(id, agent.parameters())):
        raise UsageError(
            "the optimizer has none of the agent's weights; make one for this agent: make_optimizer(agent)"
        )
    with fast_matmul(agent.device):
        if experience.advantages is None:
            compute_advantages(experience, settings.ppo.gamma, settings.ppo.gae_lambda, settings.normalization)
        _complete_returns(experience)
        assert experience.returns is not None
        # V-trace replaces experience.returns during the update; the statistics are those before it
        values, returns = experience.values[: experience.steps_collected], experience.returns
        steps = _take_gradient_steps(agent, optimizer, experience, settings)
        batch = _batch_statistics(values, returns, experience.reward_scaler.std, settings.processes)
        statistics = steps | batch | _value_target_statistics(agent.value_head)
        if experience.reward_scaler.count:
            statistics["reward_std"] = experience.reward_scaler.std
        return statistics


def _complete_returns(experience: Experience) -> None:
    """Derive the value targets of advantages that the user set. Raises UsageError for tensors of another shape."""
    values = experience.values[: experience.steps_collected]
    for name in ("advantages", "returns"):
        given = getattr(experience, name)
        if given is not None and given.shape != values.shape:
            raise UsageError(
                f"experience.{name} must have the shape [steps, agents] = {list(values.shape)}; got {list(given.shape)}"
            )
    if experience.returns is None and experience.advantages is not None:
        experience.returns = values + experience.advantages


def _take_gradient_steps(
    agent: MettaAgent, optimizer: torch.optim.Optimizer, experience: Experience, settings: UpdateSettings
) -> dict[str, float]:
    """Take one gradient step per minibatch until `target_kl` is exceeded; the statistics over minibatches."""
    processes, target_kl = settings.processes, settings.ppo.target_kl
    correction = VTraceCorrection(experience, settings.ppo, settings.vtrace) if settings.vtrace.enabled else None
    restore_value_head = _normalize_value_targets(agent, experience, settings)
    totals: defaultdict[str, float] = defaultdict(float)
    values: dict[str, float] = {}
    updates, stopped_early, position = 0, False, ""
    _discard_gradients(agent, optimizer)  # gradient statistics never come from an earlier update
    try:
        for position, minibatch in _minibatches(experience, settings):
            terms = loss_terms(agent, minibatch, settings, correction)
            _discard_gradients(agent, optimizer)
            # the all-reduce of the terms runs during the backward pass
            wait_for_means = processes.all_reduce_async(torch.stack([term.detach() for term in terms.values()]))
            processes.backward(terms["loss"])
            norm = _gradient_norm(agent)
            # the only wait of a gradient step
            fetched = HostCopy(torch.cat([wait_for_means(), norm.unsqueeze(0)])).wait().tolist()
            values = dict(zip([*terms, "grad_norm"], fetched, strict=True))
            if not math.isfinite(values["loss"]):  # before target_kl: an infinite KL is an error, no early stop
                _discard_gradients(agent, optimizer)
                raise TrainingError(_nonfinite_loss_message(agent, minibatch, values, position))
            stopped_early = target_kl is not None and values["approx_kl"] > target_kl
            if stopped_early:
                _discard_gradients(agent, optimizer)
                break
            if not math.isfinite(values["grad_norm"]):
                raise TrainingError(_nonfinite_gradient_message(agent, optimizer, position))
            if settings.ppo.max_grad_norm:
                weights = [weight for weight in agent.parameters() if weight.grad is not None]
                torch.nn.utils.clip_grads_with_norm_(weights, settings.ppo.max_grad_norm, norm)
            optimizer.step()
            updates += 1
            for name, value in values.items():
                totals[name] += value
    except TrainingError:
        if not updates:
            restore_value_head()
        raise
    nonfinite = _nonfinite(agent.named_parameters())  # of the last step; those of earlier ones show in the next loss
    if nonfinite:
        raise TrainingError(
            f"a gradient step made weights infinite or NaN ({position}): {', '.join(nonfinite)}; "
            "lower optimizer.learning_rate"
        )
    if not updates:  # the first minibatch exceeded target_kl; its terms are reported
        totals |= values | {"grad_norm": 0.0}
    means = {name: total / max(1, updates) for name, total in totals.items()}
    return means | {"updates": float(updates), "stopped_early": float(stopped_early)}


def _minibatches(experience: Experience, settings: UpdateSettings) -> Iterator[tuple[str, Minibatch]]:
    """Yield the minibatches of all passes over the batch, each with its position as text for error messages."""
    sampling = None
    if settings.prioritized_sampling.enabled:
        beta = annealed_beta(settings.prioritized_sampling.beta, settings.progress)
        sampling = PrioritizedSampling(settings.prioritized_sampling.alpha, beta)
    done, total = 0, experience.values[: experience.steps_collected].numel() * settings.update_epochs
    for epoch in range(settings.update_epochs):
        for index, minibatch in enumerate(experience.minibatches(sampling)):
            yield f"update epoch {epoch + 1} of {settings.update_epochs}, minibatch {index + 1}", minibatch
            done += minibatch.values.numel()
            if settings.on_progress:
                settings.on_progress(done, total)


def _normalize_value_targets(agent: MettaAgent, experience: Experience, settings: UpdateSettings) -> Callable[[], None]:
    """If values are normalized, update the value head's statistics from the returns. Returns a function to undo it."""
    if not settings.normalization.values:
        return lambda: None
    assert experience.returns is not None
    targets = settings.processes.all_gather_tensor(experience.returns)
    if not HostCopy(targets.isfinite().all()).wait():
        raise TrainingError("a value target (return) is not finite; the weights were not changed")
    head = copy.deepcopy(agent.value_head.state_dict())
    initial = {name: weight.clone() for name, weight in agent.initial_weights.items()}

    def revert() -> None:
        agent.value_head.load_state_dict(head)
        agent.initial_weights = initial

    agent.observe_value_targets(targets, settings.normalization.value_decay)
    return revert


def _batch_statistics(values: Tensor, returns: Tensor, reward_std: float, processes: Processes) -> dict[str, float]:
    """Statistics of the whole batch, averaged over processes."""
    means = torch.stack([values.mean(), returns.mean()]).to(exact_dtype(values.device)) * reward_std
    batch = torch.cat([losses.explained_variance(values, returns).unsqueeze(0), means]).float()
    fetched = HostCopy(processes.all_reduce_mean(batch)).wait().tolist()
    return dict(zip(("explained_variance", "mean_value", "mean_return"), fetched, strict=True))


def _value_target_statistics(head: ValueHead) -> dict[str, float]:
    """Mean and standard deviation with which value targets are normalized; empty if they were never updated."""
    weight, mean, std = HostCopy(torch.stack([head.moments[2].float(), head.mean, head.std])).wait().tolist()
    return {"value_target_mean": mean, "value_target_std": std} if weight else {}


def loss_terms(
    agent: MettaAgent, minibatch: Minibatch, settings: UpdateSettings, correction: VTraceCorrection | None = None
) -> dict[str, Tensor]:
    """The differentiable `loss` of a minibatch, and its terms and diagnostics, detached; all scalars.

    The names are those of `update_policy`'s statistics.
    """
    config = settings.ppo
    evaluation = settings.processes.evaluate_actions(
        agent,
        minibatch.observations,
        minibatch.action_index,
        minibatch.memory,
        minibatch.episode_starts,
        minibatch.action_masks,
        minibatch.start_steps,
        minibatch.groups,
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
        kickstarting = settings.teacher_coef * teacher["teacher_kl"]
    if "teacher_value_loss" in teacher:
        kickstarting = kickstarting + settings.teacher_value_coef * teacher["teacher_value_loss"]
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
    """The differentiable terms of kickstarting, not multiplied by their coefficients; empty without a teacher."""
    labels = minibatch.labels
    if labels is None:
        return {}
    weights = labels.weights if minibatch.weights is None else labels.weights * minibatch.weights
    terms = {"teacher_kl": losses.teacher_divergence(labels.probabilities, evaluation.logits, weights)}
    if labels.values is not None:
        values, targets = evaluation.values / value_std, labels.values / value_std
        terms["teacher_value_loss"] = losses.value_loss(values, values, targets, None, weights)
    return terms


def _discard_gradients(agent: MettaAgent, optimizer: torch.optim.Optimizer) -> None:
    """Remove the gradients of the agent's weights, also of those that the optimizer does not train, and of others."""
    agent.zero_grad(set_to_none=True)
    optimizer.zero_grad(set_to_none=True)


def _gradient_norm(agent: MettaAgent) -> Tensor:
    """Clip the gradients by value, if so configured; the L2 norm of all of them together, before clipping by norm."""
    weights = [weight for weight in agent.parameters() if weight.grad is not None]
    if agent.config.clip_range:
        torch.nn.utils.clip_grad_value_(weights, agent.config.clip_range)
    return torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])


def _nonfinite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the tensors with elements that are not finite."""
    named = dict(tensors)
    are_finite = HostCopy(torch.stack([tensor.isfinite().all() for tensor in named.values()])).wait().tolist()
    return [name for name, is_finite in zip(named, are_finite, strict=True) if not is_finite]


def _nonfinite_gradient_message(agent: MettaAgent, optimizer: torch.optim.Optimizer, position: str) -> str:
    """Error message with the weights whose gradient is not finite. Discards the gradients."""
    bad = _nonfinite((name, weight.grad) for name, weight in agent.named_parameters() if weight.grad is not None)
    _discard_gradients(agent, optimizer)
    return f"the gradient of {', '.join(bad)} is not finite ({position}); the weights were not changed"


def _nonfinite_loss_message(agent: MettaAgent, minibatch: Minibatch, terms: dict[str, float], position: str) -> str:
    """Error message with the terms that are not finite, and the first source found.

    Sources are checked in the order weights, inputs from the experience, outputs of layers.
    """
    nonfinite = [f"{name} = {term}" for name, term in terms.items() if not math.isfinite(term) and name != "grad_norm"]
    inputs = {
        "old log_probs": minibatch.log_probs,
        "old values": minibatch.values,
        "advantages": minibatch.advantages,
        **{f"memory {name}": tensor for name, tensor in minibatch.memory.tensors.items()},
    }
    sources = [f"weight {name}" for name in _nonfinite(agent.named_parameters())]
    sources = sources or _nonfinite(inputs.items())
    sources = sources or [f"the output of layer {name}" for name in _nonfinite_layers(agent, minibatch)[:1]]
    source = f" from {', '.join(sources)}" if sources else ""
    return f"the loss is not finite ({position}): {', '.join(nonfinite)}{source}; the weights were not changed"


def _nonfinite_layers(agent: MettaAgent, minibatch: Minibatch) -> list[str]:
    """Names of the layers whose output for a minibatch is not finite, in the order of computation."""
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
                minibatch.observations,
                minibatch.action_index,
                minibatch.memory,
                minibatch.episode_starts,
                minibatch.action_masks,
                groups=minibatch.groups,
            )
    finally:
        for hook in hooks:
            hook.remove()
    return nonfinite
