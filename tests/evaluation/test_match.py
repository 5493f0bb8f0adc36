"""Matches: assignment of agents, rewards of both sides, the interval of their difference, and refused settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metta.agent.memory.state import Memory
from metta.agent.policy import PolicyOutput
from metta.baselines.random_policy import RandomPolicy
from metta.config.env.env_config import EnvConfig
from metta.errors import UsageError
from metta.evaluation import evaluate as evaluation
from metta.evaluation.match import MatchResult, play_match
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import EpisodeSummary

STEPS = 6
NOOP, GET = (0, 0), (4, 0)


def mines(num_agents: int = 4, **game) -> MettaGridEnv:
    """Agents that each face a mine of their own, which has an ore in every step; an ore is worth 1."""
    map_ = "\n".join(["r" * num_agents, "@" * num_agents])
    return MettaGridEnv(
        EnvConfig(
            game={
                "num_agents": num_agents,
                "max_steps": STEPS,
                "ore_red_reward": 1.0,
                "ore_red_max": 100,
                "time_punishment": 0.0,
                **game,
            },
            objects=[{"type": "mine", "name": "mine_red", "conversion_ticks": 1, "cooldown": 0, "max_output": 1}],
            map_builder={"type": "Ascii", "map": map_},
        ),
        seed=0,
    )


TEAMS = {"groups": {"red": {"id": 0}, "blue": {"id": 1}}}


def teams() -> MettaGridEnv:
    """The same, agents of two groups: red, blue, blue."""
    config = mines(3, **TEAMS).config
    builder = {"type": "Ascii", "map": "rrr\nABB", "legend": {"A": "agent.red", "B": "agent.blue"}}
    return MettaGridEnv(config.override(map_builder=builder), seed=0)


class Always:
    """Takes the same action in each of its first `steps` steps, by its own memory; then stands still."""

    uses_action_masks = False

    def __init__(self, env: MettaGridEnv, action: tuple[int, int], steps: int = STEPS):
        self.spec = env.spec
        self.action, self.steps = action, steps
        self.seen: list[int] = []

    def initial_memory(self, agents: int) -> Memory:
        return Memory({"age": torch.zeros(1, agents, 1)})

    def act(self, observations, memory, *others, **more_others) -> PolicyOutput:
        agents = len(observations)
        self.seen.append(agents)
        age = memory.tensors["age"][0, :, 0]
        actions = torch.where((age < self.steps)[:, None], torch.tensor(self.action), torch.tensor(NOOP)).int()
        zeros = torch.zeros(agents)
        return PolicyOutput(actions, zeros.long(), zeros, zeros, Memory({"age": memory.tensors["age"] + 1}))


def test_each_side_has_the_rewards_of_its_agents():
    env = mines()
    digging, idle = Always(env, GET), Always(env, NOOP)
    for share, num_policy_agents in ((0.25, 1), (0.5, 2), (0.75, 3)):
        match = play_match(digging, idle, env, num_episodes=5, share=share)
        assert match.num_agents == (num_policy_agents, 4 - num_policy_agents)
        assert (match.is_policy_agent.sum(axis=1) == num_policy_agents).all()
        np.testing.assert_array_equal(match.policy_rewards, np.full(5, STEPS))
        np.testing.assert_array_equal(match.opponent_rewards, np.zeros(5))
        assert (match.difference_interval.mean, match.difference_interval.half_width) == (STEPS, 0)
    assert digging.seen[-1] == 15
    assert idle.seen[-1] == 5
    assert play_match(idle, digging, env, num_episodes=2).difference_interval.mean == -STEPS


def test_each_side_has_a_memory_of_its_own():
    env = mines()
    match = play_match(Always(env, GET, steps=2), Always(env, GET, steps=5), env, num_episodes=3, share=0.25)
    assert (match.policy_interval.mean, match.opponent_interval.mean, match.difference_interval.mean) == (2, 5, -3)


def test_a_policy_against_itself_is_neither_better_nor_worse(busy_env):
    env = mines()
    exactly = play_match(Always(env, GET), Always(env, GET), env, num_episodes=4)
    assert (exactly.difference_interval.low, exactly.difference_interval.high) == (0, 0)
    by_chance = play_match(RandomPolicy(busy_env.spec), RandomPolicy(busy_env.spec), busy_env, num_episodes=60, seed=3)
    assert by_chance.difference_interval.low < 0 < by_chance.difference_interval.high
    assert by_chance.policy_rewards.std() > 0


def test_sides_are_drawn_for_each_episode_and_reproducible(busy_env, monkeypatch):
    policy = RandomPolicy(busy_env.spec)
    first = play_match(policy, policy, busy_env, num_episodes=20)
    again = play_match(policy, policy, busy_env, num_episodes=20)
    assert set(first.is_policy_agent[:, 0].tolist()) == {True, False}
    np.testing.assert_array_equal(first.is_policy_agent, again.is_policy_agent)
    np.testing.assert_array_equal(first.policy_rewards, again.policy_rewards)
    assert not np.array_equal(
        first.is_policy_agent, play_match(policy, policy, busy_env, num_episodes=20, seed=9).is_policy_agent
    )
    monkeypatch.setattr(evaluation, "MAX_PARALLEL_AGENTS", 6)
    np.testing.assert_array_equal(
        play_match(policy, policy, busy_env, num_episodes=20).is_policy_agent, first.is_policy_agent
    )


def test_groups_choose_the_agents_of_the_policy():
    env = teams()
    digging, idle = Always(env, GET), Always(env, NOOP)
    match = play_match(digging, idle, env, num_episodes=2, groups=["blue"])
    np.testing.assert_array_equal(match.is_policy_agent, [[False, True, True]] * 2)
    assert match.num_agents == (2, 1)
    assert match.difference_interval.mean == STEPS
    assert play_match(digging, idle, env, num_episodes=2, groups=["red"]).num_agents == (1, 2)


def test_a_difference_is_paired_by_episode():
    """Rich maps and poor ones: rewards vary widely, by how much one is better does not.

    Differences 1, 2, 3: mean 2, s = 1, t of two degrees of freedom 4.30265, so 2 +- 4.30265 / sqrt(3).
    """
    rewards = [(11, 10), (102, 100), (1003, 1000)]
    episodes = tuple(
        EpisodeSummary(0, 0, 1, False, np.array(pair, np.float32), np.array(pair, np.float32), {}) for pair in rewards
    )
    match = MatchResult(episodes, np.array([[True, False]] * 3))
    assert match.difference_interval.mean == pytest.approx(2)
    assert match.difference_interval.half_width == pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    assert match.policy_interval.half_width > 500
    swapped = MatchResult(episodes, np.array([[False, True]] * 3))
    assert swapped.difference_interval.mean == pytest.approx(-2)


@pytest.mark.parametrize(
    ("share", "sentence"),
    [
        (0.0, "share must be more than 0 and less than 1, so that both policies play; got 0"),
        (1.0, "share must be more than 0 and less than 1, so that both policies play; got 1"),
        (-0.5, "got -0.5"),
        (0.1, "a share of 0.1 leaves the policy none of the 4 agents; choose a share from 0.25 to 0.75"),
        (0.9, "a share of 0.9 leaves the opponent none of the 4 agents; choose a share from 0.25 to 0.75"),
    ],
)
def test_a_share_that_leaves_a_side_empty_is_refused(share, sentence):
    env = mines()
    with pytest.raises(UsageError, match=sentence):
        play_match(Always(env, GET), Always(env, GET), env, share=share)


def test_impossible_matches_are_refused(busy_env):
    alone, env = mines(1), teams()
    with pytest.raises(UsageError, match="needs at least two agents"):
        play_match(Always(alone, GET), Always(alone, GET), alone)
    policy = Always(env, GET)
    with pytest.raises(UsageError, match='this environment has no agent group "blu"; did you mean "blue"'):
        play_match(policy, policy, env, groups=["blu"])
    with pytest.raises(
        UsageError, match=r"groups \(red, blue\) leave the opponent no agent: they contain 3 of 3 agents"
    ):
        play_match(policy, policy, env, groups=["red", "blue"])
    with pytest.raises(UsageError, match="made for another environment"):
        play_match(policy, Always(busy_env, GET), env)
    with pytest.raises(UsageError, match="at least 1"):
        play_match(policy, policy, env, num_episodes=0)
