"""Copies of environments, policies and experience: they behave as the original, and share nothing with it."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from object_graph import check_copy
from random_worlds import random_tasks
from rl_fixtures import padded_observations

from metta.adapters.gymnasium_vector import GymnasiumVectorEnv
from metta.adapters.pettingzoo_parallel import PettingZooEnv
from metta.agent.policy import MettaAgent, Policy, make_agent
from metta.baselines.random_policy import RandomPolicy
from metta.baselines.scripted import ScriptedPolicy
from metta.config.agent import AgentModelConfig
from metta.replay.episode_player import EpisodePlayer
from metta.rl.advantages import compute_advantages
from metta.rl.experience import Experience
from metta.rl.optimizer import make_optimizer
from metta.rl.ppo import train_ppo
from metta.rl.rollout import rollout
from metta.world.env import MettaGridEnv

WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "cloudpickle": lambda value: cloudpickle.loads(cloudpickle.dumps(value)),
}

TASKS = [
    task.override(max_steps=11 + 4 * index, episode_lifetime=0)
    for index, task in enumerate(random_tasks(np.random.default_rng(12), 3, every_action=True))
]


class Player:
    """Steps an environment of any interface with random actions; the same ones in every player."""

    def __init__(self, env: Any, worlds: MettaGridEnv, generator: np.random.Generator):
        self.env, self.worlds, self.generator, self.steps = env, worlds, generator, 0
        self.is_parallel = hasattr(env, "possible_agents")
        self.actions = np.array([*worlds.spec.flat_actions, (99, 1), (1, 200)], np.int32)
        if not isinstance(env, MettaGridEnv | GymnasiumVectorEnv | PettingZooEnv):  # SuperSuit knows no other actions
            self.actions = self.actions[:-2]
        self.agents = worlds.agents if self.is_parallel else getattr(env, "num_envs", worlds.agents)

    def step(self) -> bytes:
        """All that one step returns, and the state of the worlds after it."""
        actions = self.actions[self.generator.integers(len(self.actions), size=self.agents)]
        if not self.is_parallel:
            returned = self.env.step(actions)
        elif self.env.agents:
            returned = self.env.step(dict(zip(self.env.agents, actions, strict=True)))
        else:
            returned = self.env.reset()
        worlds, self.steps = self.worlds, self.steps + 1
        shown = range(worlds.num_worlds) if self.steps % 6 == 0 else ()
        seen = [(worlds.render(world), worlds.episode_stats(world)) for world in shown]
        return told((returned, vars(worlds.compact_observations()), seen, worlds.positions, worlds.inventories))


def told(value: Any) -> bytes:
    """A value as bytes, with all numbers of its arrays."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.tobytes()
    if isinstance(value, tuple | list | np.ndarray):
        return b"".join(map(told, value))
    if isinstance(value, dict):
        return b"".join(told(key) + told(entry) for key, entry in value.items() if key != "t")  # "t" is a time
    return told(vars(value)) if hasattr(value, "__dict__") else repr(value).encode()


def supersuit_env(number: int) -> Any:
    supersuit = pytest.importorskip("supersuit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = supersuit.pettingzoo_env_to_vec_env_v1(pettingzoo_env())
        return one if number == 1 else supersuit.concat_vec_envs_v1(one, number)


def pettingzoo_env() -> Any:
    pytest.importorskip("pettingzoo")
    return MettaGridEnv(TASKS).to_pettingzoo()


ENVS: dict[str, tuple[Callable[[], Any], str]] = {
    "one world": (lambda: MettaGridEnv(TASKS[1]), ""),
    "worlds": (lambda: MettaGridEnv(TASKS, 7), ""),
    "worlds without auto_reset": (lambda: MettaGridEnv(TASKS, 2, auto_reset=False), ""),
    "Gymnasium": (lambda: MettaGridEnv(TASKS, 5).to_gymnasium_vector(), "worlds"),
    "Gymnasium, next step": (lambda: MettaGridEnv(TASKS, 3).to_gymnasium_vector("NextStep"), "worlds"),
    "Gymnasium's wrapper": (
        lambda: RecordEpisodeStatistics(MettaGridEnv(TASKS, 3).to_gymnasium_vector()),
        "env.worlds",
    ),
    "PettingZoo": (pettingzoo_env, "world"),
    "SuperSuit": (lambda: supersuit_env(1), "par_env.world"),
    "SuperSuit, several": (lambda: supersuit_env(2), "vec_envs.1.par_env.world"),
}
"""How to make each kind of environment, and the path of its attribute that is the MettaGridEnv."""


def player(kind: str, env: Any, generator: np.random.Generator) -> Player:
    worlds = env
    for name in filter(None, ENVS[kind][1].split(".")):
        worlds = worlds[int(name)] if name.isdigit() else getattr(worlds, name)
    return Player(env, worlds, generator)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("moment", ["new", 20])
@pytest.mark.parametrize("kind", ENVS)
def test_a_copied_env_plays_like_the_original(kind: str, moment: str | int, way: str) -> None:
    """Copied when it is new, and within a later episode; played in turns with the original."""
    originals = [ENVS[kind][0]() for _ in range(2)]
    generators = [np.random.default_rng(0) for _ in range(2)]
    expected, mine = (player(kind, env, rng) for env, rng in zip(originals, generators, strict=True))
    if moment != "new":
        for one in (expected, mine):
            one.env.reset(seed=5)
        for _ in range(int(moment)):
            assert mine.step() == expected.step()
    copied = WAYS[way](mine.env)
    assert check_copy(mine.env, copied) > 50
    theirs = player(kind, copied, copy.deepcopy(mine.generator))
    theirs.steps = mine.steps
    if moment == "new":
        for one in (expected, mine, theirs):
            one.env.reset(seed=5)
    for _ in range(35):
        outcome = expected.step()
        assert theirs.step() == outcome
        assert mine.step() == outcome


def test_a_shallow_copy_is_the_same_env() -> None:
    """As for Gymnasium's environments, `copy.copy` copies only the outermost object, and both step the same worlds."""
    env = MettaGridEnv(TASKS, 2, seed=1)
    env.reset()
    same, deep = copy.copy(env), copy.deepcopy(env)
    for one in (env, same, env, same):
        actions = np.ones((env.agents, 2), int)
        np.testing.assert_array_equal(one.step(actions)[0], deep.step(actions)[0])


def agent_of(env: MettaGridEnv, **config: Any) -> MettaAgent:
    torch.manual_seed(0)
    spaces = env.single_observation_space, env.single_action_space
    return make_agent(*spaces, ["last_reward"], "cpu", AgentModelConfig(hidden_dim=16, **config))


AGENTS = {
    f"{backbone}{', egocentric' * turns}": (backbone, turns)
    for backbone in ("cnn", "attention", "mlp")
    for turns in (False, True)
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["random", "scripted", *AGENTS])
def test_a_copied_policy_acts_like_the_original(
    kind: str, way: str, crowded_env: MettaGridEnv, seen: torch.Tensor
) -> None:
    """With the memory of earlier steps, and also after the weights of the original have changed."""
    policy: Policy
    if kind == "random":
        policy = RandomPolicy(crowded_env.spec)
    elif kind == "scripted":
        policy = ScriptedPolicy(crowded_env.config)
    else:
        backbone, egocentric = AGENTS[kind]
        policy = agent_of(crowded_env, backbone=backbone, egocentric=egocentric)
    memory = policy.initial_memory(crowded_env.agents)
    for observations in seen[:3]:
        memory = policy.act(observations, memory).memory
    copied = WAYS[way]((policy, memory))
    check_copy((policy, memory), copied)

    def acts(player: Policy, memory: Any) -> list[torch.Tensor]:
        generator, outputs = torch.Generator().manual_seed(0), []
        for observations in seen[3:]:
            output = player.act(observations, memory, generator=generator)
            memory = output.memory
            outputs += [output.actions, output.log_probs, output.values]
        return outputs

    expected = acts(policy, memory)
    if isinstance(policy, MettaAgent):
        with torch.no_grad():
            for weight in policy.parameters():
                weight += 1
        assert not all(map(torch.equal, acts(policy, memory), expected))
    assert all(map(torch.equal, acts(*copied), expected))


def test_a_copied_experience_collects_and_learns_the_same(set_up: Callable[..., tuple[MettaAgent, Experience]]) -> None:
    agent, experience = set_up()
    rollout(experience, agent)
    copied = copy.deepcopy((agent, experience))
    check_copy((agent, experience), copied)
    results = []
    for own_agent, own_experience in ((agent, experience), copied):
        rollout(own_experience, own_agent)
        compute_advantages(own_experience)
        losses = train_ppo(own_agent, make_optimizer(own_agent), own_experience)
        results.append((losses, padded_observations(own_experience), [*own_agent.parameters()]))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert all(map(torch.equal, results[0][2], results[1][2]))


def test_a_copied_episode_player_continues_the_episode() -> None:
    original = EpisodePlayer(ScriptedPolicy(TASKS[0]), TASKS[0], seed=3)
    for _ in range(6):
        original.step()
    copied = copy.deepcopy(original)
    check_copy(original, copied)
    for _ in range(30):
        for player in (original, copied):
            player.step()
            if player.is_over:
                player.start_episode()
        assert np.array_equal(original.actions, copied.actions)
        assert original.env.render() == copied.env.render()
        assert np.array_equal(original.total_rewards, copied.total_rewards)


def test_the_comparison_finds_views_that_have_become_arrays() -> None:
    """A copy of an array and of a view of it no longer share memory; parts that are shared are found, too."""
    array = np.arange(6)
    with pytest.raises(AssertionError, match="a_view"):
        check_copy(
            *(({"array": own, "a_view": view}) for own, view in ((array, array[1:]), (array + 1, array[1:] + 1)))
        )
    with pytest.raises(AssertionError, match="of the original"):
        check_copy([array], [array[:]])
    same = [1]
    with pytest.raises(AssertionError, match="another object"):
        check_copy([same, same], [[1], [1]])
