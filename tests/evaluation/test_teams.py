"""Teams in evaluations, matches and recorded episodes: each policy plays its agents, and only these."""

from __future__ import annotations

import numpy as np
import pytest
from test_match import GET, NOOP, STEPS, Always, mines

from metta.agent.team import Team
from metta.errors import UsageError
from metta.evaluation.evaluate import evaluate
from metta.evaluation.match import play_match
from metta.replay.episode_player import EpisodePlayer
from metta.replay.recording import record_episode
from metta.world.env import MettaGridEnv

ROTATE = (2, 3)
GROUPS = {"miners": ["red"], "guards": ["blue", "green"]}


@pytest.fixture
def env() -> MettaGridEnv:
    """Five agents at mines, in the order green, red, blue, red, green."""
    config = mines(5, groups={"red": {"id": 0}, "blue": {"id": 1}, "green": {"id": 2}}).config
    legend = {"A": "agent.red", "B": "agent.blue", "C": "agent.green"}
    return MettaGridEnv(config.override(map_builder={"type": "Ascii", "map": "rrrrr\nCABAC", "legend": legend}), seed=0)


IS_MINER = np.array([False, True, False, True, False])


def test_each_policy_plays_its_groups_in_an_evaluation(env: MettaGridEnv) -> None:
    miners, guards = Always(env, GET), Always(env, ROTATE)
    result = evaluate(Team({"miners": miners, "guards": guards}, GROUPS), env, num_episodes=3)
    assert (result.players["miners"] == IS_MINER).all()
    assert (result.players["guards"] == ~IS_MINER).all()
    assert {name: rewards.tolist() for name, rewards in result.policy_rewards.items()} == {
        "miners": [STEPS] * 3,
        "guards": [0] * 3,
    }
    assert result.episode_rewards.tolist() == [2 * STEPS / 5] * 3
    assert result.rewards_of(result.players["guards"]).tolist() == [0] * 3
    assert (set(miners.seen), set(guards.seen)) == ({6}, {9})
    assert result.stats["action.rotate.success"] == 3 * STEPS / 5


def test_a_member_is_one_agent_of_its_groups(env: MettaGridEnv) -> None:
    policies = {"first": Always(env, NOOP), "second": Always(env, GET), "guards": Always(env, NOOP)}
    groups = {"first": ["red"], "second": ["red"], "guards": GROUPS["guards"]}
    result = evaluate(Team(policies, groups, {"first": 0, "second": 1}), env, num_episodes=2)
    assert result.agent_rewards.tolist() == [0, 0, 0, STEPS, 0]


def test_a_team_is_a_side_of_a_match(env: MettaGridEnv) -> None:
    """Whichever agents a side has, each is played by its own policy."""
    team = Team({"miners": Always(env, GET), "guards": Always(env, NOOP)}, GROUPS)
    match = play_match(team, Always(env, NOOP), env, num_episodes=8, share=0.4)
    for episode, is_its in zip(match.episodes, match.is_policy_agent, strict=True):
        assert (episode.rewards == STEPS * (is_its & IS_MINER)).all()
    against = play_match(Always(env, NOOP), team, env, num_episodes=2, groups=["green", "blue"])
    assert against.opponent_rewards.tolist() == [STEPS] * 2
    assert against.policy_rewards.tolist() == [0] * 2


def test_a_team_plays_recorded_episodes(env: MettaGridEnv) -> None:
    team = Team({"miners": Always(env, GET), "guards": Always(env, ROTATE)}, GROUPS)
    names = tuple("miners" if miner else "guards" for miner in IS_MINER)
    player = EpisodePlayer(team, env.config)
    assert player.policy_names == names
    player.step()
    assert (player.actions == np.where(IS_MINER[:, None], GET, ROTATE)).all()
    player.start_episode(Always(env, GET))
    assert player.policy_names == ("",) * 5
    replay = record_episode(team, env.config, seed=0)
    assert replay.policies == names
    assert (replay.actions == np.where(IS_MINER[:, None], GET, ROTATE)).all()


def test_a_team_plays_only_where_all_agents_have_one_policy(env: MettaGridEnv) -> None:
    policies = {"miners": Always(env, GET), "guards": Always(env, NOOP)}
    missing = r'no policy plays an agent of the group "green" \(miners plays red; guards plays blue\): the team plays'
    for team, message in (
        (Team(policies, {"miners": ["red"], "guards": ["blue"]}), missing),
        (Team(policies, GROUPS, {"miners": 0}), r'of the group "red" \(miners plays an agent of red; guards plays'),
        (
            Team(policies, {"miners": ["red", "blue"], "guards": ["blue", "green"]}),
            'group "blue": miners, guards; each',
        ),
    ):
        for play in (
            lambda team=team: evaluate(team, env),
            lambda team=team: play_match(team, policies["miners"], env),
            lambda team=team: EpisodePlayer(team, env.config),
        ):
            with pytest.raises(UsageError, match=message):
                play()
