"""The scripted policy: it earns rewards in every kind of world, from observations alone, reproducibly."""

from __future__ import annotations

import pytest
import torch

from metta.agent.sparse_tokens import PackedTokens
from metta.baselines.random_policy import RandomPolicy
from metta.baselines.recipe_values import RecipeValues
from metta.baselines.scripted import ScriptedPolicy
from metta.config.env.env_config import EnvConfig
from metta.config.loading.load import load_config
from metta.errors import UsageError
from metta.evaluation.evaluate import evaluate
from metta.world.env import MettaGridEnv

MOVES = [
    {"type": "move", "key": "move"},
    {"type": "rotate", "key": "right", "delta": 1},
    {"type": "rotate", "key": "left", "delta": -1},
]
WORK = [{"type": "put_items", "key": "put"}, {"type": "get_items", "key": "get"}]


def drawn(drawing: str, actions=(), objects=(), **game) -> EnvConfig:
    return EnvConfig(
        game={"time_punishment": 0.0, "ore_red_reward": 0.0, "battery_red_reward": 0.0, **game},
        actions=list(actions) or [*MOVES, *WORK],
        objects=list(objects),
        map_builder={"type": "Ascii", "map": drawing},
    )


def hearts(config: EnvConfig, episodes: int = 1, seed: int = 0) -> float:
    policy = ScriptedPolicy(config)
    return evaluate(policy, MettaGridEnv(config, seed=0), episodes, seed).stats.get("heart.gained", 0.0)


ALTAR_EMPTY = {"type": "converter", "name": "altar", "initial_items": 0, "input": {"battery_red": 1}}
NOTHING_YET = [
    {"type": "mine", "name": "mine_red"},
    {"type": "generator", "name": "generator_red", "initial_items": 0},
    ALTAR_EMPTY,
]


def test_the_shortest_path_through_a_chain_of_recipes():
    """Turn, take the ore; turn, put, take; turn, put, take; turns of two quarters cost two steps."""
    world = drawn("#####\n##r##\n#R@_#\n#####", objects=NOTHING_YET, max_steps=8)
    assert hearts(world) == 1
    assert hearts(world.override(max_steps=7)) == 0


def test_converters_out_of_sight_are_found_and_remembered():
    """A window of 3 x 3 in a maze of dead ends."""
    maze = "#########\n#@..#..r#\n#.#.#.###\n#_#...#R#\n###.###.#\n###.....#\n#########"
    window = {"observation_width": 3, "observation_height": 3}
    assert hearts(drawn(maze, objects=NOTHING_YET, max_steps=250, **window)) >= 1


def test_a_world_without_walls_around_it():
    """Cells outside the map look free; the policy must notice that it cannot enter them."""
    world = drawn("@....\n.....\n....r\n.R...\n...._", objects=NOTHING_YET, max_steps=60)
    assert hearts(world) >= 1


def test_use_replaces_put_and_get():
    world = drawn(
        "#####\n##r##\n#R@_#\n#####", actions=[*MOVES, {"type": "use", "key": "use"}], objects=NOTHING_YET, max_steps=8
    )
    assert hearts(world) == 1


def test_missing_actions_are_named():
    with pytest.raises(UsageError, match="no action of type rotate, get_items or use"):
        ScriptedPolicy(drawn("r@", actions=[{"type": "move", "key": "move"}, WORK[0]], ore_red_reward=1.0))


def test_only_converters_that_lead_to_a_reward_have_value():
    config = load_config("arena").env
    recipes = RecipeValues.from_config(config)
    worth = dict(zip(recipes.names, recipes.gain_of_get[0], strict=True))
    assert worth["altar"] == 1
    assert 0 < worth["mine_red"] < worth["generator_red"] < worth["altar"]
    assert "mine_blue" not in worth  # nothing is made of it
    item = config.game.inventory_item_names.index
    assert recipes.enough[0, item("ore_blue")] == 0
    assert recipes.enough[0, item("battery_red")] > 3


def test_two_in_a_corridor_get_past_each_other():
    """One has the ore, the other the altar, and a bay between them."""
    world = drawn("##########\n#r@....@_#\n###R..####\n##########", objects=NOTHING_YET, max_steps=150)
    assert hearts(world, episodes=8) >= 1


@pytest.mark.parametrize(("preset", "steps", "at_least"), [("quickstart", 256, 9), ("simple", 150, 0.5)])
def test_it_earns_a_lot_more_than_the_random_policy(preset, steps, at_least):
    config = load_config(preset, [f"env.game.max_steps={steps}"]).env
    env = MettaGridEnv(config)
    scripted = evaluate(ScriptedPolicy(config), env, 1, seed=3).mean_reward
    random = evaluate(RandomPolicy(config.spec), env, 1, seed=3).mean_reward
    assert scripted > at_least
    assert scripted > 5 * max(random, 0.0)


def test_the_same_seed_plays_the_same(crowded_config):
    env = MettaGridEnv(crowded_config)
    first, again, other = (evaluate(ScriptedPolicy(crowded_config), env, 3, seed) for seed in (5, 5, 6))
    assert [e.stats for e in first.episodes] == [e.stats for e in again.episodes]
    assert [e.stats for e in first.episodes] != [e.stats for e in other.episodes]


def test_acting_does_not_change_the_memory_and_episode_starts_clear_it(crowded_config, seen):
    policy = ScriptedPolicy(crowded_config)
    observations = seen[:, :4]
    memory = policy.initial_memory(4)
    for step in observations[:6]:
        memory = policy.act(step, memory, generator=torch.Generator().manual_seed(1)).memory
    kept = {name: values.clone() for name, values in memory.tensors.items()}
    episode_starts = torch.tensor([True, False, True, False])
    once = policy.act(observations[6], memory, episode_starts, torch.Generator().manual_seed(2))
    again = policy.act(observations[6], memory, episode_starts, torch.Generator().manual_seed(2))
    assert torch.equal(once.action_index, again.action_index)
    for name, values in kept.items():
        assert torch.equal(values, memory.tensors[name])
    fresh = policy.act(observations[6], policy.initial_memory(4), None, torch.Generator().manual_seed(2)).memory
    for name, values in once.memory.tensors.items():
        assert torch.equal(values[:, [0, 2]], fresh.tensors[name][:, [0, 2]])
    assert once.memory.tensors["age"].tolist() == [[1, 7, 1, 7]]


@pytest.mark.parametrize(
    ("drawing", "expected"),
    [
        ("#####\n##.##\n#r@r#\n#####", {"left": 0.5, "right": 0.5}),  # equally near
        ("#####\n##r##\n#r@r#\n#####", {"get": 1.0}),  # ahead, so that no turn is needed
        ("#####\n##.##\n#@.r#\n#####", {"right": 1.0}),
        ("###\n#@#\n###", {"move": 0.25, "left": 0.25, "right": 0.5}),  # nothing to reach: any of four directions
    ],
    ids=["two", "ahead", "one", "none"],
)
def test_logits_are_the_distribution_over_equally_good_actions(drawing, expected):
    """With relative turns: `right` also is the first of two quarter turns to look back."""
    config = drawn(drawing, objects=[{"type": "mine", "name": "mine_red"}], ore_red_reward=1.0, max_steps=20)
    env = MettaGridEnv(config, num_worlds=600, seed=1)
    observations = torch.from_numpy(env.reset()[0])
    policy = ScriptedPolicy(config)
    output = policy.act(observations, policy.initial_memory(600), None, torch.Generator().manual_seed(0))
    names = [env.spec.action_names[action] for action, _ in env.spec.flat_actions]
    probabilities = zip(names, output.logits[0].exp().tolist(), strict=True)
    assert {name: share for name, share in probabilities if share} == pytest.approx(expected)
    assert (output.logits == output.logits[0]).all()
    drawn_share = torch.bincount(output.action_index, minlength=len(names)) / 600
    torch.testing.assert_close(drawn_share, output.logits[0].exp(), atol=0.06, rtol=0)
    torch.testing.assert_close(output.log_probs, output.logits.gather(1, output.action_index[:, None])[:, 0])


@pytest.mark.parametrize(("preset", "capacity"), [("quickstart", 200), ("arena", 200), ("arena", 20)])
def test_packed_observations_are_read_like_padded_ones(preset: str, capacity: int) -> None:
    """Also if lists have padding, as on a GPU."""
    env = MettaGridEnv(load_config(preset).env.override(game={"num_observation_tokens": capacity}), 2, seed=0)
    policy = ScriptedPolicy(env.config)
    observations, _ = env.reset()
    memories = [policy.initial_memory(env.agents) for _ in range(3)]
    for step in range(25):
        padded = torch.from_numpy(observations.copy())
        with_padding = PackedTokens(padded.reshape(-1, 3), torch.arange(env.agents + 1) * capacity)
        outputs = [
            policy.act(each, memory, generator=torch.Generator().manual_seed(step))
            for each, memory in zip((padded, PackedTokens.pack(padded), with_padding), memories, strict=True)
        ]
        memories = [output.memory for output in outputs]
        for output in outputs[1:]:
            assert torch.equal(output.logits, outputs[0].logits)
            assert torch.equal(output.actions, outputs[0].actions)
        observations = env.step(outputs[0].actions.numpy())[0]
