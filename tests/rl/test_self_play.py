"""Self-play: which agents are opponents, how frozen policies control them, and which steps are trained on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from rl_fixtures import padded_observations
from tiny_runs import (
    TINY,
    Recorder,
    assert_same_weights,
    ignore,
    interrupt,
    metrics_of,
    only_learner,
    tiny_config,
    weights_of,
)

from metta.agent.policy import make_agent
from metta.agent.sparse_tokens import PackedTokens
from metta.api import resume_run, train_run
from metta.checkpoint.policy_file import checkpoint_paths
from metta.checkpoint.trainer_state import training_state_paths
from metta.config.agent import AgentModelConfig
from metta.config.batch_plan import plan_batch
from metta.config.env.env_config import EnvConfig
from metta.config.loading.load import parse_config
from metta.config.run import RunConfig
from metta.config.self_play import SelfPlayConfig, agents_of_groups, num_opponents
from metta.config.training import ExperienceConfig
from metta.errors import ConfigError, MettaError, TrainingError
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.experience import make_experience_manager
from metta.rl.frozen_policies.self_play import FrozenPolicy, OpponentPool
from metta.rl.rollout import rollout
from metta.run.training_run import TrainingRun
from metta.world.env import MettaGridEnv

TEAMS = ("env.game.groups={ red = { id = 0 }, blue = { id = 1 }, green = { id = 2 } }", "env.game.num_agents=5")
AGAINST_SELF = ("self_play.share=0.5", "self_play.snapshot_interval=2")


@pytest.fixture(scope="module")
def teams() -> MettaGridEnv:
    return MettaGridEnv(tiny_config("", *TEAMS).env, seed=3)


class CountingPolicy:
    """A policy that counts the actions it computes."""

    def __init__(self, agent):
        self.agent = agent
        self.played = 0

    def __getattr__(self, name):
        return getattr(self.agent, name)

    def act(self, observations, *rest, **keywords):
        self.played += len(observations)
        return self.agent.act(observations, *rest, **keywords)


def agent_for(env, seed=1, **config):
    torch.manual_seed(seed)
    spaces = env.single_observation_space, env.single_action_space
    return make_agent(*spaces, [], "cpu", AgentModelConfig(**{"hidden_dim": 8, "backbone": "mlp"} | config))


def pool_of(env, *agents, **config) -> OpponentPool:
    members = [FrozenPolicy(f"given_{index:03d}", agent) for index, agent in enumerate(agents)]
    return OpponentPool(SelfPlayConfig(policies=["some.pt"], **config), members)


def experience_against(env, pool, agent=None, **settings):
    config = ExperienceConfig(
        **{
            "batch_size": 480,
            "minibatch_size": 120,
            "bptt_horizon": 8,
            "forward_pass_minibatch_target_size": 12,
            "async_factor": 2,
        }
        | settings
    )
    return make_experience_manager(env, agent or agent_for(env), config, 4, opponents=pool)


def test_opponents_are_exactly_the_agents_of_the_named_groups(teams) -> None:
    other = CountingPolicy(agent_for(teams, 2))
    experience = experience_against(teams, pool_of(teams, other, groups=["blue", "green"]))
    assert (experience.plan.num_agents, experience.plan.num_opponents) == (5, 3)
    agent = agent_for(teams)
    seen = set()
    for _ in range(4):
        rollout(experience, agent)
        for worlds in experience.agent_batches:
            groups = worlds.env.groups
            assert set(groups[worlds.learner_rows].tolist()) == {0}
            assert set(groups[worlds.opponent_rows].tolist()) == {1, 2}
            assert sorted([*worlds.learner_rows, *worlds.opponent_rows]) == list(range(worlds.env.agents))
            seen.add(tuple(worlds.opponent_rows))
    assert len(seen) > 1  # each map has the groups in other cells
    steps = 4 * experience.plan.segments_per_agent * experience.plan.horizon
    assert other.played == steps * experience.plan.num_worlds * 3
    assert experience.observations.agents == experience.plan.agents == experience.plan.num_worlds * 2


def test_a_share_is_sampled_again_for_each_episode(teams) -> None:
    experience = experience_against(teams, pool_of(teams, agent_for(teams, 2), share=0.4))
    assert experience.plan.num_opponents == 2
    orders = [worlds.agent_order.copy() for worlds in experience.agent_batches]

    def unchanged() -> list[bool]:
        after = [worlds.agent_order for worlds in experience.agent_batches]
        return [np.array_equal(*pair) for pair in zip(orders, after, strict=True)]

    rollout(experience, agent := agent_for(teams), experience.plan.agents * 8)
    assert all(unchanged())  # no episode (of 20 steps) has ended
    for _ in range(2):
        rollout(experience, agent)
    assert not any(unchanged())


def test_the_experience_is_that_of_the_learners(teams) -> None:
    """Compared with a replay of the same actions in equal worlds, across the ends of episodes."""
    agent, other = agent_for(teams), agent_for(teams, 2)
    settings = {"async_factor": 1, "batch_size": 480}
    experience = experience_against(teams, pool_of(teams, other, groups=["blue"]), agent, **settings)
    twin = experience_against(teams, pool_of(teams, other, groups=["blue"]), agent, **settings)
    batch = rollout(experience, agent)
    (worlds,) = twin.agent_batches
    env = worlds.env
    steps, returns = experience.steps_collected, []
    for t in range(steps):
        actions = np.empty((env.agents, 2), np.int64)
        worlds.write_actions(actions, agent.flat_actions[experience.action_index[t]].numpy())
        observations, rewards, terminated, truncated, info = env.step(actions)
        for episode in info.episodes:
            learners = [index for index in range(5) if index in worlds.agent_order[episode.world][:3]]
            returns.append(float(episode.rewards[learners].mean()))
        assert np.array_equal(rewards[worlds.learner_rows], experience.rewards[t])
        assert np.array_equal(truncated[worlds.learner_rows], experience.truncated[t])
        ended = [episode.world for episode in info.episodes]
        packed = PackedTokens.pack(torch.from_numpy(observations))
        seen = worlds.observe(packed, terminated | truncated, ended)
        stored = experience.observations.at(t + 1)
        assert torch.equal(seen.tokens, stored.tokens)
        assert torch.equal(seen.offsets, stored.offsets)
    assert len(returns) > 3
    assert batch.episode_returns == pytest.approx(returns)
    assert len(batch.opponent_returns) == len(returns)
    assert bool((experience.final_values != 0).any())


def test_opponents_of_a_world_are_one_policy_sampled_from_the_pool(teams) -> None:
    def places(seed=0, **config):
        pool = pool_of(teams, agent_for(teams, 2), share=0.5, snapshot_interval=1, **config)
        for epoch in range(4):
            pool.add_snapshot(epoch, agent_for(teams))
        generator = torch.Generator().manual_seed(seed)
        return pool, Counter(pool.sample(generator).name for _ in range(400))

    pool, drawn = places(pool_size=2, newest_share=0.0)
    assert drawn.keys() == {"given_000", "epoch_000002", "epoch_000003"}
    assert min(drawn.values()) > 90
    pool.remove_evicted([1])
    assert [policy.name for policy in pool.policies] == ["given_000", "epoch_000001", "epoch_000002", "epoch_000003"]
    pool.remove_evicted([])
    assert [policy.name for policy in pool.policies] == ["given_000", "epoch_000002", "epoch_000003"]
    pool, drawn = places(pool_size=3, newest_share=0.5)
    assert drawn.keys() == {"given_000", "epoch_000001", "epoch_000002", "epoch_000003"}
    assert drawn["epoch_000003"] == pytest.approx(400 * (0.5 + 0.125), abs=40)
    _, drawn = places(newest_share=1.0)
    assert drawn.keys() == {"epoch_000003"}


def test_snapshots_are_ordered_by_the_number_of_their_epoch(teams, tmp_path) -> None:
    """As text, epoch_1000000 would sort before epoch_999999."""
    pool = pool_of(teams, agent_for(teams, 2), share=0.5, snapshot_interval=1, pool_size=2, newest_share=1.0)
    for epoch in (9, 999_998, 999_999, 1_000_000, 10_000_000):
        pool.add_snapshot(epoch, agent_for(teams))
        assert pool.sample(torch.Generator()).epoch == epoch  # the newest
        pool.remove_evicted([])
    assert {policy.epoch for policy in pool.policies} == {None, 1_000_000, 10_000_000}
    for name, newest_first in (("checkpoint", checkpoint_paths), ("trainer_state", training_state_paths)):
        for epoch in (9, 1_000_000, 999_999):
            (tmp_path / f"{name}_{epoch:06d}.pt").touch()
        assert [int(path.stem.rpartition("_")[2]) for path in newest_first(tmp_path)] == [1_000_000, 999_999, 9]


@pytest.mark.parametrize("sides", [{}, {"share": 0.4}, {"share": 0.8}, {"groups": ["blue"]}])
def test_a_reward_that_is_not_finite_is_reported_with_its_agent_and_world(teams, sides) -> None:
    """For an agent of any world, learner or opponent."""
    pool = pool_of(teams, agent_for(teams, 2), **sides) if sides else None
    experience = experience_against(teams, pool)
    assert len(experience.worlds.world_batches) == 2
    for index, batch in enumerate(experience.worlds.world_batches):
        for row in range(batch.env.agents):
            result = batch.step(np.zeros((batch.env.agents, 2), np.int32))
            result.rewards[row] = np.nan
            batch.pending = result
            world, agent = divmod(row, 5)
            if index:
                world += experience.worlds.world_batches[0].env.num_worlds
            with pytest.raises(
                TrainingError, match=rf"the reward of agent {agent} in world {world} is nan \(step 1 of"
            ):
                experience.worlds.receive(index, 1)


def test_a_snapshot_is_a_copy(teams) -> None:
    agent = agent_for(teams)
    pool = pool_of(teams, share=0.5)
    pool.add_snapshot(0, agent)
    before = {name: weight.clone() for name, weight in agent.state_dict().items()}
    with torch.no_grad():
        agent.ahead.add_(1)
    assert_same_weights(before, pool.policies[0].agent.state_dict())


def test_opponents_act_by_their_own_weights_and_memory(teams) -> None:
    """Equal learners collect equal experience against equal opponents, and different experience against others."""
    ends = []
    for seed in (2, 2, 3):
        agent = agent_for(teams)
        other = agent_for(teams, seed, hidden_dim=12)
        with torch.no_grad():
            other.policy_head.output.weight.mul_(300)
        experience = experience_against(teams, pool_of(teams, other, groups=["green"]), agent)
        rollout(experience, agent)
        assert bool(experience.agent_batches[0].opponents.memories[-1].tensors["hidden"].any())
        ends.append(padded_observations(experience))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_the_batch_counts_only_learners() -> None:
    config = ExperienceConfig(batch_size=960, minibatch_size=240, bptt_horizon=8, forward_pass_minibatch_target_size=12)
    plan = plan_batch(config, 5, 2)
    assert plan.agents == plan.num_worlds * 3
    assert plan.batch_size == plan.agents * plan.segments_per_agent * 8 <= 960


def test_the_number_of_opponents() -> None:
    env = tiny_config("", *TEAMS).env
    assert agents_of_groups(env) == {"red": 2, "blue": 2, "green": 1}
    drawn = EnvConfig(
        game={"groups": {"red": {"id": 0}, "blue": {"id": 1}}},
        map_builder={"type": "Ascii", "map": "#####\n#@bB#\n#B..#\n#####", "legend": {"B": "agent.blue"}},
    )
    assert agents_of_groups(drawn) == {"red": 1, "blue": 2}
    assert num_opponents(SelfPlayConfig(groups=["red", "green"], snapshot_interval=1), env) == 3
    assert num_opponents(SelfPlayConfig(share=0.01, snapshot_interval=1), env) == 1
    assert num_opponents(SelfPlayConfig(share=0.99, snapshot_interval=1), env) == 4
    assert num_opponents(SelfPlayConfig(), env) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["self_play.groups=['rde']", "self_play.snapshot_interval=1"], 'unknown group "rde"; known: agent'),
        (["self_play.groups=['agent']", "self_play.snapshot_interval=1"], "must leave at least one learning agent"),
        (["self_play.share=0.5"], "must be at least 1 without policies, or the pool of opponents is empty"),
        (["self_play.share=0.5", "self_play.groups=['agent']"], "must be 0 where groups are given"),
    ],
)
def test_impossible_settings_are_refused(settings, message) -> None:
    with pytest.raises(MettaError, match=message):
        tiny_config("", *settings)


def test_a_run_against_itself_and_a_given_policy_resumes_bit_identically(tmp_path: Path) -> None:
    given = train_run(
        tiny_config(tmp_path / "given", "run.total_timesteps=512", "agent.hidden_dim=8"), ignore
    ).checkpoint
    mine = tmp_path / "mine.pt"
    mine.write_bytes(given.read_bytes())
    settings = ["self_play.share=0.5", "self_play.snapshot_interval=1", f"self_play.policies=['{mine}']"]
    settings += ["self_play.pool_size=1", "env.game.max_steps=50"]  # episodes outlive the snapshots that play in them
    train_run(tiny_config(tmp_path / "straight", *settings), ignore)
    train_run(tiny_config(tmp_path / "stopped", *settings), Recorder(3, interrupt))
    mine.unlink()
    resume_run(tmp_path / "stopped", Recorder(6, interrupt))
    resume_run(tmp_path / "stopped", ignore)
    straight = metrics_of(tmp_path / "straight")
    assert straight == metrics_of(tmp_path / "stopped")
    assert_same_weights(weights_of(tmp_path / "straight", 8), weights_of(tmp_path / "stopped", 8))
    assert all((line["opponent_reward"] is not None) == (line["episodes"] > 0) for line in straight)
    kept = sorted(path.name for path in (tmp_path / "stopped" / "checkpoints" / "opponents").iterdir())
    assert {"given_000.pt", "epoch_000006.pt", "epoch_000008.pt"} <= set(kept)
    state = torch.load(tmp_path / "stopped" / "checkpoints" / "trainer_state_000008.pt", weights_only=True)
    assert len(state["extra_args"]["opponents"]) > 2, "no evicted snapshot played on"


def test_a_run_keeps_the_snapshots_that_its_trainer_states_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metta.run.train.IntervalTimer.is_due", lambda timer: bool(timer.interval_seconds))
    settings = ["self_play.share=0.5", "self_play.snapshot_interval=1", "self_play.pool_size=2"]
    settings += ["checkpoint.checkpoint_interval=1", "run.total_timesteps=6144"]
    run_dir = tmp_path / "run"
    train_run(tiny_config(run_dir, *settings), Recorder(6, interrupt))
    checkpoints = run_dir / "checkpoints"
    (checkpoints / "trainer_state_000006.pt").unlink()  # resumes from the state before
    resume_run(run_dir, ignore)
    states = sorted(checkpoints.glob("trainer_state_*.pt"))
    needed = set()
    for path in states:
        needed |= set(torch.load(path, weights_only=True)["extra_args"]["opponents"])
    assert len(states) == 2
    assert {path.stem for path in (checkpoints / "opponents").iterdir()} == needed
    assert len(needed) < 6


def test_an_episode_ends_with_the_policy_with_which_it_began(tmp_path: Path) -> None:
    """A snapshot after each epoch, in a pool of one, in episodes longer than an epoch: every snapshot is evicted."""
    settings = ["self_play.share=0.5", "self_play.snapshot_interval=1", "self_play.pool_size=1"]
    config = tiny_config("", *settings, "env.game.max_steps=90", "experience.stagger_episodes=true")
    run = TrainingRun(config, Curriculum.from_config(config))
    worlds = only_learner(run).experience.agent_batches[0]
    opponents, first_weights, in_play = worlds.opponents, {}, []
    for _ in range(12):
        numbers, steps = opponents.policy_numbers.copy(), worlds.env.steps.copy()
        batch = run.collect()
        run.update()
        run.finish_epoch(batch)
        goes_on = worlds.env.steps == steps + only_learner(run).experience.steps_collected
        assert goes_on.any()
        assert (opponents.policy_numbers[goes_on] == numbers[goes_on]).all()
        kept = {policy.number: policy for policy in only_learner(run).opponents.policies}
        assert set(kept) == {run.epoch} | set(only_learner(run).experience.opponents_in_use())
        for number, policy in kept.items():
            weights = {name: weight.clone() for name, weight in policy.agent.state_dict().items()}
            assert_same_weights(first_weights.setdefault(number, weights), weights)
        assert set(opponents.memories) <= set(opponents.policy_numbers.tolist())
        in_play.append(len(kept))
    assert max(in_play) > 1
    run.close()


def test_each_setting_changes_the_run(tmp_path: Path) -> None:
    given = train_run(tiny_config(tmp_path / "given", "run.total_timesteps=512"), ignore).checkpoint
    runs = {
        "off": [],
        "groups": [*TEAMS[:1], "self_play.groups=['blue']", "self_play.snapshot_interval=1"],
        "share": AGAINST_SELF,
        "more": ["self_play.share=0.75", "self_play.snapshot_interval=2"],
        "policies": [*AGAINST_SELF, f"self_play.policies=['{given}']", "self_play.newest_share=0.0"],
        "pool_size": [*AGAINST_SELF, "self_play.pool_size=1"],
    }
    pools = {}
    for name, settings in runs.items():
        config: RunConfig = tiny_config("", *settings)
        run = TrainingRun(config, Curriculum.from_config(config))
        names = []
        for _ in range(4):
            batch = run.collect()
            run.update()
            run.finish_epoch(batch)
            if opponents := only_learner(run).opponents:
                names = [policy.name for policy in opponents.policies if policy not in opponents.evicted]
        pools[name] = (only_learner(run).experience.plan.num_opponents, names)
        run.close()
    assert pools == {
        "off": (0, []),
        "groups": (1, [f"epoch_{epoch:06d}" for epoch in range(5)]),
        "share": (2, ["epoch_000000", "epoch_000002", "epoch_000004"]),
        "more": (3, ["epoch_000000", "epoch_000002", "epoch_000004"]),
        "policies": (2, ["given_000", "epoch_000000", "epoch_000002", "epoch_000004"]),
        "pool_size": (2, ["epoch_000004"]),
    }


def test_a_policy_with_another_window_is_an_opponent(tmp_path: Path) -> None:
    """Its copy in the run plays as it did, also when the run resumes."""
    given = train_run(tiny_config(tmp_path / "given", "run.total_timesteps=512"), ignore).checkpoint
    settings = ["self_play.share=0.5", f"self_play.policies=['{given}']", "env.game.observation_width=7"]
    settings += [f"kickstarting.teacher={given}", "run.total_timesteps=1536"]
    train_run(tiny_config(tmp_path / "straight", *settings), ignore)
    train_run(tiny_config(tmp_path / "stopped", *settings), Recorder(1, interrupt))
    resume_run(tmp_path / "stopped", ignore)
    assert metrics_of(tmp_path / "straight") == metrics_of(tmp_path / "stopped")
    assert_same_weights(weights_of(tmp_path / "straight", 3), weights_of(tmp_path / "stopped", 3))


def test_an_unfit_policy_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    given = train_run(tiny_config(tmp_path / "given", "run.total_timesteps=512"), ignore).checkpoint
    walk = '[[env.actions]]\ntype = "move"\nkey = "walk"\n'
    settings = ["self_play.share=0.5", f"self_play.policies=['{given}']"]
    with pytest.raises(ConfigError, match=r"self_play\.policies\[0\]  .*none of the policy's actions"):
        train_run(parse_config(TINY + walk, "tiny.toml", [f"run.run_dir={tmp_path / 'run'}", *settings]), ignore)
    assert not (tmp_path / "run").exists()
