"""PPO's update: minibatches of whole segments, each replayed from the memory it began with.

Every number `train_ppo` reports is defined in its docstring; the terms of the loss are in `metta.rl.losses`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from metta.agent.matmul_backend import fast_matmul
from metta.agent.policy import MettaAgent
from metta.config.training import NormalizationConfig, PPOConfig, PrioritizedSamplingConfig, VTraceConfig
from metta.errors import TrainingError, UsageError
from metta.rl import losses
from metta.rl.advantages import compute_advantages
from metta.rl.distributed import ALONE, Processes
from metta.rl.experience import Experience, Minibatch
from metta.rl.prioritized_sampling import PrioritizedSampling, annealed
from metta.rl.vtrace import VTrace


def train_ppo(
    agent: MettaAgent,
    optimizer: torch.optim.Optimizer,
    experience: Experience,
    ppo_config: PPOConfig | None = None,
    update_epochs: int = 1,
    teacher_coef: float = 0.0,
    teacher_value_coef: float = 0.0,
    vtrace: VTraceConfig | None = None,
    prioritized_sampling: PrioritizedSamplingConfig | None = None,
    normalization: NormalizationConfig | None = None,
    progress: float = 0.0,
    processes: Processes = ALONE,
) -> dict[str, float]:
    """Improve the agent on the last rollout, `update_epochs` times over; returns what happened.

    Uses the advantages of the last `compute_advantages` call, or computes them itself. `vtrace` corrects them as the
    policy moves on (with gamma and gae_lambda of `ppo_config`); `prioritized_sampling` draws segments by them, with
    its beta annealed by `progress`, the fraction of the run that is done, 0 to 1; `normalization` lets the value head's
    statistics follow the returns of this batch, which the value loss is in units of, and scales the rewards if the
    advantages are not computed yet. All are off by default. Several `processes` learn as one from the minibatches of
    all: gradients are averaged, advantages normalized over all.

    The statistics, each the mean over minibatches, and over processes, unless said otherwise:

    - `loss`: policy_loss - ent_coef entropy + vf_coef value_loss + the l2 terms + teacher_coef teacher_kl +
      teacher_value_coef teacher_value_loss, which is what is minimized
    - `policy_loss`: the clipped surrogate objective, negated
    - `value_loss`: half the mean squared error of the values, clipped if `clip_vloss`, over the variance of
      value targets if these are normalized
    - `entropy`: of the policy, nats
    - `approx_kl`: estimate of KL(old policy, new policy), nats
    - `clipfrac`: fraction of samples whose probability ratio is outside 1 +- clip_coef
    - `l2_reg_loss`, `l2_init_loss`: the weighted l2 terms
    - `teacher_kl`: KL(teacher, policy), nats; only where the experience has a teacher, as is the next
    - `teacher_value_loss`: half the mean squared difference of the teacher's values and the policy's
    - `grad_norm`: norm of all gradients together, after the element-wise and before the norm clip
    - `explained_variance`: 1 - var(returns - values) / var(returns) of the values while collecting; whole batch
    - `mean_value`, `mean_return`: while collecting; whole batch, of unscaled rewards
    - `value_target_mean`, `value_target_std`: what values are normalized by; only if they ever were
    - `reward_std`: what rewards are divided by; only if they ever were
    - `updates`: gradient steps taken, a count
    - `stopped_early`: 1 if `target_kl` ended the updates, else 0

    Raises TrainingError, before the weights are touched, if a loss or a gradient is not finite; and after the last
    gradient step if that broke a weight.
    """
    if update_epochs < 1:
        raise UsageError(f"update_epochs must be at least 1; got {update_epochs}")
    config = ppo_config or PPOConfig()
    with fast_matmul(agent.device):
        if experience.advantages is None:
            compute_advantages(experience, config.gamma, config.gae_lambda, normalization)
        assert experience.returns is not None
        undo: Callable[[], None] | None = None
        if normalization is not None and normalization.values:
            targets = processes.concatenated(experience.returns)
            if not bool(targets.isfinite().all()):
                raise TrainingError("a value target is not finite; the policy was left as it is")
            undo = _undoing_rescale(agent)
            agent.observe_value_targets(targets, normalization.value_decay)
        correction = sampling = None
        if vtrace is not None and vtrace.enabled:
            correction = VTrace(experience, config, vtrace)
        if prioritized_sampling is not None and prioritized_sampling.enabled:
            beta = annealed(prioritized_sampling.beta, progress)
            sampling = PrioritizedSampling(prioritized_sampling.alpha, beta)
        coefs = teacher_coef, teacher_value_coef
        return _updates(
            agent, optimizer, experience, config, update_epochs, *coefs, correction, sampling, processes, undo
        )


def _updates(
    agent: MettaAgent,
    optimizer: torch.optim.Optimizer,
    experience: Experience,
    config: PPOConfig,
    update_epochs: int,
    teacher_coef: float,
    teacher_value_coef: float,
    correction: VTrace | None,
    sampling: PrioritizedSampling | None,
    processes: Processes,
    undo: Callable[[], None] | None,
) -> dict[str, float]:
    old_values, returns = experience.values[: experience.steps_collected], experience.returns
    assert returns is not None
    head, scale = agent.value_head, experience.reward_scale
    totals: dict[str, float] = {}
    updates, stopped_early = 0, False
    optimizer.zero_grad(set_to_none=True)  # if nothing is learned, no older gradients are left to report
    for epoch in range(update_epochs):
        for index, minibatch in enumerate(experience.minibatches(sampling)):
            place = f"update epoch {epoch + 1} of {update_epochs}, minibatch {index + 1}"
            terms = loss_terms(agent, minibatch, config, teacher_coef, teacher_value_coef, correction, processes)
            optimizer.zero_grad(set_to_none=True)
            # alike in all processes; they learn of it while gradients, which take longer, are on their way
            reported = processes.all_reduce_async(torch.stack([term.detach() for term in terms.values()]))
            processes.backward(terms["loss"])
            terms = dict(zip(terms, reported(), strict=True))
            kl = float(terms["approx_kl"])
            if not bool(torch.isfinite(terms["loss"])):  # which no policy that only moved too far has
                optimizer.zero_grad(set_to_none=True)
                problem = _what_broke(agent, minibatch, terms, place)
                if undo is not None and not updates:
                    undo()
                raise TrainingError(problem)
            stopped_early = config.target_kl is not None and kl > config.target_kl
            if stopped_early:
                optimizer.zero_grad(set_to_none=True)
                break
            try:
                norm = _step(agent, optimizer, config, place)
            except TrainingError:
                if undo is not None and not updates:
                    undo()
                raise
            updates += 1
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + float(value)
            totals["grad_norm"] = totals.get("grad_norm", 0.0) + norm
        if stopped_early:
            break
    if broken := _broken_weights(agent):  # by the last step, or the loss after it would have told
        raise TrainingError(
            f"a gradient step made weights infinite or NaN ({place}): {', '.join(broken)}; "
            "lower optimizer.learning_rate"
        )
    if not totals:  # the very first minibatch was already too far off: what it showed is the news
        totals = {name: float(value) for name, value in terms.items()} | {"grad_norm": 0.0}
    explained = losses.explained_variance(old_values, returns)
    means = float(old_values.mean()) * scale.std, float(returns.mean()) * scale.std
    batch = processes.all_reduce_mean(torch.tensor([explained, *means])).tolist()
    return {
        **{name: total / max(1, updates) for name, total in totals.items()},
        **dict(zip(("explained_variance", "mean_value", "mean_return"), batch, strict=True)),
        "updates": float(updates),
        "stopped_early": float(stopped_early),
        **({"value_target_mean": float(head.mean), "value_target_std": float(head.std)} if head.moments[2] else {}),
        **({"reward_std": scale.std} if scale.count else {}),
    }


def _undoing_rescale(agent: MettaAgent) -> Callable[[], None]:
    """What makes the value head again what it is now, before value targets rescale it."""
    head = copy.deepcopy(agent.value_head.state_dict())
    initial = {name: weight.clone() for name, weight in agent.initial_weights.items()}

    def undo() -> None:
        agent.value_head.load_state_dict(head)
        agent.initial_weights = initial

    return undo


def loss_terms(
    agent: MettaAgent,
    minibatch: Minibatch,
    config: PPOConfig,
    teacher_coef: float = 0.0,
    teacher_value_coef: float = 0.0,
    correction: VTrace | None = None,
    processes: Processes = ALONE,
) -> dict[str, Tensor]:
    """The loss of a minibatch under `loss`, differentiable, and the terms and diagnostics it is reported with."""
    evaluation = processes.evaluate(
        agent, minibatch.observations, minibatch.action_index, minibatch.memory, minibatch.episode_starts
    )
    log_ratio = evaluation.log_probs - minibatch.log_probs
    if correction is not None:
        minibatch = correction.corrected(minibatch, log_ratio, evaluation.values)
    weights, advantages = minibatch.weights, minibatch.advantages
    if config.norm_adv:
        advantages = losses.normalized(advantages, weights, processes.concatenated)
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
    advice = zero
    advised: dict[str, Tensor] = {}
    if minibatch.teacher_log_probs is not None and minibatch.teacher_values is not None:
        divergence = losses.teacher_divergence(minibatch.teacher_log_probs, evaluation.logits, weights)
        difference = losses.value_loss(
            evaluation.values / std, minibatch.values / std, minibatch.teacher_values / std, None, weights
        )
        advice = teacher_coef * divergence + teacher_value_coef * difference
        advised = {"teacher_kl": divergence.detach(), "teacher_value_loss": difference.detach()}
    with torch.no_grad():
        kl = losses.approximate_kl(log_ratio)
        clipped = losses.clip_fraction(log_ratio, config.clip_coef)
    return {
        "loss": policy - config.ent_coef * entropy + config.vf_coef * value + l2_reg + l2_init + advice,
        "policy_loss": policy.detach(),
        "value_loss": value.detach(),
        "entropy": entropy.detach(),
        "approx_kl": kl,
        "clipfrac": clipped,
        "l2_reg_loss": l2_reg.detach(),
        "l2_init_loss": l2_init.detach(),
        **advised,
    }


def _step(agent: MettaAgent, optimizer: torch.optim.Optimizer, config: PPOConfig, place: str) -> float:
    """One step along the gradients; the norm of them all. Nothing is changed if one is not finite."""
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


def _broken_weights(agent: MettaAgent) -> list[str]:
    """The names of the weights that are not finite."""
    return [name for name, weight in agent.named_parameters() if not bool(weight.isfinite().all())]


def _what_broke(agent: MettaAgent, minibatch: Minibatch, terms: dict[str, Tensor], place: str) -> str:
    """Which terms of a loss are not finite, and where that came from: weights, experience, or the first such layer."""
    wrong = [f"{name} = {float(term.detach())}" for name, term in terms.items() if not bool(torch.isfinite(term))]
    inputs = {
        "old log_probs": minibatch.log_probs,
        "old values": minibatch.values,
        "advantages": minibatch.advantages,
        "memory": torch.cat((minibatch.memory.hidden, minibatch.memory.cell)),
    }
    sources = [f"weight {name}" for name in _broken_weights(agent)]
    sources = sources or [name for name, values in inputs.items() if not bool(values.isfinite().all())]
    sources = sources or [f"the output of layer {name}" for name in _broken_layers(agent, minibatch)[:1]]
    source = f" from {', '.join(sources)}" if sources else ""
    return f"the loss is not finite ({place}): {', '.join(wrong)}{source}; the weights were left as they are"


def _broken_layers(agent: MettaAgent, minibatch: Minibatch) -> list[str]:
    """The layers whose output for a minibatch is not finite, in the order in which they compute."""
    broken: list[str] = []

    def look(name: str, output: object) -> None:
        if isinstance(output, Tensor) and not bool(output.isfinite().all()):
            broken.append(name)

    hooks = [
        layer.register_forward_hook(lambda _, inputs, output, name=name: look(name, output))
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
    return broken
