"""Experiences of several policies in the same worlds: who acts, who learns from which steps, what a state holds."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from rl_fixtures import SMALL_AGENT, SMALL_BATCH, padded_observations

from metta.agent import action_distribution
from metta.agent.policy import MettaAgent, make_agent
from metta.config.agent import AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.config.self_play import SelfPlayConfig
from metta.config.training import ExperienceConfig, PPOConfig
from metta.errors import UsageError
from metta.rl.advantages import compute_advantages
from metta.rl.experience import Experience, make_experience_manager, make_experiences
from metta.rl.frozen_policies.self_play import FrozenPolicy, OpponentPool
from metta.rl.ppo import train_ppo
from metta.rl.rollout import rollout, rollout_policies
from metta.world.env import MettaGridEnv

GROUPS = {"wolves": ["hunters"], "deer": ["grazers"]}
PPO = PPOConfig(norm_adv=False, max_grad_norm=0.0, ent_coef=0.1, clip_vloss=False)
"""A loss that is a mean over the steps of a minibatch: nothing in it depends on the other steps."""
WHOLE_BATCH = {"minibatch_size": 512}
ARRAYS = ("rewards", "terminated", "truncated", "action_index", "log_probs", "values", "final_values", "next_values")


@pytest.fixture(scope="module")
def env() -> MettaGridEnv:
    """Two hunters and two grazers, always the same agents, among mines; episodes of 11 steps end inside segments."""
    config = world({"hunters": {"id": 0}, "grazers": {"id": 1}}, 4).config
    legend = {"H": "agent.hunters", "G": "agent.grazers"}
    builder = {"type": "Ascii", "map": "#######\n#rH.Gr#\n#..r..#\n#rG.Hr#\n#######", "legend": legend}
    return MettaGridEnv(config.override(map_builder=builder, height=5), seed=4)


def world(groups: Mapping[str, object], num_agents: int) -> MettaGridEnv:
    config = EnvConfig(
        game={
            "num_agents": num_agents,
            "width": 7,
            "height": 7,
            "max_steps": 11,
            "ore_red_reward": 1.0,
            "groups": groups,
        },
        objects=[{"type": "mine", "name": "mine_red", "conversion_ticks": 1, "cooldown": 0, "max_output": 1}],
        map_builder={"border_width": 1, "objects": {"mine_red": 8}},
    )
    return MettaGridEnv(config, seed=4)


def make(env: MettaGridEnv, seed: int = 1, **settings: object) -> MettaAgent:
    torch.manual_seed(seed)
    spaces = env.single_observation_space, env.single_action_space
    return make_agent(*spaces, [], "cpu", AgentModelConfig(**SMALL_AGENT | settings))


def sizes(**settings: int) -> ExperienceConfig:
    return ExperienceConfig(**SMALL_BATCH | settings)


def columns(experience: Experience) -> torch.Tensor:
    """The columns of a policy's agents in arrays of all agents."""
    (batch,) = experience.agent_batches
    return torch.from_numpy(batch.learner_rows)


def sgd(agent: MettaAgent) -> torch.optim.Optimizer:
    return torch.optim.SGD(agent.parameters(), lr=0.1)


def test_two_alike_policies_learn_what_one_shared_policy_learns(
    env: MettaGridEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and gradients of the shared policy are the means of theirs: each learns from half of the steps.

    All take the most likely action, so that the same happens in both worlds.
    """
    monkeypatch.setattr(action_distribution, "sample", lambda logits, generator=None: logits.argmax(-1))
    shared = make(env, mask_actions=True)
    with torch.no_grad():
        shared.policy_head.output.weight *= 100  # the most likely action depends on what an agent sees
        get = shared.spec.action_names.index("get_output")
        shared.policy_head.output.bias[[action == get for action, _ in shared.spec.flat_actions]] += 1
    both = {name: copy.deepcopy(shared) for name in GROUPS}
    of_all = make_experience_manager(env, shared, sizes(**WHOLE_BATCH), seed=2)
    each = make_experiences(env, both, GROUPS, sizes(**WHOLE_BATCH), seed=2)
    rollout(of_all, shared)
    batches = rollout_policies(each, both)
    assert sum(batch.total_env_steps for batch in batches.values()) == of_all.plan.batch_size
    assert of_all.rewards.sum() > 5
    assert len(of_all.action_index.unique()) > 3
    for name, experience in each.items():
        own = columns(experience)
        index = torch.tensor(list(env.config.game.groups).index(GROUPS[name][0]))
        assert (torch.from_numpy(experience.worlds.world_batches[0].env.groups)[own] == index).all()
        assert torch.equal(padded_observations(experience), padded_observations(of_all)[:, own])
        for array in ARRAYS[:-1]:
            torch.testing.assert_close(getattr(experience, array), getattr(of_all, array)[:, own], msg=array)

    losses = {}
    for name, agent, experience in (("shared", shared, of_all), *((n, both[n], each[n]) for n in GROUPS)):
        compute_advantages(experience, 0.9, 0.8)
        losses[name] = train_ppo(agent, sgd(agent), experience, PPO)
    assert all(loss["updates"] == 1 for loss in losses.values())
    for key in ("loss", "policy_loss", "value_loss", "entropy", "mean_value", "mean_return"):
        own = [losses[name][key] for name in GROUPS]
        assert losses["shared"][key] == pytest.approx(sum(own) / 2, rel=1e-4, abs=1e-6), key
        assert own[0] != own[1], key
    for (key, weight), *others in zip(*(agent.named_parameters() for agent in (shared, *both.values())), strict=True):
        assert weight.grad is not None
        mean = torch.stack([other.grad for _, other in others]).mean(0)  # type: ignore[arg-type]  # all have a gradient
        torch.testing.assert_close(weight.grad, mean, rtol=1e-3, atol=1e-6, msg=key)


def test_neither_gradients_nor_steps_reach_the_other_policy(env: MettaGridEnv) -> None:
    """Networks, memories and discounts differ; the arrays of the other policy are overwritten before the update."""
    agents = {"wolves": make(env, hidden_dim=24, memory="mingru"), "deer": make(env, 2)}
    experiences = make_experiences(env, agents, GROUPS, sizes(), seed=2)
    for policy, other in (("wolves", "deer"), ("deer", "wolves")):
        rollout_policies(experiences, agents)
        for name, experience in experiences.items():
            compute_advantages(experience, 0.9 if name == "wolves" else 0.99, 0.8)
            for batch in experience.minibatches():  # each acted with its own network and memory
                found = agents[name].evaluate_actions(
                    batch.observations, batch.action_index, batch.memory, batch.episode_starts
                )
                torch.testing.assert_close(found.log_probs, batch.log_probs, rtol=1e-4, atol=1e-5)
        for array in ("rewards", "log_probs", "values", "advantages", "returns"):
            getattr(experiences[other], array).fill_(torch.nan)
        before = {name: copy.deepcopy(agent.state_dict()) for name, agent in agents.items()}
        for agent in agents.values():
            agent.zero_grad()
        train_ppo(agents[policy], sgd(agents[policy]), experiences[policy], PPO)
        assert all(weight.grad is None for weight in agents[other].parameters())
        changed = {
            name: any(not torch.equal(weight, before[name][key]) for key, weight in agent.state_dict().items())
            for name, agent in agents.items()
        }
        assert changed == {policy: True, other: False}


THREE = {"hunters": {"id": 0}, "grazers": {"id": 1}, "birds": {"id": 2}}


def zoo(env: MettaGridEnv, seed: int) -> tuple[dict[str, Experience], dict[str, MettaAgent]]:
    """A policy for each of two hunters, one for the grazers with an opponent among them, and a frozen one."""
    agents = {name: make(env, index) for index, name in enumerate(("wolf_0", "wolf_1", "deer"))}
    frozen = [FrozenPolicy(f"given_00{index}", make(env, 7 + index)) for index in range(2)]
    pool = OpponentPool(SelfPlayConfig(share=0.5, snapshot_interval=1), frozen)
    experiences = make_experiences(
        env,
        agents,
        {"wolf_0": ["hunters"], "wolf_1": ["hunters"], "deer": ["grazers"], "owls": ["birds"]},
        sizes(batch_size=504, minibatch_size=168, bptt_horizon=7, async_factor=6),
        seed,
        members={"wolf_0": 0, "wolf_1": 1},
        frozen={"owls": make(env, 9, hidden_dim=8)},
        opponents={"deer": pool},
    )
    return experiences, agents


def test_each_agent_is_played_once_whenever_episodes_start() -> None:
    env = world(THREE, 6)
    experiences, agents = zoo(env, seed=3)
    worlds = experiences["deer"].worlds
    orders = set()
    for _ in range(3):
        batches = rollout_policies(experiences, agents)
        for batch, agent_batches in zip(worlds.world_batches, worlds.agent_batches, strict=True):
            played = np.concatenate([each.agent_order for each in agent_batches], axis=1)
            assert (np.sort(played, axis=1) == np.arange(6)).all()
            groups = batch.env.groups.reshape(-1, 6)
            for each, group in zip(agent_batches, (0, 0, 1, 2), strict=True):
                assert (np.take_along_axis(groups, each.agent_order, axis=1) == group).all()
            orders |= set(map(tuple, agent_batches[2].agent_order.tolist()))
    assert any((opponent, learner) in orders for learner, opponent in orders)  # they are drawn
    assert {name: experience.plan.num_learners for name, experience in experiences.items()} == dict.fromkeys(agents, 1)
    assert list(batches) == ["wolf_0", "wolf_1", "deer", "owls"]
    assert batches["owls"].total_env_steps == 0
    assert len({len(batch.episode_returns or ()) for batch in batches.values()}) == 1


def test_states_of_worlds_and_experiences_restore_all_policies() -> None:
    env = world(THREE, 6)
    first, agents = zoo(env, seed=3)
    rollout_policies(first, agents)
    state = copy.deepcopy(
        {"worlds": first["deer"].worlds.state(), **{name: each.own_state() for name, each in first.items()}}
    )
    second, _ = zoo(env, seed=99)
    second["wolf_0"].worlds.load_state(state["worlds"])
    for name, experience in second.items():
        experience.load_own_state(state[name])
    batches = [rollout_policies(experiences, agents) for experiences in (first, second)]
    for batch, again in zip(*(each.values() for each in batches), strict=True):
        assert dataclasses.replace(batch, seconds_infer=0.0) == dataclasses.replace(again, seconds_infer=0.0)
    for name, experience in first.items():
        assert torch.equal(padded_observations(experience), padded_observations(second[name]))
        for array in ARRAYS:
            assert torch.equal(getattr(experience, array), getattr(second[name], array)), (name, array)
        assert experience.opponents_in_use() == second[name].opponents_in_use()
    with pytest.raises(UsageError, match="the saved experience has 24 agents in 2 world batches; this one has 32"):
        make_experience_manager(
            world(THREE, 2), make(env), sizes(bptt_horizon=7, batch_size=672, minibatch_size=168, async_factor=2)
        ).load_own_state(state["deer"])
