"""GAE against numbers worked out by hand and against a plain loop."""

from __future__ import annotations

import pytest
import torch

from metta.errors import MettaError
from metta.rl.advantages import compute_advantages, generalized_advantages
from metta.rl.rollout import rollout


def column(*values) -> torch.Tensor:
    return torch.tensor(values).unsqueeze(1)


def advantages(rewards, values, next_value, terminated=(), truncated=(), final=None, gamma=0.5, lambda_=0.5):
    steps = len(rewards)
    flags = [column(*(t in ended for t in range(steps))) for ended in (terminated, truncated)]
    finals = column(*((final or {}).get(t, 0.0) for t in range(steps)))
    return generalized_advantages(
        column(*rewards), column(*values), torch.tensor([next_value]), *flags, finals, gamma, lambda_
    )[:, 0].tolist()


def test_by_hand():
    # delta_2 = 1 + 1/2 * 8 - 2 = 3;  delta_1 = 0 + 1/2 * 2 - 4 = -3;  delta_0 = 2 + 1/2 * 4 - 0 = 4
    # A_2 = 3;  A_1 = -3 + 1/4 * 3 = -2.25;  A_0 = 4 + 1/4 * -2.25 = 3.4375
    assert advantages([2.0, 0.0, 1.0], [0.0, 4.0, 2.0], 8.0) == [3.4375, -2.25, 3.0]


def test_the_value_after_termination_is_zero():
    # delta_1 = 0 - 4 = -4, and A_2 does not propagate across the end of the episode: A_0 = 4 + 1/4 * -4
    assert advantages([2.0, 0.0, 1.0], [0.0, 4.0, 2.0], 8.0, terminated={1}) == [3.0, -4.0, 3.0]


def test_truncation_is_bootstrapped_from_the_final_observation():
    # delta_1 = 0 + 1/2 * 6 - 4 = -1: neither V_2 = 2 nor A_2 = 3 of the next episode matter
    assert advantages([2.0, 0.0, 1.0], [0.0, 4.0, 2.0], 8.0, truncated={1}, final={1: 6.0}) == [3.75, -1.0, 3.0]


def test_lambda_zero_and_one():
    rewards, values = [2.0, 0.0, 1.0], [0.0, 4.0, 2.0]
    assert advantages(rewards, values, 8.0, lambda_=0.0) == [4.0, -3.0, 3.0]
    # lambda 1: discounted sum of rewards and next value, minus the value
    assert advantages(rewards, values, 8.0, lambda_=1.0) == [2 + 0.25 + 1 - 0, 0.5 + 2 - 4, 3.0]


def slow(rewards, values, next_value, terminated, truncated, final, gamma, lambda_):
    """Equation 16 of the paper as a double loop: A_t = sum (gamma lambda)^l delta_{t+l}, up to the episode's end."""
    steps, agents = rewards.shape
    result = torch.zeros(steps, agents, dtype=torch.float64)
    for agent in range(agents):
        for start in range(steps):
            weight = 1.0
            for t in range(start, steps):
                following = values[t + 1, agent] if t + 1 < steps else next_value[agent]
                if terminated[t, agent]:
                    following = 0.0
                elif truncated[t, agent]:
                    following = final[t, agent]
                result[start, agent] += weight * (rewards[t, agent] + gamma * following - values[t, agent])
                if terminated[t, agent] or truncated[t, agent]:
                    break
                weight *= gamma * lambda_
    return result.float()


@pytest.mark.parametrize(("gamma", "lambda_"), [(0.99, 0.95), (0.0, 0.5), (1.0, 1.0)])
def test_like_a_plain_loop(gamma, lambda_):
    generator = torch.Generator().manual_seed(0)
    shape = (17, 6)
    rewards, values, final = (torch.randn(shape, generator=generator) for _ in range(3))
    ends = torch.rand(shape, generator=generator)
    arguments = (rewards, values, torch.randn(6, generator=generator), ends < 0.1, (ends > 0.85) & (ends < 0.95), final)
    fast = generalized_advantages(*arguments, gamma, lambda_)
    torch.testing.assert_close(fast, slow(*arguments, gamma, lambda_), rtol=1e-4, atol=1e-5)


def test_compute_advantages_stores_and_returns_them(set_up):
    agent, experience = set_up()
    with pytest.raises(MettaError, match="call rollout"):
        compute_advantages(experience)
    rollout(experience, agent)
    first = compute_advantages(experience, gamma=0.9, gae_lambda=0.8)
    assert experience.advantages is first
    assert first.shape == (experience.steps_collected, experience.plan.agents)
    assert not torch.equal(first, compute_advantages(experience, gamma=0.5, gae_lambda=0.8))
    rollout(experience, agent)
    assert experience.advantages is None
