"""`[normalization]` of values and rewards: against plain loops, in checkpoints, and reported unscaled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from metta.api import load_checkpoint, load_policy, save_checkpoint
from metta.checkpoint.file_format import read_torch_file, write_torch_file
from metta.config.training import NormalizationConfig, OptimizerConfig, PPOConfig
from metta.errors import TrainingError
from metta.rl import losses
from metta.rl.advantages import compute_advantages
from metta.rl.optimizer import make_optimizer
from metta.rl.ppo import UpdateSettings, loss_terms, update_policy
from metta.rl.reward_normalization import RewardScaler
from metta.rl.rollout import rollout

VALUES = NormalizationConfig(values=True)
REWARDS = NormalizationConfig(rewards=True)


# -- rewards --------------------------------------------------------------------------------------------------------


def test_rewards_are_divided_by_the_std_of_discounted_returns():
    """Compared with a plain loop over the returns of three batches."""
    generator = torch.Generator().manual_seed(0)
    scale, seen, running = RewardScaler(3), [], [0.0, 0.0, 0.0]
    for batch in range(3):
        rewards = (batch + 1) * torch.randn(7, 3, generator=generator) + 0.5
        done = torch.rand(7, 3, generator=generator) < 0.2
        scale.observe(rewards, done, 0.9)
        for t in range(7):
            for agent in range(3):
                running[agent] = 0.9 * running[agent] + float(rewards[t, agent])
                seen.append(running[agent])
                if done[t, agent]:
                    running[agent] = 0.0
        std = math.sqrt(np.var(seen) + 1e-8)
        assert scale.std == pytest.approx(std, rel=1e-5)
        torch.testing.assert_close(scale.scale(rewards, 0.0), rewards / std, rtol=1e-5, atol=1e-6)
    assert scale.mean == pytest.approx(np.mean(seen), rel=1e-5)
    assert scale.returns.tolist() == pytest.approx(running, rel=1e-5)


def test_without_rewards_nothing_is_scaled():
    scale = RewardScaler(2)
    scale.observe(torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.bool), 0.9)
    assert scale.std == 1
    assert scale.scale(torch.full((1, 2), 3.0), 0.0).tolist() == [[3, 3]]


def test_reward_clip():
    scale = RewardScaler(1)
    scale.observe(torch.tensor([[1.0], [-1.0]]), torch.ones(2, 1, dtype=torch.bool), 0.9)
    assert scale.std == pytest.approx(1)
    rewards = torch.tensor([[5.0], [-5.0], [0.5]])
    assert scale.scale(rewards, 2.0).flatten().tolist() == pytest.approx([2, -2, 0.5])
    assert scale.scale(rewards, 0.0).flatten().tolist() == pytest.approx([5, -5, 0.5])


def test_advantages_are_of_scaled_rewards_and_each_rollout_counts_once(set_up):
    agent, experience = set_up()
    raw, scaled = [], []
    for count in (1, 2):
        rollout(experience, agent)
        raw.append(experience.rewards.clone())
        first = compute_advantages(experience, 0.9, 0.8, REWARDS)
        assert torch.equal(first, compute_advantages(experience, 0.9, 0.8, REWARDS))
        assert experience.reward_scaler.count == 512 * count
        scaled.append(experience.learned_rewards)
    assert torch.equal(experience.rewards, raw[1])  # the stored rewards are not scaled
    torch.testing.assert_close(scaled[1], (raw[1] / experience.reward_scaler.std).clamp(-10, 10))
    assert experience.reward_scaler.std < 0.95
    experience.rewards.copy_(scaled[1])
    torch.testing.assert_close(compute_advantages(experience, 0.9, 0.8), first)
    torch.testing.assert_close(experience.returns, first + experience.values)


def test_the_scale_is_saved_and_restored(set_up):
    agent, experience = set_up()
    rollout(experience, agent)
    compute_advantages(experience, 0.9, 0.8, REWARDS)
    _, fresh = set_up()
    fresh.load_state(experience.state())
    for each in (experience, fresh):
        rollout(each, agent)
        compute_advantages(each, 0.9, 0.8, REWARDS)
    assert torch.equal(experience.learned_rewards, fresh.learned_rewards)
    state = experience.state()
    del state["reward_scale"]  # as in states of version 1
    _, old = set_up()
    old.load_state(state)
    assert old.reward_scaler.std == 1


# -- values ---------------------------------------------------------------------------------------------------------


def values_of(agent, minibatch):
    return agent.evaluate_actions(
        minibatch.observations, minibatch.action_index, minibatch.memory, minibatch.episode_starts
    ).values.detach()


def test_statistics_are_the_decaying_mean_and_deviation_of_targets(set_up):
    agent, _ = set_up()
    batches = [scale * torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) + 3 for scale in (1.0, 5.0, 2.0)]
    for number, batch in enumerate(batches, 1):
        agent.observe_value_targets(batch, 0.8)
        weights = np.array([0.8 ** (number - 1 - age) for age in range(number)])
        weights /= weights.sum()
        mean = sum(w * b.double().mean().item() for w, b in zip(weights, batches[:number], strict=True))
        square = sum(w * (b.double() ** 2).mean().item() for w, b in zip(weights, batches[:number], strict=True))
        assert float(agent.value_head.mean) == pytest.approx(mean, rel=1e-5)
        assert float(agent.value_head.std) == pytest.approx(math.sqrt(square - mean**2), rel=1e-5)


def test_values_do_not_change_when_statistics_change(set_up):
    agent, experience = set_up(minibatch_size=512)
    rollout(experience, agent)
    compute_advantages(experience)
    minibatch = next(experience.minibatches())
    before = values_of(agent, minibatch)
    for targets in (torch.randn(90) * 20 + 7, torch.randn(90) * 0.01 - 3, torch.zeros(90)):
        agent.observe_value_targets(targets, 0.5)
        torch.testing.assert_close(values_of(agent, minibatch), before, rtol=1e-3, atol=1e-3)
    assert losses.l2_loss(agent, agent.initial_weights).item() == 0
    std = float(agent.value_head.std)
    agent.observe_value_targets(torch.zeros(90), 0.0)  # equal targets have no spread
    assert float(agent.value_head.std) == std
    agent.observe_value_targets(1e-6 * torch.randn(90), 0.0)
    assert float(agent.value_head.std) == pytest.approx(1e-4)


def test_the_value_loss_is_that_of_normalized_values(set_up):
    """The expected loss compares the head's output with (return - mean) / std, and clips at the same scale."""
    agent, experience = set_up(minibatch_size=512)
    rollout(experience, agent)
    compute_advantages(experience)
    agent.observe_value_targets(experience.returns, 0.9)
    mean, std = float(agent.value_head.mean), float(agent.value_head.std)
    assert std < 0.9
    with torch.no_grad():
        agent.value_head.output.bias += 0.3
    minibatch = next(experience.minibatches())
    config = PPOConfig(vf_clip_coef=0.2)
    plain = (values_of(agent, minibatch) - mean) / std
    old, target = (minibatch.values - mean) / std, (minibatch.returns - mean) / std
    expected = losses.value_loss(plain, old, target, 0.2)
    found = loss_terms(agent, minibatch, UpdateSettings(config))["value_loss"]
    assert float(found) == pytest.approx(float(expected), rel=1e-3)


def test_nonfinite_targets_do_not_change_the_policy(set_up):
    agent, experience = set_up()
    rollout(experience, agent)
    compute_advantages(experience)
    experience.returns[2, 1] = float("inf")
    before = {name: weight.clone() for name, weight in agent.state_dict().items()}
    with pytest.raises(TrainingError, match=r"a value target \(return\) is not finite"):
        update_policy(agent, make_optimizer(agent), experience, UpdateSettings(normalization=VALUES))
    assert all(torch.equal(weight, before[name]) for name, weight in agent.state_dict().items())


def test_a_checkpoint_holds_the_statistics(set_up, tmp_path):
    agent, experience = set_up()
    rollout(experience, agent)
    update_policy(agent, make_optimizer(agent), experience, UpdateSettings(normalization=VALUES))
    assert float(agent.value_head.std) != 1
    save_checkpoint(agent, tmp_path, 1)
    loaded = load_policy(tmp_path / "checkpoint_000001.pt").agent
    assert torch.equal(loaded.value_head.moments, agent.value_head.moments)
    minibatch = next(experience.minibatches())
    assert torch.equal(values_of(loaded, minibatch), values_of(agent, minibatch))


def test_an_old_checkpoint_loads_with_plain_values(set_up, tmp_path):
    agent, _ = set_up()
    save_checkpoint(agent, tmp_path, 1)
    path = tmp_path / "checkpoint_000001.pt"
    content = read_torch_file(path, "policy checkpoint")
    for name in ("mean", "std", "moments"):
        del content["weights"][f"value_head.{name}"]
    write_torch_file(path, "policy checkpoint", content)
    agent.observe_value_targets(torch.arange(10.0), 0.5)
    load_checkpoint(agent, path)
    assert (float(agent.value_head.mean), float(agent.value_head.std)) == (0, 1)
    assert agent.value_head.moments.tolist() == [0, 0, 0]


# -- in training ----------------------------------------------------------------------------------------------------


def trained(set_up, normalization=None):
    agent, experience = set_up()
    optimizer = make_optimizer(agent, OptimizerConfig(learning_rate=0.003))
    settings = UpdateSettings(PPOConfig(norm_adv=False), normalization=normalization or NormalizationConfig())
    for _ in range(2):
        rollout(experience, agent)
        stats = update_policy(agent, optimizer, experience, settings)
    return torch.nn.utils.parameters_to_vector(agent.parameters()).detach(), stats


def test_disabled_it_changes_nothing(set_up):
    (plain, stats), (off, same) = trained(set_up), trained(set_up, NormalizationConfig(value_decay=0.1, reward_clip=1))
    assert torch.equal(plain, off)
    assert stats == same
    assert not {"value_target_mean", "value_target_std", "reward_std"} & set(stats)


@pytest.mark.parametrize(
    ("beside", "field", "value"),
    [
        ({}, "values", True),
        ({}, "rewards", True),
        ({"values": True}, "value_decay", 0.0),
        ({"rewards": True}, "reward_clip", 0.5),
    ],
)
def test_each_field_changes_what_is_learned(set_up, beside, field, value):
    usual, _ = trained(set_up, NormalizationConfig(**beside))
    changed, _ = trained(set_up, NormalizationConfig(**beside | {field: value}))
    assert not torch.allclose(usual, changed, rtol=1e-6, atol=1e-8)


def test_values_and_returns_are_reported_in_unscaled_rewards(set_up):
    _, plain = trained(set_up)
    _, stats = trained(set_up, NormalizationConfig(values=True, rewards=True))
    assert stats["reward_std"] < 0.95
    assert stats["value_target_std"] > 0
    assert stats["mean_return"] == pytest.approx(plain["mean_return"], rel=0.5)


def test_the_update_does_not_depend_on_the_scale_of_rewards(set_up):
    """With both normalizations, rewards multiplied by 1000 give the same weights."""
    ends = []
    for factor in (1.0, 1000.0):
        agent, experience = set_up()
        with torch.no_grad():
            agent.value_head.output.weight.zero_()  # so that the initial values are 0 at any scale
        rollout(experience, agent)
        experience.rewards.mul_(factor)
        config = NormalizationConfig(values=True, rewards=True)
        settings = UpdateSettings(PPOConfig(norm_adv=False), normalization=config)
        update_policy(agent, make_optimizer(agent), experience, settings)
        ends.append(torch.nn.utils.parameters_to_vector(agent.parameters()).detach())
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4)
