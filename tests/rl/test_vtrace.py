"""V-trace: against numbers worked out by hand and the sums of the paper in plain loops."""

from __future__ import annotations

import pytest
import torch

from metta.config.training import OptimizerConfig, PPOConfig, VTraceConfig
from metta.rl.advantages import compute_advantages, generalized_advantages
from metta.rl.optimizer import make_optimizer
from metta.rl.ppo import UpdateSettings, loss_terms, update_policy
from metta.rl.rollout import rollout
from metta.rl.vtrace import VTraceCorrection, vtrace


def column(*values) -> torch.Tensor:
    return torch.tensor(values).unsqueeze(1)


def targets(ratios, terminated=(), truncated=(), final=None, rho_clip=1.0, c_clip=1.0):
    """Advantages and targets of rewards 2, 0, 1 and values 0, 4, 2, then 8; gamma and lambda 1/2."""
    flags = [column(*(t in ended for t in range(3))) for ended in (terminated, truncated)]
    finals = column(*((final or {}).get(t, 0.0) for t in range(3)))
    rewards, values = column(2.0, 0.0, 1.0), column(0.0, 4.0, 2.0)
    found = vtrace(rewards, values, torch.tensor([8.0]), *flags, finals, column(*ratios), 0.5, 0.5, rho_clip, c_clip)
    return tuple(part[:, 0].tolist() for part in found)


def test_by_hand():
    # delta = 4, -3, 3;  e_2 = 1/2 * 3;  e_1 = 1 * -3 + 1/4 * 1 * 1.5 = -2.625 (2 clips to 1);
    # e_0 = 1/2 * 4 + 1/4 * 1/2 * -2.625 = 1.671875;  A_t = delta_t + 1/4 e_{t+1}
    advantages, values = targets([0.5, 2.0, 0.5])
    assert values == [1.671875, 4 - 2.625, 2 + 1.5]
    assert advantages == [4 - 2.625 / 4, -3 + 1.5 / 4, 3.0]


def test_rho_and_c_are_clipped_separately():
    # e_2 = 3 * 3;  e_1 = 3 * -3 + 1/4 * 2 * 9 = -4.5;  A_0 = 4 - 4.5 / 4
    assert targets([1.0, 3.0, 3.0], rho_clip=5.0, c_clip=2.0)[0] == [4 - 4.5 / 4, -3 + 9 / 4, 3.0]
    # e_1 = 2 * -3 + 1/4 * 3 * (2 * 3) = -1.5
    assert targets([1.0, 3.0, 3.0], rho_clip=2.0, c_clip=5.0)[0] == [4 - 1.5 / 4, -3 + 6 / 4, 3.0]


def test_errors_do_not_cross_the_end_of_an_episode():
    advantages, values = targets([0.5, 0.5, 0.5], terminated={1})  # delta_1 = -4
    assert advantages == [4 - 2 / 4, -4.0, 3.0]
    assert values[1] == 4 - 2
    advantages, values = targets([0.5, 0.5, 0.5], truncated={1}, final={1: 6.0})  # delta_1 = 0 + 1/2 * 6 - 4
    assert advantages == [4 - 0.5 / 4, -1.0, 3.0]
    assert values[1] == 4 - 0.5


def random_experience(generator):
    shape = (17, 6)
    rewards, values, final = (torch.randn(shape, generator=generator) for _ in range(3))
    ends = torch.rand(shape, generator=generator)
    next_value = torch.randn(6, generator=generator)
    return rewards, values, next_value, ends < 0.1, (ends > 0.85) & (ends < 0.95), final


def slow(rewards, values, next_value, terminated, truncated, final, ratios, gamma, lambda_, rho_clip, c_clip):
    """Equation 1 of the paper as nested sums, and the advantage r + gamma ((1 - lambda) V' + lambda v') - V."""
    columns = (each.T.tolist() for each in (rewards, values, terminated, truncated, final, ratios))
    found = []
    for r, v, ends, cuts, last, ratio, after in zip(*columns, next_value.tolist(), strict=True):
        following = [0.0 if ends[t] else last[t] if cuts[t] else [*v, after][t + 1] for t in range(len(r))]
        targets, advantages = [], []
        for start in range(len(r)):
            target, product = v[start], 1.0
            for t in range(start, len(r)):
                target += product * min(rho_clip, ratio[t]) * (r[t] + gamma * following[t] - v[t])
                product *= gamma * lambda_ * min(c_clip, ratio[t])
                if ends[t] or cuts[t]:
                    break
            targets.append(target)
        for t in range(len(r)):
            goes_on = t + 1 < len(r) and not ends[t] and not cuts[t]
            later = (1 - lambda_) * following[t] + lambda_ * targets[t + 1] if goes_on else following[t]
            advantages.append(r[t] + gamma * later - v[t])
        found.append((advantages, targets))
    return torch.tensor(found).permute(1, 2, 0)


@pytest.mark.parametrize(
    ("gamma", "lambda_", "rho_clip", "c_clip"), [(0.99, 0.95, 1.0, 1.0), (1.0, 1.0, 2.0, 0.5), (0.9, 0.0, 1.5, 1.0)]
)
def test_like_a_plain_loop(gamma, lambda_, rho_clip, c_clip):
    generator = torch.Generator().manual_seed(0)
    experience = random_experience(generator)
    ratios = torch.randn(17, 6, generator=generator).exp()
    arguments = (*experience, ratios, gamma, lambda_, rho_clip, c_clip)
    for found, expected in zip(vtrace(*arguments), slow(*arguments), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_on_policy_it_is_gae():
    experience = random_experience(torch.Generator().manual_seed(1))
    advantages, values = vtrace(*experience, torch.ones(17, 6), 0.99, 0.95, 1.0, 1.0)
    expected = generalized_advantages(*experience, 0.99, 0.95)
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(values, experience[1] + expected)


# -- during an update -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_actions", [False, True])
def test_minibatches_are_corrected_with_the_current_policy(set_up, mask_actions):
    """The minibatch has current ratios and values; other segments have those of their last minibatch."""
    agent, experience = set_up(agent={"mask_actions": mask_actions})
    rollout(experience, agent)
    compute_advantages(experience, 0.9, 0.8)
    assert experience.truncated.any()
    config, clips = PPOConfig(gamma=0.9, gae_lambda=0.8, norm_adv=False), VTraceConfig(enabled=True, rho_clip=1.05)
    correction = VTraceCorrection(experience, config, clips)
    known = {"values": experience.values.clone(), "ratios": torch.ones_like(experience.values)}
    ends = experience.terminated, experience.truncated, experience.final_values
    moved = 0.0
    for minibatch in experience.minibatches():
        terms = loss_terms(agent, minibatch, UpdateSettings(config), correction)
        now = agent.evaluate_actions(
            minibatch.observations,
            minibatch.action_index,
            minibatch.memory,
            minibatch.episode_starts,
            minibatch.action_masks,
        )
        for segment in range(minibatch.rows.shape[1]):
            for t in range(minibatch.rows.shape[0]):
                step, column_ = divmod(int(minibatch.rows[t, segment]), experience.plan.agents)
                ratio = (now.log_probs[t, segment] - experience.log_probs[step, column_]).exp()
                known["ratios"][step, column_] = ratio.detach()
                known["values"][step, column_] = now.values[t, segment].detach()
        advantages, returns = slow(
            experience.rewards, known["values"], experience.next_values, *ends, known["ratios"], 0.9, 0.8, 1.05, 1.0
        )
        torch.testing.assert_close(experience.advantages, advantages, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(experience.returns, returns, rtol=1e-3, atol=1e-4)
        own = advantages.flatten()[minibatch.rows]
        surrogate = -torch.minimum(
            own * known["ratios"].flatten()[minibatch.rows],
            own * known["ratios"].flatten()[minibatch.rows].clamp(0.9, 1.1),
        )
        assert float(terms["policy_loss"]) == pytest.approx(float(surrogate.mean()), rel=1e-3, abs=1e-4)
        moved = max(moved, float((known["ratios"] - 1).abs().max()))
        with torch.no_grad():
            for weight in agent.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    assert moved > 0.05


def trained(set_up, **settings):
    agent, experience = set_up()
    rollout(experience, agent)
    optimizer = make_optimizer(agent, OptimizerConfig(learning_rate=0.01))
    update_policy(agent, optimizer, experience, UpdateSettings(update_epochs=3, **settings))
    return torch.nn.utils.parameters_to_vector(agent.parameters()).detach()


def test_disabled_it_changes_nothing(set_up):
    off = trained(set_up, vtrace=VTraceConfig(enabled=False, rho_clip=0.1, c_clip=0.1))
    assert torch.equal(off, trained(set_up))
    assert not torch.allclose(off, trained(set_up, vtrace=VTraceConfig(enabled=True)), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("field", ["rho_clip", "c_clip"])
def test_each_clip_changes_what_is_learned(set_up, field):
    usual, changed = (trained(set_up, vtrace=VTraceConfig(enabled=True, **{field: clip})) for clip in (1.0, 0.5))
    assert not torch.allclose(usual, changed, rtol=1e-6, atol=1e-8)
