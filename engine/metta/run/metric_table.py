"""Every metric of a run: its name, unit and meaning. The README's table and the tests of the names are made from it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric, or several whose names follow a pattern."""

    name: str
    """its path in `metrics.jsonl`, as TensorBoard and W&B have it; a part in CAPITALS stands for any name"""
    unit: str
    """1 where it has none"""
    meaning: str

    def is_name_of(self, name: str) -> bool:
        """Whether `name`, such as `stats/heart.gained`, is this metric."""
        parts = re.split(r"([A-Z]+)", self.name)
        return re.fullmatch("".join(".+" if part.isupper() else re.escape(part) for part in parts), name) is not None


PER_EPISODE = "mean over episodes of the mean over agents"

METRICS = (
    Metric("epoch", "epochs", "epochs done, this one included"),
    Metric("agent_step", "agent steps", "of the run so far"),
    Metric("episodes", "episodes", "that ended in this epoch"),
    Metric("reward", "reward", f"of the episodes that ended: {PER_EPISODE} of the reward of an episode"),
    Metric("opponent_reward", "reward", "the same of agents that frozen policies played; reward is that of the others"),
    Metric("episode_length", "steps", "of the episodes that ended: the mean"),
    Metric("learning_rate", "1", "in this epoch"),
    Metric("losses/loss", "1", "what is minimized: the sum of all terms with their weights; mean over minibatches"),
    Metric("losses/policy_loss", "1", "clipped surrogate objective, negated; mean over minibatches"),
    Metric(
        "losses/value_loss",
        "reward^2",
        "half the mean squared error of values, clipped with ppo.clip_vloss; 1 where values are normalized",
    ),
    Metric("losses/entropy", "nats", "of the policy; mean over minibatches"),
    Metric("losses/approx_kl", "nats", "estimate of KL(policy that collected, policy); mean over minibatches"),
    Metric("losses/clipfrac", "1", "fraction of samples whose ratio is outside 1 +- ppo.clip_coef"),
    Metric("losses/l2_reg_loss", "1", "ppo.l2_reg_loss_coef times the sum of squared weights"),
    Metric("losses/l2_init_loss", "1", "ppo.l2_init_loss_coef times the squared distance from the initial weights"),
    Metric("losses/teacher_kl", "nats", "KL(teacher, policy), with kickstarting"),
    Metric("losses/teacher_value_loss", "reward^2", "half the mean squared difference from the teacher's values"),
    Metric("losses/grad_norm", "1", "norm of all gradients together before they are clipped to ppo.max_grad_norm"),
    Metric("losses/explained_variance", "1", "1 - var(returns - values) / var(returns) while collecting"),
    Metric("losses/mean_value", "reward", "of the values while collecting"),
    Metric("losses/mean_return", "reward", "of the returns that the values were to be"),
    Metric("losses/updates", "updates", "gradient steps taken"),
    Metric("losses/stopped_early", "1", "1 if ppo.target_kl ended the updates, else 0"),
    Metric("losses/value_target_mean", "reward", "what values are normalized by, with normalization.values"),
    Metric("losses/value_target_std", "reward", "what values are normalized by, with normalization.values"),
    Metric("losses/reward_std", "reward", "what rewards are divided by, with normalization.rewards"),
    Metric(
        "gradients/grad_norm_mean", "1", "over the weights, of the norms of the last minibatch's gradients, clipped"
    ),
    Metric("gradients/grad_norm_max", "1", "the same, the largest"),
    Metric("gradients/grad_norm_min", "1", "the same, the smallest"),
    Metric("gradients/param_norm_mean", "1", "over the weights, of their norms"),
    Metric("task_rewards/TASK", "reward", "`reward` of each task of a curriculum"),
    Metric("task_probabilities/TASK", "1", "how often each task of a curriculum is drawn from now on"),
    Metric("task_scores/TASK", "1", "what these probabilities follow from, by the type of the curriculum"),
    Metric("weights/WEIGHT/norm", "1", "Frobenius norm of each weight, every agent.analyze_weights_interval epochs"),
    Metric("weights/WEIGHT/effective_rank", "1", "directions it really uses: exp of the entropy of singular values"),
    Metric("weights/LAYER/dead", "1", "fraction of the layer's units that are 0 for every agent"),
    Metric(
        "evaluation/mean_reward", "reward", f"of episodes in the run's own world, apart from training: {PER_EPISODE}"
    ),
    Metric("evaluation/std_reward", "reward", "the same over episodes: the standard deviation"),
    Metric("evaluation/mean_length", "steps", "of these episodes: the mean"),
    Metric("evaluation/std_length", "steps", "of these episodes: the standard deviation"),
    Metric("seconds", "s", "of training since the run began, without evaluations, checkpoints and pauses"),
    Metric("steps_per_second", "agent steps/s", "agent steps of this epoch over its seconds"),
    Metric("seconds_simulate", "s", "of this epoch in which the policy waited for the worlds"),
    Metric("seconds_infer", "s", "of this epoch in which the policy chose actions"),
    Metric("seconds_learn", "s", "of this epoch in which the policy was updated"),
    Metric("stats/action.ACTION.success", "times", f"an action worked: {PER_EPISODE}, as all stats; 0 is left out"),
    Metric("stats/action.ACTION.failed", "times", "an action failed"),
    Metric("stats/action.failure_penalty", "times", "action_failure_penalty was taken"),
    Metric("stats/action.invalid_type", "times", "an action id does not exist"),
    Metric("stats/action.invalid_type.ID.ARGUMENT", "times", "the same, by what was asked for"),
    Metric("stats/action.invalid_arg", "times", "an argument is too large"),
    Metric("stats/action.invalid_arg.ID.ARGUMENT", "times", "the same, by what was asked for"),
    Metric("stats/action.SWAP.OBJECT", "times", "places were changed with an object of this type, or an agent"),
    Metric("stats/action.ATTACK.agent", "times", "an attack reached an agent"),
    Metric("stats/action.ATTACK.agent.GROUP", "times", "the same, by the attacker's group"),
    Metric("stats/action.ATTACK.agent.GROUP.VICTIM", "times", "the same, by the groups of both"),
    Metric("stats/attack.own_team.GROUP", "times", "an attack of this group reached its own"),
    Metric("stats/attack.other_team.GROUP", "times", "an attack of this group reached another"),
    Metric("stats/attack.blocked.VICTIM", "times", "armor blocked an attack on this group"),
    Metric("stats/attack.blocked.VICTIM.GROUP", "times", "the same, by the attacker's group"),
    Metric("stats/attack.win.GROUP", "times", "an attack of this group froze its victim"),
    Metric("stats/attack.win.GROUP.VICTIM", "times", "the same, by the victim's group"),
    Metric("stats/attack.win.own_team.GROUP", "times", "the same, where the victim was of its own"),
    Metric("stats/attack.win.other_team.GROUP", "times", "the same, where the victim was of another"),
    Metric("stats/attack.loss.GROUP", "times", "an agent of this group was frozen"),
    Metric("stats/attack.loss.GROUP.ATTACKER", "times", "the same, by the attacker's group"),
    Metric("stats/attack.loss.from_own_team.GROUP", "times", "the same, where the attacker was of its own"),
    Metric("stats/attack.loss.from_other_team.GROUP", "times", "the same, where the attacker was of another"),
    Metric("stats/status.frozen.ticks", "steps", "an agent was frozen"),
    Metric("stats/status.frozen.ticks.GROUP", "steps", "the same, by group"),
    Metric("stats/ITEM.gained", "units", "of an item that came into an inventory"),
    Metric("stats/ITEM.lost", "units", "of an item that left an inventory"),
    Metric("stats/ITEM.get", "units", "of an item taken out of converters"),
    Metric("stats/ITEM.put", "units", "of an item put into converters"),
    Metric("stats/ITEM.stolen.GROUP", "units", "of an item that this group robbed"),
    Metric("stats/ITEM.stolen_from.GROUP", "units", "of an item that this group was robbed of"),
    Metric("stats/objects.OBJECT", "objects", "of a type on the map: mean over episodes"),
    Metric("stats/tokens_written", "tokens", "of all observations of an episode: mean over episodes"),
    Metric("stats/tokens_dropped", "tokens", "for which observations had no room: mean over episodes"),
    Metric("stats/tokens_free_space", "tokens", "that observations had room for: mean over episodes"),
)
"""In the order of `EpochMetrics`."""
