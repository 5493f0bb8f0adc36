"""Table of metrics: name, unit and meaning of every metric of a run; documentation and tests are generated from it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric, or several whose names follow a pattern."""

    name: str
    """path in `metrics.jsonl`, TensorBoard and W&B; a part in CAPITALS stands for any name"""
    unit: str
    """1 for a dimensionless metric"""
    meaning: str

    def is_name_of(self, name: str) -> bool:
        """Whether this row describes the metric `name`, such as `stats/heart.gained`."""
        parts = re.split(r"([A-Z]+)", self.name)
        return re.fullmatch("".join(".+" if part.isupper() else re.escape(part) for part in parts), name) is not None


PER_EPISODE = "mean over episodes of the mean over agents"

METRICS = (
    Metric("epoch", "epochs", "epochs done, this one included"),
    Metric("agent_step", "agent steps", "agent steps of the run so far"),
    Metric("episodes", "episodes", "episodes that ended in this epoch"),
    Metric(
        "reward",
        "reward",
        f"mean reward of the episodes that ended in this epoch: {PER_EPISODE} of the reward of an episode",
    ),
    Metric(
        "opponent_reward",
        "reward",
        "`reward` of the agents that frozen policies controlled (self-play); `reward` is then that of the learners",
    ),
    Metric(
        "reward/POLICY",
        "reward",
        "`reward` of the agents that a policy of [policies] plays, also of a frozen one; `reward` is then that of all "
        "agents that learn",
    ),
    Metric("opponent_reward/POLICY", "reward", "`opponent_reward` of a policy of [policies] with self-play"),
    Metric("episode_length", "steps", "mean length of the episodes that ended in this epoch"),
    Metric("learning_rate", "1", "learning rate of this epoch; left out with [policies]"),
    Metric("learning_rate/POLICY", "1", "learning rate of a policy of [policies]"),
    Metric("losses/loss", "1", "total loss, which is minimized: the weighted sum of all terms; mean over minibatches"),
    Metric("losses/policy_loss", "1", "clipped surrogate objective, negated; mean over minibatches"),
    Metric(
        "losses/value_loss",
        "reward^2",
        "half the mean squared error of values, clipped with ppo.clip_vloss; 1 where values are normalized",
    ),
    Metric("losses/entropy", "nats", "entropy of the policy; mean over minibatches"),
    Metric("losses/approx_kl", "nats", "estimate of KL(collecting policy, current policy); mean over minibatches"),
    Metric("losses/clipfrac", "1", "fraction of samples whose probability ratio is outside 1 +- ppo.clip_coef"),
    Metric("losses/l2_reg_loss", "1", "ppo.l2_reg_loss_coef times the sum of squared weights"),
    Metric("losses/l2_init_loss", "1", "ppo.l2_init_loss_coef times the squared distance from the initial weights"),
    Metric("losses/teacher_kl", "nats", "KL(teacher, policy), with kickstarting"),
    Metric(
        "losses/teacher_value_loss",
        "reward^2",
        "half the mean squared difference from the teacher's values, with kickstarting",
    ),
    Metric("losses/grad_norm", "1", "norm of all gradients together, before it is clipped to ppo.max_grad_norm"),
    Metric("losses/explained_variance", "1", "1 - var(returns - values) / var(returns), at collection"),
    Metric("losses/mean_value", "reward", "mean of the predicted values, at collection"),
    Metric("losses/mean_return", "reward", "mean of the value targets, at collection"),
    Metric("losses/updates", "updates", "gradient steps in this epoch"),
    Metric("losses/stopped_early", "1", "1 if ppo.target_kl ended the updates of this epoch, else 0"),
    Metric("losses/value_target_mean", "reward", "running mean of the value targets, with normalization.values"),
    Metric(
        "losses/value_target_std",
        "reward",
        "running standard deviation of the value targets, with normalization.values",
    ),
    Metric(
        "losses/reward_std", "reward", "standard deviation by which rewards are divided, with normalization.rewards"
    ),
    Metric("losses/POLICY/LOSS", "as above", "each of these of a policy of [policies]: `losses/hunters/entropy`"),
    Metric(
        "gradients/grad_norm_mean",
        "1",
        "mean over the weights of the gradient norm of the last minibatch, after clipping",
    ),
    Metric(
        "gradients/grad_norm_max",
        "1",
        "maximum over the weights of the gradient norm of the last minibatch, after clipping",
    ),
    Metric(
        "gradients/grad_norm_min",
        "1",
        "minimum over the weights of the gradient norm of the last minibatch, after clipping",
    ),
    Metric("gradients/param_norm_mean", "1", "mean over the weights of their norm"),
    Metric("gradients/POLICY/NORM", "1", "each of these of a policy of [policies]"),
    Metric("task_rewards/TASK", "reward", "`reward` of each task of a curriculum"),
    Metric(
        "task_probabilities/TASK", "1", "probability with which each task of a curriculum is sampled after this epoch"
    ),
    Metric(
        "task_scores/TASK",
        "1",
        "score of each task, from which its probability follows; depends on the type of the curriculum",
    ),
    Metric("weights/WEIGHT/norm", "1", "Frobenius norm of each weight, every agent.analyze_weights_interval epochs"),
    Metric(
        "weights/WEIGHT/effective_rank",
        "1",
        "effective rank of each weight: exp of the entropy of its normalized singular values",
    ),
    Metric("weights/LAYER/dead", "1", "fraction of the units of each layer that are 0 for every agent"),
    Metric("weights/POLICY/WEIGHT/norm", "1", "the norms, effective ranks and dead units of a policy of [policies]"),
    Metric(
        "evaluation/mean_reward",
        "reward",
        f"reward in the evaluation world, `[env]` or the last scene: {PER_EPISODE}",
    ),
    Metric("evaluation/std_reward", "reward", "standard deviation of the reward over evaluation episodes"),
    Metric("evaluation/mean_length", "steps", "mean length of evaluation episodes"),
    Metric("evaluation/std_length", "steps", "standard deviation of the length of evaluation episodes"),
    Metric("evaluation/POLICY/mean_reward", "reward", "mean reward of the agents that a policy of [policies] plays"),
    Metric("seconds", "s", "training time of the run, without evaluations, checkpoints and pauses"),
    Metric("steps_per_second", "agent steps/s", "agent steps of this epoch over its training time"),
    Metric("seconds_simulate", "s", "time of this epoch in which the policy waited for the simulator"),
    Metric("seconds_infer", "s", "time of this epoch in which the policy computed actions"),
    Metric("seconds_learn", "s", "time of this epoch in which the policy was updated"),
    Metric(
        "stats/action.ACTION.success",
        "times",
        f"successful actions: {PER_EPISODE}, like all stats; a counter of 0 is left out",
    ),
    Metric("stats/action.ACTION.failed", "times", "failed actions"),
    Metric("stats/action.failure_penalty", "times", "failed actions that cost action_failure_penalty"),
    Metric("stats/action.invalid_type", "times", "actions whose id does not exist"),
    Metric("stats/action.invalid_type.ID.ARGUMENT", "times", "actions whose id does not exist, by id and argument"),
    Metric("stats/action.invalid_arg", "times", "actions whose argument is too large"),
    Metric("stats/action.invalid_arg.ID.ARGUMENT", "times", "actions whose argument is too large, by id and argument"),
    Metric("stats/action.SWAP.OBJECT", "times", "swaps with an object of this type, or with an agent"),
    Metric("stats/action.ATTACK.agent", "times", "attacks that reached an agent"),
    Metric("stats/action.ATTACK.agent.GROUP", "times", "attacks that reached an agent, by the attacker's group"),
    Metric(
        "stats/action.ATTACK.agent.GROUP.VICTIM",
        "times",
        "attacks that reached an agent, by the groups of attacker and victim",
    ),
    Metric("stats/attack.own_team.GROUP", "times", "attacks of this group that reached its own members"),
    Metric("stats/attack.other_team.GROUP", "times", "attacks of this group that reached other groups"),
    Metric("stats/attack.blocked.VICTIM", "times", "attacks on this group that armor blocked"),
    Metric(
        "stats/attack.blocked.VICTIM.GROUP", "times", "attacks on a group that armor blocked, by the attacker's group"
    ),
    Metric("stats/attack.win.GROUP", "times", "attacks of this group that froze their victim"),
    Metric(
        "stats/attack.win.GROUP.VICTIM",
        "times",
        "attacks that froze their victim, by the groups of attacker and victim",
    ),
    Metric("stats/attack.win.own_team.GROUP", "times", "attacks of this group that froze one of its own members"),
    Metric("stats/attack.win.other_team.GROUP", "times", "attacks of this group that froze a member of another group"),
    Metric("stats/attack.loss.GROUP", "times", "times that an agent of this group was frozen by an attack"),
    Metric(
        "stats/attack.loss.GROUP.ATTACKER",
        "times",
        "times that an agent of this group was frozen, by the attacker's group",
    ),
    Metric(
        "stats/attack.loss.from_own_team.GROUP",
        "times",
        "times that an agent of this group was frozen by its own group",
    ),
    Metric(
        "stats/attack.loss.from_other_team.GROUP",
        "times",
        "times that an agent of this group was frozen by another group",
    ),
    Metric("stats/status.frozen.ticks", "steps", "steps in which an agent was frozen"),
    Metric("stats/status.frozen.ticks.GROUP", "steps", "steps in which an agent was frozen, by its group"),
    Metric("stats/ITEM.gained", "units", "units of an item added to inventories"),
    Metric("stats/ITEM.lost", "units", "units of an item removed from inventories"),
    Metric("stats/ITEM.get", "units", "units of an item taken out of converters"),
    Metric("stats/ITEM.put", "units", "units of an item put into converters"),
    Metric("stats/ITEM.stolen.GROUP", "units", "units of an item that this group stole"),
    Metric("stats/ITEM.stolen_from.GROUP", "units", "units of an item that were stolen from this group"),
    Metric("stats/objects.OBJECT", "objects", "objects of this type on the map: mean over episodes"),
    Metric("stats/tokens_written", "tokens", "tokens in all observations of an episode: mean over episodes"),
    Metric("stats/tokens_dropped", "tokens", "tokens dropped because observations were full: mean over episodes"),
    Metric("stats/tokens_free_space", "tokens", "unused token slots of observations: mean over episodes"),
    Metric("reward_terms/NAME", "reward", f"sum of a custom reward over an episode, times its weight: {PER_EPISODE}"),
)
"""In the order of `EpochMetrics`."""
