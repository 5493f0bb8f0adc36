"""The categorical over (action, argument) pairs."""

from __future__ import annotations

import pytest
import torch

from metta.agent import action_distribution


def test_samples_follow_the_probabilities_and_never_the_impossible():
    probabilities = torch.tensor([0.0, 0.1, 0.0, 0.6, 0.3, 0.0])
    drawn = action_distribution.sample(probabilities.log().repeat(20_000, 1), torch.Generator().manual_seed(0))
    frequencies = torch.bincount(drawn, minlength=6) / len(drawn)
    assert frequencies[probabilities == 0].sum() == 0
    torch.testing.assert_close(frequencies, probabilities, atol=0.015, rtol=0)


def test_the_same_generator_draws_the_same_and_another_something_else():
    logits = torch.zeros(50, 9)
    first, again, other = (
        action_distribution.sample(logits, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_masked_logits_by_hand():
    # softmax over the first two of three actions: 1/4, 3/4, whatever the logit of the third is
    three = float(torch.tensor(3.0).log())
    logits = torch.tensor([[0.0, three, 50.0], [0.0, three, 50.0]], requires_grad=True)
    masks = torch.tensor([[True, True, False], [False, False, True]])
    masked = action_distribution.masked_logits(logits, masks)
    log_prob, entropy = action_distribution.log_prob_and_entropy(masked, torch.tensor([1, 2]))
    torch.testing.assert_close(log_prob.exp(), torch.tensor([0.75, 1.0]))
    torch.testing.assert_close(entropy[0], torch.tensor(4.0).log() - 0.75 * three)
    assert float(entropy[1].detach()) == 0
    (log_prob.sum() + entropy.sum()).backward()
    # d log pi_1 / d z = (-1/4, 1/4); d H / d z_i = -pi_i (log pi_i + H): of pi = (1/4, 3/4), -+ 3/16 ln 3
    expected = [0.25 - 3 / 16 * three, -(0.25 - 3 / 16 * three)]
    torch.testing.assert_close(logits.grad, torch.tensor([[-expected[0], -expected[1], 0.0], [0.0, 0.0, 0.0]]))
    drawn = action_distribution.sample(masked.detach().repeat(2_000, 1), torch.Generator().manual_seed(0)).view(-1, 2)
    assert set(drawn[:, 0].tolist()) == {0, 1}
    assert set(drawn[:, 1].tolist()) == {2}
    assert action_distribution.masked_logits(logits, None) is logits


def test_masks_of_another_shape_or_type_are_refused():
    logits = torch.zeros(4, 3)
    for masks in (torch.ones(3, dtype=torch.bool), torch.ones(4, 2, dtype=torch.bool), torch.ones(4, 3)):
        with pytest.raises(ValueError, match=r"action_masks must be \[4, 3\] bool, like the logits; got "):
            action_distribution.masked_logits(logits, masks)


def test_log_prob_and_entropy_by_hand():
    # softmax(0, ln 3) = 1/4, 3/4; entropy = ln 4 - 3/4 ln 3
    logits = torch.tensor([[0.0, 3.0]]).clamp(max=float(torch.tensor(3.0).log()))
    log_prob, entropy = action_distribution.log_prob_and_entropy(logits, torch.tensor([1]))
    torch.testing.assert_close(log_prob, torch.tensor([0.75]).log())
    torch.testing.assert_close(entropy, torch.tensor([4.0]).log() - 0.75 * torch.tensor([3.0]).log())
    torch.testing.assert_close(action_distribution.log_prob(logits, torch.tensor([1])), log_prob)
