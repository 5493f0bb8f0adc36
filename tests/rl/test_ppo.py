"""The PPO update: its gradient, early stopping, and the effect of each setting of `[ppo]`."""

from __future__ import annotations

import pytest
import torch

from metta.config.training import OptimizerConfig, PPOConfig
from metta.errors import MettaError, TrainingError
from metta.rl.advantages import compute_advantages
from metta.rl.optimizer import make_optimizer
from metta.rl.ppo import UpdateSettings, loss_terms, train_ppo
from metta.rl.rollout import rollout

LEARN = {"ent_coef": 0.0, "norm_adv": False, "max_grad_norm": 0.0, "vf_coef": 0.5, "gamma": 0.9, "gae_lambda": 0.8}


def trained(set_up, update_epochs=1, agent=None, learning_rate=3e-3, **settings):
    """Weights and statistics after one update from the same initial weights and experience."""
    policy, experience = set_up(agent=agent)
    rollout(experience, policy)
    optimizer = make_optimizer(policy, OptimizerConfig(learning_rate=learning_rate))
    stats = train_ppo(policy, optimizer, experience, PPOConfig(**LEARN | settings), update_epochs)
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach(), stats


def test_the_update_is_deterministic(set_up):
    (first, stats), (second, again) = (trained(set_up, update_epochs=2) for _ in range(2))
    assert torch.equal(first, second)
    assert stats == again


def test_statistics_are_numbers_and_as_defined(set_up):
    agent, experience = set_up()
    rollout(experience, agent)
    config = PPOConfig(ent_coef=0.01)
    stats = train_ppo(agent, make_optimizer(agent), experience, config, update_epochs=2)
    assert all(isinstance(value, float) for value in stats.values())
    assert stats["updates"] == 8
    assert stats["loss"] == pytest.approx(
        stats["policy_loss"] - 0.01 * stats["entropy"] + config.vf_coef * stats["value_loss"], abs=1e-6
    )
    assert stats["mean_value"] == pytest.approx(float(experience.values.mean()), abs=1e-6)
    assert stats["stopped_early"] == 0
    assert 0 < stats["entropy"] <= torch.tensor(len(agent.spec.flat_actions)).log()


def test_existing_advantages_are_used_and_missing_ones_are_computed(set_up):
    ends = []
    for gamma in (None, LEARN["gamma"], 0.1):
        agent, experience = set_up()
        rollout(experience, agent)
        if gamma is not None:
            compute_advantages(experience, gamma, LEARN["gae_lambda"])
        train_ppo(agent, make_optimizer(agent), experience, PPOConfig(**LEARN))
        ends.append(torch.nn.utils.parameters_to_vector(agent.parameters()).detach())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("normalize", [True, False])
def test_a_minibatch_of_one_step_moves_the_policy(set_up, normalize):
    """Its single advantage has no standard deviation."""
    agent, experience = set_up(bptt_horizon=1, minibatch_size=1, batch_size=16)
    rollout(experience, agent)
    compute_advantages(experience)
    minibatch = next(experience.minibatches())
    assert minibatch.advantages.shape == (1, 1)
    loss_terms(agent, minibatch, UpdateSettings(PPOConfig(norm_adv=normalize, ent_coef=0.0)))["loss"].backward()
    gradient = agent.policy_head.output.weight.grad.norm()
    assert 0 < gradient < 10
    agent.zero_grad()
    loss_terms(agent, minibatch, UpdateSettings(PPOConfig(norm_adv=False, ent_coef=0.0)))["loss"].backward()
    assert agent.policy_head.output.weight.grad.norm() == gradient


def test_an_update_without_experience_is_refused(set_up):
    agent, experience = set_up()
    with pytest.raises(MettaError, match="call rollout"):
        train_ppo(agent, make_optimizer(agent), experience)


@pytest.mark.parametrize("mask_actions", [False, True])
def test_the_gradient_is_that_of_the_loss_written_out(set_up, mask_actions):
    agent, experience = set_up(agent={"mask_actions": mask_actions})
    rollout(experience, agent)
    compute_advantages(experience, 0.9, 0.8)
    with torch.no_grad():  # far enough from the policy of the rollout that ratios and values are clipped
        for weight in agent.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    minibatch = next(experience.minibatches())
    config = PPOConfig(clip_coef=0.2, vf_clip_coef=0.1, vf_coef=0.7, ent_coef=0.03)
    loss_terms(agent, minibatch, UpdateSettings(config))["loss"].backward()
    gradient = torch.nn.utils.parameters_to_vector(weight.grad for weight in agent.parameters())
    agent.zero_grad()
    logits, values, _ = agent(minibatch.observations, minibatch.memory, minibatch.episode_starts)
    advantages = (minibatch.advantages - minibatch.advantages.mean()) / (minibatch.advantages.std() + 1e-8)
    total = 0.0
    masks = minibatch.action_masks if mask_actions else torch.ones(logits.shape, dtype=torch.bool)
    assert bool(masks.all()) != mask_actions
    for t in range(logits.shape[0]):
        for segment in range(logits.shape[1]):
            allowed = masks[t, segment]
            chosen = int(allowed[: minibatch.action_index[t, segment]].sum())  # index among the allowed actions
            probabilities = logits[t, segment][allowed].softmax(0)
            ratio = probabilities[chosen] / minibatch.log_probs[t, segment].exp()
            advantage = advantages[t, segment]
            total = total - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            total = total + 0.03 * (probabilities * probabilities.log()).sum()
            old, target, value = minibatch.values[t, segment], minibatch.returns[t, segment], values[t, segment]
            clipped = torch.maximum(torch.minimum(value, old + 0.1), old - 0.1)
            total = total + 0.7 * 0.5 * torch.maximum((value - target) ** 2, (clipped - target) ** 2)
    (total / logits.shape[0] / logits.shape[1]).backward()
    expected = torch.nn.utils.parameters_to_vector(weight.grad for weight in agent.parameters())
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


# -- a test per field: each fails if the field is ignored -----------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "other", "around"),
    [
        ("clip_coef", 0.01, {}),
        ("ent_coef", 0.5, {}),
        ("gae_lambda", 0.1, {}),
        ("gamma", 0.1, {}),
        ("max_grad_norm", 1e-9, {}),
        ("vf_clip_coef", 1e-4, {}),
        ("vf_coef", 0.0, {}),
        ("l2_reg_loss_coef", 0.1, {}),
        ("l2_init_loss_coef", 0.1, {}),
        ("norm_adv", True, {}),
        ("clip_vloss", False, {"vf_clip_coef": 1e-4}),
        ("target_kl", 1e-9, {}),
    ],
)
def test_each_setting_changes_what_is_learned(set_up, field, other, around):
    usual, _ = trained(set_up, update_epochs=3, **around)
    changed, _ = trained(set_up, update_epochs=3, **around | {field: other})
    assert not torch.allclose(usual, changed, rtol=1e-6, atol=1e-8)


def test_the_entropy_bonus_raises_entropy(set_up):
    entropies = [trained(set_up, 4, ent_coef=coefficient)[1]["entropy"] for coefficient in (0.0, 1.0)]
    assert entropies[1] > entropies[0]


def test_l2_reg_shrinks_weights_and_l2_init_keeps_them_near_the_initial_ones(set_up):
    beginning = torch.nn.utils.parameters_to_vector(set_up()[0].parameters()).detach()
    usual, none = trained(set_up, 4)
    shrunk, reg = trained(set_up, 4, l2_reg_loss_coef=1.0)
    held, init = trained(set_up, 4, l2_init_loss_coef=100.0)
    assert shrunk.norm() < usual.norm()
    assert (held - beginning).norm() < (usual - beginning).norm()
    assert (none["l2_reg_loss"], none["l2_init_loss"]) == (0, 0)
    assert reg["l2_reg_loss"] > 0
    assert init["l2_init_loss"] > 0


def test_the_reference_of_l2_init_can_be_updated(set_up):
    agent, experience = set_up()
    rollout(experience, agent)
    compute_advantages(experience)
    minibatch = next(experience.minibatches())
    with torch.no_grad():
        agent.value_head.output.bias.add_(2.0)
    terms = loss_terms(agent, minibatch, UpdateSettings(PPOConfig(l2_init_loss_coef=0.5)))
    assert float(terms["l2_init_loss"]) == pytest.approx(0.5 * 4, rel=1e-4)
    agent.update_initial_weights()
    assert float(loss_terms(agent, minibatch, UpdateSettings(PPOConfig(l2_init_loss_coef=0.5)))["l2_init_loss"]) == 0


def test_target_kl_stops_before_the_next_step(set_up):
    _, free = trained(set_up, 4, learning_rate=0.02)
    _, stopped = trained(set_up, 4, learning_rate=0.02, target_kl=0.002)
    assert (free["updates"], free["stopped_early"]) == (16, 0)
    assert stopped["updates"] < 16
    assert stopped["stopped_early"] == 1


def test_max_grad_norm_bounds_the_step(set_up):
    """With SGD and learning rate 1, the step is the gradient."""
    lengths = {}
    for most in (0.0, 0.01):
        agent, experience = set_up(minibatch_size=512)
        rollout(experience, agent)
        before = torch.nn.utils.parameters_to_vector(agent.parameters()).detach().clone()
        optimizer = torch.optim.SGD(agent.parameters(), lr=1.0)
        stats = train_ppo(agent, optimizer, experience, PPOConfig(**LEARN | {"max_grad_norm": most}))
        after = torch.nn.utils.parameters_to_vector(agent.parameters()).detach()
        lengths[most] = float((after - before).norm()), stats["grad_norm"]
    assert lengths[0.0][0] == pytest.approx(lengths[0.0][1], rel=1e-3)
    assert lengths[0.01][0] == pytest.approx(0.01, rel=1e-3)
    assert lengths[0.01][1] == pytest.approx(lengths[0.0][1], rel=1e-4)


def test_clip_range_clips_each_element_first(set_up):
    agent, experience = set_up(agent={"clip_range": 1e-4}, minibatch_size=512)
    rollout(experience, agent)
    before = torch.nn.utils.parameters_to_vector(agent.parameters()).detach().clone()
    train_ppo(agent, torch.optim.SGD(agent.parameters(), lr=1.0), experience, PPOConfig(**LEARN))
    change = (torch.nn.utils.parameters_to_vector(agent.parameters()).detach() - before).abs().max()
    assert float(change) == pytest.approx(1e-4, rel=0.05)


# -- values that are not finite ---------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_leaves_the_weights_and_says_which(set_up):
    agent, experience = set_up()
    rollout(experience, agent)
    compute_advantages(experience)
    experience.values[3, 2] = float("nan")
    before = [weight.detach().clone() for weight in agent.parameters()]
    optimizer = torch.optim.SGD(agent.parameters(), lr=0.0)
    with pytest.raises(TrainingError, match=r"not finite \(update epoch 1 of 1, minibatch \d\): .*value_loss = nan"):
        train_ppo(agent, optimizer, experience)
    assert all(torch.equal(a, b) for a, b in zip(agent.parameters(), before, strict=True))


def test_a_gradient_that_is_not_finite_leaves_the_weights_and_says_which(set_up):
    agent, experience = set_up()
    rollout(experience, agent)
    agent.value_head.output.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = [weight.detach().clone() for weight in agent.parameters()]
    with pytest.raises(TrainingError, match=r"gradient of value_head.output.weight is not finite \(.*minibatch 1\)"):
        train_ppo(agent, make_optimizer(agent), experience)
    assert all(torch.equal(a, b) for a, b in zip(agent.parameters(), before, strict=True))
