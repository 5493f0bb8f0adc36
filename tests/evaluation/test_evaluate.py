"""Evaluation: complete episodes in new worlds, reproducible, without side effects."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from metta.baselines.random_policy import RandomPolicy
from metta.errors import MettaError
from metta.evaluation import evaluate as evaluation
from metta.evaluation.evaluate import eval_policy, evaluate
from metta.random_streams import EpisodeSplit, episode_sequence
from metta.rl.rollout import rollout
from metta.world.env import MettaGridEnv


def test_rewards_lengths_and_statistics_are_means_over_episodes(busy_env, set_up):
    agent, _ = set_up()
    result = evaluate(agent, busy_env, num_episodes=24)
    rewards = np.array([episode.rewards.mean() for episode in result.episodes])
    stats = eval_policy(agent, busy_env, num_episodes=24)
    assert stats == result.summary()
    assert list(stats) == ["mean_reward", "std_reward", "mean_length", "std_length"]
    assert len(result.episodes) == 24
    assert stats["mean_reward"] == pytest.approx(rewards.mean())
    assert stats["std_reward"] == pytest.approx(rewards.std())
    assert (stats["mean_length"], stats["std_length"]) == (11, 0)
    np.testing.assert_allclose(result.agent_rewards, np.mean([e.rewards for e in result.episodes], axis=0), rtol=1e-5)
    assert result.stats["ore_red.gained"] == pytest.approx(
        np.mean([episode.stats.get("ore_red.gained", 0) for episode in result.episodes])
    )
    assert result.stats["ore_red.gained"] > 0


def test_the_result_depends_on_the_seed_alone(busy_env, set_up):
    agent, _ = set_up()
    first, again = (evaluate(agent, busy_env, 5) for _ in range(2))
    np.testing.assert_array_equal(first.episode_rewards, again.episode_rewards)
    assert first.stats == again.stats != evaluate(agent, busy_env, 5, seed=9).stats


def test_neither_env_nor_agent_nor_torch_is_disturbed(busy_env, set_up):
    agent, _ = set_up()
    env = MettaGridEnv(busy_env.configs, seed=1)
    env.reset()
    before = env.state()
    weights = [weight.detach().clone() for weight in agent.parameters()]
    torch_stream = torch.get_rng_state()
    agent.train()
    modes: set[bool] = set()
    agent.backbone.register_forward_pre_hook(lambda module, _: modes.add(module.training))
    eval_policy(agent, env, 3)
    assert modes == {False}
    assert all(module.training for module in agent.modules())
    after = env.state()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert all(torch.equal(a, b) for a, b in zip(agent.parameters(), weights, strict=True))
    assert torch.equal(torch.get_rng_state(), torch_stream)


def test_training_is_the_same_with_and_without_evaluation(busy_env, set_up):
    rewards = []
    for evaluated in (False, True):
        agent, experience = set_up()
        rollout(experience, agent)
        if evaluated:
            eval_policy(agent, busy_env, 2)
        rollout(experience, agent)
        rewards.append(experience.rewards.clone())
    assert torch.equal(*rewards)


def maps_of(config, split, seed):
    env = MettaGridEnv(config, 8, seed, split=split)
    env.reset()
    return {env.cells(world).tobytes() for world in range(8)}


def test_training_validation_and_test_have_no_map_in_common(busy_env, monkeypatch):
    """With any seed: a run may be evaluated with the seed of another one."""
    maps = {split: [maps_of(busy_env.config, split, seed) for seed in range(4)] for split in get_args(EpisodeSplit)}
    assert len(set().union(*(set().union(*sets) for sets in maps.values()))) == 3 * 4 * 8
    played = []

    def only_reset(env, assign, *_):
        env.reset()
        assign(env)
        played.append(env)
        return []

    monkeypatch.setattr(evaluation, "play_episodes", only_reset)
    for seed in range(4):
        evaluate(RandomPolicy(busy_env.spec), busy_env, 8, seed)
        evaluate(RandomPolicy(busy_env.spec), busy_env, 8, seed, split="validation")
        test, validation = ({env.cells(world).tobytes() for world in range(8)} for env in played[-2:])
        assert (test, validation) == (maps["test"][seed], maps["validation"][seed])


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63 - 1, 2**64 - 1])
def test_no_two_splits_have_a_random_stream_in_common(seed):
    """Seed, world and episode fill at most four words; that of the split is the fifth."""
    for world, episode in ((0, 0), (4, 10), (2**32 - 1, 2**32 - 1)):
        words = [seed % 2**32, *([seed // 2**32] if seed // 2**32 else []), world, episode]
        words += [0] * (4 - len(words))
        keys = {"train": [], "validation": [10], "test": [4]}
        for split in get_args(EpisodeSplit):
            expected = np.random.SeedSequence(words + keys[split]).pool
            assert episode_sequence(seed, world, episode, split).pool.tolist() == expected.tolist()


def test_more_episodes_than_fit_in_parallel_are_played_in_batches(busy_env, set_up, monkeypatch):
    agent, _ = set_up()
    at_once = evaluate(agent, busy_env, 7, deterministic=True)
    monkeypatch.setattr(evaluation, "MAX_PARALLEL_AGENTS", 6)
    in_batches = evaluate(agent, busy_env, 7, deterministic=True)
    assert len(in_batches.episodes) == 7
    np.testing.assert_array_equal(at_once.episode_rewards, in_batches.episode_rewards)


def test_each_world_counts_once_however_short_its_episodes(busy_env, set_up, monkeypatch):
    """Alone a world stops at its first episode; beside longer ones it plays on, and that must not count."""
    short = busy_env.config.override(max_steps=2)
    env = MettaGridEnv([busy_env.config, short], seed=0)
    agent, _ = set_up(env)
    together = evaluate(agent, env, 12, deterministic=True).episodes
    assert {episode.length for episode in together} == {2, 11}
    monkeypatch.setattr(evaluation, "MAX_PARALLEL_AGENTS", 1)
    alone = evaluate(agent, env, 12, deterministic=True).episodes
    assert [episode.stats for episode in alone] == [episode.stats for episode in together]


def test_deterministic_evaluation_takes_the_most_likely_action(busy_env, set_up):
    agent, _ = set_up()
    with torch.no_grad():
        agent.policy_head.output.bias[0] = 0.5
        agent.policy_head.output.weight.zero_()
    stats = evaluate(agent, busy_env, 2, deterministic=True).stats
    assert stats["action.noop.success"] == 11
    assert evaluate(agent, busy_env, 2).stats.get("action.noop.success", 0) < 11


def test_endless_episodes_are_refused(busy_env, set_up):
    agent, _ = set_up()
    with pytest.raises(MettaError, match="episodes of this environment never end"):
        eval_policy(agent, MettaGridEnv(busy_env.config.override(max_steps=0, episode_lifetime=0)))
    with pytest.raises(MettaError, match="at least 1"):
        eval_policy(agent, busy_env, num_episodes=0)
