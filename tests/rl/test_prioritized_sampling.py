"""Prioritized sampling: probabilities and importance weights."""

from __future__ import annotations

import itertools

import pytest
import torch

from metta.config.training import OptimizerConfig, PPOConfig, PrioritizedSamplingConfig
from metta.errors import TrainingError
from metta.rl import losses
from metta.rl.advantages import compute_advantages
from metta.rl.optimizer import make_optimizer
from metta.rl.ppo import UpdateSettings, loss_terms, update_policy
from metta.rl.prioritized_sampling import PrioritizedSampling, annealed_beta
from metta.rl.rollout import rollout

ADVANTAGES = torch.tensor([[1.0, 0.0], [-3.0, 0.0], [4.0, 0.0], [4.0, -2.0]])
"""Two agents, two segments of two steps each: mean |A| is 2 and 0, then 4 and 1."""


def test_probabilities_by_hand():
    assert PrioritizedSampling(1.0, 0.0).probabilities(ADVANTAGES, 2).tolist() == pytest.approx(
        [2 / 7, 0, 4 / 7, 1 / 7], abs=1e-6
    )
    assert PrioritizedSampling(0.5, 0.0).probabilities(ADVANTAGES, 2).tolist() == pytest.approx(
        [2**0.5 / (2**0.5 + 3), 0, 2 / (2**0.5 + 3), 1 / (2**0.5 + 3)], abs=1e-3
    )
    assert PrioritizedSampling(0.0, 0.0).probabilities(ADVANTAGES, 2).tolist() == [0.25] * 4
    assert PrioritizedSampling(1.0, 0.0).probabilities(torch.zeros(4, 2), 2).tolist() == [0.25] * 4


def test_segments_are_sampled_by_their_probability_and_weighted_against_it():
    sampling = PrioritizedSampling(1.0, 0.5)
    chosen, weights = sampling.sample(ADVANTAGES, 2, 20_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(chosen, minlength=4) / 20_000
    torch.testing.assert_close(counts, torch.tensor([2 / 7, 0, 4 / 7, 1 / 7]), rtol=0, atol=0.015)
    by_hand = {0: (4 * 2 / 7) ** -0.5, 2: (4 * 4 / 7) ** -0.5, 3: (4 * 1 / 7) ** -0.5}
    for segment, weight in zip(chosen[:50].tolist(), weights[:50].tolist(), strict=True):
        assert weight == pytest.approx(by_hand[segment], rel=1e-4)
    again, _ = sampling.sample(ADVANTAGES, 2, 20_000, torch.Generator().manual_seed(0))
    assert torch.equal(chosen, again)


def test_advantages_that_are_not_finite_stop_the_update():
    broken = ADVANTAGES.clone()
    broken[1, 1] = float("nan")
    with pytest.raises(TrainingError, match="an advantage is not finite"):
        PrioritizedSampling(1.0, 0.5).sample(broken, 2, 3, torch.Generator())


def test_beta_rises_to_one_over_the_run():
    assert [annealed_beta(0.2, progress) for progress in (0.0, 0.5, 1.0, 1.5)] == pytest.approx([0.2, 0.6, 1, 1])


def minibatches(experience, sampling):
    return list(itertools.islice(experience.minibatches(sampling), 4))


def test_minibatches_are_whole_segments_with_their_weights(set_up):
    agent, experience = set_up()
    rollout(experience, agent)
    compute_advantages(experience, 0.9, 0.8)
    horizon, agents = experience.plan.horizon, experience.plan.agents
    sampling = PrioritizedSampling(1.0, 1.0)
    chances = sampling.probabilities(experience.advantages, horizon)
    drawn = []
    for minibatch in minibatches(experience, sampling):
        assert minibatch.action_index.shape == (horizon, 16)
        for place in range(16):
            round_, column = divmod(int(minibatch.rows[0, place]), horizon * agents)
            steps = slice(round_ * horizon, (round_ + 1) * horizon)
            assert torch.equal(minibatch.log_probs[:, place], experience.log_probs[steps, column])
            for name, tensor in minibatch.memory.tensors.items():
                assert torch.equal(tensor[:, place], experience.segment_memories[name][round_, :, column])
            segment = round_ * agents + column
            mean = float(experience.advantages[steps, column].abs().mean())
            assert float(chances[segment]) == pytest.approx(
                mean / float(experience.advantages.abs().mean()) / 64, rel=1e-3
            )
            assert float(minibatch.weights[place]) == pytest.approx(1 / (64 * float(chances[segment])), rel=1e-4)
            drawn.append(segment)
    assert len(set(drawn)) < 64
    assert float(chances[drawn].mean()) > 1.2 / 64


@pytest.mark.parametrize("mask_actions", [False, True])
def test_with_beta_one_the_expected_gradient_is_that_of_the_whole_batch(set_up, mask_actions):
    """The exact expectation over all segments: sum P(i) w_i grad_i = mean grad_i."""
    agent, experience = set_up(minibatch_size=512, agent={"mask_actions": mask_actions})
    rollout(experience, agent)
    compute_advantages(experience, 0.9, 0.8)
    config = PPOConfig(norm_adv=False, ent_coef=0.01)

    def gradient(minibatch):
        agent.zero_grad()
        loss_terms(agent, minibatch, UpdateSettings(config))["loss"].backward()
        return torch.cat([weight.grad.flatten() for weight in agent.parameters()])

    (whole,) = experience.minibatches()
    expected = gradient(whole)
    sampling = PrioritizedSampling(1.0, 1.0)
    chances = sampling.probabilities(experience.advantages, experience.plan.horizon)
    total = torch.zeros_like(expected)
    for segment in range(len(chances)):
        alone = torch.tensor([segment])
        weight = (len(chances) * chances[alone]).pow(-1.0)
        total += chances[segment] * gradient(experience._minibatch(alone, alone, weight))
    torch.testing.assert_close(total, expected, rtol=1e-3, atol=1e-6)


def test_weighted_losses_equal_those_of_repeated_segments():
    generator = torch.Generator().manual_seed(0)
    log_ratio, advantages, values, old, returns = torch.randn(5, 3, 4, generator=generator)
    often = torch.tensor([1, 2, 0, 5])
    weights = often / often.float().mean()
    many = [each.repeat_interleave(often, 1) for each in (log_ratio, advantages, values, old, returns)]
    assert losses.policy_loss(log_ratio, advantages, 0.1, weights).item() == pytest.approx(
        losses.policy_loss(many[0], many[1], 0.1).item(), rel=1e-5
    )
    assert losses.value_loss(values, old, returns, 0.1, weights).item() == pytest.approx(
        losses.value_loss(*many[2:], 0.1).item(), rel=1e-5
    )
    found = losses.normalize_advantages(advantages, weights).repeat_interleave(often, 1)
    # the standard deviations divide by n - 1, with n = 12 weighted and n = 24 repeated advantages
    torch.testing.assert_close(found * (12 / 11) ** 0.5, losses.normalize_advantages(many[1]) * (24 / 23) ** 0.5)
    equal = torch.full((4,), 0.3)
    torch.testing.assert_close(losses.normalize_advantages(advantages, equal), losses.normalize_advantages(advantages))


def trained(set_up, progress=0.0, **settings):
    agent, experience = set_up()
    rollout(experience, agent)
    optimizer = make_optimizer(agent, OptimizerConfig(learning_rate=0.01))
    sampling = PrioritizedSamplingConfig(**settings)
    update_policy(
        agent, optimizer, experience, UpdateSettings(update_epochs=2, prioritized_sampling=sampling, progress=progress)
    )
    return torch.nn.utils.parameters_to_vector(agent.parameters()).detach()


def test_disabled_it_changes_nothing(set_up):
    assert torch.equal(trained(set_up), trained(set_up, enabled=False, alpha=2.0, beta=1.0))


def test_enabled_it_changes_the_update(set_up):
    assert not torch.allclose(trained(set_up), trained(set_up, enabled=True))


@pytest.mark.parametrize(("field", "values"), [("alpha", (0.0, 2.0)), ("beta", (0.0, 1.0))])
def test_alpha_and_beta_change_what_is_learned(set_up, field, values):
    first, second = (trained(set_up, enabled=True, **{field: value}) for value in values)
    assert not torch.allclose(first, second)


def test_progress_anneals_beta(set_up):
    done = trained(set_up, progress=1.0, enabled=True, beta=0.0)
    assert torch.equal(done, trained(set_up, enabled=True, beta=1.0))
    assert not torch.allclose(done, trained(set_up, enabled=True, beta=0.0))
