"""The categorical over (action, argument) pairs."""

from __future__ import annotations

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


def test_log_prob_and_entropy_by_hand():
    # softmax(0, ln 3) = 1/4, 3/4; entropy = ln 4 - 3/4 ln 3
    logits = torch.tensor([[0.0, 3.0]]).clamp(max=float(torch.tensor(3.0).log()))
    log_prob, entropy = action_distribution.log_prob_and_entropy(logits, torch.tensor([1]))
    torch.testing.assert_close(log_prob, torch.tensor([0.75]).log())
    torch.testing.assert_close(entropy, torch.tensor([4.0]).log() - 0.75 * torch.tensor([3.0]).log())
    torch.testing.assert_close(action_distribution.log_prob(logits, torch.tensor([1])), log_prob)
